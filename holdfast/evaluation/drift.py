"""drift: what moved, for the eye: answers before against after by suite, and instructions from stage to stage.

    holdfast drift           writes reports/drift/html/*.html (Evidently, opens offline) and reports/drift/drift.json

Evidently's tests know nothing of pairs: whether a model forgot is the gate's question. Which tests and thresholds are
used, and why, stands in section `drift` of the parameters (holdfast/params/).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core import manifest, records
from holdfast.evaluation import paired, shifts
from holdfast.evaluation.shifts import Column
from holdfast.params.drift import Drift

BATCH = 64  # texts at once on the device
FLOWS = [("raw", "kept"), ("kept", "replay"), ("kept", "domain"), ("raw", "domain")]  # reference, current


class Texts(NamedTuple):
    """One set of instructions: all texts, and what the base makes of a sample of them."""

    texts: list[str]
    vectors: np.ndarray  # (sample, hidden): the base's embeddings
    difficulty: list[float]  # nats per token of the responses under the base; empty where there are no responses
    clusters: list[int]  # of all texts; empty where curate gave none
    sampled: list[int]  # which texts the vectors are of


def main(params: Drift, names: list[str], model: Path, data: Path, eval_folder: Path, out: Path) -> None:
    base, described = paired.load(eval_folder / "base")
    suites = sorted(described["suites"])
    arms: dict[str, Any] = {}
    sets = instructions(params, model, data)
    with records.replacing_folder(out / "html") as html:
        for name in names:
            found = shifts.compare(
                answers(params, base, paired.load(eval_folder / name)[0], suites), html / f"{name}.html"
            )
            arms[name] = {
                suite: {"score": found[f"{suite}: score"], "length": found[f"{suite}: characters"]} for suite in suites
            }
        found = shifts.compare(flows(params, sets), html / "instructions.html")
    told: dict[str, Any] = {}
    for before, after in FLOWS:
        flow = f"{after} against {before}"
        told[flow] = {key.split(": ")[1]: numbers for key, numbers in found.items() if key.startswith(f"{flow}: ")}
        vectors = sets[before].vectors, sets[after].vectors
        told[flow]["embeddings"] = shifts.embeddings(*vectors, params.embedding_threshold)
    methods = params.model_dump(exclude={"rows"})
    records.write_json(out / "drift.json", {"schema": 1, "arms": arms, "instructions": told, "methods": methods})


def answers(params: Drift, base: paired.Items, tuned: paired.Items, suites: list[str]) -> dict[str, Column]:
    """Scores and response lengths (characters) of each suite, before and after."""
    columns = {}
    for suite in suites:
        before, after = base(suite), tuned(suite)
        was, now = (items["correct"].to_numpy() for items in (before, after))
        was, now = was[np.isfinite(was)], now[np.isfinite(now)]  # to complain of the others is the gate's part
        columns[f"{suite}: score"] = Column(was, now, params.score_method, params.score_threshold)
        was, now = (pc.utf8_length(items["response"]).to_numpy().astype(float) for items in (before, after))
        columns[f"{suite}: characters"] = Column(was, now, params.length_method, params.length_threshold)
    return columns


def instructions(params: Drift, model: Path, data: Path) -> dict[str, Texts]:
    """The user turns as reconstructed, kept and replayed, and those of the domain, with what the base makes of them."""
    raw = records.read_table("instructions_raw", data / "instructions" / "raw.parquet")
    kept = records.read_table("instructions_kept", data / "instructions" / "kept.parquet")
    candidates = records.read_table("candidates", data / "replay" / "candidates.parquet")
    replay = records.read_table("replay", data / "replay" / "replay.parquet")
    conversations = records.read("domain", data / "domain" / "train.parquet")
    from holdfast.engines import local

    engine = local.Engine(manifest.load(model), BATCH)
    chosen = [conversations[at]["messages"] for at in sample(len(conversations), params.rows)]
    said = engine.likelihood([turns[:-1] for turns in chosen], [engine.neutral(t[-1]["content"]) for t in chosen])
    asked = [[turn["content"] for turn in row["messages"] if turn["role"] == "user"][-1:] for row in conversations]
    texts = {
        "raw": (raw["text"].to_pylist(), [], []),
        "kept": (kept["text"].to_pylist(), surprise(candidates), kept["cluster"].to_pylist()),
        "replay": (replay["instruction"].to_pylist(), surprise(replay), replay["cluster"].to_pylist()),
        "domain": ([text for last in asked for text in last], [-value for value in said], []),
    }
    found = {}
    for name, (whole, difficulty, clusters) in texts.items():
        sampled = sample(len(whole), params.rows)
        vectors = engine.embed([engine.neutral(whole[at]) for at in sampled])
        found[name] = Texts(whole, vectors, difficulty, clusters, sampled)
    return found


def surprise(table: pa.Table) -> list[float]:
    return [-value for value in table["base_logprob"].drop_null().to_pylist()]


def sample(total: int, most: int) -> list[int]:
    """At most `most` row numbers, evenly spaced: rows are sorted by id, and ids are hashes."""
    return [at * total // min(total, most) for at in range(min(total, most))]


def flows(params: Drift, sets: dict[str, Texts]) -> dict[str, Column]:
    """Lengths, clusters and difficulty of one set of instructions against another."""
    kept, columns = sets["kept"], {}
    labels = [kept.clusters[at] for at in kept.sampled]
    for before, after in FLOWS:
        flow, sides = f"{after} against {before}", (sets[before], sets[after])
        for what, size in (("characters", len), ("words", lambda text: len(text.split()))):
            was, now = ([float(size(text)) for text in side.texts] for side in sides)
            columns[f"{flow}: {what}"] = Column(was, now, params.length_method, params.length_threshold)
        if all(side.clusters for side in sides):
            old, new = ([f"{number:03d}" for number in side.clusters] for side in sides)
        else:  # texts that were never clustered: the cluster of kept ones whose middle is nearest, on both sides
            old, new = (shifts.nearest(side.vectors, kept.vectors, labels) for side in sides)
        columns[f"{flow}: clusters"] = Column(old, new, params.cluster_method, params.cluster_threshold, "category")
        if before != "raw":  # nobody has answered what was not kept
            was, now = (side.difficulty for side in sides)
            columns[f"{flow}: difficulty"] = Column(was, now, params.length_method, params.difficulty_threshold)
    return columns
