"""The verdict of a comparison outside any project, and its report: gate.json, report.md and index.html in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.core import manifest, storage
from holdfast.evaluation import results
from holdfast.params.gate import Gate
from holdfast.reporting import assembly, markdown_report, page
from holdfast.verdict import gate, provenance, run

EVALUATIONS = "eval"  # folder of the results, below that of the comparison
LOST_ITEMS, PAGE_ITEMS = 5, 2000


def decide(params: Gate, names: list[str], folder: Path) -> dict[str, Any]:
    """The content of gate.json, which is written: each of `names` against the base."""
    evaluations = folder / EVALUATIONS
    base, described = results.load(evaluations / "base")
    gate.check_suite_margins(params, described["suites"])
    arms = {name: gate.decide_arm(params, base, described, evaluations / name) for name in names}
    content: dict[str, Any] = run.decide_run(params, arms, None)
    made_from = {name: provenance.describe_evaluation(evaluations / name) for name in ("base", *names)}
    content |= {"provenance": {"gate": params.model_dump(), "evaluations": made_from}}
    storage.write_json(folder / "gate.json", content)
    return storage.round_floats(content)


def write_report(folder: Path, title: str, models: list[manifest.Manifest]) -> None:
    """report.md and index.html beside gate.json. `models`: the base first."""
    content = assembly.load_comparison(folder, models)
    storage.write_text(folder / "report.md", markdown_report.compose(content, title, LOST_ITEMS))
    storage.write_text(folder / "index.html", page.compose(content, title, PAGE_ITEMS))
