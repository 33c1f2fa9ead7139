"""The verdict, from measured numbers and the thresholds of params.yaml: what passes, what fails, what cannot be compared.

holdfast/verdict/paired.py measures items; from there on everything is plain arithmetic on what gate.json holds, so that
`holdfast gate` derives each word anew without items. docs/verdict.md is the long version.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from holdfast.evaluation.settings import CHOICES, of_role, only_choices
from holdfast.params.gate import Gate
from holdfast.verdict import precision
from holdfast.verdict.fields import (
    DERIVED_SUITE,
    EXTRAS,
    MEASURED_SUITE,
    SCORES,
    SET_ASIDE,
    SIDES,
    WATCHED,
    Json,
    Sides,
)
from holdfast.verdict.pooling import adjust, drop_reasons, movement, pool, standard_error
from holdfast.verdict.precision import TINY, in_points
from holdfast.verdict.thresholds import confidences, is_weak_family, margins, reason_to_set_aside

SAME = "one and the same answer to every item"


class Judged(NamedTuple):
    """One suite, decided on. `broken` are the reasons why it cannot be compared."""

    numbers: Json  # what gate.json says of it
    broken: list[str]
    failed: list[str]  # what it dropped by, where that is past its margin
    unsure: list[str]  # a drop far past its margin that so few items cannot prove
    notes: list[str]  # odd, and no ground for a verdict
    past: bool = False  # it dropped past its margin, by chance or not
    luck: float = 0.0  # probability that it would by chance alone


def decide_arm(params: Gate, measured: Json, noise: Json | None = None, sides: Sides = SIDES) -> Json:
    """The verdict on one arm as gate.json holds it, from what was measured (`MEASURED_*`, `problems`); what is there
    beside it is computed anew. `noise`: the noise floor, where the base was evaluated twice.

    Broken goes before failed, and failed before unsure: a drop that is shown is a fail however few the items, and numbers
    of a broken evaluation show nothing.
    """
    shares = confidences(params, measured["suites"])
    suites = {
        name: decide_suite(params, name, measured["suites"], shares, sides, noise)
        for name in sorted(measured["suites"])
    }
    broken = list(measured["problems"])
    broken += group_by_reason({name: suite.broken for name, suite in suites.items()})
    failed: list[str] = []  # reasons for fail
    unsure: list[str] = []  # reasons for cannot-compare, unless something else fails
    numbers = {name: suite.numbers for name, suite in suites.items()}
    required = {name: suite for name, suite in numbers.items() if name not in params.watched}
    if all(suite["constant_after"] for suite in numbers.values()):
        broken.append("one answer per suite, whatever the item: a dead endpoint, or nothing is left of the model")
    general_suites = [suite for suite in required.values() if suite["role"] == "general"]
    counted = [suite for suite in general_suites if suite["verdict"] != SET_ASIDE]
    expected = [
        name for name, suite in required.items() if suite["role"] == "general" and not is_weak_family(name, suite)
    ]
    if 2 * len(counted) < len(expected) or (general_suites and not counted):
        reasons = {name: suite.notes[:1] for name, suite in suites.items() if suite.numbers["verdict"] == SET_ASIDE}
        left = f"{len(counted)} of {len(general_suites)} general suites can show forgetting: too little is measured"
        broken += [*group_by_reason(reasons), left]
    general = pool(params, counted, measured["general"] or {}, params.margin)
    limit = (general or {}).get("margin")
    if noise and limit is not None and abs(noise["change"]) >= limit:
        moved = f"two evaluations of one base differ by {in_points(abs(noise['change']))} points"
        broken.insert(len(measured["problems"]), f"{moved}, no less than the margin of {in_points(limit)}")
    domain = pool(
        params,
        [suite for suite in required.values() if suite["role"] == "domain"],
        measured["domain"] or {},
        abs(params.min_domain_gain),
    )

    deciding = of_role(required, "self")
    own = pool(params, [numbers[name] for name in deciding], measured["self"] or {}, params.self_margin)

    if not general_suites:
        broken.append("there is no general suite: nothing measures what the base knew")
    elif general:
        dropped, open_ = drop_reasons("general", general, general["margin"], params.confidence, shares[0])
        failed, unsure = failed + dropped, unsure + open_
    if own:
        dropped, open_ = drop_reasons("self", own, own["margin"], params.confidence, shares[1])
        failed, unsure = failed + dropped, unsure + open_
    wanted_gain = params.min_domain_gain
    if domain is None and wanted_gain > 0:
        broken.append(f"a domain gain of {in_points(wanted_gain)} is asked for, and there is no domain suite")
    elif domain and -1 < wanted_gain < 0:
        dropped, open_ = drop_reasons("domain", domain, -wanted_gain, params.confidence, shares[1])
        failed, unsure = failed + dropped, unsure + open_
    elif domain and domain["change"] is not None and wanted_gain >= 0:
        bound = min(domain["bound"], domain["change"] - precision.half_width(domain["edge"], params.confidence))
        if bound < wanted_gain - TINY:
            gain = f"with {params.confidence:.0%} confidence the gain may be only {in_points(bound)}"
            failed.append(f"the domain score {movement(domain)}; {gain}, short of the {in_points(wanted_gain)} asked")
    worst_first = sorted(suites.values(), key=lambda suite: suite.numbers["change"] or 0.0)
    if drops := [drop for suite in worst_first for drop in suite.failed]:
        failed.append(f"suites that dropped past their margin, in points: {'; '.join(drops)}")
    failed += many_past(list(suites.values()), len(drops), 1 - shares[1])
    unsure += [reason for suite in suites.values() for reason in suite.unsure]
    notes = [note for suite in suites.values() for note in suite.notes]
    notes += [CHOICES] if only_choices(required) else []
    return {
        "comparable": not broken,
        "verdict": "cannot-compare" if broken else "fail" if failed else "cannot-compare" if unsure else "pass",
        "reasons": list(dict.fromkeys(broken + failed + unsure + notes)),
        "problems": list(measured["problems"]),
        "general": {key: (general or {}).get(key) for key in (*SCORES, *EXTRAS, "margin")},
        "self": own and {key: own[key] for key in (*SCORES, "margin")},
        "domain": domain and {key: domain[key] for key in SCORES},
        "suites": numbers,
    }


def decide_suite(
    params: Gate, name: str, suites: Json, shares: tuple[float, float], sides: Sides, noise: Json | None = None
) -> Judged:
    measured, margin = suites[name], margins(params, suites).get(name)
    numbers = {key: measured[key] for key in MEASURED_SUITE} | dict.fromkeys(DERIVED_SUITE)
    numbers |= {"margin": margin, "verdict": "cannot-compare"}
    broken = list(measured["problems"])
    if name in params.watched:
        numbers["verdict"] = WATCHED
    if not broken and any(measured[key] is None for key in ("before", "after", "discordance")):
        broken.append("has no numbers")
    if broken and name in params.watched:
        return Judged(numbers, [], [], [], [f"{name} is watched only, and cannot be compared: {broken[0]}"])
    if broken:
        return Judged(numbers, broken, [], [], [])
    items, chance = measured["items"], measured["chance"]
    old, new = (adjust(precision.exact(measured[when], items), chance) for when in ("before", "after"))
    numbers |= {"before_adjusted": old, "after_adjusted": new, "change": new - old}
    numbers |= measure_noise((noise or {}).get("suites", {}).get(name))
    error = standard_error([numbers])
    spread, drop = precision.half_width(error, shares[1]), old - new
    numbers["detectable"] = precision.detectable_drop(error, shares[1])

    if name in params.watched:
        text = f"{name}, which is watched only, dropped by {in_points(drop)} points (p = {shown_p(measured):.2g})"
        return Judged(numbers, [], [], [], [text] if drop > spread else [])
    failed: list[str] = []
    unsure: list[str] = []
    notes: list[str] = []
    if measured["role"] == "general" and (
        why := reason_to_set_aside(params, measured, 1 - shares[0], sides[0])
    ):  # as little can be lost there as was known
        numbers["verdict"] = SET_ASIDE
        return Judged(numbers, broken, failed, unsure, [f"{name} is set aside: {why}"])
    # with many suites, one of them drops past its margin by chance; a drop counts only outside the noise of its items
    limit = float("inf") if margin is None else margin + TINY
    if drop > limit and drop > spread:
        hint = f", with {SAME}" if measured["constant_after"] else ""
        failed.append(f"{name} by {in_points(drop)} (margin {in_points(limit)}, p = {shown_p(measured):.2g}{hint})")
    elif drop > limit:
        noisy = f"{items} items cannot tell a drop below {in_points(spread)} from chance"
        reason = f"{name} dropped by {in_points(drop)} points, past its margin of {in_points(limit)}, but {noisy}"
        # of many suites, chance takes some past their margin, and hardly any past twice that
        (unsure if drop > 2 * limit else notes).append(reason)
    if measured["constant_after"] and not failed:  # a model that collapsed loses points; where it loses none, the
        broken.append(f"the {sides[1]} model gives {SAME}")  # suite does not measure
    if measured["role"] == "general":  # a base that knows nothing of the domain is what the domain is for
        if measured["constant_before"]:
            broken.append(f"the {sides[0]} model gives {SAME}")
        if not broken and measured["guessing_after"] > 1 - shares[0] and not failed + unsure:
            weak = f"{items} items do not show that the {sides[1]} model does better than guessing"
            unsure.append(f"{name}: {weak}")  # all of a weak suite may be lost inside its margin
    numbers["verdict"] = "cannot-compare" if broken else "fail" if failed else "cannot-compare" if unsure else "pass"
    luck = 0.0 if margin is None else precision.exceedance(limit, error)
    return Judged(numbers, broken, failed, unsure, notes, drop > limit, luck)


def measure_noise(repeat: Json | None) -> Json:
    """What an evaluation of a suite differs by from another of the same model: the mean squared difference of an item, and by how
    much the suite as a whole moves beyond what its items explain, both before the adjustment for chance."""
    if repeat is None:
        return {"repeat_discordance": None, "repeat_shift": None}
    beyond = repeat["change"] ** 2 - repeat["discordance"] / repeat["items"]
    return {"repeat_discordance": repeat["discordance"], "repeat_shift": math.sqrt(max(0.0, beyond))}


def many_past(suites: list[Judged], named: int, risk: float) -> list[str]:
    """The reason to fail where more suites dropped past their margin than chance takes there, none of them alone enough.

    Under no change each suite drops past its margin with a small probability of its own: their number is about Poisson.
    """
    past, expected = sum(suite.past for suite in suites), sum(suite.luck for suite in suites)
    limited = sum(suite.numbers["margin"] is not None for suite in suites)
    if past <= named or past < expected + 1 or precision.poisson_tail(past, expected) >= risk:
        return []
    return [f"{past} of {limited} suites dropped past their margin, where chance alone takes some {expected:.1f}"]


def group_by_reason(reasons: dict[str, list[str]]) -> list[str]:
    """One sentence per reason, with the suites that it holds for."""
    suites: dict[str, list[str]] = {}
    for name, of_suite in reasons.items():
        for reason in of_suite:
            suites.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in suites.items()]


def shown_p(suite: Json) -> float:
    """The p-value of a suite's change: between groups where its items come in groups, else McNemar's."""
    return suite["mcnemar_p"] if suite["cluster_p"] is None else suite["cluster_p"]
