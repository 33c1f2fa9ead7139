"""The tables that `quality` checks: loaded, joined, and counted from stage to stage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from holdfast.core import records
from holdfast.data import instructions

Tables = dict[
    str, pd.DataFrame
]  # raw, kept, held_out, rejected, responses, scores, candidates, unanswered, replay, surplus
FROM_CANDIDATES = ("instruction", "response_id", "response")  # what a replay row has of its candidate
ADDED_TO_INSTRUCTIONS = ("asked", "outcome", "characters")
ADDED_TO_REPLAY = (
    *(f"candidate_{column}" for column in FROM_CANDIDATES),
    "instruction_characters",
    "response_characters",
    "sole_author",
)


class Flow(NamedTuple):
    """Rows of one stage."""

    read: int
    accounted: int  # rows of which the stage says what became of them


def load_tables(panel: list[str], data: Path) -> Tables:
    """All that is checked or counted, from the folder `data`. Raises UserError where a file is missing or damaged."""
    files = {
        "raw": ("instructions_raw", data / "instructions" / "raw.parquet"),
        "kept": ("instructions_kept", data / "instructions" / "kept.parquet"),
        "held_out": ("instructions_kept", data / "instructions" / "held_out.parquet"),
        "rejected": ("instructions_rejected", data / "instructions" / "rejected.parquet"),
        "candidates": ("candidates", data / "replay" / "candidates.parquet"),
        "unanswered": ("candidates_rejected", data / "replay" / "rejected.parquet"),
        "replay": ("replay", data / "replay" / "replay.parquet"),
        "surplus": ("replay", data / "replay" / "surplus.parquet"),
    }
    tables = {
        name: records.read_frame(contract, file).drop(columns=records.EXTRA.name, errors="ignore")
        for name, (contract, file) in files.items()
    }
    for name in ("responses", "scores"):
        parts = [records.read_frame(name, data / name / f"{member}.parquet") for member in panel]
        tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def count_flow(tables: Tables, panel: list[str]) -> dict[str, Flow]:
    """The rows of each stage, by its name."""
    size = {name: len(table) for name, table in tables.items()}
    scores = tables["scores"]
    # a judge is asked only where the choice could still change; what it scored must be there, the audit whole
    scored = int(scores["id"].isin(tables["responses"]["id"]).sum())
    audited = int(scores.loc[scores["audit"], "id"].nunique()) * len(panel)
    return {
        "curate": Flow(size["raw"], size["kept"] + size["held_out"] + size["rejected"]),
        "judge": Flow(size["scores"], scored),
        "judge's audit": Flow(audited, int(scores["audit"].sum())),
        "consensus": Flow(size["kept"], size["candidates"] + size["unanswered"]),
        "balance": Flow(size["candidates"], size["replay"] + size["surplus"]),
    }


def frame_of_flow(tables: Tables, panel: list[str]) -> pd.DataFrame:
    """One row per stage."""
    return pd.DataFrame([dict(id=name, **flow._asdict()) for name, flow in count_flow(tables, panel).items()])


def count_rows(tables: Tables, panel: list[str]) -> dict[str, Any]:
    """The part `counts` of quality.json."""
    return {
        "raw": len(tables["raw"]),
        "kept": len(tables["kept"]),
        "held_out": len(tables["held_out"]),
        "rejected": dict(Counter(tables["rejected"]["reason"])),
        "scores": len(tables["scores"]),
        "scores_missing": int(tables["scores"]["score"].isna().sum()),
        "candidates": len(tables["candidates"]),
        "replay": len(tables["replay"]),
        "replay_clusters": int(tables["replay"]["cluster"].nunique()),
        "replay_models": dict(Counter(tables["replay"]["model"])),
        "stages": {name: flow._asdict() for name, flow in count_flow(tables, panel).items()},
    }


def join_instructions(tables: Tables) -> pd.DataFrame:
    """Kept, held-out and rejected instructions; `outcome` tells them apart, `asked` is the text after its context."""
    kept = tables["kept"].assign(outcome="kept", reason="", detail="")
    held_out = tables["held_out"].assign(outcome="held out", reason="", detail="")
    rejected = tables["rejected"].assign(outcome="rejected", cluster=-1, bait=False)
    rows = pd.concat([kept, held_out, rejected], ignore_index=True)
    transcripts = [
        instructions.transcript(instructions.messages({"context": context, "text": text}))
        for context, text in zip(rows["context"], rows["text"], strict=True)
    ]
    return rows.assign(asked=transcripts, characters=rows["text"].str.len())


def join_replay_with_candidates(tables: Tables) -> pd.DataFrame:
    """The replay set with columns of the candidate of the same id (`candidate_*`, empty where there is none).

    `sole_author`: the one model that gave the response, empty where several members gave it.
    """
    of_candidate = {name: f"candidate_{name}" for name in FROM_CANDIDATES}
    candidates = tables["candidates"][["id", *of_candidate]].rename(columns=of_candidate)
    rows = tables["replay"].merge(candidates, on="id", how="left")
    authors = tables["responses"].groupby(["instruction_id", "text"])["model"].nunique().to_dict()
    several = [authors.get(key, 1) > 1 for key in zip(rows["id"], rows["response"], strict=True)]
    return rows.fillna(dict.fromkeys(of_candidate.values(), "")).assign(
        instruction_characters=rows["instruction"].str.len(),
        response_characters=rows["response"].str.len(),
        sole_author=rows["model"].mask(pd.Series(several, rows.index, bool), ""),
    )
