"""On-policy targets: the base writes the domain's answers itself, kept where they agree with the gold answer.

What a model would say anyway pulls its weights least (Self-Distillation Fine-Tuning, Yang et al., arXiv 2402.13669;
GRAPE, arXiv 2502.04194). The base is asked in two ways: the request alone, and with the gold answer shown in a prompt.
Of the gold and of all samples that agree with it, the one that the base finds most likely after the request alone is
trained on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.chat import encoding
from holdfast.core import manifest, shards
from holdfast.core.rows import DomainRow
from holdfast.data import gold_agreement
from holdfast.data.prompt_text import fill_prompt, read_prompt
from holdfast.engines import registry
from holdfast.engines.interface import Sampling, seed_of
from holdfast.params.mix import Rewrite

WAYS = ("alone", "shown")  # the request as it is; in the prompt file, with the gold answer


class Request(NamedTuple):
    """One turn of the assistant that may be rewritten."""

    row_id: str
    turn: int  # its number in the row
    before: encoding.Messages
    gold: str


@dataclass(frozen=True, slots=True)
class Target:
    """What is trained on in place of a gold answer, and how it came about. Likelihoods are (mean log-probability per
    token in nats, tokens), by the base after the request alone."""

    text: str
    way: str | None  # in which the text was found; None: the gold answer
    agreed: dict[str, int]  # samples that agree with the gold answer, by way
    written_tokens: int
    gold_likelihood: tuple[float, int]
    likelihood: tuple[float, int]


def rewrite_answers(
    rows: list[DomainRow], base: manifest.Manifest, params: Rewrite
) -> tuple[list[DomainRow], dict[str, Any]]:
    """(rows whose assistant turns are the base's own words where it found some that agree, a summary).

    Raises UserError where the prompt file cannot be used.
    """
    prompt = read_prompt(
        Path(params.prompt), "prompt", ("instruction", "answer"), "mix.rewrite.prompt", "profiles/rewrite.txt"
    )
    requests = [
        Request(row["id"], n, row["messages"][:n], turn["content"])
        for row in rows
        for n, turn in enumerate(row["messages"])
        if is_plain_answer(row, n)
    ]
    work = partial(rewrite_shard, base=base, params=params, prompt=prompt)
    identity = [params.model_dump(), prompt, *registry.engine_identity(base, __file__)]
    written = shards.run_shards(
        "rewrite", requests, params.shard, identity, work, "answers", registry.choose_spread(base)
    )
    targets = [Target(**one) for one in written]
    own = {(request.row_id, request.turn): one.text for request, one in zip(requests, targets, strict=True) if one.way}
    changed: list[DomainRow] = [
        {
            **row,
            "messages": [
                {**turn, "content": own.get((row["id"], n), turn["content"])} for n, turn in enumerate(row["messages"])
            ],
        }
        for row in rows
    ]
    return changed, summarise(targets)


def is_plain_answer(row: DomainRow, n: int) -> bool:
    """Whether turn `n` of a row is a text that answers a user and is trained on; calls and thoughts stay as they are."""
    turn = row["messages"][n]
    plain = turn["role"] == "assistant" and len(turn) == 2 and not row.get("tools")
    return plain and n > 0 and row["messages"][n - 1]["role"] == "user"


def rewrite_shard(part: list[Any], base: manifest.Manifest, params: Rewrite, prompt: str) -> list[dict[str, Any]]:
    """A target, as JSON, for each request of a shard."""
    engine, tokenizer = registry.load_engine(base, params.batch), manifest.load_tokenizer(base.folder())
    requests = [Request(*one) for one in part]
    chats = [
        [{**turn, "content": engine.escape_special_tokens(turn["content"])} for turn in one.before] for one in requests
    ]
    golds = [engine.escape_special_tokens(one.gold) for one in requests]
    shown = [
        [*turns[:-1], {"role": "user", "content": fill_prompt(prompt, instruction=turns[-1]["content"], answer=gold)}]
        for turns, gold in zip(chats, golds, strict=True)
    ]
    agreed = [dict.fromkeys(WAYS, 0) for _ in requests]
    written = [0] * len(requests)
    ways: list[dict[str, str | None]] = [{gold: None} for gold in golds]  # text -> the way it was found in first
    sampling = Sampling(temperature=params.temperature, top_p=params.top_p, max_tokens=params.max_tokens)
    for way, prompts in zip(WAYS, (chats, shown), strict=True):
        room = base.context - params.max_tokens
        fits = [n for n, messages in enumerate(prompts) if len(encoding.prompt_ids(tokenizer, messages)) <= room]
        samples = [(n, k) for n in fits for k in range(params.k)]
        completions = engine.answer(
            [prompts[n] for n, _ in samples],
            [seed_of(params.seed, requests[n].row_id, requests[n].turn, way, k) for n, k in samples],
            sampling,
        )
        for (n, _), done in zip(samples, completions, strict=True):
            written[n] += done.n_tokens
            text = engine.escape_special_tokens(done.text.strip())
            if (
                done.finish_reason == "stop"
                and text
                and gold_agreement.agreement(text, requests[n].gold) >= params.agreement
            ):
                agreed[n][way] += 1
                ways[n].setdefault(text, way)

    sizes = {
        (n, text): len(encoding.tokenise(tokenizer, text)) + 1 for n, several in enumerate(ways) for text in several
    }
    sizes = {
        (n, text): size
        for (n, text), size in sizes.items()
        if len(encoding.prompt_ids(tokenizer, chats[n])) + size <= base.context  # `finetune` refuses what is longer
    }
    logprobs = engine.likelihood([chats[n] for n, _ in sizes], [text for _, text in sizes])
    logprob = dict(zip(sizes, logprobs, strict=True))

    def likelihood(n: int, text: str) -> tuple[float, int]:
        return round(logprob.get((n, text), 0.0), 6), sizes.get((n, text), 0)

    targets = []
    for n, gold in enumerate(golds):
        several = [text for text in ways[n] if (n, text) in sizes]
        best = max(several, key=lambda text: logprob[n, text], default=gold)  # of equals the first: the gold stays
        target = Target(best, ways[n][best], agreed[n], written[n], likelihood(n, gold), likelihood(n, best))
        targets.append(asdict(target))
    return targets


def summarise(targets: list[Target]) -> dict[str, Any]:
    """What came of it; log-probabilities are the base's, per token of all answers (nats), before and after."""

    def mean(likelihoods: list[tuple[float, int]]) -> float | None:
        tokens = sum(size for _, size in likelihoods)
        return sum(logprob * size for logprob, size in likelihoods) / tokens if tokens else None

    return {
        "answers": len(targets),
        "agreed": sum(any(one.agreed.values()) for one in targets),  # with a sample that agrees, perhaps word by word
        "rewritten": sum(one.way is not None for one in targets),
        "by_way": {way: sum(one.way == way for one in targets) for way in WAYS},
        "agreeing_samples": {way: sum(one.agreed[way] for one in targets) for way in WAYS},
        "base_logprob": {
            "gold": mean([one.gold_likelihood for one in targets]),
            "taken": mean([one.likelihood for one in targets]),
        },
        "written_tokens": sum(one.written_tokens for one in targets),
    }
