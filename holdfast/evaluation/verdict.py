"""The verdict on one arm: what passes, what fails, what cannot be compared, each with its reasons in words and points.

holdfast/evaluation/paired.py measures; here it is decided. docs/verdict.md is the long version.
"""

from __future__ import annotations

from typing import Any

from holdfast.evaluation import paired, stats
from holdfast.evaluation.paired import in_points
from holdfast.evaluation.settings import CHOICES, of_role, only_choices
from holdfast.params.gate import Gate


def decide(
    params: Gate,
    described: dict[str, Any],
    base: paired.Items,
    tuned: paired.Items,
    broken: list[str],
    sides: paired.Sides = paired.SIDES,
) -> dict[str, Any]:
    """The verdict on one arm as gate.json holds it, from the items of both models; `described` are the suites of the settings.

    `broken`: what already forbids to compare them. Broken goes before failed, and failed before unsure: a drop that is
    shown is a fail however few the items, and numbers of a broken evaluation show nothing.
    """
    suites = {}
    for name in sorted(described):
        suites[name] = paired.measure_suite(params, name, described, base(name), tuned(name), sides)
    broken = broken + group_by_reason({name: suite.broken for name, suite in suites.items()})
    failed: list[str] = []  # reasons for fail
    unsure: list[str] = []  # reasons for cannot-compare, unless something else fails
    if all(suite.collapsed for suite in suites.values()):
        broken.append("one answer per suite, whatever the item: a dead endpoint, or nothing is left of the model")

    shares = paired.confidences(params, described)
    scores = {}
    roles = (("general", params.margin), ("self", params.self_margin), ("domain", abs(params.min_domain_gain)))
    for role, moved in roles:
        scores[role] = paired.pool_suites(params, [suites[name] for name in of_role(described, role)], moved)
    general, own, domain = scores["general"], scores["self"], scores["domain"]
    if general is None:
        broken.append("there is no general suite: nothing measures what the base knew")
    else:
        dropped, open_ = drop_reasons("general", general, params.margin, params.confidence, shares[0])
        failed, unsure = failed + dropped, unsure + open_
    if own:
        dropped, open_ = drop_reasons("self", own, params.self_margin, params.confidence, shares[1])
        failed, unsure = failed + dropped, unsure + open_
    wanted_gain = params.min_domain_gain
    if domain is None and wanted_gain > 0:
        broken.append(f"a domain gain of {in_points(wanted_gain)} is asked for, and there is no domain suite")
    elif domain and -1 < wanted_gain < 0:
        dropped, open_ = drop_reasons("domain", domain, -wanted_gain, params.confidence, shares[1])
        failed, unsure = failed + dropped, unsure + open_
    elif domain and domain["change"] is not None and wanted_gain >= 0:
        bound = min(domain["bound"], domain["change"] - stats.half_width(domain["edge"], params.confidence))
        if bound < wanted_gain - paired.TINY:
            gain = f"with {params.confidence:.0%} confidence the gain may be only {in_points(bound)}"
            failed.append(f"the domain score {movement(domain)}; {gain}, short of the {in_points(wanted_gain)} asked")
    if drops := [drop for suite in suites.values() for drop in suite.failed]:
        failed.append(f"suites that dropped past their margin, in points: {'; '.join(drops)}")
    unsure += [reason for suite in suites.values() for reason in suite.unsure]
    notes = [note for suite in suites.values() for note in suite.notes]
    notes += [CHOICES] if only_choices(described) else []
    return {
        "verdict": "cannot-compare" if broken else "fail" if failed else "cannot-compare" if unsure else "pass",
        "reasons": broken + failed + unsure + notes,
        "general": {key: general and general[key] for key in (*paired.SCORES, *paired.EXTRAS)},
        "self": own and {key: own[key] for key in paired.SCORES},
        "domain": domain and {key: domain[key] for key in paired.SCORES},
        "suites": {name: suite.numbers for name, suite in suites.items()},
    }


def drop_reasons(
    name: str, score: dict[str, Any], margin: float, confidence: float, alarm: float
) -> tuple[list[str], list[str]]:
    """Reasons to fail and reasons to be unsure, for a score that may drop by less than `margin`. Neither: shown to hold.

    Shown twice: by the bootstrap's bound, and by a test of a drop of just the margin, which does not take a handful of
    lost items for certainty, as the bootstrap does. `alarm`: the confidence at which a drop is distinguished from none.
    """
    if score["change"] is None:
        return [], []
    drop, largest = -score["change"], -score["bound"]
    if largest < margin:
        largest = max(drop, 0.0) + stats.half_width(score["edge"], confidence)
    if largest < margin:
        return [], []
    reason = f"the {name} score {movement(score)}; with {confidence:.0%} confidence the drop may be {in_points(largest)}, past the "
    reason += f"margin of {in_points(margin)}"
    if drop > stats.half_width(score["error"], alarm):
        return [reason], []
    return [], [f"{reason}, yet {score['items']:,} items show no drop either: too few items"]


def movement(score: dict[str, Any]) -> str:
    """In words and points: 'fell by 2.4 points (from 86.1 to 83.7)'."""
    if in_points(score["change"]) == "0.0":
        return f"did not move (from {in_points(score['before'])} to {in_points(score['after'])})"
    word = "fell by" if score["change"] < 0 else "rose by"
    return f"{word} {in_points(abs(score['change']))} points (from {in_points(score['before'])} to {in_points(score['after'])})"


def group_by_reason(reasons: dict[str, list[str]]) -> list[str]:
    """One sentence per reason, with the suites that it holds for."""
    suites: dict[str, list[str]] = {}
    for name, of_suite in reasons.items():
        for reason in of_suite:
            suites.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in suites.items()]
