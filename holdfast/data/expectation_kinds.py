"""Kinds of expectation that several suites share (holdfast/data/expectation_suites.py), and a class of our own."""

from __future__ import annotations

from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.core import ExpectColumnQuantileValuesToBeBetween
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from holdfast.core import records
from holdfast.params.quality import Quality

REBUILD = "these files do not fit together: `dvc repro --force curate`, then `dvc repro`"


class ExpectLengthQuantilesToBeBetween(ExpectColumnQuantileValuesToBeBetween):
    """Quantiles of a column of lengths lie in their ranges (ends included).

    The built-in class answers with numpy booleans, which its own checkpoint cannot write as JSON (Great Expectations 1.24
    under numpy 2: TypeError).
    """

    def _validate(self, *arguments: Any, **options: Any) -> Any:
        outcome: Any = super()._validate(*arguments, **options)
        inside = [bool(yes) for yes in outcome["result"]["details"]["success_details"]]
        return {"success": all(inside), "result": {**outcome["result"], "details": {"success_details": inside}}}


def columns_of(name: str, *more: str) -> Expectation:
    """The columns of a data contract, and what `quality` adds to them."""
    columns = sorted([*records.SCHEMAS[name].names, *more])
    return gxe.ExpectTableColumnsToMatchSet(
        column_set=columns,
        exact_match=True,
        meta=describe(f"the columns are those of '{name}'", REBUILD),
    )


def length_quantiles(params: Quality, what: str, column: str, remedy: str, **condition: Any) -> Expectation:
    """Quantiles of the lengths in `column` (characters of a `what`) lie where params say; a warning."""
    limits = sorted(params.length_quantiles.items())
    return ExpectLengthQuantilesToBeBetween(
        column=column,
        quantile_ranges={"quantiles": [q for q, _ in limits], "value_ranges": [bounds for _, bounds in limits]},
        severity=FailureSeverity.WARNING,
        meta=describe(
            f"characters of {what}s: "
            + ", ".join(f"quantile {q:g} is {low:,} to {high:,}" for q, (low, high) in limits),
            f"look at the rows, then {remedy}, or correct quality.length_quantiles",
        ),
        **condition,
    )


def not_null(*columns: str) -> list[Expectation]:
    """No column holds a null."""
    return [gxe.ExpectColumnValuesToNotBeNull(column=c, meta=describe(f"every row has {c}", REBUILD)) for c in columns]


def describe(expects: str, remedy: str) -> dict[str, str]:
    """The meta of an expectation: what it expects, and what to do when it fails."""
    return {"expects": expects, "remedy": remedy}


def complement(part: float) -> float:
    """1 - part, without the last bits: 1 - 0.95 is a little more than 0.05, so 5 rows of 100 would not be enough."""
    return round(1 - part, 9)
