"""How large a share of replay does an arm need? A fit of what short runs lost, and the smallest share that loses little enough.

With D the part that was lost, log D = a + b log(share) + c log(length) + d log(learning rate): forgetting falls as a power of
the share and grows as a power of how long and how fast is trained; terms that the runs do not vary are left out. The gain on
the domain is fitted with the same terms, without the logarithm. Least squares; uncertainty by a bootstrap over items and
residuals (Davison & Hinkley, Bootstrap Methods and their Application, 1997, sec. 6.3). Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 1000  # of the bootstrap
NAMES = ("low", "median", "high")
LEVELS = (0.05, 0.5, 0.95)  # quantiles that are reported
STEP = 0.01  # between the shares that are looked at


@dataclass(frozen=True, slots=True)
class Runs:
    """P short runs, each measured on the same N held-out items of either kind."""

    share: np.ndarray  # (P,), above 0
    length: np.ndarray  # (P,), part of the whole run
    rate: np.ndarray  # (P,), learning rate over the arm's own
    lost: np.ndarray  # (P, N), of an item
    weight: np.ndarray  # (N,): an item's D is lost / weight
    gained: np.ndarray  # (P, M), of an item of the domain
    worth: np.ndarray  # (M,)


@dataclass(frozen=True, slots=True)
class Fit:
    shares: np.ndarray  # (S,): looked at
    retention: np.ndarray  # (3, S): quantiles LEVELS for the whole run at one learning rate
    gain: np.ndarray  # (3, S)
    needed: np.ndarray  # (draws,): smallest share that meets the target, inf where none does
    residual: float  # standard deviation of log D around the fit


def terms(share: np.ndarray, length: np.ndarray, rate: np.ndarray, like: Runs) -> np.ndarray:
    """The fit's columns (..., K): those that `like` varies."""
    columns = [np.ones_like(share), np.log(share)]
    columns += [np.log(x) for x, tried in ((length, like.length), (rate, like.rate)) if len(np.unique(tried)) > 1]
    return np.stack(columns, -1)


def fitted(runs: Runs, target: float, max_share: float, seed: int, rate: float = 1.0) -> Fit:
    """Shares from the smallest that was tried up to `max_share` are looked at; below, nothing was measured."""
    design = terms(runs.share, runs.length, runs.rate, runs)  # (P, K)
    low = runs.share.min()
    shares = np.unique(
        np.append(np.arange(np.ceil(low / STEP), np.floor(max_share / STEP) + 1) * STEP, [low, max_share])
    )
    shares = np.round(shares, 4)
    shares = shares[(shares >= low) & (shares <= max(max_share, low))]
    whole = terms(shares, np.ones_like(shares), np.full_like(shares, rate), runs)  # (S, K)
    solve = np.linalg.pinv(design)
    spread = np.sqrt(len(design) / max(len(design) - design.shape[1], 1))  # residuals of a fit are too small by this
    random = np.random.default_rng(seed)
    lost: list[np.ndarray] = []
    gained: list[np.ndarray] = []
    for draw in range(DRAWS + 1):  # the first draw is the runs as they are
        for values, weight, kept, log in (
            (runs.lost, runs.weight, lost, True),
            (runs.gained, runs.worth, gained, False),
        ):
            items = random.integers(0, len(weight), len(weight)) if draw else np.arange(len(weight))
            mean = values[:, items].sum(1) / weight[items].sum()  # (P,)
            seen = np.log(np.maximum(mean, 0.5 / weight.sum())) if log else mean  # half an item where none was lost
            beta = solve @ seen
            if draw:
                off = random.choice((seen - design @ beta) * spread, len(seen))
                beta = solve @ (design @ beta + off)
            elif log:
                residual = float(np.std(seen - design @ beta) * spread)
            kept.append(whole @ beta)
    drop = np.minimum(np.exp(np.stack(lost)), 1.0)  # (draws + 1, S)
    met = drop[1:] <= 1 - target
    # from that share on the target must be met
    after = np.logical_and.accumulate(met[:, ::-1], axis=1)[:, ::-1]
    needed = np.where(after.any(1), shares[after.argmax(1)], np.inf)
    return Fit(
        shares, 1 - np.quantile(drop[1:], LEVELS[::-1], axis=0), np.quantile(np.stack(gained)[1:], LEVELS, axis=0), needed, residual
    )  # fmt: skip


def choice(fit: Fit, confidence: float) -> tuple[float, bool]:
    """(the smallest share that meets the target in this part of the draws, whether there is one): else the largest share."""
    share = float(np.quantile(fit.needed, confidence, method="higher"))
    return (share, True) if np.isfinite(share) else (float(fit.shares[-1]), False)


def described(fit: Fit, confidence: float) -> dict[str, Any]:
    """The fit as it is written down; null stands for a target that no share meets."""
    share, met = choice(fit, confidence)
    needed = np.quantile(fit.needed, LEVELS, method="higher")
    return {
        "share": share,
        "met": met,
        "needed": {name: float(x) if np.isfinite(x) else None for name, x in zip(NAMES, needed, strict=True)},
        "residual": fit.residual,
        "shares": fit.shares.tolist(),
        "retention": dict(zip(NAMES, fit.retention.tolist(), strict=True)),
        "gain": dict(zip(NAMES, fit.gain.tolist(), strict=True)),
    }


def sentence(found: dict[str, Any]) -> str:
    """The choice in words, from what `pilot` writes."""
    fit, settings = found["fits"]["1"], found["settings"]
    low, high = (
        f"{x:.0%}" if x is not None else "more than can be tried" for x in (fit["needed"]["low"], fit["needed"]["high"])
    )
    target = f"keeping {settings['retention_target']:.1%} of what the base says"
    if not found["met"]:
        return f"{found['arm']}: no share up to {found['most']:.0%} is likely to meet the target, {target}; {found['share']:.0%} is taken"
    return (
        f"{found['arm']}: share {found['share']:.0%} after {len(found['runs'])} short runs; {target} needs {low} to {high} "
        f"(90 % interval), and this share is enough in {settings['confidence']:.0%} of the fits"
    )
