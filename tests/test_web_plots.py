"""Plots: what is left out of a curve is nothing that one would see, and axes end on round numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ken.serving.web.plots import axis, thin


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
