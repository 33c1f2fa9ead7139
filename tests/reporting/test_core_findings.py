"""The headline names the family of the core suite that lost most, and what could not be asked."""

from __future__ import annotations

from typing import Any

from holdfast.reporting import findings


def make_run(changes: dict[str, float], left_out: dict[str, str] | None = None) -> findings.Run:
    suites = {f"core/{name}": {"change": change, "margin": 0.05, "verdict": "pass"} for name, change in changes.items()}
    suites["easy"] = {"change": -0.9, "margin": 0.1, "verdict": "fail"}
    general = {"change": -0.2, "bound": -0.3, "before": 0.6, "after": 0.4, "retention": 0.7}
    arm: dict[str, Any] = {"verdict": "fail", "reasons": ["r"], "general": general, "domain": {}, "suites": suites}
    gate = {"verdict": "fail", "margin": 0.03, "confidence": 0.95, "domain_measured": True, "arms": {"arm": arm}}
    pairs: Any = None
    return findings.Run(gate, pairs, {"left_out": left_out} if left_out else {})


def test_the_family_that_lost_most_is_named_where_it_is_past_its_margin():
    run = make_run({"tools": -0.73, "refusals": -0.2, "facts": 0.1})
    assert "of the core suite, tools lost most, 73.0 points" in findings.headline(run)[2]
    assert "Of the core suite, tools lost most, 73.0 points." in findings.explanation(run)
    assert "lost most" not in findings.headline(make_run({"tools": -0.04}))[2]
    assert "core suite" not in findings.headline(make_run({}))[2]


def test_a_family_that_is_set_aside_has_lost_nothing():
    run = make_run({"calibration": -0.43, "over_refusals": -0.25})
    run.gate["arms"]["arm"]["suites"]["core/calibration"]["verdict"] = "set aside"
    assert "of the core suite, over_refusals lost most, 25.0 points" in findings.headline(run)[2]


def test_what_the_template_cannot_express_is_said():
    run = make_run({"facts": 0.0}, {"core/tools": "no tools", "core/thinking": "no switch"})
    assert findings.headline(run)[2].endswith("not asked, since template or context do not allow it: tools, thinking")


def test_calibration_is_told_before_and_after():
    run = make_run({"facts": 0.0})
    assert findings.describe_calibration(run, "arm") == ""
    run.calibration.update(base={"ece": 0.05, "brier": 0.4}, arm={"ece": 0.1234, "brier": 0.75})
    text = "Calibration error (ECE) went from 0.050 to 0.123, the Brier score from 0.400 to 0.750. "
    assert findings.describe_calibration(run, "arm") == text and text.strip() in findings.explanation(run)
