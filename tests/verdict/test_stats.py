"""holdfast/verdict/stats.py against hand arithmetic, scipy, and simulation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from holdfast.verdict import paired, precision, stats


def columns(ids: list[str], item: str = "i", prompt: str = "p", target: str = "t") -> pa.Table:
    marks = {"item_hash": item, "prompt_hash": prompt, "target": target}
    return pa.table(
        {"item_id": pa.array(ids, pa.string())}
        | {k: pa.array([m + i for i in ids], pa.string()) for k, m in marks.items()}
    )


def outcomes(lost: int, gained: int, right: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.repeat([1.0, 0.0, 1.0, 0.0], [lost, gained, right, wrong])
    after = np.repeat([0.0, 1.0, 1.0, 0.0], [lost, gained, right, wrong])
    return before, after


def test_chance_adjusted_by_hand() -> None:
    assert stats.chance_adjusted(0.25, 0.25) == 0
    assert stats.chance_adjusted(1.0, 0.25) == 1
    assert stats.chance_adjusted(0.625, 0.25) == pytest.approx(0.5)
    assert stats.chance_adjusted(0.0, 0.5) == -1
    assert stats.chance_adjusted(np.array([0.5, 0.75]), 0.5) == pytest.approx([0, 0.5])


def test_pair_finds_each_item_whatever_the_order() -> None:
    base, tuned = columns(["a", "b", "c"]), columns(["c", "a", "b"])
    order, reasons = paired.pair(base, tuned)
    assert reasons == []
    assert tuned["item_id"].take(order).to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("tuned", "reason"),
    [
        (columns(["a", "b"]), "1 of 3 items are missing in the tuned"),
        (columns(["a", "b", "c", "d"]), "1 items of the tuned evaluation are not in the base evaluation"),
        (columns(["a", "b", "c", "c"]), "1 items appear twice in the tuned"),
        (columns(["a", "b", "c"], item="j"), "3 of 3 items have another content"),
        (columns(["a", "b", "c"], prompt="q"), "3 of 3 items have another prompt"),
        (columns(["a", "b", "c"], target="u"), "3 of 3 items have another target"),
        (columns([]), "3 of 3 items are missing"),
    ],
)
def test_pair_refuses_other_questions(tuned: pa.Table, reason: str) -> None:
    order, reasons = paired.pair(columns(["a", "b", "c"]), tuned)
    assert len(order) == 0
    assert any(reason in found for found in reasons), reasons


def test_pair_refuses_shuffled_ids() -> None:
    base, tuned = columns(["a", "b", "c"]), columns(["a", "b", "c"])
    tuned = tuned.set_column(0, "item_id", tuned["item_id"].take(pa.array([1, 2, 0])))
    assert paired.pair(base, tuned)[1]


def test_pair_refuses_an_empty_base() -> None:
    assert "the base evaluation has no items" in paired.pair(columns([]), columns([]))[1]


def test_lost_and_gained_by_hand() -> None:
    assert stats.lost_gained(*outcomes(lost=3, gained=2, right=4, wrong=1)) == (3, 2)
    assert stats.lost_gained(np.array([0.5, 0.51, 0.2]), np.array([0.6, 0.5, 0.4])) == (1, 1)  # 0.5 is not yet right


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 21), (700, 650)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert stats.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert stats.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert stats.mcnemar(1, 3) == pytest.approx(2 * 5 / 16)


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    before, after = outcomes(lost=60, gained=40, right=600, wrong=300)
    draws = stats.resampled_means(before, after, 20_000, np.random.default_rng(0))
    change = stats.change(before.mean(), after.mean(), draws, 0.95)
    error = (after - before).std() / np.sqrt(1000)
    assert change["change"] == pytest.approx(-0.02)
    assert change["low"] == pytest.approx(
        -0.02 - 1.960 * error, abs=1e-3
    )  # a mean of 1000 items moves in steps of 1e-3
    assert change["high"] == pytest.approx(-0.02 + 1.960 * error, abs=1e-3)
    assert change["bound"] == pytest.approx(-0.02 - 1.645 * error, abs=1e-3)


def test_counts_and_items_are_resampled_alike() -> None:
    rng = np.random.default_rng(0)
    before = rng.choice([0.0, 0.5, 1.0], size=500)
    few = np.stack([before, np.where(rng.random(500) < 0.8, before, 1 - before)])  # five pairs: drawn as counts
    many = few + rng.uniform(0, 1e-9, size=few.shape)  # hundreds of pairs: drawn as items
    counts = stats.resampled_means(few[0], few[1], 20_000, np.random.default_rng(1))
    items = stats.resampled_means(many[0], many[1], 20_000, np.random.default_rng(2))
    assert counts.mean(axis=0) == pytest.approx(items.mean(axis=0), abs=1e-3)
    assert np.cov(counts.T) == pytest.approx(np.cov(items.T), rel=0.05, abs=2e-5)


def test_bootstrap_keeps_before_and_after_paired() -> None:
    scores = np.random.default_rng(0).integers(0, 2, 300).astype(float)
    draws = stats.resampled_means(scores, scores, 1000, np.random.default_rng(1))
    assert np.array_equal(draws[:, 0], draws[:, 1])  # unpaired resampling would differ


def test_bootstrap_is_stratified_and_weighs_suites_alike() -> None:
    small, large = outcomes(10, 0, 90, 0), outcomes(0, 0, 9000, 1000)
    draws = [stats.resampled_means(*suite, 20_000, np.random.default_rng(i)) for i, suite in enumerate((small, large))]
    mean = stats.mean_over_suites(draws)
    changes = mean[:, 1] - mean[:, 0]
    assert changes.mean() == pytest.approx(-0.05, abs=1e-3)
    assert changes.std() == pytest.approx(np.sqrt(0.1 * 0.9 / 100) / 2, rel=0.03)


def test_same_seed_same_draws() -> None:
    pairs = outcomes(5, 5, 50, 40)
    first, second = (stats.resampled_means(*pairs, 500, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)


def test_retention_by_hand() -> None:
    draws = np.array([[0.8, 0.4], [0.8, 0.6], [0.8, 0.8]])
    found = stats.retention(0.8, 0.6, draws, 0.5)
    assert found == {
        "retention": pytest.approx(0.75),
        "retention_low": pytest.approx(0.625),
        "retention_high": pytest.approx(0.875),
    }
    assert stats.retention(0.0, 0.5, draws, 0.5)["retention"] is None
    assert stats.retention(0.1, 0.1, np.array([[0.1, 0.1], [0.0, 0.1]]), 0.5)["retention"] is None


def test_no_observed_change_among_few_items_is_not_certainty() -> None:
    assert stats.discordance(np.ones(8), np.ones(8)) == pytest.approx(0.1)
    assert stats.discordance(*outcomes(3, 2, 90, 3)) == pytest.approx(6 / 100)


def test_standard_error_and_detectable_drop_by_hand() -> None:
    items, discordance, chance = np.array([100.0, 100.0]), np.array([0.09, 0.04]), np.array([0.0, 0.5])
    error = precision.standard_error(items, discordance, chance)
    assert error == pytest.approx(np.sqrt(0.09 / 100 + 0.04 / 100 / 0.25) / 2)
    assert precision.standard_error(items, discordance, chance, moved=0.06) == pytest.approx(
        np.sqrt(0.09 / 100 + 0.04 / 100 / 0.25) / 2
    )  # 0.06 is less than 0.09, and 0.06 above a chance of one half is 0.03
    assert precision.standard_error(items, discordance, chance, moved=0.2) == pytest.approx(
        np.sqrt(0.2 / 100 + 0.1 / 100 / 0.25) / 2
    )
    assert precision.half_width(error, 0.95) == pytest.approx(1.644854 * error)
    assert precision.detectable_drop(error, 0.95) == pytest.approx((1.644854 + 0.841621) * error)


@pytest.mark.parametrize(("right", "items", "chance"), [(140, 240, 0.5), (61, 240, 0.25), (1, 10, 0.0), (0, 10, 0.5)])
def test_guessing_is_the_exact_binomial_test(right: int, items: int, chance: float) -> None:
    expected = binomtest(right, items, chance, alternative="greater").pvalue
    assert stats.guessing(right, items, chance) == pytest.approx(expected, abs=1e-12)
    assert stats.guessing(right + 0.4, items, chance) == pytest.approx(
        expected, abs=1e-12
    )  # graded scores, rounded down


def test_detectable_drop_is_detected_four_times_in_five() -> None:
    items, suites, discordance, runs = 240, 12, 0.1, 4000
    error = precision.standard_error(np.full(suites, 240.0), np.full(suites, discordance), np.zeros(suites))
    drop = precision.detectable_drop(error, 0.95)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(
        items, [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance], (runs, suites)
    )
    change = (counts[..., 1] - counts[..., 0]) / items
    seen = change.mean(axis=1) < -precision.half_width(error, 0.95)
    assert seen.mean() == pytest.approx(0.8, abs=0.025)


def test_interval_covers_as_often_as_it_says() -> None:
    """Twelve suites of 240 items with lost 6 %, gained 3 %: 95 % two-sided, 95 % one-sided."""
    rng, runs, covered, bounded = np.random.default_rng(0), 400, 0, 0
    for _ in range(runs):
        suites = [outcomes(*rng.multinomial(240, [0.06, 0.03, 0.7, 0.21])) for _ in range(12)]
        draws = stats.mean_over_suites([stats.resampled_means(*pairs, 500, rng) for pairs in suites])
        before, after = np.mean([[b.mean(), a.mean()] for b, a in suites], axis=0)
        change = stats.change(before, after, draws, 0.95)
        covered += change["low"] <= -0.03 <= change["high"]
        bounded += change["bound"] <= -0.03
    assert 0.92 <= covered / runs <= 0.98
    assert 0.92 <= bounded / runs <= 0.98


def test_a_million_items_cost_no_more_memory_than_they_are() -> None:
    """100,000 items in each of 60 suites, right or wrong; and one suite of graded scores."""
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 2, (2, 100_000)).astype(float)
    tracemalloc.start()
    draws = [stats.resampled_means(before, after, 10_000, np.random.default_rng(i)) for i in range(60)]
    mean = stats.mean_over_suites(draws)
    graded = stats.resampled_means(rng.random(100_000), rng.random(100_000), 200, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mean.shape == (10_000, 2) and graded.shape == (200, 2)
    assert peak < 200e6
