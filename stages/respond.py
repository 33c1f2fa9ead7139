"""One panel member answers every kept instruction k times."""

from __future__ import annotations

from pathlib import Path

from holdfast.core import manifest, records
from holdfast.panel.responses import answer_instructions
from holdfast.params.respond import Respond


def main(model: str) -> None:
    params = Respond.load()
    member = manifest.load(Path(f"models/manifest/{model}.json"))
    instructions = records.read("instructions_kept", Path("data/instructions/kept.parquet"))
    responses = answer_instructions(instructions, member, params)
    records.write("responses", Path(f"data/responses/{model}.parquet"), responses)
    print(f"{member.name}: {len(responses):,} responses to {len(instructions):,} instructions")
    if withheld := sum(row["finish_reason"] == "withheld" for row in responses):
        print(f"{member.name}: {withheld:,} answers to what deserves a refusal were none, and are not kept")
    if unreadable := sum(row["finish_reason"] == "unreadable" for row in responses):
        print(
            f"{member.name}: {unreadable:,} answers hold a call that does not parse or names no tool offered, or thoughts that do not end"
        )
