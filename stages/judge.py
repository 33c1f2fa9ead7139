"""Lets one panel member score every response from 1 to 5: the expected score under its next-token probabilities.

holdfast judge --model NAME        (writes data/scores/NAME.parquet)

One forward pass per distinct (instruction, response). The score is sum_i i * p_i / sum_i p_i over the tokens "1".."5"
(G-Eval, arXiv 2303.16634, eq. 1); where those five carry less than `min_mass`, the model did not judge: null, which no
mean counts. The base also gives its own log-likelihood of each response.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.core import cache, chat, manifest, records
from stages.core.errors import UserError
from stages.core.params import Judge
from stages.engines import local

SCORES = "12345"


def main(params: Judge, panel: list[str], model: Path, kept: Path, responses: Path, out: Path) -> None:
    entry = manifest.load(model)
    is_base = manifest.load(model.with_name("base.json")).name == entry.name
    rubric = read_rubric(Path(params.rubric))
    texts = {row["id"]: row["text"] for row in records.read("instructions_kept", kept)}
    rows = [row for member in panel for row in records.read("responses", responses / f"{member}.parquet")]
    # Equal answers to one instruction get equal scores: each distinct pair is asked once.
    pairs = sorted({(row["instruction_id"], row["text"]) for row in rows})
    engine: local.Engine | None = None

    def work(part: list[list[str]]) -> list[dict]:
        nonlocal engine
        engine = engine or local.Engine(entry, params.batch)
        tokenizer = engine.tokenizer
        safe = [(chat.neutral(tokenizer, texts[i]), chat.neutral(tokenizer, text)) for i, text in part]
        prompts = [chat.prompt_ids(tokenizer, [{"role": "user", "content": filled(rubric, *pair)}]) for pair in safe]
        p = engine.next_token(prompts, score_tokens(engine))  # (N, 5)
        mass = p.sum(1)
        expected = (p @ np.arange(1, 6)) / np.maximum(mass, 1e-12)
        logprobs: list[float] | list[None] = [None] * len(part)
        if is_base:
            asked = [chat.prompt_ids(tokenizer, [{"role": "user", "content": i}]) for i, _ in safe]
            end = chat.assistant_stop_ids(tokenizer)[:1]
            logprobs = engine.logprob(asked, [chat.tokenise(tokenizer, text) + end for _, text in safe])
        return [
            dict(
                score=round(float(e), 6) if np.isfinite(e) and m >= params.min_mass else None,
                mass=round(float(m), 6) if np.isfinite(m) else None,
                logprob=None if logprob is None else round(logprob, 6),
            )
            for e, m, logprob in zip(expected, mass, logprobs, strict=True)
        ]

    code = cache.code_version(__file__, local.__file__, chat.__file__)
    identity = [
        entry.name,
        entry.fingerprint,
        entry.dtype,
        is_base,
        rubric,
        params.model_dump(exclude={"rubric"}),
        code,
    ]
    answers = cache.shards("judge", [list(pair) for pair in pairs], params.shard, identity, work, "responses judged")
    given = dict(zip(pairs, answers, strict=True))
    records.write(
        "scores",
        out,
        [
            dict(
                id=row["id"],
                instruction_id=row["instruction_id"],
                judge=entry.name,
                **given[row["instruction_id"], row["text"]],
            )
            for row in rows
        ],
    )
    null = sum(answer["score"] is None for answer in answers)
    print(f"{entry.name}: judged {len(rows):,} responses by {len(pairs):,} forward passes, {null:,} without a score")


def read_rubric(path: Path) -> str:
    if not path.is_file():
        raise UserError("no such rubric", where=path, do="correct judge.rubric in params.yaml")
    text = path.read_text(encoding="utf-8").strip()
    for field in ("{instruction}", "{response}"):
        if text.count(field) != 1:
            raise UserError(f"the rubric needs {field} exactly once", where=path, do="see data/pocket/rubric.txt")
    return text


def filled(rubric: str, instruction: str, response: str) -> str:
    """The rubric with both texts in place, in one pass: an instruction that spells {response} stays as it is."""
    before, _, rest = rubric.partition("{instruction}")
    if "{response}" in before:
        head, _, middle = before.partition("{response}")
        return head + response + middle + instruction + rest
    middle, _, after = rest.partition("{response}")
    return before + instruction + middle + response + after


def score_tokens(engine: local.Engine) -> list[int]:
    """The token of each digit as the assistant would write it first."""
    tokens = [chat.tokenise(engine.tokenizer, digit) for digit in SCORES]
    if any(len(t) != 1 for t in tokens) or len({t[0] for t in tokens}) != 5:
        raise UserError(
            "the tokenizer has no single token for each of 1 to 5",
            where=f"model '{engine.entry.name}'",
            do="leave it out of the panel",
        )
    return [t[0] for t in tokens]
