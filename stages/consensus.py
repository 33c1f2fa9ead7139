"""Averages the scores, selects one response per instruction, rejects what is not good enough, audits the judges."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from holdfast.core import records, storage
from holdfast.panel import consensus
from holdfast.params.consensus import Consensus
from holdfast.params.models import load_base, load_panel


def main() -> None:
    params, base, panel = Consensus.load(), load_base(), load_panel()
    instructions = records.read_frame("instructions_kept", Path("data/instructions/kept.parquet"))
    responses = pd.concat([records.read_frame("responses", Path(f"data/responses/{name}.parquet")) for name in panel])
    scores = pd.concat([records.read_frame("scores", Path(f"data/scores/{name}.parquet")) for name in panel])

    scored = consensus.join_scores(responses, scores, base, params)
    candidates, rejected = consensus.select_candidates(instructions, scored, params)
    summary = consensus.summarise(scored, scores, candidates, rejected, params)
    records.write("candidates", Path("data/replay/candidates.parquet"), candidates)
    records.write("candidates_rejected", Path("data/replay/rejected.parquet"), rejected)
    storage.write_json(Path("reports/consensus.json"), summary)

    for warning in summary["warnings"]:
        print(f"warning: {warning}")
    selected = f"kept {len(candidates):,} of {len(instructions):,} instructions with a response"
    print(f"{selected}; {len(rejected):,} rejected")
    refusals = summary["refusals"]
    print(
        f"{refusals['kept']:,} of them are refusals; {refusals['obeyed']:,} that deserve one got none, and are left out"
    )
    if summary["calls"]:
        calls, tokens = summary["calls_per_kept_row"], summary["tokens_per_kept_row"]
        cost = f"{calls:.2f} judge calls" + (f", {tokens:.0f} tokens of judges' prompts" if tokens else "")
        print(f"per kept row {cost}; the full panel: {summary['calls_of_the_full_panel'] / len(candidates):.2f} calls")
