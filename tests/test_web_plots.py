"""Plots: what is left out of a curve is nothing that one would see, axes end on round numbers, and many curves
are smoothed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.serving.web.plots import CROWD, Curve, axis, running_mean, thin, uncrowded


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=3000),
    st.integers(min_value=4, max_value=500),
)
def test_thinning_keeps_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    kept = thin(points, most)
    assert len(kept) <= max(most, 0)
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    finite = [v for _, v in points if abs(v) < 1e300]
    if finite:
        shown = [v for _, v in kept if abs(v) < 1e300]
        assert (min(shown), max(shown)) == (min(finite), max(finite))
    if points:
        assert kept[0] is points[0]
        assert kept[-1] is points[-1]


@given(st.lists(st.floats(min_value=-1e12, max_value=1e12), max_size=20))
def test_an_axis_holds_its_values_between_few_round_ticks(values: list[float]) -> None:
    low, high, ticks = axis(values)
    assert low < high
    assert 2 <= len(ticks) <= 12
    reach = (high - low) * 1e-6
    assert all(low - reach <= value <= high + reach for value in values)


def test_few_curves_are_as_measured_and_many_are_running_means_without_bands() -> None:
    curves = [
        Curve(str(n), [(float(x), float(n + x % 2)) for x in range(200)], [0.0] * 200, [9.0] * 200) for n in range(9)
    ]
    assert uncrowded(curves[:CROWD]) == (curves[:CROWD], 0)
    shown, reach = uncrowded(curves)
    assert reach == 11
    assert [(c.name, len(c.points), c.low) for c in shown] == [(c.name, 200, ()) for c in curves]
    assert all(abs(value - n - 0.5) < 0.1 for n, curve in enumerate(shown) for _, value in curve.points[5:-5])


def test_a_running_mean_is_that_of_the_finite_neighbours_and_a_gap_stays() -> None:
    means = [value for _, value in running_mean([(1, 1.0), (2, math.nan), (3, 4.0), (4, 8.0)], 1)]
    assert means == [pytest.approx(1.0), pytest.approx(math.nan, nan_ok=True), pytest.approx(6.0), pytest.approx(6.0)]
