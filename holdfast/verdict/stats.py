"""The statistics of the verdict: pure functions, arrays in, arrays out. docs/verdict.md says how they are put together.

Outcomes are paired: before[i] and after[i] are the scores (0..1) of one item, answered by base and by tuned model.
Intervals cover the choice of items. They do not cover another training run: for that, train with several seeds.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]  # the number of each item's group, (N,)
Score = TypeVar("Score", float, Floats)
MAX_CELLS = 64  # distinct (before, after) pairs up to which the bootstrap draws counts instead of items
CHUNK = 2_000_000  # items drawn at once when it draws items: some 50 MB


def chance_adjusted(accuracy: Score, chance: float) -> Score:
    """(accuracy - chance) / (1 - chance): 0 is guessing, 1 is perfect (arXiv 2510.17776)."""
    return (accuracy - chance) / (1 - chance)


def lost_gained(before: Floats, after: Floats) -> tuple[int, int]:
    """Items right (above 0.5) before and wrong after; items wrong before and right after."""
    before_right, after_right = before > 0.5, after > 0.5
    return int((before_right & ~after_right).sum()), int((~before_right & after_right).sum())


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided McNemar p: min(1, 2 P(X <= min(lost, gained))), X ~ Binomial(lost + gained, 1/2)."""
    from scipy.special import bdtr  # not scipy.stats, which takes a second to import

    return float(min(1.0, 2 * bdtr(min(lost, gained), lost + gained, 0.5)))


def number_groups(names: pa.ChunkedArray) -> Groups | None:
    """The group of each item as a number from 0 on, (N,); an item without a name is a group of its own. None where no two
    items share one."""
    encoded = pc.fill_null(names.combine_chunks(), "").dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    numbers, words = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    alone = numbers == words.index("") if "" in words else np.zeros(len(numbers), bool)
    numbers = np.where(alone, len(words) + np.cumsum(alone), numbers)
    groups = np.unique(numbers, return_inverse=True)[1]
    return None if len(groups) == 0 or groups.max() + 1 == len(groups) else groups


def group_size(groups: Groups) -> float:
    """How many items change together with an item, itself among them: sum n_g^2 / N."""
    return float(np.square(np.bincount(groups)).sum() / len(groups))


def cluster_test(before: Floats, after: Floats, groups: Groups) -> float:
    """Two-sided p of no change where items of a group change together: sum D_g / sqrt(sum D_g^2) is about normal, D_g being
    a group's difference (Obuchowski 1998, for paired proportions of clustered data)."""
    sums = np.bincount(groups, after - before)
    spread = float(np.square(sums).sum())
    return math.erfc(abs(float(sums.sum())) / math.sqrt(2 * spread)) if spread else 1.0


def resampled_means(
    before: Floats, after: Floats, resamples: int, rng: np.random.Generator, groups: Groups | None = None
) -> Floats:
    """Paired bootstrap of one suite: the means before and after over items drawn with replacement. (resamples, 2)

    With `groups`, whole groups are drawn, and the means are over the items of those drawn.

    Means depend only on how often each distinct pair (before, after) is drawn, and those counts are multinomial.
    Right-or-wrong outcomes have four pairs: exact, and as cheap for a million items as for a hundred. Graded scores
    with many distinct pairs draw items, in chunks: memory stays bounded, time grows with items x resamples.
    """
    if groups is not None:
        return _resample_groups(before, after, resamples, rng, groups)
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


def _resample_groups(before: Floats, after: Floats, resamples: int, rng: np.random.Generator, groups: Groups) -> Floats:
    sizes = np.bincount(groups)
    sums: Floats = np.stack([np.bincount(groups, x) for x in (before, after)], axis=1)  # (G, 2)
    means = np.empty((resamples, 2))
    step = max(1, CHUNK // len(sizes))
    for start in range(0, resamples, step):
        drawn = rng.integers(0, len(sizes), size=(min(step, resamples - start), len(sizes)), dtype=np.int32)
        means[start : start + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]
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


def discordance(before: Floats, after: Floats, groups: Groups | None = None) -> float:
    """Mean squared difference of an item, (sum d^2 + 1) / (n + 2): for right-or-wrong outcomes the part that changed.

    With `groups` of size s, differences are summed within each first, and a whole group is added instead of an item:
    (sum D_g^2 + s^2) / (n + 2 s). That is n x the variance of the mean, as without groups.

    One half is added to each of the four cells (Agresti & Min 2005): that no item changed among ten does not mean that
    none of a thousand would, and the bootstrap alone would say so.
    """
    size = 1.0 if groups is None else group_size(groups)
    changes = after - before if groups is None else np.bincount(groups, after - before)
    return float((np.square(changes).sum() + size**2) / (len(before) + 2 * size))


def guessing(right: float, items: int, chance: float) -> float:
    """The exact one-sided p-value of so many right answers by guessing alone: P(X >= right), X ~ Binomial(items, chance)."""
    from scipy.special import bdtrc

    return 1.0 if right < 1 else float(bdtrc(int(right) - 1, items, chance))
