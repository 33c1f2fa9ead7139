"""Losses that are planted in one suite: how often the gate catches them and names it, and from what size on.

`python -m benchmarks.lab.planted` prints it for the core suite.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from holdfast.params.gate import Gate
from holdfast.verdict import gate, precision, simulation

BASE = 0.9  # of the items that the base has right
CAUGHT = 0.95


def evaluate_again(rng: np.random.Generator, right: np.ndarray, flips: float) -> np.ndarray:
    """The outcomes of a model that is as good: a part `flips` of the items comes out otherwise, half of them lost. Booleans (N,)"""
    half = rng.binomial(len(right), flips / 2, size=2)
    moved = right.copy()
    for value, number in zip((True, False), half, strict=True):
        where = np.flatnonzero(right == value)
        moved[rng.permutation(where)[:number]] = not value
    return moved


def simulate_planted(
    params: Gate, suites: simulation.Suites, planted: str, losable: np.ndarray, drop: float, flips: float, runs: int
) -> int:
    """How many of `runs` arms fail with the suite `planted` named; with "", how many fail at all.

    Of all items of that suite at least a part `drop` is lost, drawn from those that are right and `losable` (N,), and no other truly
    changes; see evaluate_again for `flips`. The gate is the one that ships, on items with these outcomes.
    """
    caught = 0
    for run in range(runs):
        rng = np.random.default_rng([run, len(planted), round(1000 * drop), round(1000 * flips)])
        before, after = dict[str, pa.Table](), dict[str, pa.Table]()
        for name, suite in suites.items():
            right: np.ndarray = np.less(rng.random(suite["items"]), BASE)
            again = evaluate_again(rng, right, flips)
            if name == planted:
                lost = rng.permutation(np.flatnonzero(again & losable))
                again[lost[: math.ceil(drop * len(right) - precision.TINY)]] = False
            before[name], after[name] = (simulation.answers(name, side.astype(float)) for side in (right, again))
        arm = gate.compare(params, suites, before.__getitem__, after.__getitem__, [])
        reasons = [reason for reason in arm["reasons"] if reason.startswith("suites that dropped")]
        caught += arm["verdict"] == "fail" and (not planted or any(f"{planted} by" in reason for reason in reasons))
    return caught


def find_smallest(items: int, flips: float, confidence: float, margin: float, draws: int = 4000) -> float:
    """The smallest loss (0..1) of a family of so many items that is caught 95 times in 100: a true one, of which the items are a
    sample, by the gate's own rule for one suite."""
    rng = np.random.default_rng([items, round(1000 * flips)])
    for planted in range(1, items):
        lost = rng.binomial(items, planted / items, draws)
        moved = rng.binomial(items, flips, draws)
        other = rng.binomial(moved, 0.5)
        drops = (lost + 2 * other - moved) / items
        discordances = (lost + moved + 1) / (items + 2)
        spreads = precision.half_width(1.0, confidence) * np.sqrt(discordances / items)
        if np.mean((drops > margin) & (drops > spreads)) >= CAUGHT:
            return planted / items
    return 1.0
