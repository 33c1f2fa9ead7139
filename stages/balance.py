"""Chooses the replay set: an even quota for every cell of semantic cluster x difficulty bin, as far as rows exist.

holdfast balance        (writes data/replay/{replay,surplus}.parquet and reports/balance.json)

Difficulty is the base's mean negative log-likelihood of the chosen response; bins are its quantiles.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from stages.core import records
from stages.core.params import Balance


def main(params: Balance, replay: Path, summary: Path) -> None:
    rows = records.read("candidates", replay / "candidates.parquet")
    difficulty = np.array([-(row["base_logprob"] or 0.0) for row in rows])
    edges = np.quantile(difficulty, np.arange(1, params.difficulty_bins) / params.difficulty_bins)
    cells: dict[tuple[int, int], list[dict]] = defaultdict(list)
    for row, level in zip(rows, np.searchsorted(edges, difficulty, side="left").tolist(), strict=True):
        row["difficulty"] = level
        cells[row["cluster"], level].append(row)

    quota = quotas({cell: len(members) for cell, members in cells.items()}, params.rows)
    chosen, surplus = [], []
    for cell, members in sorted(cells.items()):
        members.sort(key=lambda row: records.text_id(params.seed, row["id"]))  # a seeded shuffle that ignores row order
        chosen += members[: quota[cell]]
        surplus += members[quota[cell] :]
    assert len(chosen) + len(surplus) == len(rows)
    records.write("replay", replay / "replay.parquet", chosen)
    records.write("replay", replay / "surplus.parquet", surplus)
    records.write_json(
        summary,
        {
            "schema": 1,
            "candidates": len(rows),
            "rows": len(chosen),
            "entropy": entropy(list(quota.values())),
            "entropy_before": entropy([len(members) for members in cells.values()]),
            "cells": {f"{c}/{d}": {"available": len(cells[c, d]), "taken": quota[c, d]} for c, d in sorted(cells)},
        },
    )
    print(f"chose {len(chosen):,} of {len(rows):,} rows over {len(cells)} cells")


def quotas(available: dict[tuple[int, int], int], rows: int) -> dict[tuple[int, int], int]:
    """The evenest whole quotas that the cells can fill: water-filling, summing to min(rows, all)."""
    left, taken = min(rows, sum(available.values())), dict.fromkeys(available, 0)
    while left:
        open_cells = sorted(cell for cell, n in available.items() if taken[cell] < n)
        level = max(1, left // len(open_cells))
        for cell in open_cells:
            more = min(level, available[cell] - taken[cell], left)
            taken[cell] += more
            left -= more
    return taken


def entropy(counts: list[int]) -> float:
    """Shannon entropy of the histogram over its maximum, 0 to 1."""
    total = sum(counts)
    if len(counts) < 2 or not total:
        return 1.0
    return -sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))
