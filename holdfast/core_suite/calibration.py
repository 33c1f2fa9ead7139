"""How far a model's probabilities can be trusted: expected calibration error and Brier score.

Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, eq. 3; Brier, Monthly Weather Review 78 (1950), over all
choices, from 0 to 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BINS = 10  # of equal width, over the probability of the likeliest choice


def normalise(likelihoods: Sequence[float]) -> list[float]:
    """Probabilities of the choices, from their log-probabilities (nats)."""
    top = max(likelihoods)
    weights = [math.exp(value - top) for value in likelihoods]
    return [weight / sum(weights) for weight in weights]


def brier_score(probabilities: np.ndarray, right: np.ndarray) -> float:
    """`probabilities`: (items, choices); `right`: the place of the right choice of each item, (items,)."""
    return float(((probabilities - np.eye(probabilities.shape[1])[right]) ** 2).sum(axis=1).mean())


def expected_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    """The mean distance between how sure the model is of its choice and how often that is right, 0 to 1: items by bins of
    confidence, bins weighted by their items. `probabilities`: (items, choices); `right`: (items,)."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == right
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    errors = [
        np.mean(places == place) * abs(confidence[places == place].mean() - hit[places == place].mean())
        for place in np.unique(places)
    ]
    return float(sum(errors))
