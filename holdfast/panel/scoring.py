"""Lets the panel score responses from 1 to 5, one judge after the other, while the choice could still change.

holdfast judge        (writes data/scores/<model>.parquet for every panel member)

One forward pass per distinct (instruction, response). The score is sum_i i * p_i / sum_i p_i over the tokens "1".."5"
(G-Eval, arXiv 2303.16634, eq. 1); where those five carry less than `min_mass`, the model did not judge: null, which no
mean counts. The base comes first and also gives its own log-likelihood of each response. The other judges are asked about
the instructions for which holdfast/panel/early_stopping.py finds that the outcome could still change, and about a random sample
that everybody judges whole. docs/consensus.md tells more.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from holdfast.core import cache, manifest, records
from holdfast.core.errors import UserError
from holdfast.data.instructions import transcript
from holdfast.engines import registry
from holdfast.panel import early_stopping, injections, selection
from holdfast.params.consensus import Consensus, SelectionRule
from holdfast.params.judge import Judge


def main(params: Judge, strategy: SelectionRule, panel: list[str], manifests: Path, data: Path) -> None:
    """`strategy`: the parameters of `consensus` that say what could be chosen; see holdfast/panel/selection.py."""
    rule, first = Consensus(**strategy.model_dump()), manifest.load(manifests / "base.json")
    base = first.name
    judges = {base: first} | {name: manifest.load(manifests / f"{name}.json") for name in panel if name != base}
    rubric = read_rubric(Path(params.rubric))
    instructions = records.read("instructions_kept", data / "instructions" / "kept.parquet")
    chats = {row["id"]: [*row["context"], {"role": "user", "content": row["text"]}] for row in instructions}
    files = [data / "responses" / f"{member}.parquet" for member in panel]
    table = selection.with_agreement(pd.concat([records.read_frame("responses", file) for file in files]))
    sampled = early_stopping.sample(sorted(chats), params.audit if params.adaptive else len(chats), params.seed)

    def ask(name: str, pairs: list[early_stopping.Pair]) -> list[dict[str, Any]]:
        asked = [[transcript(chats[instruction]), text, chats[instruction]] for instruction, text in pairs]
        work = partial(judgements, params=params, entry=judges[name], rubric=rubric, is_base=name == base)
        settings = params.model_dump(include={"batch", "min_mass", "attempts"})
        reading = cache.code_version(injections.__file__)
        identity = [name == base, rubric, settings, reading, *registry.identity(judges[name], __file__)]
        unit = f"responses judged by {name}"
        return cache.shards("judge", asked, params.shard, identity, work, unit, registry.spread(judges[name]))

    given = early_stopping.in_turn(table, list(judges), sampled, rule, params, ask)
    pairs = early_stopping.pairs(table)
    with records.replacing_folder(data / "scores") as folder:
        for name in judges:
            rows = [
                dict(id=id, instruction_id=pair[0], judge=name, audit=pair[0] in sampled, **given[name][pair])
                for id, pair in zip(table.index, pairs, strict=True)
                if pair in given[name]
            ]
            records.write("scores", folder / f"{name}.parquet", rows)
            null = sum(answer["score"] is None for answer in given[name].values())
            print(f"{name}: judged {len(rows):,} responses in {len(given[name]):,} calls, {null:,} without a score")
    calls, everything = sum(map(len, given.values())), len(set(pairs)) * len(judges)
    print(f"{calls:,} calls; every judge on every response: {everything:,}")


def judgements(part: list[list], params: Judge, entry: manifest.Manifest, rubric: str, is_base: bool) -> list[dict]:
    """One shard: score, mass, tokens of the prompt and the base's likelihood for each (instruction, response, instruction as a chat)."""
    engine = registry.load(entry, params.batch)
    safe = [(engine.neutral(instruction), engine.neutral(response)) for instruction, response, _ in part]
    read = [injections.shown(row[1], neutral, row[0], rubric) for row, (_, neutral) in zip(part, safe, strict=True)]
    asked = [
        [{"role": "user", "content": filled(rubric, instruction, response)}]
        for (instruction, _), response in zip(safe, read, strict=True)
    ]
    p = engine.scores(asked, params.attempts)  # (N, 5)
    mass = p.sum(1)
    expected = (p @ np.arange(1, 6)) / np.maximum(mass, 1e-12)
    logprobs: list[float] | list[None] = [None] * len(part)
    if is_base:
        chats = [[{**turn, "content": engine.neutral(turn["content"])} for turn in turns] for _, _, turns in part]
        logprobs = engine.likelihood(chats, [response for _, response in safe])
    return [
        dict(
            score=round(float(e), 6) if np.isfinite(e) and m >= params.min_mass and text else None,
            mass=round(float(m), 6) if np.isfinite(m) else None,
            logprob=None if logprob is None else round(logprob, 6),
            tokens=tokens,
        )
        for e, m, logprob, tokens, text in zip(expected, mass, logprobs, engine.lengths(asked), read, strict=True)
    ]


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
