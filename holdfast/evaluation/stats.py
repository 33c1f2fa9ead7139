"""The statistics of the verdict: pure functions, arrays in, arrays out. docs/verdict.md says how they are put together.

Outcomes are paired: before[i] and after[i] are the scores (0..1) of one item, answered by base and by tuned model.
Intervals cover the choice of items. They do not cover another training run: for that, train with several seeds.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = TypeVar("Score", float, Floats)
KEY = {"item_hash": "content", "prompt_hash": "prompt", "target": "target"}  # what one item has in both evaluations
MAX_CELLS = 64  # distinct (before, after) pairs up to which the bootstrap draws counts instead of items
CHUNK = 2_000_000  # items drawn at once when it draws items: some 50 MB


def chance_adjusted(accuracy: Score, chance: float) -> Score:
    """(accuracy - chance) / (1 - chance): 0 is guessing, 1 is perfect (arXiv 2510.17776)."""
    return (accuracy - chance) / (1 - chance)


def pair(base: pa.Table, tuned: pa.Table, sides: tuple[str, str] = ("base", "tuned")) -> tuple[pa.Array, list[str]]:
    """Joins one suite's items on item_id: row i of `base` belongs to row `order[i]` of `tuned`.

    Both hold item_id and the columns of KEY. A non-empty list of reasons means: these are not the same questions, or not marked by
    the same key, so do not compare them (`order` is then empty). `sides` is what the reasons call the two evaluations.
    """
    reasons = []
    ids, others = base["item_id"], tuned["item_id"]
    aligned = len(ids) == len(others) and pc.all(pc.equal(ids, others)).as_py()  # the rule, and far cheaper
    for whose, items in zip(sides[: 1 if aligned else 2], (ids, others), strict=False):
        if twice := len(items) - pc.count_distinct(items).as_py():
            reasons.append(f"{twice} items stand twice in the {whose} evaluation")
    if not len(base):
        reasons.append(f"the {sides[0]} evaluation has no items")
    order = pa.array(np.arange(len(ids), dtype=np.int32)) if aligned else pc.index_in(ids, value_set=others)
    if order.null_count:
        reasons.append(f"{order.null_count} of {len(base)} items are missing in the {sides[1]} evaluation")
    if not aligned and (surplus := pc.index_in(others, value_set=ids).null_count):
        reasons.append(f"{surplus} items of the {sides[1]} evaluation are not in the {sides[0]} evaluation")
    both = pc.is_valid(order)
    mine, theirs = (base, tuned) if aligned else (base.filter(both), tuned.take(order.drop_null()))
    for column, what in KEY.items():
        if different := pc.sum(pc.not_equal(mine[column], theirs[column])).as_py():
            reasons.append(f"{different} of {len(base)} items have another {what} than in the {sides[0]} evaluation")
    return (order.slice(0, 0) if reasons else order), reasons


def lost_gained(before: Floats, after: Floats) -> tuple[int, int]:
    """Items right (above 0.5) before and wrong after; items wrong before and right after."""
    was, now = before > 0.5, after > 0.5
    return int((was & ~now).sum()), int((~was & now).sum())


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided McNemar p: min(1, 2 P(X <= min(lost, gained))), X ~ Binomial(lost + gained, 1/2)."""
    from scipy.special import bdtr  # not scipy.stats, which takes a second to import

    return float(min(1.0, 2 * bdtr(min(lost, gained), lost + gained, 0.5)))


def resampled_means(before: Floats, after: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Paired bootstrap of one suite: the means before and after over items drawn with replacement. (resamples, 2)

    Means depend only on how often each distinct pair (before, after) is drawn, and those counts are multinomial.
    Right-or-wrong outcomes have four pairs: exact, and as cheap for a million items as for a hundred. Graded scores
    with many distinct pairs draw items, in chunks: memory stays bounded, time grows with items x resamples.
    """
    keys, first, counts = np.unique(before + 1j * after, return_index=True, return_counts=True)
    if len(keys) <= MAX_CELLS:
        drawn = rng.multinomial(len(before), counts / len(before), size=resamples)  # (resamples, cells)
        values = np.stack([before[first], after[first]], axis=1)  # (cells, 2)
        return drawn @ values / len(before)
    means = np.empty((resamples, 2))
    step = max(1, CHUNK // len(before))
    for start in range(0, resamples, step):
        rows = rng.integers(0, len(before), size=(min(step, resamples - start), len(before)), dtype=np.int32)
        means[start : start + step, 0] = before[rows].mean(axis=1)
        means[start : start + step, 1] = after[rows].mean(axis=1)
    return means


def mean_over_suites(suites: list[Floats]) -> Floats:
    """The unweighted mean over suites, so that a suite with many items counts no more; same shape as one of them.

    Over draws that were resampled suite by suite this is the stratified bootstrap (Efron & Tibshirani 1993).
    """
    return np.mean(np.stack(suites), axis=0)


def interval(draws: Floats, confidence: float) -> tuple[float, float]:
    """Two-sided percentile interval of bootstrap draws, tails of (1 - confidence) / 2 each."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def lower_bound(draws: Floats, confidence: float) -> float:
    """One-sided lower bound: above -margin, the drop is inside the margin at `confidence` (non-inferiority)."""
    return float(np.quantile(draws, 1 - confidence))


def change(before: float, after: float, draws: Floats, confidence: float) -> dict[str, float]:
    """after - before, its interval (low, high) and its one-sided bound, from draws of both. (resamples, 2)"""
    changes = draws[:, 1] - draws[:, 0]
    low, high = interval(changes, confidence)
    return {"change": after - before, "low": low, "high": high, "bound": lower_bound(changes, confidence)}


def retention(before: float, after: float, draws: Floats, confidence: float) -> dict[str, float | None]:
    """after / before and its interval, from draws of both (resamples, 2); None where some `before` is not positive."""
    if before <= 0 or draws[:, 0].min() <= 0:
        return {"retention": None, "retention_low": None, "retention_high": None}
    low, high = interval(draws[:, 1] / draws[:, 0], confidence)
    return {"retention": after / before, "retention_low": low, "retention_high": high}


def discordance(before: Floats, after: Floats) -> float:
    """Mean squared difference of an item, (sum d^2 + 1) / (n + 2): for right-or-wrong outcomes the part that changed.

    One half is added to each of the four cells (Agresti & Min 2005): that no item changed among ten does not mean that
    none of a thousand would, and the bootstrap alone would say so.
    """
    return float((np.square(after - before).sum() + 1) / (len(before) + 2))


def standard_error(items: Floats, discordances: Floats, chances: Floats, moved: float = 0.0) -> float:
    """Of the mean over S suites of the chance-adjusted change, were there none: sqrt(sum q / (n (1 - c)^2)) / S.

    `moved`: were it that much instead. Then at least that part of the items changed, however few did here.
    """
    shares = np.maximum(discordances, moved * (1 - chances))
    return float(np.sqrt((shares / (items * np.square(1 - chances))).sum()) / len(items))


def guessing(right: float, items: int, chance: float) -> float:
    """The exact one-sided p-value of so many right answers by guessing alone: P(X >= right), X ~ Binomial(items, chance)."""
    from scipy.special import bdtrc

    return 1.0 if right < 1 else float(bdtrc(int(right) - 1, items, chance))


def half_width(error: float, confidence: float) -> float:
    """Distance from the estimate to its one-sided bound: z(confidence) x standard error."""
    return NormalDist().inv_cdf(confidence) * error


def detectable_drop(error: float, confidence: float, power: float = 0.8) -> float:
    """The smallest true drop distinguished from none with probability `power`: (z(confidence) + z(power)) x standard error.

    One-sided; Miller 2024, "Adding error bars to evals", arXiv 2411.00640.
    """
    return (NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(power)) * error
