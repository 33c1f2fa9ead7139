"""What the chosen suites can show, before anything is trained: power of the gate's own test, from counts of items.

    holdfast gate --power        prints it; `plan` and `doctor` say the same in a few lines

The test is that of holdfast/verdict/decision.py: an arm holds when -change + z(confidence) x the standard error of a drop of
just the margin stays below the margin. So with a true drop d it passes with probability
Phi((margin - d - z(confidence) x edge) / error): non-inferiority of paired outcomes (Liu et al. 2002, Statistics in Medicine
21:231; Miller 2024, arXiv 2411.00640). How many items will change is known only afterwards: it is that of the verdict that is
here, else assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from holdfast.evaluation.settings import DECIDING
from holdfast.params.gate import Gate, Margin, resolve_margin
from holdfast.verdict import fields, pooling, precision, thresholds
from holdfast.verdict.precision import in_points

Json = dict[str, Any]
CHANGED = 0.1  # part of the items that change, where no verdict says it: typical of fine-tuning that did not forget
CEILING = 0.98  # accuracy from which a suite leaves no room for a gain
LIKELY = 0.95  # probability with which an unchanged arm should pass


@dataclass(frozen=True)
class Suite:
    """What is known of one suite before an arm is trained."""

    role: str
    chance: float
    items: int
    changed: float  # part of the items that change, or n x the variance of the mean change where items come in groups
    assumed: bool  # that is, `changed` was not measured
    group_size: float = 1.0  # items that change together
    before: float | None = None  # accuracy of the base
    guessing: float | None = None  # p-value of that accuracy by guessing alone


@dataclass(frozen=True)
class Score:
    """Power for the score of several suites together, which may drop by less than `margin`."""

    name: str
    margin: float
    items: int
    error: float  # standard error of the change, were there none
    edge: float  # the same, were it the margin
    detectable: float  # smallest drop that is shown four times in five
    passes: float  # probability that an arm without any drop is shown to hold
    slips: float  # probability that an arm passes whose score truly dropped by half more than the margin
    missing: int  # items that are missing for `passes` to reach 95 %
    share: str = ""  # of the base's score that the margin is, in words, where params.yaml says it so


@dataclass(frozen=True)
class Power:
    suites: dict[str, Suite]
    scores: list[Score]
    set_aside: dict[str, str]  # suite -> why nothing can be forgotten there
    ceiling: list[str]  # suites in which the base is right nearly always
    blocked: list[str]  # reasons for which no arm could pass

    @property
    def assumed(self) -> bool:
        return any(suite.assumed for suite in self.suites.values())


def assess(params: Gate, suites: dict[str, Suite]) -> Power:
    """What these suites can show with these thresholds. Where the base was evaluated, a general suite it does not beat
    guessing in is left out, as the gate does."""
    suites = {name: suite for name, suite in suites.items() if name not in params.watched}
    described = {name: describe(suite) for name, suite in suites.items()}
    shares = thresholds.confidences(params, described)
    aside = {
        name: reason
        for name, suite in described.items()
        if suite["role"] == "general"
        and suite["before"] is not None
        and (reason := thresholds.reason_to_set_aside(params, suite, 1 - shares[0]))
    }
    general = [name for name, suite in suites.items() if suite.role == "general"]
    counted = [name for name in general if name not in aside]
    domain = [name for name, suite in suites.items() if suite.role == "domain"]
    scores = []
    choices: list[tuple[str, list[str], Margin, float]] = [
        ("general", counted, params.margin, shares[0]),
        ("self", [name for name in suites if name in DECIDING], params.self_margin, shares[1]),
        ("domain", domain if -1 < params.min_domain_gain < 0 else [], -params.min_domain_gain, shares[1]),
    ]
    for role, names, margin, alarm in choices:
        if names:
            base = sum(thresholds.base_score(described[name]) for name in names) / len(names)
            limit = resolve_margin(margin, base)
            score = assess_score(role, [suites[name] for name in names], limit, params.confidence, alarm)
            known = all(suites[name].before is not None for name in names)
            taken = in_points(base) if known else "100.0, for it is not known yet"
            scores.append(replace(score, share=f" ({margin} of the base's {taken})" if isinstance(margin, str) else ""))
    ceiling = [
        name
        for name, suite in suites.items()
        if suite.role != "self" and suite.before is not None and suite.before >= CEILING
    ]
    return Power(suites, scores, aside, ceiling, find_blocks(params, suites, general, counted, domain))


def describe(suite: Suite) -> Json:
    """A suite in the gate's own terms."""
    return {
        "role": suite.role,
        "chance": suite.chance,
        "items": suite.items,
        "before": suite.before,
        "guessing_before": suite.guessing if suite.guessing is not None else 0.0,
    }


def assess_score(name: str, suites: Sequence[Suite], margin: float, confidence: float, alarm: float) -> Score:
    items, chances = [suite.items for suite in suites], [suite.chance for suite in suites]
    changed, sizes = [suite.changed for suite in suites], [suite.group_size for suite in suites]
    error = precision.standard_error(items, changed, chances)
    edge = precision.standard_error(items, changed, chances, margin, sizes)
    # both errors shrink with the root of the items
    factor = ((precision.half_width(edge, confidence) + precision.half_width(error, LIKELY)) / margin) ** 2
    return Score(
        name,
        margin,
        sum(items),
        error,
        edge,
        precision.detectable_drop(error, alarm),
        passing(0.0, margin, error, edge, confidence),
        passing(1.5 * margin, margin, error, edge, confidence),
        max(0, math.ceil((factor - 1) * sum(items))),
    )


def passing(drop: float, margin: float, error: float, edge: float, confidence: float) -> float:
    """Probability that a score which truly dropped by `drop` is shown to hold."""
    room = margin - drop - precision.half_width(edge, confidence)
    return NormalDist().cdf(room / error) if error > 0 else float(room > 0)


def find_blocks(
    params: Gate, suites: dict[str, Suite], general: list[str], counted: list[str], domain: list[str]
) -> list[str]:
    """Reasons for which no arm could pass, whatever it is trained on."""
    reasons = []
    weak = {"verdict": fields.SET_ASIDE}
    expected = [name for name in general if name in counted or not thresholds.is_weak_family(name, weak)]
    if not general:
        reasons.append("there is no general suite: nothing measures what the base knew")
    elif not counted or 2 * len(counted) < len(expected):
        left = f"{len(counted)} of {len(general)} general suites can show forgetting, and at least half must"
        reasons.append(f"{left}: give the base suites that it can answer, or more items")
    gain = params.min_domain_gain
    known = [(suites[name].before, suites[name].chance) for name in domain]
    if gain > 0 and not domain:
        reasons.append(f"a domain gain of {in_points(gain)} points is asked for, and there is no domain suite")
    elif gain > 0 and all(before is not None for before, _ in known):
        score = sum(pooling.adjust(before or 0.0, chance) for before, chance in known) / len(known)
        if 1 - score < gain:
            room = f"the base already has {in_points(score)} points in the domain suites"
            reasons.append(f"{room}, and gate.min_domain_gain asks for {in_points(gain)} more")
    return reasons


def describe_score(score: Score) -> str:
    """One line: what can be shown, and what is missing for it."""
    text = f"{score.name} score: {score.items:,} items show a drop of {in_points(score.detectable)} points four times in five; "
    text += f"an arm that lost nothing passes the margin of {in_points(score.margin)}{score.share} with probability {in_percent(score.passes)}"
    if score.missing:
        text += f"; {score.missing:,} items more would make that {LIKELY:.0%}"
    return text


def in_percent(probability: float) -> str:
    """Never a certainty: '> 99 %', '< 1 %'."""
    return "> 99 %" if probability > 0.99 else "< 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def describe_suites(power: Power) -> list[str]:
    """Sentences about suites that can show little: at chance, or at their ceiling."""
    lines = [f"{name} will be set aside: {reason}" for name, reason in power.set_aside.items()]
    if power.ceiling:
        names = f"{', '.join(power.ceiling[:4])}{' ...' if len(power.ceiling) > 4 else ''}"
        lines.append(
            f"{len(power.ceiling)} suites are at their ceiling, with {CEILING:.0%} or more right ({names}): a loss shows there, a gain cannot"
        )
    return lines


def table(power: Power, params: Gate) -> str:
    """Aligned plain text: a line per suite, then the scores, then what stands in the way."""
    described = {name: describe(suite) for name, suite in power.suites.items()}
    margins, share = thresholds.margins(params, described), thresholds.confidences(params, described)[1]
    rows = [["suite", "role", "items", "chance", "base", "items that change", "smallest drop shown", "margin"]]
    for name, suite in power.suites.items():
        error = precision.standard_error([suite.items], [suite.changed], [suite.chance])
        groups = f", in groups of {suite.group_size:.1f}" if suite.group_size > 1 else ""
        margin = margins.get(name)
        rows.append(
            [
                name,
                suite.role,
                f"{suite.items:,}{groups}",
                in_points(suite.chance),
                "-" if suite.before is None else in_points(suite.before),
                f"{suite.changed / suite.group_size:.1%}{' (assumed)' if suite.assumed else ''}",
                in_points(precision.detectable_drop(error, share)),
                "-" if margin is None or name in power.set_aside else in_points(margin),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *(describe_score(score) for score in power.scores)]
    for score in power.scores:
        beyond = f"an arm whose {score.name} score truly dropped by {in_points(1.5 * score.margin)} points"
        lines.append(f"{beyond} passes with probability {in_percent(score.slips)}")
    lines += [*describe_suites(power), *(f"no arm can pass: {reason}" for reason in power.blocked)]
    return "\n".join(lines)
