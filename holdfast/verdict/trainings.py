"""The verdict on a method: several arms that differ in the seed of their training alone, judged together.

One training says what one model lost. Trainings of one method differ by more than the items of an evaluation show, so an arm
may fail, or pass, by the luck of its seed. Here the standard error of the mean over R trainings has two levels,

    sqrt(items^2 + between^2 / R),

items being the mean standard error of one training (the items are the same in all, so R does not shrink it) and between
the standard deviation of the R changes. Bounds take Student's t with the degrees of freedom of Satterthwaite (1946, Biometrics
Bulletin 2:110), since R is small. Everything follows from what gate.json holds of each arm.
"""

from __future__ import annotations

import math
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

from holdfast.params.gate import Gate
from holdfast.verdict.pooling import standard_error
from holdfast.verdict.precision import TINY, in_points

Json = dict[str, Any]
DECIDED = ("pass", "fail", "cannot-compare")  # verdicts of suites that count


class Spread(NamedTuple):
    """A change over several trainings."""

    mean: float
    between: float  # standard deviation between trainings
    error: float  # standard error of the mean, items included
    freedom: float  # degrees of freedom

    def half_width(self, confidence: float) -> float:
        return student_quantile(confidence, self.freedom) * self.error


def measure_spread(changes: list[float], errors: list[float]) -> Spread:
    """Of R >= 2 changes and the standard errors that the choice of items gives each."""
    count, between, items = len(changes), stdev(changes), fmean(errors)
    training = between**2 / count
    total = items**2 + training
    freedom = (count - 1) * (total / training) ** 2 if training > 0 else math.inf
    return Spread(fmean(changes), between, math.sqrt(total), freedom)


def student_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t for a probability above one half, by bisection on its distribution function."""
    if freedom > 1e6:
        return NormalDist().inv_cdf(probability)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def student_cdf(t: float, freedom: float) -> float:
    """P(T <= t) for t >= 0: 1 - I_x(freedom / 2, 1/2) / 2 with x = freedom / (freedom + t^2)."""
    return 1 - incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Press et al. 2007, Numerical Recipes, 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    smallest, value, c, d = 1e-300, 1.0, 1.0, 0.0
    for step in range(500):
        m = step // 2
        if step == 0:
            numerator = 1.0
        elif step % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + numerator * d if abs(1 + numerator * d) > smallest else smallest)
        c = 1 + numerator / c if abs(1 + numerator / c) > smallest else smallest
        value *= c * d
        if abs(1 - c * d) < 1e-14:
            break
    return front * (value - 1)


def decide_method(
    params: Gate,
    names: list[str],
    arms: list[Json],
    scores: list[Json],
    limits: dict[str, float],
    shares: tuple[float, float],
) -> Json:
    """The verdict on the method that these arms are trainings of. `scores`: of each arm its scores by role, as pooling.pool
    has them; `limits`: margins by suite; `shares`: as thresholds.confidences has them."""
    method: Json = {"arms": names, "general": None, "self": None, "domain": None}
    if lost := [name for name, arm in zip(names, arms, strict=True) if not arm["comparable"]]:
        reason = f"trainings that cannot be compared with the base: {', '.join(lost)}"
        return method | {"verdict": "cannot-compare", "reasons": [reason]}
    failed: list[str] = []
    unsure: list[str] = []
    gain = params.min_domain_gain
    for role in ("general", "self", "domain"):
        if any(one[role] is None or one[role]["change"] is None for one in scores):
            continue
        margin = -gain if role == "domain" else scores[0][role]["margin"]
        changes = [one[role]["change"] for one in scores]
        observed, edge = (measure_spread(changes, [one[role][key] for one in scores]) for key in ("error", "edge"))
        method[role] = describe_numbers(observed, params.confidence)
        if role != "domain" or -1 < gain < 0:
            alarm = shares[role != "general"]
            for reasons, more in zip(
                (failed, unsure), judge_score(role, observed, edge, margin, params.confidence, alarm), strict=True
            ):
                reasons += more
        elif gain >= 0 and (bound := observed.mean - edge.half_width(params.confidence)) < gain - TINY:
            failed.append(
                f"over its trainings the domain score {describe(observed)}; with {params.confidence:.0%} confidence the gain may be "
                f"only {in_points(bound)}, short of the {in_points(gain)} asked"
            )
    for name, margin in limits.items():
        suites = [arm["suites"].get(name) for arm in arms]
        if all(suite and suite["change"] is not None and suite["verdict"] in DECIDED for suite in suites):
            known = [suite for suite in suites if suite]
            observed = measure_spread([suite["change"] for suite in known], [suite_error(suite) for suite in known])
            for reasons, more in zip((failed, unsure), judge_suite(name, observed, margin, shares[1]), strict=True):
                reasons += more
    return method | {
        "verdict": "fail" if failed else "cannot-compare" if unsure else "pass",
        "reasons": failed + unsure,
    }


def describe_numbers(observed: Spread, confidence: float) -> Json:
    wide, bound = observed.half_width((1 + confidence) / 2), observed.half_width(confidence)
    low, high = observed.mean - wide, observed.mean + wide
    return {
        "change": observed.mean,
        "low": low,
        "high": high,
        "bound": observed.mean - bound,
        "between": observed.between,
    }


def judge_score(
    name: str, observed: Spread, edge: Spread, margin: float, confidence: float, alarm: float
) -> tuple[list[str], list[str]]:
    """(reasons to fail, reasons to be unsure) for a score that may drop by less than `margin`; neither: shown to hold.

    `edge`: the same with the standard errors of items if the drop were the margin.
    """
    largest = -observed.mean + max(observed.half_width(confidence), edge.half_width(confidence))
    if largest < margin:
        return [], []
    reason = (
        f"over its trainings the {name} score {describe(observed)}; with {confidence:.0%} confidence the drop may be "
    )
    reason += f"{in_points(largest)}, past the margin of {in_points(margin)}"
    if -observed.mean > observed.half_width(alarm):
        return [reason], []
    return [], [f"{reason}, yet no drop is shown either: train with more seeds, or ask more items"]


def judge_suite(name: str, observed: Spread, margin: float, confidence: float) -> tuple[list[str], list[str]]:
    """(reasons to fail, reasons to be unsure) for one suite."""
    drop = -observed.mean
    if drop <= margin + TINY:
        return [], []
    if drop > observed.half_width(confidence):
        return [f"{name} dropped by {in_points(drop)} points over its trainings (margin {in_points(margin)})"], []
    far = (
        f"{name} dropped by {in_points(drop)} points over its trainings, past twice its margin, and may have by chance"
    )
    return [], [far] if drop > 2 * margin else []


def describe(observed: Spread) -> str:
    """'fell by 1.2 points (standard deviation between trainings 0.8)'."""
    if in_points(abs(observed.mean)) == "0.0":
        moved = "did not move"
    else:
        moved = f"{'fell' if observed.mean < 0 else 'rose'} by {in_points(abs(observed.mean))} points"
    return f"{moved} (standard deviation between trainings {in_points(observed.between)})"


def suite_error(suite: Json) -> float:
    """Standard error of one suite's change in one training, were there none."""
    return standard_error([suite])
