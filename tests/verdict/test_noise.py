"""The base evaluated twice: what differs then widens every error of the verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from holdfast.params.gate import Gate
from holdfast.verdict import decision, measured, pooling, simulation

PARAMS = Gate(min_domain_gain=-1.0)


def repeat(change: float, discordance: float = 0.02, items: int = 250) -> dict[str, Any]:
    entry = {"items": items, "discordance": discordance, "change": change}
    return {"change": change, "suites": {f"suite{number:02d}": entry for number in range(5)}}


def decide(lost: int, noise: dict[str, Any] | None) -> dict[str, Any]:
    arm = simulation.measured_arm(PARAMS, 250, np.full(5, 200), np.full(5, lost), np.full(5, 0))
    return decision.decide_arm(PARAMS, arm, noise)


def test_the_noise_of_a_suite_by_hand() -> None:
    """250 items of which 2 % flip explain a standard error of 0.894 points; the suite moved by 2, so 1.789 are its own."""
    assert decision.measure_noise(repeat(-0.02)["suites"]["suite00"]) == {
        "repeat_discordance": 0.02,
        "repeat_shift": pytest.approx(0.0178885, rel=1e-5),
    }
    assert decision.measure_noise(repeat(0.001)["suites"]["suite00"])["repeat_shift"] == 0.0
    suite = {"items": 250, "chance": 0.5, "discordance": 0.01, "group_size": None}
    suite |= {"repeat_discordance": 0.02, "repeat_shift": 0.0178885}
    expected = (0.02 / 250 + 0.0178885**2) ** 0.5 / 0.5  # the larger discordance, and the shift beside it
    assert pooling.standard_error([suite]) == pytest.approx(expected)
    assert pooling.standard_error([suite | {"repeat_discordance": None, "repeat_shift": None}]) == pytest.approx(
        (0.01 / 250) ** 0.5 / 0.5
    )


def test_a_drop_that_evaluating_again_explains_is_no_fail() -> None:
    """A drop of 4 points in each suite; the base itself moved by 5 in each, one up and the next down."""
    alone = decide(10, None)
    floor = repeat(0.05) | {"change": 0.0}
    with_floor = decide(10, floor)
    assert (alone["verdict"], with_floor["verdict"]) == ("fail", "cannot-compare")
    assert "too few items" in with_floor["reasons"][0]
    assert with_floor["suites"]["suite00"]["detectable"] > 2 * alone["suites"]["suite00"]["detectable"]
    assert decide(10, repeat(0.0, discordance=0.001))["verdict"] == "fail", (
        "an evaluation that repeats itself excuses nothing"
    )


def test_a_floor_as_large_as_the_margin_still_compares_nothing() -> None:
    assert "two evaluations of one base differ by 5.0 points" in decide(0, repeat(0.05))["reasons"][0]


def test_a_noisy_evaluation_fails_fewer_arms_that_lost_nothing() -> None:
    """Suites that move by 4 points from one evaluation to the next; 80 arms, which leave 4 points of their own noise."""
    once, twice = (simulation.simulate_flaky(PARAMS, 5, 250, 0.05, 0.04, 80, floor)["fail"] for floor in (False, True))
    assert twice <= 0.12 < once


def test_the_floor_of_gate_json_is_checked(tmp_path: Any) -> None:
    good = {"arms": {}, "noise": repeat(0.0) | {"items": 1250, "lost": 1, "gained": 1}}
    measured.check(good, tmp_path, "")
    for key, value in (("items", 0), ("discordance", -1.0), ("change", 2.0)):
        bad = {
            "arms": {},
            "noise": {**good["noise"], "suites": {"s": {**repeat(0.0)["suites"]["suite00"], key: value}}},
        }
        with pytest.raises(Exception, match="not a verdict of this version"):
            measured.check(bad, tmp_path, "")
