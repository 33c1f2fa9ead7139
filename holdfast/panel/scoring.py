"""Lets one judge score responses from 1 to 5: what a judge reads, and what is made of its answer.

One forward pass per distinct (instruction, response). The score is sum_i i * p_i / sum_i p_i over the tokens "1".."5"
(G-Eval, arXiv 2303.16634, eq. 1); where those five carry less than `min_mass`, the model did not judge: null, which no
mean counts. The base also gives its own log-likelihood of each response. Which judge is asked about which responses:
holdfast/panel/early_stopping.py. docs/consensus.md tells more.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from holdfast.chat.templates import Messages
from holdfast.core import shards
from holdfast.core.manifest import Manifest
from holdfast.data.instructions import transcript
from holdfast.data.prompt_text import fill_prompt, read_prompt
from holdfast.engines import registry
from holdfast.panel import injections
from holdfast.panel.early_stopping import Judgement, Pair
from holdfast.params.judge import Judge


class Question(NamedTuple):
    """What a judgement is made from. In JSON, as the cache keeps and sends it, a list."""

    instruction: str  # as one text
    response: str
    messages: Messages  # the instruction as a chat


def score_pairs(
    pairs: list[Pair],
    chats: dict[str, Messages],
    judge: Manifest,
    rubric: str,
    is_base: bool,
    params: Judge,
    thinking: bool | None = None,
) -> dict[Pair, Judgement]:
    """What a judge says of each pair. `chats`: by instruction id; `thinking`: the switch for thoughts that the responses were
    written with. Finished shards come from the cache."""
    questions = [Question(transcript(chats[id]), response, chats[id]) for id, response in pairs]
    work = partial(score_shard, params=params, judge=judge, rubric=rubric, is_base=is_base, thinking=thinking)
    settings = params.model_dump(include={"batch", "min_mass", "attempts"})
    identity = [is_base, thinking, rubric, settings, *registry.engine_identity(judge, __file__)]
    unit = f"responses judged by {judge.name}"
    rows = shards.run_shards("judge", questions, params.shard, identity, work, unit, registry.choose_spread(judge))
    return {pair: Judgement(**row) for pair, row in zip(pairs, rows, strict=True)}


def score_shard(
    rows: list[Any], params: Judge, judge: Manifest, rubric: str, is_base: bool, thinking: bool | None = None
) -> list[dict[str, Any]]:
    """The fields of a Judgement for each Question."""
    engine, questions = registry.load_engine(judge, params.batch), [Question(*row) for row in rows]
    visible = [
        injections.remove_injections(one.response, engine.escape_special_tokens(one.response), one.instruction, rubric)
        for one in questions
    ]
    prompts = [
        [{"role": "user", "content": fill_rubric(rubric, question.instruction, response)}]
        for question, response in zip(questions, visible, strict=True)
    ]
    p = engine.scores(prompts, params.attempts)  # (N, 5)
    mass = p.sum(1)
    expected = (p @ np.arange(1, 6)) / np.maximum(mass, 1e-12)
    logprobs: list[float] | list[None] = [None] * len(questions)
    if is_base:
        messages, responses = [one.messages for one in questions], [one.response for one in questions]
        logprobs = engine.likelihood(messages, responses, thinking)
    lengths = engine.lengths(prompts)
    return [
        Judgement(
            score=round(float(e), 6) if np.isfinite(e) and m >= params.min_mass and response else None,
            mass=round(float(m), 6) if np.isfinite(m) else None,
            logprob=None if logprob is None else round(logprob, 6),
            tokens=tokens,
        )._asdict()
        for e, m, logprob, tokens, response in zip(expected, mass, logprobs, lengths, visible, strict=True)
    ]


def read_rubric(path: Path) -> str:
    """Raises UserError where there is no such file, or it has not both fields once."""
    return read_prompt(path, "rubric", ("instruction", "response"), "judge.rubric", "data/pocket/rubric.txt")


def fill_rubric(rubric: str, instruction: str, response: str) -> str:
    return fill_prompt(rubric, instruction=instruction, response=response)
