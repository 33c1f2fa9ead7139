"""Chooses the replay set from the cells of semantic cluster x difficulty bin, between even and as reconstructed.

holdfast balance        (writes data/replay/{replay,surplus}.parquet and reports/balance.json)

One temperature moves the target: a cell of n candidates wants a share in proportion to n ** temperature, so 1 keeps the
reconstructed proportions and 0 makes all cells equal. What a cell lacks goes to the others, and is reported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from holdfast.core import records
from holdfast.params.balance import Balance

Cell = tuple[int, int]  # cluster, difficulty bin


def main(params: Balance, model: Path, replay: Path, summary: Path) -> None:
    rows = records.read("candidates", replay / "candidates.parquet")
    measured = MEASURES[params.difficulty](rows, model)  # (N,), NaN where there is no measurement
    unmeasured = int(np.isnan(measured).sum())
    if unmeasured * 2 > len(rows):
        print(
            f"warning: {unmeasured:,} of {len(rows):,} rows have no measured {params.difficulty}; they share a middle bin"
        )
    middle = float(np.nanmedian(measured)) if unmeasured < len(rows) else 0.0
    difficulty = np.where(np.isnan(measured), middle, measured)
    edges = np.quantile(difficulty, np.arange(1, params.difficulty_bins) / params.difficulty_bins)
    cells: dict[Cell, list[dict]] = defaultdict(list)
    for row, level in zip(rows, np.searchsorted(edges, difficulty, side="left").tolist(), strict=True):
        row["difficulty"] = level
        cells[row["cluster"], level].append(row)

    available = {cell: len(members) for cell, members in cells.items()}
    quota = quotas(available, params.rows, params.temperature)
    wanted = targets(available, min(params.rows, len(rows)), params.temperature)
    chosen, surplus = [], []
    for cell, members in sorted(cells.items()):
        members.sort(key=lambda row: records.text_id(params.seed, row["id"]))  # a seeded shuffle that ignores row order
        chosen += members[: quota[cell]]
        surplus += members[quota[cell] :]
    assert len(chosen) + len(surplus) == len(rows)
    records.write("replay", replay / "replay.parquet", chosen)
    records.write("replay", replay / "surplus.parquet", surplus)
    short = {cell: max(0.0, wanted[cell] - quota[cell]) for cell in cells if wanted[cell] - quota[cell] >= 1}
    records.write_json(
        summary,
        {
            "schema": 1,
            "candidates": len(rows),
            "rows": len(chosen),
            "difficulty": params.difficulty,
            "unmeasured": unmeasured,
            "temperature": params.temperature,
            "entropy": entropy(list(quota.values())),
            "entropy_before": entropy(list(available.values())),
            "short_cells": len(short),
            "shortfall": sum(short.values()),  # rows that cells wanted and do not have; others took their place
            "cells": {
                f"{c}/{d}": {"available": available[c, d], "wanted": wanted[c, d], "taken": quota[c, d]}
                for c, d in sorted(cells)
            },
        },
    )
    print(f"chose {len(chosen):,} of {len(rows):,} rows over {len(cells)} cells, {len(short)} of them too small")


def base_likelihood(rows: list[dict], model: Path) -> np.ndarray:
    """The base's mean negative log-likelihood of the chosen response, in nats per token."""
    return np.array([np.nan if row["base_logprob"] is None else -row["base_logprob"] for row in rows], dtype=float)


def disagreement(rows: list[dict], model: Path) -> np.ndarray:
    """Standard deviation of the judges' scores of the chosen response; one judge alone does not disagree."""
    alone = [row["score_std"] is None or row["n_judges"] < 2 for row in rows]
    return np.array([np.nan if one else row["score_std"] for one, row in zip(alone, rows, strict=True)], dtype=float)


def instruction_following(rows: list[dict], model: Path) -> np.ndarray:
    """Log of the instruction-following difficulty (Li et al., arXiv 2308.12032, eq. 3): how little the instruction helps.

    The base's negative log-likelihood of the response after the instruction, less that after an empty user turn.
    """
    from holdfast.core import manifest
    from holdfast.engines import local

    engine = local.Engine(manifest.load(model), BATCH)
    nothing = [[{"role": "user", "content": ""}]] * len(rows)
    alone = engine.likelihood(nothing, [engine.neutral(row["response"]) for row in rows])
    return np.array(alone) + base_likelihood(rows, model)


BATCH = 64  # responses at once on the device
MEASURES = {
    "base_likelihood": base_likelihood,
    "instruction_following": instruction_following,
    "disagreement": disagreement,
}


def targets(available: dict[Cell, int], rows: int, temperature: float) -> dict[Cell, float]:
    """What every cell would get if it had enough: in proportion to n ** temperature."""
    weights = {cell: n**temperature if n else 0.0 for cell, n in available.items()}
    whole = sum(weights.values())
    return {cell: rows * weight / whole for cell, weight in weights.items()} if whole else dict.fromkeys(available, 0.0)


def quotas(available: dict[Cell, int], rows: int, temperature: float = 0.0) -> dict[Cell, int]:
    """Whole quotas closest to the targets that the cells can fill, summing to min(rows, all).

    Water-filling: cells that cannot fill their target give all they have, the others share the rest by their weights;
    fractions go to the largest remainders.
    """
    left, share = min(rows, sum(available.values())), dict.fromkeys(available, 0.0)
    todo = dict(available)
    while todo:
        wanted = targets(todo, 1, temperature)
        if not (full := [cell for cell in todo if wanted[cell] * left >= todo[cell]]):
            share.update({cell: part * left for cell, part in wanted.items()})
            break
        for cell in full:
            share[cell] = float(todo.pop(cell))
            left -= available[cell]
    taken = {cell: math.floor(part + 1e-9) for cell, part in share.items()}
    over = min(rows, sum(available.values())) - sum(taken.values())
    for cell in sorted(available, key=lambda cell: (round(taken[cell] - share[cell], 9), cell))[:over]:
        taken[cell] += 1
    return taken


def entropy(counts: list[int]) -> float:
    """Shannon entropy of the histogram over its maximum, 0 to 1."""
    total = sum(counts)
    if len(counts) < 2 or not total:
        return 1.0
    return -sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))
