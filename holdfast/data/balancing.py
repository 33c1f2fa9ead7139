"""The replay set: rows chosen from the cells of semantic cluster x difficulty bin, between even and as reconstructed.

The work of `balance`. One temperature moves the target: a cell of n candidates wants a share in proportion to
n ** temperature, so 1 keeps the reconstructed proportions and 0 makes all cells equal. What a cell lacks goes to the
others, and is reported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core import records
from holdfast.core.rows import Candidate, ReplayRow
from holdfast.params.balance import Balance

BATCH = 64  # responses at once on the device
Cell = tuple[int, int]  # cluster, difficulty bin


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, of what."""

    replay: list[ReplayRow]
    surplus: list[ReplayRow]
    available: dict[Cell, int]  # candidates
    wanted: dict[Cell, float]  # rows that the cell would give if it had enough
    taken: dict[Cell, int]

    @property
    def shortfalls(self) -> list[float]:
        """Rows that a cell lacks, of each cell that lacks at least one."""
        lacks = (self.wanted[cell] - self.taken[cell] for cell in self.taken)
        return [lack for lack in lacks if lack >= 1]


def choose_replay_set(candidates: list[Candidate], difficulty: np.ndarray, params: Balance) -> Choice:
    """Split candidates into `params.rows` rows of the replay set and the surplus, each with its difficulty bin.

    `difficulty`: (N,), NaN where there is no measurement; such rows count as of median difficulty.
    """
    cells: dict[Cell, list[ReplayRow]] = defaultdict(list)
    for row, level in zip(candidates, difficulty_bins(difficulty, params.difficulty_bins), strict=True):
        cells[row["cluster"], level].append({**row, "difficulty": level})

    available = {cell: len(members) for cell, members in cells.items()}
    taken = quotas(available, params.rows, params.temperature)
    wanted = targets(available, min(params.rows, len(candidates)), params.temperature)
    replay: list[ReplayRow] = []
    surplus: list[ReplayRow] = []
    for cell, members in sorted(cells.items()):
        members.sort(key=lambda row: records.text_id(params.seed, row["id"]))  # a seeded shuffle that ignores row order
        replay += members[: taken[cell]]
        surplus += members[taken[cell] :]
    assert len(replay) + len(surplus) == len(candidates), "a row got lost"
    return Choice(replay, surplus, available, wanted, taken)


def difficulty_bins(difficulty: np.ndarray, bins: int) -> list[int]:
    """The quantile bin of each row from 0, the easiest; equal difficulties share a bin, NaN counts as the median."""
    unmeasured = np.isnan(difficulty)
    median = 0.0 if unmeasured.all() else float(np.nanmedian(difficulty))
    filled = np.where(unmeasured, median, difficulty)
    edges = np.quantile(filled, np.arange(1, bins) / bins)
    return np.searchsorted(edges, filled, side="left").tolist()


def summarise(choice: Choice, difficulty: np.ndarray, params: Balance) -> dict[str, Any]:
    """The content of reports/balance.json."""
    return {
        "schema": 1,
        "candidates": len(choice.replay) + len(choice.surplus),
        "rows": len(choice.replay),
        "difficulty": params.difficulty,
        "unmeasured": int(np.isnan(difficulty).sum()),
        "temperature": params.temperature,
        "entropy": entropy(list(choice.taken.values())),
        "entropy_before": entropy(list(choice.available.values())),
        "short_cells": len(choice.shortfalls),
        "shortfall": sum(choice.shortfalls),  # rows that cells wanted and do not have; others took their place
        "cells": {
            f"{cluster}/{level}": {
                "available": choice.available[cluster, level],
                "wanted": choice.wanted[cluster, level],
                "taken": choice.taken[cluster, level],
            }
            for cluster, level in sorted(choice.available)
        },
    }


def measure_difficulty(rows: list[Candidate], model: Path, params: Balance) -> np.ndarray:
    """How hard each candidate is by the measure of params, (N,); NaN where there is no measurement.

    `model`: the base's manifest. Warns where most rows have no measurement.
    """
    difficulty = MEASURES[params.difficulty](rows, model)
    unmeasured = int(np.isnan(difficulty).sum())
    if unmeasured == len(rows):
        print(f"no row has a measured {params.difficulty}: they are balanced by meaning alone")
    elif unmeasured * 2 > len(rows):
        what = f"{unmeasured:,} of {len(rows):,} rows have no measured {params.difficulty}"
        print(f"warning: {what}; they share a middle bin")
    return difficulty


def base_likelihood(rows: list[Candidate], model: Path) -> np.ndarray:
    """The base's mean negative log-likelihood of the chosen response, in nats per token."""
    return np.array([np.nan if row["base_logprob"] is None else -row["base_logprob"] for row in rows], dtype=float)


def disagreement(rows: list[Candidate], model: Path) -> np.ndarray:
    """Standard deviation of the judges' scores of the chosen response; one judge alone does not disagree."""
    alone = [row["score_std"] is None or row["n_judges"] < 2 for row in rows]
    return np.array([np.nan if one else row["score_std"] for one, row in zip(alone, rows, strict=True)], dtype=float)


def instruction_following(rows: list[Candidate], model: Path) -> np.ndarray:
    """Log of the instruction-following difficulty (Li et al., arXiv 2308.12032, eq. 3): how little the instruction helps.

    The base's negative log-likelihood of the response after the instruction, less that after an empty user turn.
    """
    from holdfast.chat import encoding
    from holdfast.core import manifest
    from holdfast.engines import local

    engine = local.Engine(manifest.load(model), BATCH)
    empty = [encoding.turns("")] * len(rows)
    unconditional = engine.likelihood(empty, [row["response"] for row in rows])
    return np.array(unconditional) + base_likelihood(rows, model)


MEASURES = {
    "base_likelihood": base_likelihood,
    "instruction_following": instruction_following,
    "disagreement": disagreement,
}


def targets(available: dict[Cell, int], rows: int, temperature: float) -> dict[Cell, float]:
    """Rows that every cell would give if it had enough: in proportion to n ** temperature."""
    weights = {cell: n**temperature if n else 0.0 for cell, n in available.items()}
    whole = sum(weights.values())
    return {cell: rows * weight / whole for cell, weight in weights.items()} if whole else dict.fromkeys(available, 0.0)


def quotas(available: dict[Cell, int], rows: int, temperature: float = 0.0) -> dict[Cell, int]:
    """Whole quotas closest to the targets that the cells can fill, summing to min(rows, all).

    Water-filling: cells that cannot fill their target give all they have, the others share the rest by their weights;
    fractions go to the largest remainders.
    """
    left, share = min(rows, sum(available.values())), dict.fromkeys(available, 0.0)
    open_cells = dict(available)
    while open_cells:
        wanted = targets(open_cells, 1, temperature)
        if not (full := [cell for cell in open_cells if wanted[cell] * left >= open_cells[cell]]):
            share.update({cell: part * left for cell, part in wanted.items()})
            break
        for cell in full:
            share[cell] = float(open_cells.pop(cell))
            left -= available[cell]
    taken = {cell: math.floor(part + 1e-9) for cell, part in share.items()}
    remainder = min(rows, sum(available.values())) - sum(taken.values())
    for cell in sorted(available, key=lambda cell: (round(taken[cell] - share[cell], 9), cell))[:remainder]:
        taken[cell] += 1
    return taken


def entropy(counts: list[int]) -> float:
    """Shannon entropy of the histogram over its maximum, 0 to 1."""
    total = sum(counts)
    if len(counts) < 2 or not total:
        return 1.0
    return -sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))
