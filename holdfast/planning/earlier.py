"""What an earlier run here says of its panel: how often a further judge was asked. Used by `holdfast plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.core import records
from holdfast.params.whole import Params
from holdfast.planning import costs

REPORT = Path("reports/consensus.json")


def run(given: Params) -> dict[str, Any] | None:
    """The report of an earlier run of the same panel with the same strategy, where there is one."""
    found = records.read_json(REPORT) if REPORT.is_file() else {}
    same = set(found.get("judges", {})) == set(given.panel) and found.get("strategy") == given.consensus.strategy
    return found if same and found.get("audited_instructions", 0) < found.get("instructions", 0) else None


def undecided(given: Params) -> float:
    """Part of the instructions for which a further judge is asked, the sample for all judges aside: calls beyond the sample,
    against those of the base."""
    if (found := run(given)) is None:
        return 0.0 if given.consensus.strategy == "base_best_of_k" else costs.UNDECIDED
    sample = (
        found["audited_instructions"] * found["calls_of_the_full_panel"] / len(found["judges"]) / found["instructions"]
    )
    beyond = {name: max(judge["calls"] - sample, 0.0) for name, judge in found["judges"].items()}
    first = beyond.pop(given.base)
    return min(1.0, sum(beyond.values()) / len(beyond) / first) if first and beyond else 0.0


def source(given: Params) -> str:
    return f"as {REPORT} of an earlier run has it" if run(given) else "an assumption"
