"""The panel scores responses from 1 to 5, one judge after the other, while the selection could still change."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from holdfast.core import manifest, records, storage
from holdfast.data.instructions import messages, needs_base
from holdfast.panel import early_stopping, scoring, selection
from holdfast.params.consensus import SelectionRule
from holdfast.params.judge import Judge
from holdfast.params.models import load_panel


def main() -> None:
    params, rule = Judge.load(), SelectionRule.load()
    base = manifest.load(Path("models/manifest/base.json"))
    others = [name for name in load_panel() if name != base.name]
    judges = {base.name: base} | {name: manifest.load(Path(f"models/manifest/{name}.json")) for name in others}
    rubric = scoring.read_rubric(Path(params.rubric))
    instructions = records.read("instructions_kept", Path("data/instructions/kept.parquet"))
    responses = pd.concat([records.read_frame("responses", Path(f"data/responses/{name}.parquet")) for name in judges])

    if not selection.asks_judges(rule):
        print(f"consensus.strategy is {rule.strategy}: no judge is asked")
    chats = {row["id"]: messages(row) for row in instructions if not needs_base(row)}
    thinking = False if any("thinking" in row for row in instructions) else None
    responses = responses[responses["instruction_id"].isin(chats)]
    size = params.audit if params.adaptive else len(chats)
    audited = early_stopping.draw_sample(sorted(chats), size, params.seed)
    panel = early_stopping.Panel(selection.add_agreement(responses), list(judges), audited, rule, params)

    for judge, pairs, stop in panel.rounds():  # the base first, then only what is still open
        if stop:
            still_open = f"{stop.open_instructions:,} instructions are open (bar {stop.bar:.2f})"
            print(f"after {stop.judges} of {len(judges)} judges {still_open}")
        panel.add(judge, scoring.score_pairs(pairs, chats, judges[judge], rubric, judge == base.name, params, thinking))

    with storage.replacing_folder(Path("data/scores")) as folder:
        for judge, judgements in panel.judgements.items():
            rows = panel.rows(judge)
            records.write("scores", folder / f"{judge}.parquet", rows)
            null = sum(judgement.score is None for judgement in judgements.values())
            print(f"{judge}: judged {len(rows):,} responses in {len(judgements):,} calls, {null:,} without a score")
    calls, all_calls = sum(map(len, panel.judgements.values())), len(set(panel.pairs)) * len(judges)
    print(f"{calls:,} calls; every judge on every response: {all_calls:,}")
