"""The table that `holdfast gate` prints."""

from __future__ import annotations

from holdfast.verdict import summary


def test_suites_that_are_set_aside_on_one_ground_share_a_line() -> None:
    ground, other = "the base model has less than 10.0 points", "20 items do not show"
    suites = dict.fromkeys(("core/facts", "core/turns", "sums", "words"))
    reasons = [f"core/facts is set aside: {ground}", f"core/turns is set aside: {ground}"]
    first = {"suites": suites, "reasons": ["the general score fell", *reasons, f"sums is set aside: {other}"]}
    second = {"suites": suites, "reasons": [*reasons, "words is set aside", "nothing is set aside: no such suite"]}
    assert summary.list_reasons({"b": second, "a": first}) == [
        "a: the general score fell",
        "b: words is set aside",
        "b: nothing is set aside: no such suite",
        f"core/facts, core/turns are set aside: {ground}",
        f"sums is set aside: {other}",
    ]
