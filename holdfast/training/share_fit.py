"""How large a share of replay does an arm need? A fit of what short runs lost, and the smallest share that loses little
enough.

With D the part that was lost, log D = a + b log(share) + c log(length) + d log(learning rate): forgetting falls as a
power of the share and grows as a power of how long and how fast the model is trained; terms that the runs do not vary
are left out. The gain on the domain is fitted with these terms too, without the logarithm. Least squares; uncertainty
by a bootstrap over items and residuals (Davison & Hinkley, Bootstrap Methods and their Application, 1997, sec. 6.3).
Pure functions.

Before: pilot_runs.py measures the runs. After: the stage `pilot` writes the choice, and `mix` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 1000  # of the bootstrap
NAMES = ("low", "median", "high")
LEVELS = (0.05, 0.5, 0.95)  # quantiles that are reported, by NAMES
SHARE_STEP = 0.01  # between the shares that are considered


@dataclass(frozen=True, slots=True)
class Runs:
    """P short runs, each measured on the same N held-out replay items and M domain items."""

    share: np.ndarray  # (P,), above 0
    length: np.ndarray  # (P,), part of the whole run
    rate: np.ndarray  # (P,), learning rate over the arm's own
    lost: np.ndarray  # (P, N), of an item
    weight: np.ndarray  # (N,): an item's D is lost / weight
    gained: np.ndarray  # (P, M), of an item of the domain
    domain_weight: np.ndarray  # (M,): an item's gain is gained / domain_weight


@dataclass(frozen=True, slots=True)
class Fit:
    shares: np.ndarray  # (S,): considered
    retention: np.ndarray  # (3, S): quantiles LEVELS for the whole run at one learning rate
    gain: np.ndarray  # (3, S)
    needed: np.ndarray  # (draws,): smallest share that meets the target, inf where none does
    residual: float  # standard deviation of log D around the fit


def terms(share: np.ndarray, length: np.ndarray, rate: np.ndarray, runs: Runs) -> np.ndarray:
    """The fit's columns (..., K): those that `runs` vary."""
    columns = [np.ones_like(share), np.log(share)]
    columns += [np.log(x) for x, tried in ((length, runs.length), (rate, runs.rate)) if len(np.unique(tried)) > 1]
    return np.stack(columns, -1)


def share_grid(smallest: float, largest: float) -> np.ndarray:
    """(S,) shares from the smallest that was tried up to `largest`; below, nothing was measured."""
    steps = np.arange(np.ceil(smallest / SHARE_STEP), np.floor(largest / SHARE_STEP) + 1) * SHARE_STEP
    shares = np.round(np.unique(np.append(steps, [smallest, largest])), 4)
    return shares[(shares >= smallest) & (shares <= max(largest, smallest))]


def fit_runs(runs: Runs, target: float, max_share: float, seed: int, rate: float = 1.0) -> Fit:
    """The fit for the whole run at a learning rate of `rate` times the arm's own. `target`: the retention that is
    needed."""
    design = terms(runs.share, runs.length, runs.rate, runs)  # (P, K)
    shares = share_grid(runs.share.min(), max_share)
    whole = terms(shares, np.ones_like(shares), np.full_like(shares, rate), runs)  # (S, K)
    solve = np.linalg.pinv(design)
    spread = np.sqrt(len(design) / max(len(design) - design.shape[1], 1))  # residuals of a fit are too small by this
    random = np.random.default_rng(seed)
    lost: list[np.ndarray] = []
    gained: list[np.ndarray] = []
    for draw in range(DRAWS + 1):  # the first draw is the runs as they are
        for values, weight, curves, log in (
            (runs.lost, runs.weight, lost, True),
            (runs.gained, runs.domain_weight, gained, False),
        ):
            items = random.integers(0, len(weight), len(weight)) if draw else np.arange(len(weight))
            mean = values[:, items].sum(1) / weight[items].sum()  # (P,)
            measured = np.log(np.maximum(mean, 0.5 / weight.sum())) if log else mean  # half an item where none was lost
            beta = solve @ measured
            if draw:
                noise = random.choice((measured - design @ beta) * spread, len(measured))
                beta = solve @ (design @ beta + noise)
            elif log:
                residual = float(np.std(measured - design @ beta) * spread)
            curves.append(whole @ beta)
    drop = np.minimum(np.exp(np.stack(lost)), 1.0)  # (draws + 1, S)
    met = drop[1:] <= 1 - target
    met_from_here = np.logical_and.accumulate(met[:, ::-1], axis=1)[:, ::-1]  # at this share and at all larger ones
    return Fit(
        shares=shares,
        retention=1 - np.quantile(drop[1:], LEVELS[::-1], axis=0),
        gain=np.quantile(np.stack(gained)[1:], LEVELS, axis=0),
        needed=np.where(met_from_here.any(1), shares[met_from_here.argmax(1)], np.inf),
        residual=residual,
    )


def choose_share(fit: Fit, confidence: float) -> tuple[float, bool]:
    """(the smallest share that meets the target in this part of the draws, True), or (the largest share, False)."""
    share = float(np.quantile(fit.needed, confidence, method="higher"))
    return (share, True) if np.isfinite(share) else (float(fit.shares[-1]), False)


def describe(fit: Fit, confidence: float) -> dict[str, Any]:
    """The fit as JSON; null is a target that no share meets."""
    share, met = choose_share(fit, confidence)
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


def sentence(report: dict[str, Any]) -> str:
    """The choice in words, from what the stage `pilot` writes."""
    fit, settings = report["fits"]["1"], report["settings"]
    low, high = (
        f"{x:.0%}" if x is not None else "more than can be tried" for x in (fit["needed"]["low"], fit["needed"]["high"])
    )
    target = f"keeping {settings['retention_target']:.1%} of what the base says"
    if not report["met"]:
        return (
            f"{report['arm']}: no share up to {report['most']:.0%} is likely to meet the target, {target}; "
            f"{report['share']:.0%} is taken"
        )
    return (
        f"{report['arm']}: share {report['share']:.0%} after {len(report['runs'])} short runs; "
        f"{target} needs {low} to {high} (90 % interval), "
        f"and this share is enough in {settings['confidence']:.0%} of the fits"
    )
