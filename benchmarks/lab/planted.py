"""How often the gate catches a loss that was planted in one family of the core suite, and names it; and how often it cries wolf.

    python -m benchmarks.lab.planted [--runs 400]        (two minutes of one core; asks no model)

Items and scorers are the core suite's, answers are written for them (holdfast/core_suite/planted.py), and the gate is the one that
ships, with the margins of a profile for real models. A base has 90 % of the items right. `flips` is what differs between two evaluations
of models that are equally good: that part of all items comes out otherwise, about half of them lost.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from holdfast.core_suite import families, planted
from holdfast.params.evaluate import CORE, Evaluate
from holdfast.params.gate import Gate
from holdfast.params.whole import Params
from holdfast.verdict import thresholds
from holdfast.verdict.planted import Loss, find_smallest, simulate_losses
from holdfast.verdict.simulation import Suites

PROFILE = Path(__file__).parents[2] / "profiles" / "qwen2.5-0.5b.yaml"
DROPS = (0.05, 0.1, 0.2)
FLIPS = (0.0, 0.04, 0.1)
SIZES = (60, 96, 150, 204, 300, 450, 700, 1000, 1500)


def describe_suites() -> Suites:
    """The suites as the settings of an evaluation describe them, with as many items as are asked by default."""
    core = Evaluate.model_fields["core"].default
    sizes = {
        suite: len(families.draw_items(suite.removeprefix(f"{CORE}/"), core.count_items(suite)))
        for suite in core.suites()
    }
    return {suite: {"role": "general", "chance": 0.0, "items": n, "before": None} for suite, n in sizes.items()}


def load_demands() -> Gate:
    """What a profile for real models asks of the core suite."""
    wanted = Params.load(PROFILE).gate
    return wanted.model_copy(update={"resamples": 200, "min_domain_gain": -1.0, "control": None})


def show_rate(hits: int, runs: int) -> str:
    """Per cent, with a 95 % Wilson interval."""
    z = 1.96
    centre, spread = hits + z * z / 2, z * math.sqrt(hits * (runs - hits) / runs + z * z / 4)
    low, high = (100 * (centre + side * spread) / (runs + z * z) for side in (-1, 1))
    return f"{100 * hits / runs:.1f} % [{low:.1f}, {high:.1f}]"


def list_rates(runs: int) -> Iterator[str]:
    params, suites, core = load_demands(), describe_suites(), Evaluate.model_fields["core"].default
    marks = {name: np.array(planted.mark(name, core.count_items(f"{CORE}/{name}"))).T for name in planted.LOST}
    for flips in FLIPS:
        losses = [Loss(f"{CORE}/{name}", lost < right, drop) for name, (right, lost) in marks.items() for drop in DROPS]
        alarms, *caught = (
            show_rate(hits, runs) for hits in simulate_losses(params, suites, [Loss(), *losses], flips, runs)
        )
        yield f"\nFlips {100 * flips:g} %, {runs} arms. Nothing planted, fails: {alarms}. Planted in one family, caught and named:\n"
        yield "| family | items | " + " | ".join(f"{100 * drop:g} points" for drop in DROPS) + " |"
        yield "|---" * (2 + len(DROPS)) + "|"
        for name, rates in zip(marks, zip(*[iter(caught)] * len(DROPS), strict=True), strict=True):
            yield f"| {name} | {len(marks[name][0])} | {' | '.join(rates)} |"


def list_sizes_needed() -> Iterator[str]:
    params = load_demands()
    confidence, margin = thresholds.confidences(params, describe_suites())[1], params.suite_margins[f"{CORE}/tools"]
    yield "\nSmallest true loss, in points, of which the items are a sample, that is caught 95 times in 100:\n"
    yield "| items of a family | " + " | ".join(f"flips {100 * flips:g} %" for flips in FLIPS) + " |"
    yield "|---" * (1 + len(FLIPS)) + "|"
    for items in SIZES:
        drops = [100 * find_smallest(items, flips, confidence, float(margin)) for flips in FLIPS]
        yield f"| {items} | " + " | ".join(f"{drop:.1f}" for drop in drops) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=400)
    options = parser.parse_args()
    for line in list_rates(options.runs):
        print(line, flush=True)
    for line in list_sizes_needed():
        print(line, flush=True)
