"""What of a tuning to keep, weight by weight: pure functions of the difference between tuned and base weights.

average    all of it; how far along the line from base to tuned is chosen elsewhere (WiSE-FT, arXiv 2109.01903)
trim       the largest numbers of each tensor, as the first step of TIES does (arXiv 2306.01708, sec. 4)
spectral   the singular values that stand out of the noise (DG-Hard, arXiv 2605.20296): needs no data and no choice
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch

Method = Literal["average", "trim", "spectral"]
METHODS: tuple[Method, ...] = ("average", "trim", "spectral")
MIN_NUMBERS = 1024  # of a matrix; the theory of large random matrices says nothing of smaller ones
GRID = 200_001  # points of the integral below


class Kept(NamedTuple):
    """What a method keeps of one tensor's difference."""

    delta: torch.Tensor
    units: int  # numbers (trim), singular values (spectral)
    of: int


def keep(method: Method, delta: torch.Tensor, density: float) -> Kept:
    """`delta`: tuned - base, fp32. `density`: part of the numbers that `trim` keeps, 0 to 1."""
    if method == "trim":
        return trim(delta, density)
    if method == "spectral" and delta.dim() > 1 and math.prod(delta.shape[-2:]) >= MIN_NUMBERS:
        return cut_spectrum(delta)
    return Kept(delta, delta.numel(), delta.numel())


def trim(delta: torch.Tensor, density: float) -> Kept:
    """The part `density` of the numbers that are largest by magnitude; the others become 0."""
    from peft.utils.merge_utils import magnitude_based_pruning

    count = max(1, int(density * delta.numel()))
    largest = magnitude_based_pruning(delta, count / delta.numel()) if count < delta.numel() else delta
    return Kept(largest, count, delta.numel())


def cut_spectrum(delta: torch.Tensor) -> Kept:
    """The matrix without its singular values up to the threshold; of a stack of matrices (..., M, N), each by itself."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)  # (..., M, K), (..., K), (..., K, N)
    factor = threshold_factor(*sorted(delta.shape[-2:]))
    threshold = factor * values.quantile(0.5, dim=-1, keepdim=True)
    # of an update of low rank half the values are 0 but for rounding, and so is their median: all else is signal
    floor = values[..., :1] * max(delta.shape[-2:]) * torch.finfo(values.dtype).eps
    stands_out = values > torch.maximum(threshold, floor)
    signal = (left * (values * stands_out)[..., None, :]) @ right
    return Kept(signal, int(stands_out.sum()), stands_out.numel())


@cache
def threshold_factor(smaller: int, larger: int) -> float:
    """The optimal hard threshold of a noisy matrix's singular values, in units of their median, where the noise is not known.

    Gavish and Donoho, "The optimal hard threshold for singular values is 4/sqrt(3)" (arXiv 1305.5870), eq. 11 and sec. III.E.
    """
    beta = smaller / larger
    known = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta**2 + 14 * beta + 1)))
    return known / math.sqrt(median_of_noise(beta))


def median_of_noise(beta: float) -> float:
    """The median of the Marchenko-Pastur distribution: of the eigenvalues of X X' / N, X (M, N) of unit noise, M / N = beta."""
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    # x = low + (high - low) sin(t)^2 takes the roots at both ends out of the density
    t = np.linspace(0, math.pi / 2, GRID)
    x = low + (high - low) * np.sin(t) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        density = (np.sin(t) * np.cos(t)) ** 2 / x
    if low == 0:  # beta = 1: the quotient has a limit there
        density[0] = 1 / high
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.interp(mass[-1] / 2, mass, x))


def go_along(base: torch.Tensor, end: torch.Tensor, part: float) -> torch.Tensor:
    """The weights at this part of the way from `base` to `end`, in the type of numbers that `end` has."""
    return torch.lerp(base.float(), end.float(), part).to(end.dtype)
