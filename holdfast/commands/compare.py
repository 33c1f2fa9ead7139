"""Compares the results of two models, item by item, as other tools write them: the gate's statistics without its pipeline.

    holdfast compare base/ tuned/ [--margin 0.03] [--chance arc_challenge=0.25] [--metric acc]
    holdfast compare samples_gsm8k_2026-01-05T10-00-00.jsonl samples_gsm8k_2026-01-06T11-30-00.jsonl

Exit codes as of `holdfast gate`. Every suite counts as general: there is no domain, and no evidence is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.core import storage
from holdfast.core.errors import UserError, escape_control
from holdfast.params.base import MAX_CHANCE, parse
from holdfast.params.gate import Gate
from holdfast.verdict import decision, fields, gate, item_files, run, summary

ARM = "tuned"


def main(base: Path, tuned: Path, params: Gate, chances: dict[str, float], metric: str | None, as_json: bool) -> int:
    """Prints the verdict on the second model; returns its exit code. Raises UserError where results cannot be read."""
    content = compare(base, tuned, params, chances, metric)
    if as_json:
        print(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print(escape_control(describe(content)))
    return fields.EXIT_CODES[content["verdict"]]


def parse_options(
    margin: float, suite_margin: float, confidence: float, chances: list[str], min_domain_gain: float = -1.0
) -> tuple[Gate, dict[str, float]]:
    """(thresholds, accuracy of guessing by suite). Raises UserError."""
    values = {"margin": margin, "suite_margin": suite_margin, "confidence": confidence}
    values |= {"min_domain_gain": min_domain_gain}
    params = parse(Gate, values, "gate", Path("the command line"))
    by_suite = {}
    for option in chances:
        name, _, value = option.rpartition("=")
        try:
            by_suite[name] = float(value)
        except ValueError:
            by_suite[name] = -1.0
        if not name or not 0 <= by_suite[name] <= MAX_CHANCE:
            do = f"write it like --chance arc_challenge=0.25, a fraction, at most {MAX_CHANCE}"
            raise UserError(f"'{option[:60]}' is no suite and its chance", where="--chance", do=do)
    return params, by_suite


def compare(base: Path, tuned: Path, params: Gate, chances: dict[str, float], metric: str | None) -> dict[str, Any]:
    """The verdict as gate.json holds it, without provenance."""
    items = [item_files.read_items(path, metric) for path in (base, tuned)]
    problems = [f"the suite '{name}' is in one of the two alone" for name in sorted(items[0].keys() ^ items[1].keys())]
    if not items[0].keys() & items[1].keys():
        do = f"there: {', '.join(list(items[0])[:5])}; here: {', '.join(list(items[1])[:5])}"
        raise UserError("has no suite in common with the other", where=tuned, do=do)
    if unknown := sorted(chances.keys() - items[0].keys()):
        raise UserError(f"no suite '{unknown[0]}'", where="--chance", do=f"known: {', '.join(list(items[0])[:12])}")
    shared = sorted(items[0].keys() & items[1].keys())
    for name in shared:
        measures = [item_files.measure_of(one[name]) for one in items]
        if measures[0] != measures[1]:
            problems.append(f"{name}: one was measured by {measures[0]}, the other by {measures[1]}")
    suites = {
        name: {"role": "general", "chance": chances.get(name, 0.0), "items": len(items[0][name])} for name in shared
    }
    arm = gate.compare(params, suites, items[0].__getitem__, items[1].__getitem__, problems)
    return storage.round_floats(run.decide_run(params, {ARM: arm}, None))


def describe(content: dict[str, Any]) -> str:
    """A line per suite, the worst first, then what the gate prints."""
    rows = [["suite", "items", "before", "after", "change", "lost/gained", "p", "verdict"]]
    suites = content["arms"][ARM]["suites"]
    for name in sorted(suites, key=lambda name: (suites[name]["change"] or 0.0, name)):
        suite = suites[name]
        numbers = [summary.format_number(suite[key], ".1f", 100) for key in ("before_adjusted", "after_adjusted")]
        p_value = decision.shown_p(suite)
        rows.append(
            [
                name[:60],
                f"{suite['items']:,}",
                *numbers,
                summary.format_number(suite["change"], "+.1f", 100),
                f"{summary.format_number(suite['lost'], 'd')}/{summary.format_number(suite['gained'], 'd')}",
                summary.format_number(p_value, ".2g"),
                suite["verdict"],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", summary.table(content | {"domain_measured": True})])  # there is none to measure
