"""Which of several choices are worth considering, when accuracy has a price."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points (cost, value) that no other beats, the cheapest first: none costs at most as much and
    is worth at least as much, one of the two strictly. Points that are equal in both stand together.

    Raises `ValueError` for a number that is nan.

    >>> pareto_front([(1, 0.2), (5, 0.7), (6, 0.6), (9, 0.7)])
    [0, 1]
    """
    if any(math.isnan(number) for point in points for number in point):
        raise ValueError("a cost or a value is nan; leave out what was not measured")
    front: list[int] = []
    best = -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        value = points[index][1]
        if value > best or (front and points[index] == points[front[-1]]):
            front.append(index)
            best = value
    return front
