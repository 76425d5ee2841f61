"""Intervals: equal to scipy's where it has them, wide where few examples prove little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from quala.metrics.glue import compute_metric
from quala.metrics.interval import Sample, interval_text, resampled, score_text

RNG = np.random.default_rng(7)
GOLD = RNG.integers(0, 2, 300)
GUESS = np.where(RNG.random(300) < 0.85, GOLD, 1 - GOLD)
VALUES = np.round(RNG.normal(size=300), 1)
NEAR = np.round(VALUES + 0.5 * RNG.normal(size=300), 1)


def means(*values: float) -> Sample:
    return Sample(np.array(values, dtype=np.float64), len(values))


@pytest.mark.parametrize(("right", "count"), [(0, 8), (8, 8), (5, 8), (180, 200), (1, 1)])
def test_a_share_has_wilsons_interval(right: int, count: int) -> None:
    found = means(*[100.0] * right, *[0.0] * (count - right)).interval()
    known = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert found == pytest.approx((100 * known.low, 100 * known.high), abs=1e-9)


def test_another_mean_has_students_interval() -> None:
    values = RNG.uniform(20, 100, 30)
    known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert Sample(values, 30).interval() == pytest.approx((known.low, known.high))


def test_an_interval_stays_within_the_scale() -> None:
    low, high = means(100.0, 100.0, 100.0, 50.0).interval()
    assert 0 <= low < 87.5
    assert high == 100.0


def test_equal_values_of_few_examples_are_not_certain() -> None:
    low, high = means(60.0, 60.0, 60.0).interval()
    assert low < 30
    assert high > 85


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_a_metric_of_classes_is_bootstrapped_as_scipy_does(metric: str) -> None:
    sample = resampled(metric, GUESS, GOLD)
    assert sample is not None
    _as_scipy(sample, metric, GUESS, GOLD)


@pytest.mark.parametrize("metric", ["pearson", "spearman", "pearson_spearman"])
def test_a_correlation_is_bootstrapped_as_scipy_does(metric: str) -> None:
    sample = resampled(metric, NEAR, VALUES)
    assert sample is not None
    _as_scipy(sample, metric, NEAR, VALUES)


def _as_scipy(sample: Sample, metric: str, ours: Any, theirs: Any) -> None:
    def score(*drawn: Any) -> float:
        return compute_metric(metric, *drawn)

    known = stats.bootstrap(
        (ours, theirs), score, paired=True, vectorized=False, n_resamples=400,
        method="percentile", rng=np.random.default_rng(1),
    )  # fmt: skip
    ends = known.confidence_interval
    width = ends.high - ends.low
    # Two bootstraps differ in what they draw, by less than a tenth of the width here.
    assert sample.interval() == pytest.approx((ends.low, ends.high), abs=0.15 * width)
    assert sample.values.mean() == pytest.approx(score(ours, theirs), abs=0.1 * width)


def test_the_resampled_metric_is_the_metric() -> None:
    """A sample of one kind of pair has the same metric whatever is drawn."""
    three = np.array([0, 1, 2, 2, 1, 0] * 20)
    other = np.array([0, 1, 2, 1, 1, 2] * 20)
    macro, weighted = (resampled(name, other, three) for name in ("f1_macro", "f1_weighted"))
    assert macro is not None
    assert weighted is not None
    # By hand: classes 0, 1, 2 have F1 2/3, 4/5, 1/2, and two examples of six each.
    expected = 100 * (2 / 3 + 4 / 5 + 1 / 2) / 3
    assert macro.values.mean() == pytest.approx(expected, abs=1.0)
    assert weighted.values.mean() == pytest.approx(expected, abs=1.0)


def test_f1_is_of_the_positive_class() -> None:
    one, zero = resampled("f1", GUESS, GOLD), resampled("f1", 1 - GUESS, 1 - GOLD, positive=0)
    assert one is not None
    assert zero is not None
    assert one.interval() == zero.interval()


def test_a_perfect_f1_of_ten_is_not_certain() -> None:
    sample = resampled("f1", np.array([0, 1] * 5), np.array([0, 1] * 5))
    assert sample is not None
    low, high = sample.interval()
    assert low < 80
    assert high == 100.0


def test_a_metric_without_a_name_here_has_no_interval() -> None:
    assert resampled("mine", GUESS, GOLD) is None


def test_resampling_is_bounded_and_repeats_itself() -> None:
    gold = np.tile(GOLD, 40)
    first, second = (resampled("f1", gold, gold[::-1]) for _ in range(2))
    assert first is not None
    assert second is not None
    assert len(first.values) < 400
    assert first.values.tolist() == second.values.tolist()


def test_a_paired_loss_is_narrower_than_two_intervals() -> None:
    full = RNG.uniform(0, 100, 400)
    short = Sample(np.clip(full - 2, 0, 100), 400)
    low, high = short.loss(Sample(full, 400))
    assert low < 2 < high
    alone = short.interval()
    assert high - low < (alone[1] - alone[0]) / 2


def test_equal_answers_on_few_examples_are_no_proof() -> None:
    same = means(*[100.0] * 5, *[0.0] * 3)
    low, high = same.loss(same)
    assert low == pytest.approx(-high)
    assert high > 20
    many = means(*[100.0] * 5000, *[0.0] * 3000)
    assert many.loss(many)[1] < 0.1


def test_a_loss_of_right_answers_is_bonett_and_prices() -> None:
    full = means(*[100.0] * 9, 0.0)
    short = means(*[100.0] * 6, *[0.0] * 3, 100.0)
    # Three are lost and one is gained of ten: (3 + 1 - 1 - 1) / 12 and its Wald interval.
    share = 2 / 12
    half = 1.959964 * np.sqrt((6 / 12 - share**2) / 12)
    expected = 100 * (share - half), 100 * (share + half)
    assert short.loss(full) == pytest.approx(expected, abs=1e-3)


def test_a_loss_of_a_resampled_metric_uses_equal_draws() -> None:
    full = resampled("f1", GUESS, GOLD)
    worse = np.where(np.arange(300) % 40, GUESS, 1 - GOLD)
    short = resampled("f1", worse, GOLD)
    assert full is not None
    assert short is not None
    low, high = short.loss(full)
    loss = compute_metric("f1", GUESS, GOLD) - compute_metric("f1", worse, GOLD)
    assert low < loss < high
    assert high - low < np.ptp(full.interval())
    assert full.loss(full)[1] == pytest.approx(100 * 1.959964 * np.sqrt(2) / 302)


def test_texts() -> None:
    assert score_text(88.123, (87.5, 88.74)) == "88.12 (87.5 to 88.7)"
    assert score_text(88.123, None) == "88.12"
    assert score_text(None, None) == interval_text(None) == "-"
