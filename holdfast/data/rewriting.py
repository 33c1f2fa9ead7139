"""On-policy targets: the base writes the domain's answers itself, kept where they agree with the gold answer.

What a model would say anyway pulls its weights least (Self-Distillation Fine-Tuning, Yang et al., arXiv 2402.13669; GRAPE,
arXiv 2502.04194). The base is asked in two ways: the request alone, and with the gold answer shown in a prompt. Of the gold
and of all samples that agree with it, the one that the base finds most likely after the request alone is trained on.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.chat import encoding
from holdfast.core import cache, manifest
from holdfast.core.errors import UserError
from holdfast.data import answers, gold_agreement
from holdfast.engines import registry
from holdfast.engines.interface import seed_of
from holdfast.params.mix import Rewrite

WAYS = ("alone", "shown")  # the request as it stands; in the prompt file, with the gold answer
Row = dict[str, Any]


def rewritten(params: Rewrite, model: Path, rows: list[Row]) -> tuple[list[Row], Row]:
    """(domain rows whose assistant turns are the base's own words where it found some that agree, what came of it)."""
    entry, prompt = manifest.load(model), read_prompt(Path(params.prompt))
    asked = [
        [row["id"], n, row["messages"][:n], turn["content"]]
        for row in rows
        for n, turn in enumerate(row["messages"])
        if turn["role"] == "assistant" and n and row["messages"][n - 1]["role"] == "user"
    ]
    work = partial(chosen, params=params, entry=entry, prompt=prompt)
    code = cache.code_version(gold_agreement.__file__, answers.__file__)
    identity = [params.model_dump(), prompt, code, *registry.identity(entry, __file__)]
    found = cache.shards("rewrite", asked, params.shard, identity, work, "answers", registry.spread(entry))
    own = {(id, n): one["text"] for (id, n, _, _), one in zip(asked, found, strict=True) if one["way"]}
    changed = [
        {**row, "messages": [{**t, "content": own.get((row["id"], n), t["content"])} for n, t in enumerate(row["messages"])]}
        for row in rows
    ]  # fmt: skip
    return changed, counts(found)


def chosen(part: list[list], params: Rewrite, entry: manifest.Manifest, prompt: str) -> list[Row]:
    """One shard: for each (row, turn, turns before it, gold answer) the words to train on, and how they came about."""
    engine, tokenizer = registry.load(entry, params.batch), manifest.tokenizer(entry.folder())
    chats = [[{**turn, "content": engine.neutral(turn["content"])} for turn in before] for _, _, before, _ in part]
    golds = [engine.neutral(gold) for *_, gold in part]
    shown = [
        [*turns[:-1], {"role": "user", "content": filled(prompt, turns[-1]["content"], gold)}]
        for turns, gold in zip(chats, golds, strict=True)
    ]
    found: list[Row] = [{"way": None, "agreed": dict.fromkeys(WAYS, 0), "written": 0} for _ in part]
    texts: list[dict[str, str | None]] = [{gold: None} for gold in golds]  # text -> the way it was found first
    for way, prompts in zip(WAYS, (chats, shown), strict=True):
        room = entry.context - params.max_tokens
        fits = [n for n, given in enumerate(prompts) if len(encoding.prompt_ids(tokenizer, given)) <= room]
        jobs = [(n, k) for n in fits for k in range(params.k)]
        completions = engine.answer(
            [prompts[n] for n, _ in jobs], [seed_of(params.seed, *part[n][:2], way, k) for n, k in jobs],
            temperature=params.temperature, top_p=params.top_p, max_tokens=params.max_tokens,
        )  # fmt: skip
        for (n, _), done in zip(jobs, completions, strict=True):
            found[n]["written"] += done.n_tokens
            text = engine.neutral(done.text.strip())
            if done.finish == "stop" and text and gold_agreement.agreement(text, part[n][3]) >= params.agreement:
                found[n]["agreed"][way] += 1
                texts[n].setdefault(text, way)

    sizes = {
        (n, text): len(encoding.tokenise(tokenizer, text)) + 1 for n, several in enumerate(texts) for text in several
    }
    sizes = {
        (n, text): size
        for (n, text), size in sizes.items()
        if len(encoding.prompt_ids(tokenizer, chats[n])) + size <= entry.context  # `finetune` refuses what is longer
    }
    likely = engine.likelihood([chats[n] for n, _ in sizes], [text for _, text in sizes])
    logprob = dict(zip(sizes, likely, strict=True))
    for n, one in enumerate(found):
        several = [text for text in texts[n] if (n, text) in sizes]
        best = max(several, key=lambda text: logprob[n, text], default=golds[n])  # of equals the first: the gold stays
        one.update(text=best, way=texts[n][best])
        for name, text in (("gold", golds[n]), ("taken", best)):
            one[name] = [round(logprob.get((n, text), 0.0), 6), sizes.get((n, text), 0)]
    return found


def counts(found: list[Row]) -> Row:
    """What came of it; log-probabilities are the base's, per token of all answers (nats), before and after."""

    def mean(which: str) -> float | None:
        tokens = sum(one[which][1] for one in found)
        return sum(one[which][0] * one[which][1] for one in found) / tokens if tokens else None

    return {
        "answers": len(found),
        "agreed": sum(any(one["agreed"].values()) for one in found),  # with a sample that agrees, perhaps word by word
        "rewritten": sum(one["way"] is not None for one in found),
        "by_way": {way: sum(one["way"] == way for one in found) for way in WAYS},
        "agreeing_samples": {way: sum(one["agreed"][way] for one in found) for way in WAYS},
        "base_logprob": {"gold": mean("gold"), "taken": mean("taken")},
        "written_tokens": sum(one["written"] for one in found),
    }


def read_prompt(path: Path) -> str:
    if not path.is_file():
        raise UserError("no such prompt", where=path, do="correct mix.rewrite.prompt in params.yaml")
    text = path.read_text(encoding="utf-8").strip()
    for field in ("{instruction}", "{answer}"):
        if text.count(field) != 1:
            raise UserError(f"the prompt needs {field} exactly once", where=path, do="see profiles/rewrite.txt")
    return text


def filled(prompt: str, instruction: str, answer: str) -> str:
    """The prompt with both texts in place, in one pass: a text that spells {answer} stays as it is."""
    texts = {"{instruction}": instruction, "{answer}": answer}
    return re.sub(r"\{instruction\}|\{answer\}", lambda found: texts[found[0]], prompt)
