"""Counts how many instructions the arms need, for `reconstruct.samples: auto`."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from holdfast.core import storage
from holdfast.params.mix import Mix
from holdfast.params.models import load_arms
from holdfast.params.pilot import Pilot
from holdfast.params.reconstruct import Amount
from holdfast.reconstruction import amount


def main() -> None:
    domain_rows = pq.read_metadata("data/domain/train.parquet").num_rows
    replay_rows = amount.count_replay_rows(Mix.load(), Pilot.load(), load_arms(), domain_rows)
    samples = Amount.load().samples
    instructions = amount.count_instructions(replay_rows) if samples == "auto" else None
    storage.write_json(Path("reports/amount.json"), {"schema": 1, "instructions": instructions})
    for arm, rows in replay_rows.items():
        print(f"{arm}: {rows:,} replay rows beside {domain_rows:,} rows of the domain")
    drawn = (
        f"{instructions:,} fit ones are enough" if instructions is not None else f"reconstruct.samples says {samples:,}"
    )
    print(f"instructions to reconstruct: {drawn}")
