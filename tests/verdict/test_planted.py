"""Losses planted in a family of the core suite are caught at 5 points, and a true re-run is not: a few draws of
`python -m benchmarks.lab.planted`."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.core_suite import planted
from holdfast.params.evaluate import Evaluate
from holdfast.params.gate import Gate
from holdfast.verdict import gate, simulation
from holdfast.verdict import planted as planted_losses
from holdfast.verdict.planted import Loss, find_smallest, simulate_losses

CORE = Evaluate.model_fields["core"].default
NAMED = [f"core/{name}" for name in planted.LOST]
SUITES = {name: {"role": "general", "chance": 0.0, "items": CORE.count_items(name)} for name in NAMED}
DEMANDS = Gate(resamples=200, min_domain_gain=-1.0, suite_margins=dict.fromkeys(NAMED, 0.04))


@pytest.mark.parametrize("name", planted.LOST)
def test_what_tuning_does_to_an_answer_is_marked_as_lost(name: str):
    right, lost = np.array(planted.mark(name, 12)).T
    assert (right == 1).all() and lost.mean() <= 0.6  # an answer without calls or thoughts has none to lose


def test_five_points_of_a_family_are_caught_and_named_and_a_rerun_is_not():
    all_losable = np.ones(204, bool)
    losses = [Loss(), *(Loss(name, all_losable, 0.05) for name in NAMED[:2])]
    assert simulate_losses(DEMANDS, SUITES, losses, 0.0, 3) == [0, 3, 3]
    assert simulate_losses(DEMANDS, SUITES, [Loss(), Loss(NAMED[0], ~all_losable, 0.2)], 0.04, 5) == [0, 0]


def test_an_arm_is_decided_on_as_the_gate_does():
    rng = np.random.default_rng(1)
    sides = [{name: rng.random(suite["items"]) < part for name, suite in SUITES.items()} for part in (0.9, 0.7)]
    measured = {name: planted_losses.measure(DEMANDS, SUITES, name, *(side[name] for side in sides)) for name in SUITES}
    tables = [{name: simulation.answers(name, right.astype(float)) for name, right in side.items()} for side in sides]
    wanted = gate.compare(DEMANDS, SUITES, tables[0].__getitem__, tables[1].__getitem__, [])
    assert planted_losses.decide(DEMANDS, measured) == wanted and wanted["verdict"] == "fail"


def test_more_items_show_smaller_losses_and_noise_larger_ones():
    few, many, noisy = (find_smallest(n, flips, 0.998, 0.04, 500) for n, flips in ((96, 0.0), (204, 0.0), (204, 0.1)))
    assert many < noisy and many < few < 0.25
