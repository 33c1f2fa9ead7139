"""What the base's evaluation says of its suites before an arm is trained: read for power.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from holdfast.core import storage
from holdfast.evaluation import settings
from holdfast.evaluation.settings import DECIDING, LIKELIHOOD
from holdfast.params.gate import Gate
from holdfast.verdict import power, precision
from holdfast.verdict.power import Suite
from holdfast.verdict.thresholds import deciding_arms

GRADED = 0.01  # mean squared change that is assumed of a graded score: a tenth of a point up or down


def read_suites(folder: Path) -> dict[str, Suite]:
    """The suites of the base's evaluation in `folder`: scores, items, and groups where its items are here. Raises UserError."""
    described, items = settings.read(folder)["suites"], folder / "items.parquet"
    scores = storage.read_json(folder / "scores.json") if (folder / "scores.json").is_file() else {}
    suites = {}
    for name, entry in described.items():
        if entry["role"] == "self" and name not in DECIDING:
            continue
        suite = assume(entry["role"], entry["chance"], entry["items"], graded=name == LIKELIHOOD)
        if name in scores:
            suite = replace(suite, before=precision.exact(float(scores[name]), suite.items))
        suites[name] = measure(suite, name, items) if items.is_file() else suite
    return suites


def assume(role: str, chance: float, items: int, graded: bool = False) -> Suite:
    """A suite of which nothing but its size is known."""
    return Suite(role, chance, items, GRADED if graded else power.CHANGED, assumed=True)


def measure(suite: Suite, name: str, file: Path) -> Suite:
    """With the base's outcomes of its items. Of items that come in groups, whole groups are assumed to change."""
    from holdfast.core import records
    from holdfast.verdict import stats

    rows = records.read_table("items", file, ["item_group", "correct"], [("suite", "==", name)])
    correct, groups = rows["correct"].to_numpy(), stats.number_groups(rows["item_group"])
    if not len(correct):
        return suite
    size = 1.0 if groups is None else stats.group_size(groups)
    guessing = None
    if suite.role == "general":
        guessing = stats.guessing(float(correct.sum()) + precision.TINY, len(correct), suite.chance)
    return replace(
        suite, before=float(correct.mean()), guessing=guessing, group_size=size, changed=suite.changed * size
    )


def take_changes(suites: dict[str, Suite], gate: dict[str, Any], params: Gate) -> dict[str, Suite]:
    """With what an earlier verdict (gate.json) measured of the same suites: how many items change, groups, and how likely the
    base guesses."""
    arms = [gate["arms"][name] for name in deciding_arms(params, list(gate["arms"]))]
    known = dict(suites)
    for name, suite in suites.items():
        entries = [arm["suites"].get(name) or {} for arm in arms]
        same = [e for e in entries if e.get("items") == suite.items and e.get("discordance") is not None]
        if not same:
            continue
        changed = fmean(e["discordance"] for e in same)
        known[name] = replace(suite, changed=changed, assumed=False, group_size=same[0].get("group_size") or 1.0)
        if suite.guessing is None and suite.before is not None and suite.before == same[0].get("before"):
            known[name] = replace(known[name], guessing=same[0].get("guessing_before"))
    return known
