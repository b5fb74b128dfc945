"""Intervals agree with scipy, cover what they promise, and repeat with their seed."""

from __future__ import annotations

import statistics
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ken.metrics import bootstrap, bootstrap_difference, bootstrap_mean, over_seeds, wilson

values = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


def test_the_interval_of_a_mean_agrees_with_scipy() -> None:
    data = np.random.default_rng(1).exponential(size=80)
    ours = bootstrap_mean(data, resamples=20_000, seed=3)
    theirs = stats.bootstrap((data,), np.mean, method="percentile", n_resamples=20_000, rng=4).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)  # about 4% of the width
    assert ours.estimate == pytest.approx(data.mean())
    assert ours.level == 0.95


def test_the_interval_of_a_paired_difference_agrees_with_scipy() -> None:
    generator = np.random.default_rng(2)
    hard = generator.normal(size=120)
    first, second = hard + generator.normal(0.3, 0.5, 120), hard
    ours = bootstrap_difference(first, second, level=0.9, resamples=20_000)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        method="percentile",
        confidence_level=0.9,
        n_resamples=20_000,
        rng=5,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    # pairing takes out what the questions share: the interval is much narrower than that of either mean
    assert ours.high - ours.low < 0.7 * (bootstrap_mean(hard).high - bootstrap_mean(hard).low)


def test_a_95_percent_interval_covers_the_true_difference_in_about_95_of_100_samples() -> None:
    generator = np.random.default_rng(7)
    trials, covered = 400, 0
    for trial in range(trials):
        easy = generator.random(100)
        first = (generator.random(100) < 0.2 + 0.6 * easy).astype(float)
        second = (generator.random(100) < 0.1 + 0.6 * easy).astype(float)
        interval = bootstrap_difference(first, second, resamples=600, seed=trial)
        covered += interval.low <= 0.1 <= interval.high
    # 3 standard errors of a binomial at 0.95 are 0.033; the percentile method falls slightly short at n = 100
    assert 0.905 <= covered / trials <= 0.985


@given(values, st.integers(0, 5), st.floats(0.5, 0.99))
def test_an_interval_lies_within_the_data_and_repeats_with_its_seed(data: list[float], seed: int, level: float) -> None:
    interval = bootstrap_mean(data, resamples=100, seed=seed, level=level)
    assert min(data) - 1e-9 <= interval.low <= interval.high <= max(data) + 1e-9
    assert interval.estimate == pytest.approx(np.mean(data))
    assert interval == bootstrap_mean(data, resamples=100, seed=seed, level=level)


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=1, max_size=30))
def test_swapping_the_arms_mirrors_the_interval(rows: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in rows], [b for _, b in rows]
    one, other = bootstrap_difference(first, second, resamples=99), bootstrap_difference(second, first, resamples=99)
    assert (one.low, one.high, one.estimate) == pytest.approx((-other.high, -other.low, -other.estimate), abs=1e-9)
    same = bootstrap_difference(first, first, resamples=99)
    assert (same.low, same.high) == (0.0, 0.0)


def test_a_higher_level_gives_a_wider_interval_and_another_seed_another_one() -> None:
    data = np.random.default_rng(0).random(50)
    narrow, wide = bootstrap_mean(data, level=0.5), bootstrap_mean(data, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_mean(data, seed=1) != bootstrap_mean(data, seed=2)


def test_memory_stays_bounded_for_many_questions() -> None:
    data = np.random.default_rng(0).random(50_000)
    tracemalloc.start()
    bootstrap_mean(data, resamples=200)  # 10 million draws, 160 MB if held at once
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_any_statistic_can_be_resampled() -> None:
    data = np.random.default_rng(0).normal(size=101)
    interval = bootstrap(lambda rows: np.median(data[rows], axis=1), data.size, resamples=4000)
    theirs = stats.bootstrap((data,), np.median, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert interval.estimate == np.median(data)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.01, 0.999))
def test_wilson_agrees_with_scipy(trial: tuple[int, int], level: float) -> None:
    successes, n = trial
    interval = wilson(successes, n, level=level)
    theirs = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 1.0


@given(values)
def test_the_spread_over_seeds_is_the_sample_standard_deviation(data: list[float]) -> None:
    spread = over_seeds(data)
    assert spread.n == len(data)
    assert spread.mean == pytest.approx(np.mean(data))
    assert spread.std == (pytest.approx(statistics.stdev(data), abs=1e-9) if len(data) > 1 else None)


def test_bad_input_is_an_error() -> None:
    for call in (bootstrap_mean, over_seeds):
        with pytest.raises(ValueError, match="no values"):
            call([])
        with pytest.raises(ValueError, match="nan"):
            call([1.0, float("nan")])
        with pytest.raises(ValueError, match="flat list"):
            call([[1.0]])
    with pytest.raises(ValueError, match="2 values against 1"):
        bootstrap_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_mean([1.0], resamples=0)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level"):
            bootstrap_mean([1.0], level=level)
        with pytest.raises(ValueError, match="level"):
            wilson(1, 2, level=level)
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="between 0 and 2"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="no values to resample"):
        bootstrap(lambda rows: rows.mean(axis=1), 0)
    with pytest.raises(ValueError, match="not a finite"):
        bootstrap(lambda rows: np.full(len(rows), np.nan), 3, resamples=10)
