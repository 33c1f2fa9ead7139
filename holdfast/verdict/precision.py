"""How sure a score is, from a few numbers: plain arithmetic, so that a verdict can be derived anew without its items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

TINY = 1e-9  # a change of exactly the margin is inside it, whatever its last bit says
DIGITS = 6  # significant digits of numbers in gate.json


def standard_error(
    items: Sequence[float],
    discordances: Sequence[float],
    chances: Sequence[float],
    moved: float = 0.0,
    sizes: Sequence[float] | None = None,
    shifts: Sequence[float] | None = None,
) -> float:
    """Of the mean over S suites of the chance-adjusted change, were there none: sqrt(sum (q / n + t^2) / (1 - c)^2) / S.

    `moved`: were it that much instead. Then at least that part of the items changed, however few did here. `sizes`: how
    many items change together, where items of one group do; None: each alone.
    `shifts`: t, by how much a whole suite moves from one evaluation of one model to the next, whatever its items; None: 0.
    """
    together = sizes if sizes is not None else [1.0] * len(items)
    total = sum(
        (max(q, moved * (1 - chance) * size) / n + shift**2) / (1 - chance) ** 2
        for n, q, chance, size, shift in zip(
            items, discordances, chances, together, shifts or [0.0] * len(items), strict=True
        )
    )
    return math.sqrt(total) / len(items)


def half_width(error: float, confidence: float) -> float:
    """Distance from the estimate to its one-sided bound: z(confidence) x standard error."""
    return NormalDist().inv_cdf(confidence) * error


def detectable_drop(error: float, confidence: float, power: float = 0.8) -> float:
    """The smallest true drop distinguished from none with probability `power`: (z(confidence) + z(power)) x standard error.

    One-sided; Miller 2024, "Adding error bars to evals", arXiv 2411.00640.
    """
    return (NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(power)) * error


def exceedance(limit: float, error: float) -> float:
    """The probability that a score drops by more than `limit` by chance alone."""
    return 1 - NormalDist().cdf(limit / error) if error > 0 else 0.0


def poisson_tail(count: int, mean: float) -> float:
    """P(X >= count), X ~ Poisson(mean): no less than that of any sum of rare events with this mean, from mean + 1 on
    (Hoeffding 1956)."""
    if count <= 0:
        return 1.0
    term, below = math.exp(-mean), 0.0
    for number in range(count):
        below += term
        term *= mean / (number + 1)
    return max(0.0, 1 - below)


def exact(mean: float, items: int) -> float:
    """The mean of `items` outcomes from its rounded form: of right-or-wrong ones it is a whole number of items."""
    rounding = 0.5 * 10 ** (1 - DIGITS) * abs(mean) * items
    whole = round(mean * items)
    return whole / items if rounding < 0.25 and abs(mean * items - whole) <= rounding + TINY else mean


def in_points(value: float) -> str:
    """A score (0..1) as the report prints it: in points, 0 to 100, one decimal."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0")
