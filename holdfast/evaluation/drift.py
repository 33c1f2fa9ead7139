"""Drift of answers, before against after by suite, and of instructions from stage to stage.

Evidently's tests do not know about pairs: whether a model forgot is the gate's question. Which tests and thresholds are
used, and why, is in section `drift` of the parameters (holdfast/params/drift.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.manifest import Manifest
from holdfast.evaluation import shifts
from holdfast.evaluation.results import Items
from holdfast.evaluation.shifts import Column
from holdfast.params.drift import Drift

BATCH_ROWS = 64  # texts at once on the device
FLOWS = [("raw", "kept"), ("kept", "replay"), ("kept", "domain"), ("raw", "domain")]  # reference, current


class InstructionSet(NamedTuple):
    """One set of instructions: all texts, and how the base sees a sample of them."""

    texts: list[str]
    vectors: np.ndarray  # (sample, hidden): the base's embeddings
    difficulty: list[float]  # nats per token of the responses under the base; empty where there are no responses
    clusters: list[int]  # of all texts; empty where curate gave none
    sampled: list[int]  # which texts the vectors are of


def compare_answers(
    params: Drift, base: Items, tuned: Items, suites: list[str], html: Path
) -> dict[str, dict[str, Any]]:
    """Compares scores and answer lengths of one arm with the base's, and writes Evidently's page; the numbers by suite."""
    numbers = shifts.compare(answer_columns(params, base, tuned, suites), html)
    return {suite: {"score": numbers[f"{suite}: score"], "length": numbers[f"{suite}: characters"]} for suite in suites}


def answer_columns(params: Drift, base: Items, tuned: Items, suites: list[str]) -> dict[str, Column]:
    """Scores and answer lengths (characters) of each suite, before and after."""
    columns = {}
    for suite in suites:
        before, after = base(suite), tuned(suite)
        # values that are not finite are left out; the gate reports them
        old, new = (
            scores[np.isfinite(scores)] for scores in (before["correct"].to_numpy(), after["correct"].to_numpy())
        )
        columns[f"{suite}: score"] = Column(old, new, params.score_method, params.score_threshold)
        old, new = (pc.utf8_length(items["response"]).to_numpy().astype(float) for items in (before, after))
        columns[f"{suite}: characters"] = Column(old, new, params.length_method, params.length_threshold)
    return columns


def compare_instructions(params: Drift, sets: dict[str, InstructionSet], html: Path) -> dict[str, dict[str, Any]]:
    """Compares the sets of instructions along FLOWS, and writes Evidently's page; the numbers by flow."""
    numbers = shifts.compare(flow_columns(params, sets), html)
    flows: dict[str, dict[str, Any]] = {}
    for before, after in FLOWS:
        flow = f"{after} against {before}"
        flows[flow] = {key.split(": ")[1]: value for key, value in numbers.items() if key.startswith(f"{flow}: ")}
        vectors = sets[before].vectors, sets[after].vectors
        flows[flow]["embeddings"] = shifts.compare_embeddings(*vectors, params.embedding_threshold)
    return flows


def describe_instructions(
    params: Drift,
    base: Manifest,
    raw: pa.Table,
    kept_table: pa.Table,
    candidates: pa.Table,
    replay: pa.Table,
    domain: list[dict[str, Any]],
) -> dict[str, InstructionSet]:
    """The user turns as reconstructed, kept and replayed, and the last ones of the domain, as the base sees them."""
    from holdfast.engines import local

    engine = local.Engine(base, BATCH_ROWS)
    chosen = [domain[at]["messages"] for at in pick_evenly(len(domain), params.rows)]
    logprobs = engine.likelihood([turns[:-1] for turns in chosen], [turns[-1]["content"] for turns in chosen])
    user_turns = [[turn["content"] for turn in row["messages"] if turn["role"] == "user"] for row in domain]
    texts = {
        "raw": (raw["text"].to_pylist(), [], []),
        "kept": (kept_table["text"].to_pylist(), surprise(candidates), kept_table["cluster"].to_pylist()),
        "replay": (replay["instruction"].to_pylist(), surprise(replay), replay["cluster"].to_pylist()),
        "domain": ([turns[-1] for turns in user_turns if turns], [-value for value in logprobs], []),
    }
    sets = {}
    for name, (whole, difficulty, clusters) in texts.items():
        sampled = pick_evenly(len(whole), params.rows)
        vectors = engine.embed([whole[at] for at in sampled])
        sets[name] = InstructionSet(whole, vectors, difficulty, clusters, sampled)
    return sets


def surprise(table: pa.Table) -> list[float]:
    """Nats per token of the responses under the base; rows without a number are left out."""
    return [-value for value in table["base_logprob"].drop_null().to_pylist()]


def pick_evenly(total: int, most: int) -> list[int]:
    """At most `most` row numbers, evenly spaced: rows are sorted by id, and ids are hashes."""
    return [at * total // min(total, most) for at in range(min(total, most))]


def flow_columns(params: Drift, sets: dict[str, InstructionSet]) -> dict[str, Column]:
    """Lengths, clusters and difficulty of one set of instructions against another."""
    kept_set, columns = sets["kept"], {}
    labels = [kept_set.clusters[at] for at in kept_set.sampled]
    for before, after in FLOWS:
        flow, sides = f"{after} against {before}", (sets[before], sets[after])
        for what, size in (("characters", len), ("words", lambda text: len(text.split()))):
            old, new = ([float(size(text)) for text in side.texts] for side in sides)
            columns[f"{flow}: {what}"] = Column(old, new, params.length_method, params.length_threshold)
        if all(side.clusters for side in sides):
            labels_before, labels_after = ([f"{number:03d}" for number in side.clusters] for side in sides)
        else:  # texts that were never clustered: the cluster of kept ones whose middle is nearest, on both sides
            labels_before, labels_after = (shifts.nearest(side.vectors, kept_set.vectors, labels) for side in sides)
        columns[f"{flow}: clusters"] = Column(
            labels_before, labels_after, params.cluster_method, params.cluster_threshold, "category"
        )
        old, new = (side.difficulty for side in sides)
        if old and new:  # raw rows have no responses, and without judges nothing is measured
            columns[f"{flow}: difficulty"] = Column(old, new, params.length_method, params.difficulty_threshold)
    return columns
