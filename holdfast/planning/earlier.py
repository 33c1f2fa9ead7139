"""What an earlier run here says of its panel: how often a further judge was asked. Used by `holdfast plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.core import storage
from holdfast.params.whole import Params
from holdfast.planning import costs

REPORT = Path("reports/consensus.json")


def read_report(params: Params) -> dict[str, Any] | None:
    """The report of an earlier run of the same panel with the same strategy, where there is one."""
    report = storage.read_json(REPORT) if REPORT.is_file() else {}
    same = set(report.get("judges", {})) == set(params.panel) and report.get("strategy") == params.consensus.strategy
    return report if same and report.get("audited_instructions", 0) < report.get("instructions", 0) else None


def read_undecided(params: Params) -> float:
    """Part of the instructions for which a further judge is asked, the sample for all judges aside: calls beyond the sample,
    against those of the base."""
    if (report := read_report(params)) is None:
        return 0.0 if params.consensus.strategy == "base_best_of_k" else costs.UNDECIDED
    sample = (
        report["audited_instructions"]
        * report["calls_of_the_full_panel"]
        / len(report["judges"])
        / report["instructions"]
    )
    beyond = {name: max(judge["calls"] - sample, 0.0) for name, judge in report["judges"].items()}
    first = beyond.pop(params.base)
    return min(1.0, sum(beyond.values()) / len(beyond) / first) if first and beyond else 0.0


def describe_source(params: Params) -> str:
    return f"as {REPORT} of an earlier run has it" if read_report(params) else "an assumption"
