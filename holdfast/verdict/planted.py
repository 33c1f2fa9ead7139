"""Losses that are planted in one suite: how often the gate catches them and names it, and from what size on.

`python -m benchmarks.lab.planted` prints it for the core suite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from holdfast.params.gate import Gate
from holdfast.verdict import decision, paired, precision, simulation, thresholds

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


class Loss(NamedTuple):
    """What an arm truly lost."""

    suite: str = ""  # "": nothing
    losable: np.ndarray = np.array([], bool)  # (N,) items of the suite that such a loss takes
    drop: float = 0.0  # part of all its items that is lost, at least


def simulate_losses(
    params: Gate, suites: simulation.Suites, losses: Sequence[Loss], flips: float, runs: int
) -> list[int]:
    """Of `runs` arms with each of the losses, how many fail with its suite named; without one, how many fail at all.

    What is lost is drawn from the items that are right and losable, and no other truly changes; see evaluate_again for `flips`. The
    same `runs` arms have each loss in turn. Measures and rules are the gate's own, on items with these outcomes.
    """
    caught = [0] * len(losses)
    for run in range(runs):
        rng = np.random.default_rng([run, round(1000 * flips)])
        right = {name: np.less(rng.random(suite["items"]), BASE) for name, suite in suites.items()}
        again = {name: evaluate_again(rng, outcomes, flips) for name, outcomes in right.items()}
        unspoiled = {name: measure(params, suites, name, right[name], again[name]) for name in suites}
        for n, loss in enumerate(losses):
            measured = dict(unspoiled)
            if loss.suite:
                after = again[loss.suite].copy()
                lost = rng.permutation(np.flatnonzero(after & loss.losable))
                after[lost[: math.ceil(loss.drop * len(after) - precision.TINY)]] = False
                measured[loss.suite] = measure(params, suites, loss.suite, right[loss.suite], after)
            arm = decide(params, measured)
            named = [reason for reason in arm["reasons"] if reason.startswith("suites that dropped")]
            is_named = not loss.suite or any(f"{loss.suite} by" in reason for reason in named)
            caught[n] += is_named and arm["verdict"] == "fail"
    return caught


def measure(params: Gate, suites: simulation.Suites, name: str, before: np.ndarray, after: np.ndarray) -> paired.Suite:
    """One suite whose items came out so. `before`, `after`: booleans (N,)"""
    sides = [simulation.answers(name, side.astype(float)) for side in (before, after)]
    return paired.measure_suite(params, name, suites[name], *sides)


def decide(params: Gate, measured: dict[str, paired.Suite]) -> dict[str, Any]:
    """The verdict on an arm of general suites alone, as `gate.compare` gives it."""
    numbers = {name: suite.numbers for name, suite in measured.items()}
    counted = [suite for name, suite in measured.items() if thresholds.is_counted(params, numbers, name)]
    content: dict[str, Any] = {"problems": [], "suites": numbers, "general": paired.measure_score(params, counted)}
    return decision.decide_arm(params, content | {"self": None, "domain": None})


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
