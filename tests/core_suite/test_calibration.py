"""Calibration by hand arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holdfast.core_suite import calibration


def test_probabilities_follow_from_likelihoods():
    assert calibration.normalise([math.log(0.2) - 7, math.log(0.6) - 7]) == pytest.approx([0.25, 0.75])
    assert calibration.normalise([-5000.0, 0.0]) == [0.0, 1.0]


def test_calibration_error_and_brier_score_by_hand():
    probabilities = np.array([[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.05, 0.95]])
    right = np.array([0, 1, 1, 1])  # of the first three one is right: sure by 0.75, right by 1/3
    assert calibration.expected_error(probabilities, right) == pytest.approx(3 / 4 * (0.75 - 1 / 3) + 1 / 4 * 0.05)
    assert calibration.brier_score(probabilities, right) == pytest.approx((0.125 + 2 * 1.125 + 0.005) / 4)


def test_certainty_that_is_right_has_no_error_and_one_that_is_wrong_the_largest():
    sure = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert calibration.expected_error(sure, np.array([0])) == 0 and calibration.brier_score(sure, np.array([0])) == 0
    assert calibration.expected_error(sure, np.array([1])) == 1 and calibration.brier_score(sure, np.array([1])) == 2
