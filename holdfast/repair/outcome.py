"""What a repair came to: before, after tuning and after repair, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.evaluation import results, settings
from holdfast.params.gate import Gate
from holdfast.verdict import paired
from holdfast.verdict.fields import SET_ASIDE, WATCHED

Json = dict[str, Any]
TUNED, REPAIRED = "tuned", "repaired"
SIDES = (TUNED, REPAIRED)
MOVED = 0.01  # change of a score by tuning, from which a part of it is worth telling


def measure(params: Gate, evaluations: Path, arms: Json) -> Json:
    """By role {"base", "tuned", "repaired", "change", "low", "high", "won_back"}, over the suites that count in the verdict.

    `arms`: of gate.json. change: repaired - tuned, with its paired interval; won_back: (repaired - tuned) / (base - tuned), the part
    of the loss that is back (of a gain, the part that is lost again); None where tuning moved nothing.
    """
    tuned, described = results.load(evaluations / TUNED)
    repaired, _ = results.load(evaluations / REPAIRED)
    suites, result = arms[TUNED]["suites"], Json()
    for role in ("general", "self", "domain"):
        names = [n for n in settings.of_role(suites, role) if suites[n]["verdict"] not in (SET_ASIDE, WATCHED)]
        of_tuned, of_repaired = ((arms[side][role] or {}) for side in SIDES)
        base, before, after = of_tuned.get("before"), of_tuned.get("after"), of_repaired.get("after")
        if not names or base is None or before is None or after is None:
            continue
        several = [paired.measure_suite(params, n, described["suites"][n], tuned(n), repaired(n), SIDES) for n in names]
        bounds = paired.measure_score(params, several) or {}
        moved = base - before
        result[role] = {
            "base": base,
            "tuned": before,
            "repaired": after,
            "change": after - before,
            "low": bounds.get("low"),
            "high": bounds.get("high"),
            "won_back": (after - before) / moved if abs(moved) > 1e-9 else None,
        }
    return result


def describe(outcome: Json) -> list[str]:
    """A line for each role, in points of 100."""
    lines = []
    for role, one in outcome.items():
        text = f"{role}: base {one['base'] * 100:.1f}, tuned {one['tuned'] * 100:.1f}, repaired {one['repaired'] * 100:.1f}"
        if one["low"] is not None:
            text += (
                f" ({one['change'] * 100:+.1f} [{one['low'] * 100:+.1f}, {one['high'] * 100:+.1f}] on the tuned model)"
            )
        gain = one["tuned"] - one["base"]
        if gain <= -MOVED:
            text += f": {one['won_back']:.0%} of the loss is back"
        elif gain >= MOVED and role == "domain":
            text += f": {1 - one['won_back']:.0%} of the gain is kept"
        lines.append(text)
    return lines
