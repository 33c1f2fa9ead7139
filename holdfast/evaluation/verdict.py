"""The verdict, from measured numbers and the thresholds of params.yaml: what passes, what fails, what cannot be compared.

holdfast/evaluation/paired.py measures items; from there on everything is plain arithmetic on what gate.json holds, so that
`holdfast gate` derives each word anew without items. docs/verdict.md is the long version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from holdfast.core.errors import ExitCode
from holdfast.evaluation import precision, trainings
from holdfast.evaluation.precision import TINY, in_points
from holdfast.evaluation.settings import CHOICES, of_role, only_choices
from holdfast.params.gate import Gate

Json = dict[str, Any]
Sides = tuple[str, str]
SIDES = ("base", "tuned")  # what reasons call the two evaluations
EXIT_CODES = {  # from best to worst
    "pass": ExitCode.OK,
    "fail": ExitCode.FAIL,
    "cannot-compare": ExitCode.CANNOT_COMPARE,
}
UNMEASURED = "domain not measured"
SET_ASIDE, WATCHED = "set aside", "watched"  # verdicts on suites that do not count
# what is measured; all else in gate.json is derived from it
MEASURED_SUITE = (
    *("role", "chance", "items", "before", "after", "low", "high", "lost", "gained", "mcnemar_p", "discordance"),
    *(
        "written",
        "group_size",
        "cluster_p",
        "guessing_before",
        "guessing_after",
        "constant_before",
        "constant_after",
        "problems",
    ),
)
MEASURED_SCORE = ("low", "high", "bound", "retention_low", "retention_high")
DERIVED_SUITE = ("before_adjusted", "after_adjusted", "change", "detectable", "margin", "verdict")
SCORES = ("before", "after", "change", "low", "high", "bound", "items", "lost", "gained")  # of several suites together
EXTRAS = ("retention", "retention_low", "retention_high", "detectable")  # of the general suites only
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


def margins(params: Gate, suites: Json) -> dict[str, float]:
    """The margin of every suite that has one: general suites, those of the self suite that decide, and what suite_margins names."""
    names = [*of_role(suites, "general"), *of_role(suites, "self")]
    own = {name: margin for name, margin in params.suite_margins.items() if name in suites}
    limits = dict.fromkeys(names, params.suite_margin) | own
    return {name: limit for name, limit in limits.items() if name not in params.watched}


def confidences(params: Gate, suites: Json) -> tuple[float, float]:
    """Confidence at which the general drop, and at which one suite's drop, must be distinguished from none to make an arm fail.

    Bonferroni: half of 1 - confidence goes to the general score, the other half is divided evenly among the suites with
    a margin; the self score, a domain score that may drop by so much (min_domain_gain below 0), and the number of suites
    past their margin, count as one more each. So an arm with no true change fails with a probability of at most
    1 - confidence, however many suites.
    """
    risk, limited = (1 - params.confidence) / 2, len(margins(params, suites))
    more = (limited > 1) + bool(of_role(suites, "self")) + (-1 < params.min_domain_gain < 0)
    return 1 - risk, 1 - risk / max(1, limited + more)


def reason_to_set_aside(params: Gate, suite: Json, risk: float, side: str = SIDES[0]) -> str:
    """Why a general suite measures nothing: the base does not beat guessing. From the base's outcomes alone; empty where
    it measures."""
    adjusted = adjust(precision.exact(suite["before"], suite["items"]), suite["chance"])
    if adjusted < params.min_base - TINY:
        least = f"less than the {in_points(params.min_base)} points above chance that min_base asks for"
        return f"the {side} model has {least}: there is nothing to forget"
    if suite["guessing_before"] > risk:
        return f"{suite['items']} items do not show that the {side} model does better than guessing"
    return ""


def is_counted(params: Gate, suites: Json, name: str) -> bool:
    """Whether a suite is part of its role's score: neither watched nor set aside."""
    return name not in params.watched and not is_set_aside(params, suites, name)


def is_set_aside(params: Gate, suites: Json, name: str) -> bool:
    suite = suites[name]
    if suite["role"] != "general" or suite["before"] is None:
        return False
    return bool(reason_to_set_aside(params, suite, 1 - confidences(params, suites)[0]))


def decide_arm(params: Gate, measured: Json, noise: Json | None = None, sides: Sides = SIDES) -> Json:
    """The verdict on one arm as gate.json holds it, from what was measured (`MEASURED_*`, `problems`); what is there
    beside it is computed anew. `noise`: the noise floor, where the base was evaluated twice.

    Broken goes before failed, and failed before unsure: a drop that is shown is a fail however few the items, and numbers
    of a broken evaluation show nothing.
    """
    shares = confidences(params, measured["suites"])
    suites = {
        name: decide_suite(params, name, measured["suites"], shares, sides) for name in sorted(measured["suites"])
    }
    broken = list(measured["problems"])
    if noise and abs(noise["change"]) >= params.margin:
        moved = f"two evaluations of one base differ by {in_points(abs(noise['change']))} points"
        broken.append(f"{moved}, no less than the margin of {in_points(params.margin)}")
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
        "general": {key: (general or {}).get(key) for key in (*SCORES, *EXTRAS)},
        "self": own and {key: own[key] for key in SCORES},
        "domain": domain and {key: domain[key] for key in SCORES},
        "suites": numbers,
    }


def is_weak_family(name: str, suite: Json) -> bool:
    """Whether this is a family of the core suite that the base is at chance on: it has many, and no base has them all."""
    return name.startswith("core/") and suite["verdict"] == SET_ASIDE


def decide_suite(params: Gate, name: str, suites: Json, shares: tuple[float, float], sides: Sides) -> Judged:
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
    error = precision.standard_error([items], [measured["discordance"]], [chance])
    noise, drop = precision.half_width(error, shares[1]), old - new
    numbers["detectable"] = precision.detectable_drop(error, shares[1])

    if name in params.watched:
        text = f"{name}, which is watched only, dropped by {in_points(drop)} points (p = {shown_p(measured):.2g})"
        return Judged(numbers, [], [], [], [text] if drop > noise else [])
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
    if drop > limit and drop > noise:
        hint = f", with {SAME}" if measured["constant_after"] else ""
        failed.append(f"{name} by {in_points(drop)} (margin {in_points(limit)}, p = {shown_p(measured):.2g}{hint})")
    elif drop > limit:
        noisy = f"{items} items cannot tell a drop below {in_points(noise)} from chance"
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


def many_past(suites: list[Judged], named: int, risk: float) -> list[str]:
    """The reason to fail where more suites dropped past their margin than chance takes there, none of them alone enough.

    Under no change each suite drops past its margin with a small probability of its own: their number is about Poisson.
    """
    past, expected = sum(suite.past for suite in suites), sum(suite.luck for suite in suites)
    limited = sum(suite.numbers["margin"] is not None for suite in suites)
    if past <= named or past < expected + 1 or precision.poisson_tail(past, expected) >= risk:
        return []
    return [f"{past} of {limited} suites dropped past their margin, where chance alone takes some {expected:.1f}"]


def pool(params: Gate, suites: list[Json], measured: Json, margin: float) -> Json | None:
    """The score of several suites together; None where there are none, nulls where one of them has no numbers.

    Beside what gate.json holds: `error`, the standard error of the change if there were none, and `edge`, the one if
    it were `margin`.
    """
    if not suites:
        return None
    if any(suite["change"] is None for suite in suites) or measured.get("bound") is None:
        return dict.fromkeys((*SCORES, *EXTRAS, "error", "edge"))
    before, after = (sum(s[f"{when}_adjusted"] for s in suites) / len(suites) for when in ("before", "after"))
    items, discordances, chances = ([suite[key] for suite in suites] for key in ("items", "discordance", "chance"))
    error = precision.standard_error(items, discordances, chances)
    sizes = [suite["group_size"] or 1.0 for suite in suites]
    return {
        **{key: measured.get(key) for key in MEASURED_SCORE},
        "before": before,
        "after": after,
        "change": after - before,
        "retention": after / before if measured.get("retention_low") is not None and before > 0 else None,
        **{key: sum(suite[key] for suite in suites) for key in ("items", "lost", "gained")},
        "detectable": precision.detectable_drop(error, params.confidence),
        "error": error,
        "edge": precision.standard_error(items, discordances, chances, margin, sizes),
    }


def drop_reasons(name: str, score: Json, margin: float, confidence: float, alarm: float) -> tuple[list[str], list[str]]:
    """Reasons to fail and reasons to be unsure, for a score that may drop by less than `margin`. Neither: shown to hold.

    Shown twice: by the bootstrap's bound, and by a test of a drop of just the margin, which does not take a handful of
    lost items for certainty, as the bootstrap does. `alarm`: the confidence at which a drop is distinguished from none.
    """
    if score["change"] is None:
        return [], []
    drop, largest = -score["change"], -score["bound"]
    if largest < margin:
        largest = drop + precision.half_width(score["edge"], confidence)
    if largest < margin:
        return [], []
    reason = f"the {name} score {movement(score)}; with {confidence:.0%} confidence the drop may be {in_points(largest)}, past the "
    reason += f"margin of {in_points(margin)}"
    if drop > precision.half_width(score["error"], alarm):
        return [reason], []
    return [], [f"{reason}, yet {score['items']:,} items show no drop either: too few items"]


def movement(score: Json) -> str:
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


def adjust(accuracy: float, chance: float) -> float:
    """(accuracy - chance) / (1 - chance): 0 is guessing, 1 is perfect (arXiv 2510.17776)."""
    return (accuracy - chance) / (1 - chance)


def shown_p(suite: Json) -> float:
    """The p-value of a suite's change: between groups where its items come in groups, else McNemar's."""
    return suite["mcnemar_p"] if suite["cluster_p"] is None else suite["cluster_p"]


def decide_run(params: Gate, arms: dict[str, Json], noise: Json | None) -> Json:
    """The content of gate.json but for its provenance: the worst verdict of the arms that decide, every arm's, and the
    thresholds."""
    suites = next(iter(arms.values()))["suites"]
    general, suite = confidences(params, suites)
    multiplicity = {"method": "Bonferroni", "suites": len(margins(params, suites))}
    multiplicity |= {"general_confidence": general, "suite_confidence": suite}
    methods = decide_methods(params, arms)
    together = {name for method in methods.values() for name in method["arms"]}
    alone = [arms[name] for name in deciding_arms(params, list(arms)) if name not in together]
    worst = worst_verdict([*alone, *methods.values()])
    measured = any(one["role"] == "domain" and name not in params.watched for name, one in suites.items())
    content = {"schema": 2, "verdict": worst, "arms": arms, "noise": noise, "multiplicity": multiplicity}
    content["methods"] = methods
    content["only_choices"] = only_choices({k: v for k, v in suites.items() if k not in params.watched})
    demands = {"control", "margin", "suite_margin", "self_margin", "confidence", "min_domain_gain", "resamples"}
    return content | {"domain_measured": measured} | params.model_dump(include=demands)


def decide_methods(params: Gate, arms: dict[str, Json]) -> Json:
    """The verdict on each method of which several trainings are among the arms (`gate.replicas`)."""
    methods = {}
    for method, replicas in params.replicas.items():
        names = [name for name in (method, *replicas) if name in arms]
        if len(names) > 1:
            members = [arms[name] for name in names]
            scores = [pool_roles(params, arm) for arm in members]
            suites = members[0]["suites"]
            shares = confidences(params, suites)
            methods[method] = trainings.decide(params, names, members, scores, margins(params, suites), shares)
    return methods


def pool_roles(params: Gate, arm: Json) -> dict[str, Json | None]:
    """The scores of a decided arm by role, with their standard errors."""
    counted = {n: s for n, s in arm["suites"].items() if s["verdict"] not in (SET_ASIDE, WATCHED)}
    limits = {"general": params.margin, "self": params.self_margin, "domain": abs(params.min_domain_gain)}
    return {
        role: pool(params, [counted[name] for name in of_role(counted, role)], arm[role] or {}, limit)
        for role, limit in limits.items()
    }


def deciding_arms(params: Gate, names: list[str]) -> list[str]:
    """All arms but the control, unless it is alone."""
    return [name for name in names if name != params.control] or names


def worst_verdict(arms: Iterable[Json]) -> str:
    return max((str(arm["verdict"]) for arm in arms), key=EXIT_CODES.__getitem__)


def compute_metrics(arms: dict[str, Json]) -> Json:
    """The content of metrics.json: a few numbers of the base and of each arm."""
    return {"base": base_metrics(arms)} | {name: arm_metrics(arm) for name, arm in arms.items()}


def base_metrics(arms: dict[str, Json]) -> dict[str, float]:
    """The base's scores, from the first arm whose evaluation could be joined with the base's."""
    scores: dict[str, float] = {}
    for arm in arms.values():
        for role in ("domain", "general", "self"):
            before = (arm[role] or {}).get("before")
            if before is not None:
                scores.setdefault(role, before)
    return scores


def arm_metrics(arm: Json) -> Json:
    general, domain = arm["general"], arm["domain"] or {}
    numbers = {key: general[key] for key in ("retention", "lost", "gained")} | {"general": general["after"]}
    numbers |= {"self": (arm["self"] or {}).get("after"), "domain": domain.get("after")}
    numbers |= {"domain_gain": domain.get("change"), "verdict": arm["verdict"]}
    return {key: value for key, value in numbers.items() if value is not None}


def table(gate: Json) -> str:
    """The verdict as aligned plain text, scores in points: a line per arm, then the reasons, then the word."""
    change = f"change [{gate['confidence']:.0%}]"
    rows = [["arm", "general", change, "retention", "self", "domain", "lost/gained", "verdict"]]
    for name, arm in sorted(gate["arms"].items()):
        general = arm["general"]
        own, domain = (arm[role] or dict.fromkeys(SCORES) for role in ("self", "domain"))
        change, low, high = (format_number(general[key], "+.1f", 100) for key in ("change", "low", "high"))
        rows += [
            [
                name,
                f"{format_number(general['before'], '.1f', 100)} -> {format_number(general['after'], '.1f', 100)}",
                f"{change} [{low}, {high}]",
                format_number(general["retention"], ".1%"),
                f"{format_number(own['before'], '.1f', 100)} -> {format_number(own['after'], '.1f', 100)}",
                f"{format_number(domain['before'], '.1f', 100)} -> {format_number(domain['after'], '.1f', 100)}",
                f"{format_number(general['lost'], 'd')}/{format_number(general['gained'], 'd')}",
                arm["verdict"] + (" (control)" if name == gate["control"] else ""),
            ]
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {reason}" for name, arm in sorted(gate["arms"].items()) for reason in arm["reasons"]]
    for name, method in sorted((gate.get("methods") or {}).items()):  # an earlier version's has none
        general = method["general"] or dict.fromkeys(("change", "low", "high", "between"))
        change, low, high, between = (
            format_number(general[key], "+.1f", 100) for key in ("change", "low", "high", "between")
        )
        count = f"{len(method['arms'])} trainings of {name}"
        lines.append(
            f"{count}: general {change} [{low}, {high}], between them {between.lstrip('+')}: {method['verdict']}"
        )
        lines += [f"{count}: {reason}" for reason in method["reasons"]]
    if noise := gate.get("noise"):
        changed = f"{noise['changed']:,} of {noise['items']:,} outcomes differ"
        lines.append(f"noise floor: {changed} when the base is asked again")
    return "\n".join([*lines, f"verdict: {gate['verdict']}{'' if gate['domain_measured'] else f' ({UNMEASURED})'}"])


def format_number(value: float | None, form: str, scale: int = 1) -> str:
    if value is None:
        return "-"
    text = format(scale * value, form)
    return text if text.strip("+-0.%") else text.lstrip("+-")  # a change of nothing has no sign
