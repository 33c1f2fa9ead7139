"""Chooses the replay set so that semantic clusters x difficulty bins are even."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import records, storage
from holdfast.data import balancing
from holdfast.params.balance import Balance
from holdfast.params.row_checks import Refusals


def main() -> None:
    params, floor = Balance.load(), Refusals.load().refusals
    candidates = records.read("candidates", Path("data/replay/candidates.parquet"))
    difficulty = balancing.measure_difficulty(candidates, Path("models/manifest/base.json"), params)
    choice = balancing.choose_replay_set(candidates, difficulty, params, floor)

    records.write("replay", Path("data/replay/replay.parquet"), choice.replay)
    records.write("replay", Path("data/replay/surplus.parquet"), choice.surplus)
    storage.write_json(Path("reports/balance.json"), balancing.summarise(choice, difficulty, params))
    storage.write_json(Path("reports/replay.json"), balancing.compute_metrics(choice))
    cells, short = len(choice.available), len(choice.shortfalls)
    print(f"chose {len(choice.replay):,} of {len(candidates):,} rows over {cells} cells, {short} of them too small")
    print(balancing.describe_refusals(choice))
