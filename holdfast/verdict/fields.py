"""The fields of gate.json: what is measured, what is derived from it, and the words of a verdict."""

from __future__ import annotations

from typing import Any

from holdfast.core.errors import ExitCode

Json = dict[str, Any]
Sides = tuple[str, str]
SIDES = ("base", "tuned")  # what reasons call the two evaluations
EXIT_CODES = {  # from best to worst
    "pass": ExitCode.OK,
    "fail": ExitCode.FAIL,
    "cannot-compare": ExitCode.CANNOT_COMPARE,
}
UNMEASURED = "domain not measured"
SET_ASIDE, WATCHED = "set aside", "watched"  # verdicts on suites that do not count
# what is measured; all else in gate.json is derived from it
MEASURED_SUITE = (
    *("role", "chance", "items", "before", "after", "low", "high", "lost", "gained", "mcnemar_p", "discordance"),
    *(
        "written",
        "group_size",
        "cluster_p",
        "guessing_before",
        "guessing_after",
        "constant_before",
        "constant_after",
        "problems",
    ),
)
MEASURED_SCORE = ("low", "high", "bound", "retention_low", "retention_high")
DERIVED_SUITE = (
    *("before_adjusted", "after_adjusted", "change", "detectable", "margin", "verdict"),
    *("repeat_discordance", "repeat_shift"),  # of the base against itself, where it was evaluated twice
)
SCORES = ("before", "after", "change", "low", "high", "bound", "items", "lost", "gained")  # of several suites together
EXTRAS = ("retention", "retention_low", "retention_high", "detectable")  # of the general suites only
