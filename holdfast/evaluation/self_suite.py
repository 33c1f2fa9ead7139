"""The self suite: instructions that the base wrote and no arm trained on, answered by base and tuned model.

It needs no labels: what a tuned model is held to is what the base itself answers, greedily. It sees what choices by
likelihood do not: a model that has lost its chat. Four scores of every instruction, each a suite of the role "self":

self_likelihood  geometric mean probability per token of the base's answer under the model, the end of the turn included
self_chat        0 where the model's own answer is none (collapse.py), else 1
self_agreement   chrF (Popovic 2015) of the model's own answer against the base's
self_overlap     exp(-KL(base || model)) per token along the base's answer; with the back end transformers only

docs/verdict.md says which of them decide, and why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.chat import encoding
from holdfast.chat.templates import Messages
from holdfast.core import fingerprint, manifest, meter, records, shards
from holdfast.data.instructions import messages
from holdfast.evaluation import collapse
from holdfast.evaluation.settings import AGREEMENT, CHAT, LIKELIHOOD, OVERLAP
from holdfast.params.evaluate import Evaluate

if TYPE_CHECKING:
    import torch
    from lm_eval.api.model import LM
    from transformers import PreTrainedModel

    from holdfast.core.manifest import Manifest

TOP = 32  # most probable tokens of the base that the KL looks at one by one; the rest counts as one more
Tokens = list[int]
TopLogprobs = tuple[list[Tokens], list[list[float]]]  # of one answer: tokens (T, TOP), their log-probabilities (T, TOP)


class Question(NamedTuple):
    id: str
    chat: Messages
    tools: list[Any] | None = None  # that may be called
    thinking: bool | None = None  # the switch for thoughts; None: as the template has it


class Inputs(NamedTuple):
    """What the suite asks, and what it compares the answers with."""

    questions: list[Question]
    domain_answers: list[str]  # of the training split: what a collapsed model writes
    base_answers: dict[str, str] | None  # by a question's id; None: the model is the base, and writes them


class Asked(NamedTuple):
    """The suite's part of an evaluation."""

    items: list[dict[str, Any]]  # rows of the contract `items`
    suites: dict[str, dict[str, Any]]  # as settings.json describes them


def load_inputs(params: Evaluate, held_out: Path, domain: Path, base_items: Path | None) -> Inputs | None:
    """`base_items`: the items of the base's evaluation; None where the base is to write the answers. None where the params
    turn the suite off. Raises UserError where a file is missing or holds something else."""
    if not params.self_suite.rows:
        return None
    rows = records.read("instructions_kept", held_out)[: params.limit]
    questions = [Question(row["id"], messages(row), row.get("tools"), row.get("thinking")) for row in rows]
    last = [row["messages"][-1]["content"] for row in records.read("domain", domain)]
    if base_items is None:
        return Inputs(questions, last, None)
    of_base = records.read_table("items", base_items, ["item_id", "target"], [("suite", "==", LIKELIHOOD)])
    answers = dict(zip(of_base["item_id"].to_pylist(), of_base["target"].to_pylist(), strict=True))
    return Inputs([question for question in questions if question.id in answers], last, answers)


def read_base(params: Evaluate, inputs: Inputs, base: Manifest, tokenizer: Any) -> list[TopLogprobs] | None:
    """The base's side of the KL; None where the model is the base, or does not run in this process.

    The base is loaded for it unless .cache has the numbers, and is gone again when this returns.
    """
    if inputs.base_answers is None or params.backend != "transformers":
        return None
    forced = [add_end(tokenizer, inputs.base_answers[question.id], params) for question in inputs.questions]
    pairs = zip(render_prompts(tokenizer, inputs), forced, strict=True)
    rows = [list(encode_pair(tokenizer, *pair)) for pair in pairs]
    code = fingerprint.of_modules(__name__)
    work = partial(top_logprobs, base=base, batch=params.batch)
    identity = [base.fingerprint, base.dtype, manifest.find_device().type, TOP, code]
    return [tuple(row) for row in shards.run_shards("self", rows, max(1, len(rows)), identity, work)]


def ask(
    model: LM, params: Evaluate, inputs: Inputs, tokenizer: Any, base_side: list[TopLogprobs] | None, parameters: int
) -> Asked:
    """Has the model answer every question and scores it. `base_side`: of read_base; `parameters` of the model, for the ledger."""
    questions = inputs.questions
    prompts = render_prompts(tokenizer, inputs)
    written = generate(model, tokenizer, prompts, params)
    answers = written if inputs.base_answers is None else [inputs.base_answers[question.id] for question in questions]
    forced = [add_end(tokenizer, answer, params) for answer in answers]
    scores = {
        LIKELIHOOD: likelihood(model, tokenizer, prompts, forced),
        CHAT: [float(not sign) for sign in collapse.find_signs(answers, written, inputs.domain_answers)],
        AGREEMENT: chrf(written, answers),
    }
    if params.backend == "transformers":
        scores[OVERLAP] = [1.0] * len(prompts)
        if base_side is not None:
            rows = [encode_pair(tokenizer, prompt, answer) for prompt, answer in zip(prompts, forced, strict=True)]
            meter.count(parameters, read=sum(len(prompt) + len(answer) for prompt, answer in rows))
            scores[OVERLAP] = overlap_with_base(model.engine.model, rows, base_side, params.batch)  # type: ignore[attr-defined]
    items = [
        make_item(suite, *fields)
        for suite, values in scores.items()
        for fields in zip(questions, prompts, answers, written, values, strict=True)
    ]
    described = {"role": "self", "chance": 0.0, "metric": "mean", "filter": "none", "items": len(questions)}
    described["max_tokens"] = params.self_suite.max_tokens
    return Asked(items, dict.fromkeys(scores, described))


def render_prompts(tokenizer: Any, inputs: Inputs) -> list[str]:
    """Every question as the model sees it; what the base wrote spells no control token."""
    chats = [encoding.escape_messages(tokenizer, one.chat) for one in inputs.questions]
    return [
        encoding.render(tokenizer, chat, respond=True, tools=one.tools, thinking=one.thinking)
        for chat, one in zip(chats, inputs.questions, strict=True)
    ]


def end_strings(tokenizer: Any) -> list[str]:
    """The control tokens that end the assistant's turn, as text; the one that the template writes comes first."""
    return [str(token) for token in tokenizer.convert_ids_to_tokens(encoding.assistant_stop_ids(tokenizer))]


def add_end(tokenizer: Any, answer: str, params: Evaluate) -> str:
    """The base's answer as it is scored: with the end of the turn, unless it was cut at the limit."""
    finished = len(encoding.tokenise(tokenizer, answer)) < params.self_suite.max_tokens
    return answer + end_strings(tokenizer)[0] if finished else answer


def encode_pair(tokenizer: Any, prompt: str, answer: str) -> tuple[Tokens, Tokens]:
    """Token ids of prompt and answer, as one text has them."""
    whole, start = encoding.tokenise(tokenizer, prompt + answer), len(encoding.tokenise(tokenizer, prompt))
    return whole[:start], whole[start:]


def generate(model: LM, tokenizer: Any, prompts: list[str], params: Evaluate) -> list[str]:
    """The model's own greedy answers, with no control token spelled in them."""
    from lm_eval.api.instance import Instance

    how = {"until": end_strings(tokenizer), "do_sample": False, "max_gen_toks": params.self_suite.max_tokens}
    requests = [Instance("generate_until", {}, (prompt, how), n) for n, prompt in enumerate(prompts)]
    return [encoding.escape_special_tokens(tokenizer, text) for text in model.generate_until(requests)]


def likelihood(model: LM, tokenizer: Any, prompts: list[str], forced: list[str]) -> list[float]:
    """Geometric mean probability per token of each answer after its prompt."""
    from lm_eval.api.instance import Instance

    pairs = list(zip(prompts, forced, strict=True))
    sums = model.loglikelihood([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)])
    tokens = [len(encode_pair(tokenizer, *pair)[1]) for pair in pairs]
    return [min(1.0, math.exp(total / max(n, 1))) for (total, _), n in zip(sums, tokens, strict=True)]


def chrf(written: Sequence[str], answers: Sequence[str]) -> list[float]:
    """chrF of each answer against the base's, 0 to 1; equal ones, empty ones too, have 1."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return [
        1.0 if one == other else metric.sentence_score(one, [other]).score / 100
        for one, other in zip(written, answers, strict=True)
    ]


def overlap_with_base(
    network: PreTrainedModel, rows: Sequence[tuple[Tokens, Tokens]], base_side: list[TopLogprobs], batch: int
) -> list[float]:
    """exp(-KL(base || model)) of each row, the KL being the mean over the answer's tokens.

    Over the base's TOP tokens and the rest as one, which bounds it from below (data processing inequality).
    """
    import torch

    overlaps = [0.0] * len(rows)
    for row, logprobs in answer_logprobs(network, rows, batch):
        tokens, base = (torch.tensor(side, device=logprobs.device) for side in base_side[row])  # (T, TOP)
        ours = logprobs.gather(-1, tokens)
        rest_of_base, rest = (1 - side.exp().sum(-1) for side in (base, ours))  # (T,)
        kl = (base.exp() * (base - ours)).sum(-1)
        kl += torch.where(rest_of_base > 1e-6, rest_of_base * (rest_of_base / rest.clamp(min=1e-9)).log(), 0.0)
        overlaps[row] = min(1.0, math.exp(-float(kl.mean())))
    return overlaps


def top_logprobs(rows: list[Any], base: Manifest, batch: int) -> list[Any]:
    """TopLogprobs of the base for each row."""
    network = manifest.load_model(base.folder(), base.dtype)
    meter.count(base.parameters, read=sum(len(prompt) + len(answer) for prompt, answer in rows))
    best_by_row: list[Any] = [None] * len(rows)
    for row, logprobs in answer_logprobs(network, rows, batch):
        best = logprobs.topk(min(TOP, logprobs.shape[-1]), dim=-1)
        best_by_row[row] = [
            best.indices.tolist(),
            [[round(value, 4) for value in each] for each in best.values.tolist()],
        ]
    return best_by_row


def answer_logprobs(
    network: PreTrainedModel, rows: Sequence[Sequence[Tokens]], batch: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """(row, log-probabilities (T, V) of the tokens of its answer), shortest rows first, by one forward pass a batch."""
    import torch

    sizes = [len(prompt) + len(answer) for prompt, answer in rows]
    order = sorted(range(len(rows)), key=lambda row: (sizes[row], row))
    most = max(1, manifest.logits_at_once() // network.config.get_text_config().vocab_size)  # positions of one batch
    while order:
        width = min(batch, max(1, most // sizes[order[min(batch, len(order)) - 1]]))
        part, order = order[:width], order[width:]
        longest = max(sizes[row] for row in part)
        ids = torch.tensor([[*rows[row][0], *rows[row][1], *[0] * (longest - sizes[row])] for row in part])
        with torch.inference_mode():  # right padding: causal attention never looks at it
            logits = network(input_ids=ids.to(network.device), use_cache=False).logits
            for place, row in enumerate(part):
                start = len(rows[row][0]) - 1
                yield row, logits[place, start : sizes[row] - 1].float().log_softmax(-1)


def make_item(suite: str, question: Question, prompt: str, answer: str, written: str, score: float) -> dict[str, Any]:
    return dict(
        id=f"{suite}/{question.id}",
        suite=suite,
        item_id=question.id,
        item_hash=records.text_id(*(turn["content"] for turn in question.chat)),
        prompt_hash=records.text_id(prompt),
        correct=score,
        prompt=prompt,
        target=answer,
        response=written,
    )
