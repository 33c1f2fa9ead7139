"""CSV tables that `dvc plots diff` compares between revisions; dvc.yaml says how they are drawn."""

from __future__ import annotations

import csv
import io
from typing import Any

from holdfast.core import storage
from holdfast.reporting.charts import thin
from holdfast.reporting.findings import Run, part

MAX_POINTS = 300  # of one curve
CURVES = ("loss", "domain_loss", "kl")


def compose(run: Run) -> dict[str, str]:
    """File name -> CSV: the change of every suite, and the curves of every arm."""
    changes = [
        [f"{arm}: {suite}", numbers.get("change"), numbers.get("lost"), numbers.get("gained")]
        for arm, verdict in run.arms().items()
        for suite, numbers in sorted(part(verdict, "suites").items())
    ]
    tables = {"suites.csv": [["suite", "change", "lost", "gained"], *changes]}
    for name in CURVES:
        for arm, curve in run.curves.get(f"train/{name}", {}).items():
            tables[f"{name}/{arm}.csv"] = [["step", name], *map(list, thin(curve, MAX_POINTS))]
    return {name: as_csv(storage.round_floats(rows)) for name, rows in tables.items()}


def as_csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
