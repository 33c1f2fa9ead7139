"""Counts how many instructions the arms need, for `reconstruct.samples: auto`, and tells the form of the domain's user turns."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records, storage
from holdfast.params.mix import Mix
from holdfast.params.models import load_arms
from holdfast.params.pilot import Pilot
from holdfast.params.reconstruct import Amount
from holdfast.reconstruction import amount, lookalikes


def main() -> None:
    rows, base = (
        records.read("domain", Path("data/domain/train.parquet")),
        manifest.load(Path("models/manifest/base.json")),
    )
    replay_rows = amount.count_replay_rows(Mix.load(), Pilot.load(), load_arms(), len(rows))
    samples = Amount.load().samples
    instructions = amount.count_instructions(replay_rows) if samples == "auto" else None
    form = lookalikes.describe_form(rows, manifest.load_tokenizer(base.folder()))
    storage.write_json(Path("reports/amount.json"), {"schema": 1, "instructions": instructions, "form": form})
    for arm, replayed in replay_rows.items():
        print(f"{arm}: {replayed:,} replay rows beside {len(rows):,} rows of the domain")
    drawn = (
        f"{instructions:,} fit ones are enough" if instructions is not None else f"reconstruct.samples says {samples:,}"
    )
    print(f"instructions to reconstruct: {drawn}")
