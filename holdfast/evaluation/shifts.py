"""How far two samples differ, column by column: Evidently's report for the eye, and the numbers of it for git.

Methods and thresholds are always named, since Evidently's own choice changes with the number of rows and goes blind above
1,000 of them. A p-value shows drift below its threshold, a distance from its threshold on.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import MeanValue
from evidently.metrics.embeddings import ModelDriftMethod
from evidently.presets import DataDriftPreset

P_VALUES = ("t_test", "ks", "cramer_von_mises")  # the methods that give one; the others give a distance
# A UUID of version 4 or 7 in the data and in the names of elements
RANDOM_ID = re.compile(
    "(?<=metric_)[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)
MIN_EMBEDDING_ROWS = 20  # rows of embeddings on each side, for a classifier to learn from


class Column(NamedTuple):
    """One comparison: values of the reference (before) and of the current rows (after), of any two lengths."""

    reference: Any  # a list or array of numbers or categories
    current: Any
    method: str
    threshold: float
    kind: Literal["number", "category"] = "number"


def compare(columns: dict[str, Column], html: Path) -> dict[str, dict[str, Any]]:
    """One Evidently report with all columns; returns the numbers by column, null where there is nothing to compare."""
    numbers = {name: describe_degenerate(column) for name, column in columns.items()}
    shown = {name: column for name, column in columns.items() if numbers[name] is None}
    if not shown:
        nothing = "<!doctype html><meta charset='utf-8'><p>Nothing to compare: no two values differ.\n"
        html.write_text(nothing, encoding="utf-8")
        return {name: number for name, number in numbers.items() if number}

    categories = [name for name, column in shown.items() if column.kind == "category"]
    numerical = [name for name in shown if name not in categories]
    definition = DataDefinition(numerical_columns=numerical, categorical_columns=categories)
    current, reference = (
        # columns of unequal lengths: the shorter ones end in nulls, which Evidently leaves out
        Dataset.from_pandas(
            pd.DataFrame({name: pd.Series(getattr(column, side)) for name, column in shown.items()}), definition
        )
        for side in ("current", "reference")
    )
    table = DataDriftPreset(
        columns=list(shown),
        per_column_method={name: column.method for name, column in shown.items()},
        per_column_threshold={name: column.threshold for name, column in shown.items()},
        drift_share=1 / len(shown),  # one column is enough to head the page with "detected"
    )
    means = [MeanValue(column=name, tests=[]) for name in numerical]  # no tests: its own is "within 10 %"
    with warnings.catch_warnings():
        # scipy's "nearly identical data": one side is all right or all wrong
        warnings.simplefilter("ignore", RuntimeWarning)
        snapshot = Report([table, *means], include_tests=True).run(current, reference)  # in this order
    snapshot.save_html(str(html))  # a Path is silently ignored
    html.write_text(number_ids(html.read_text(encoding="utf-8")), encoding="utf-8")
    for metric in snapshot.dict()["metrics"]:
        if metric["config"]["type"].endswith(":ValueDrift"):
            name = metric["config"]["column"]
            numbers[name] = measurement(columns[name], float(metric["value"]))
    return {name: number for name, number in numbers.items() if number}


def number_ids(page: str) -> str:
    """Evidently's page with a number in place of each random id: equal columns give equal bytes."""
    numbers: dict[str, int] = {}

    def replace(match: re.Match[str]) -> str:
        digits = f"{numbers.setdefault(match[0], len(numbers)):032x}"
        if "-" not in match[0]:
            return digits
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    return RANDOM_ID.sub(replace, page)


def measurement(column: Column, value: float | None) -> dict[str, Any]:
    """The number under its name, a p-value or a distance, and whether it shows drift; null: nothing to compare."""
    if column.method in P_VALUES:
        return {"p": value, "drift": value is not None and value < column.threshold}
    return {"distance": value, "drift": value is not None and value >= column.threshold}


def describe_degenerate(column: Column) -> dict[str, Any] | None:
    """The numbers where Evidently would raise or answer NaN or nonsense: too few values, or all of them equal."""
    tested = column.method in P_VALUES
    if min(len(column.reference), len(column.current)) < (2 if tested else 1):
        return measurement(column, None)
    before, after = set(column.reference), set(column.current)
    if tested and len(before) == len(after) == 1:
        return measurement(column, 1.0 if before == after else 0.0)
    if column.kind == "category":
        return measurement(column, 0.0) if before == after and len(before) == 1 else None
    if not tested and len(before) == 1:
        # no standard deviation to divide by (every answer is one digit, say): the mean difference in the column's unit
        return measurement(column, float(np.abs(np.asarray(column.current) - before.pop()).mean()))
    return None


def compare_embeddings(before: np.ndarray, after: np.ndarray, threshold: float) -> dict[str, Any]:
    """How well a linear classifier tells rows of `after` (M, D) from rows of `before` (N, D): ROC AUC on held-out halves.

    0.5 is not at all. Classifier two-sample test, Lopez-Paz & Oquab 2017, arXiv 1610.06545; the classifier is Evidently's.
    """
    if min(len(before), len(after)) < MIN_EMBEDDING_ROWS:
        return {"auc": None, "drift": False}
    middle, spread = before.mean(0), before.std(0) + 1e-9
    sides = (pd.DataFrame((side - middle) / spread) for side in (after, before))
    auc, _, _ = ModelDriftMethod(threshold=threshold)(*sides)
    return {"auc": float(auc), "drift": bool(auc >= threshold)}


def nearest(vectors: np.ndarray, known: np.ndarray, labels: list[int]) -> list[str]:
    """The label whose mean among the `known` vectors is closest to each of `vectors` (N, D)."""
    names = sorted(set(labels))
    if not names or not len(vectors):
        return []
    means = np.stack([known[np.asarray(labels) == name].mean(0) for name in names])  # (labels, D)
    distances = (means**2).sum(1) - 2 * vectors @ means.T  # (N, labels), up to a constant per row
    return [f"{names[at]:03d}" for at in distances.argmin(1)]
