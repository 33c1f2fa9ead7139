"""holdfast/repair/deltas.py against arithmetic by hand and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.repair import deltas


def test_trim_keeps_the_largest_numbers() -> None:
    remaining = deltas.trim(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 0.5)
    assert remaining.delta.tolist() == [[0.0, -3.0], [2.0, 0.0]] and (remaining.units, remaining.of) == (2, 4)
    assert deltas.trim(torch.tensor([1.0, 2.0]), 1.0).delta.tolist() == [1.0, 2.0]
    assert deltas.trim(torch.tensor([1.0, 2.0]), 0.0).delta.tolist() == [0.0, 2.0]  # of each tensor one number at least


def test_part_of_the_way() -> None:
    base, end = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])
    assert deltas.go_along(base, end, 0.25).tolist() == [1.5, 1.5]
    assert torch.equal(deltas.go_along(base, end, 1.0), end) and torch.equal(deltas.go_along(base, end, 0.0), base)
    assert deltas.go_along(base, end.bfloat16(), 0.25).dtype == torch.bfloat16


def test_the_threshold_of_a_square_matrix_is_the_published_one() -> None:
    assert deltas.threshold_factor(500, 500) == pytest.approx(2.858, abs=5e-4)  # arXiv 1305.5870, abstract


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_the_threshold_is_the_published_approximation_s(beta: float) -> None:
    approximate = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43  # sec. III.E: within 0.02
    assert deltas.threshold_factor(int(1000 * beta), 1000) == pytest.approx(approximate, abs=0.02)


def test_the_median_of_noise_is_what_noise_has() -> None:
    noise = np.random.default_rng(0).normal(size=(300, 900))
    assert deltas.median_of_noise(1 / 3) == pytest.approx(np.median(np.linalg.svd(noise)[1] ** 2 / 900), rel=0.01)


def planted(rank: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(a matrix of this rank, the same with noise)."""
    draws = torch.Generator().manual_seed(0)
    left, right, error = (torch.randn(size, generator=draws) for size in ((80, rank), (rank, 120), (80, 120)))
    return left @ right, left @ right + noise * error


def test_the_spectrum_s_noise_goes_and_its_signal_stays() -> None:
    signal, seen = planted(3, 0.5)
    remaining = deltas.cut_spectrum(seen)
    assert (remaining.units, remaining.of) == (3, 80)
    assert float((remaining.delta - signal).norm()) < 0.3 * float((seen - signal).norm())
    assert deltas.cut_spectrum(planted(3, 0.0)[1]).units == 3  # an adapter's update has no noise: all of it stays
    assert deltas.cut_spectrum(planted(1, 1.0)[1] - planted(1, 0.0)[0]).units == 0  # of noise alone nothing


def test_matrices_of_a_stack_are_cut_one_by_one_and_vectors_are_left() -> None:
    one, other = planted(2, 0.5)[1], planted(4, 0.5)[1]
    stack = deltas.keep("spectral", torch.stack([one, other]), 0.0)
    assert torch.allclose(stack.delta[0], deltas.cut_spectrum(one).delta, atol=1e-4) and stack.units == 6
    vector = torch.arange(2000.0)
    assert deltas.keep("spectral", vector, 0.0).delta is vector
    assert deltas.keep("average", one, 0.0).delta is one
