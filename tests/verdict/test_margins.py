"""Margins in points and in per cents of the base's score: resolved by hand, through a verdict, in the power and in the yardstick."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from holdfast.params.gate import Gate, resolve_margin
from holdfast.verdict import decision, power, simulation, snapshot, yardstick
from holdfast.verdict.power import Suite


def test_a_per_cent_is_one_of_the_base_s_score_and_a_number_of_the_scale() -> None:
    assert resolve_margin(0.03, 0.5) == 0.03
    assert resolve_margin("10%", 0.5) == pytest.approx(0.05) == resolve_margin("10.0 %", 0.5)
    assert resolve_margin("10%", -0.2) == 0.0, "a base below guessing has nothing to lose"
    for wrong in ("0%", "100%", "5", "-5%", "5 points", "%", 0.0, 1.0, "１%"):
        with pytest.raises(ValidationError):
            Gate(margin=wrong)


def decide(lost: int, params: Gate, right: int = 100) -> dict[str, Any]:
    """One arm over five suites of 250 items, of which the base has `right` right and the arm lost `lost` in each."""
    import numpy as np

    count = np.full(5, right)
    return decision.decide_arm(params, simulation.measured_arm(params, 250, count, np.full(5, lost), np.full(5, 0)))


def test_the_same_drop_passes_in_points_and_fails_as_a_part_of_what_the_base_had() -> None:
    """The base has 40 points. A drop of 4.0 is within 8 points; 5 % of 40 are 2."""
    points = decide(10, Gate(margin=0.08, min_domain_gain=-1.0))
    relative = decide(10, Gate(margin="5%", min_domain_gain=-1.0))
    assert (points["verdict"], relative["verdict"]) == ("pass", "fail")
    assert points["general"]["margin"] == 0.08 and relative["general"]["margin"] == pytest.approx(0.02)
    assert "past the margin of 2.0" in relative["reasons"][0]


def test_each_suite_has_a_margin_of_its_own_base() -> None:
    params = Gate(margin=0.3, suite_margin="50%", suite_margins={"suite01": 0.3, "suite02": "2%"}, min_domain_gain=-1.0)
    suites = decide(2, params)["suites"]
    sizes = [suites[f"suite0{number}"]["margin"] for number in range(5)]
    assert sizes == pytest.approx([0.2, 0.3, 0.008, 0.2, 0.2])


def test_the_power_takes_the_margin_of_the_base_that_was_evaluated() -> None:
    suites = {f"s{n}": Suite("general", 0.0, 400, 0.1, assumed=True, before=0.6, guessing=0.0) for n in range(4)}
    score = power.assess(Gate(margin="5%"), suites).scores[0]
    assert score.margin == pytest.approx(0.03)
    assert "passes the margin of 3.0 (5% of the base's 60.0) with probability" in power.describe_score(score)
    unknown = power.assess(Gate(margin="5%"), {name: Suite("general", 0.0, 400, 0.1, assumed=True) for name in suites})
    assert unknown.scores[0].margin == 0.05 and "for it is not known yet" in power.describe_score(unknown.scores[0])
    assert "3.0" in power.table(power.assess(Gate(suite_margin="5%"), suites), Gate(suite_margin="5%"))


@pytest.mark.parametrize(
    ("before", "after", "text", "looser"),
    [
        ("5%", "10%", "margin loosened from 5% to 10% of the base's score", True),
        ("10%", "9.5 %", "margin tightened from 10% to 9.5 % of the base's score", False),
        (0.03, "2%", "margin changed from 3.0 points to 2%", True),
        ("5%", 0.01, "margin changed from 5% to 1.0 points", True),
    ],
)
def test_a_margin_that_moves_is_named_in_its_own_unit(before: Any, after: Any, text: str, looser: bool) -> None:
    assert yardstick.describe_margin("margin", before, after) == yardstick.Shift(text, looser)


def test_a_suite_s_margin_that_changes_its_unit_does_not_pass_unseen() -> None:
    snapshots = [
        snapshot.Snapshot({"gate": {"suite_margins": {"facts": margin}}}, {}, {}, {}, {}, {}, None)
        for margin in (0.05, "90%")
    ]
    shifts = yardstick.compare(*snapshots)
    assert yardstick.Shift("margin of suite facts changed from 5.0 points to 90%", True) in shifts
