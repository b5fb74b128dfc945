"""Is the plan right? F1 of matched steps, as T-Eval has it (arXiv 2312.14033; card 49, Metrics)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ken.metrics.text import token_f1

Similarity = Callable[[str, str], float]
"""Of two texts, in [0, 1]."""

Action = tuple[str, str]
"""A step: its name (of a tool, or the sub-question itself) and its arguments as text, "" for none."""


_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class PlanScore:
    """Steps in the right order: precision of the predicted ones, recall of the gold ones. All in [0, 1]."""

    precision: float
    recall: float
    f1: float


def words_alike(one: str, other: str) -> float:
    """Token F1 of two texts: a similarity without a model. (T-Eval takes the cosine of sentence embeddings.)"""
    return token_f1(one, [other]) if other.strip() else float(not one.strip())


def plan_score(
    predicted: Sequence[Action],
    gold: Sequence[Action],
    *,
    similarity: Similarity = words_alike,
    threshold: float = 0.7,
    name_weight: float = 0.9,
) -> PlanScore:
    """How well a plan matches the gold plan.

    Steps are alike by `name_weight` × the likeness of their names + the rest × that of their arguments; pairs above
    `threshold` are matched one to one with the greatest total weight; of the matched, those in the longest stretch that
    keeps the gold order count. (T-Eval's code cuts the gold plan to the length of the predicted one in its permutation
    matcher; it is not cut here.) Two empty plans agree.
    """
    if not predicted or not gold:
        agree = float(len(predicted) == len(gold))
        return PlanScore(agree, agree, agree)
    weights = [
        [name_weight * similarity(p[0], g[0]) + (1 - name_weight) * similarity(p[1], g[1]) for g in gold]
        for p in predicted
    ]
    # Of matchings of equal weight, the one that keeps the order: what crosses has the greater sum of squares.
    places = _matched(
        [
            [weight - _TINY * (i - j) ** 2 if weight > threshold else 0.0 for j, weight in enumerate(row)]
            for i, row in enumerate(weights)
        ]
    )
    kept = _longest_increasing([place for place in places if place is not None])
    precision, recall = kept / len(predicted), kept / len(gold)
    return PlanScore(precision, recall, 2 * precision * recall / (precision + recall) if kept else 0.0)


def _matched(weights: list[list[float]]) -> list[int | None]:
    """For each row its column in the one-to-one matching of greatest total weight; None for no weight at all.

    By augmenting along best paths (Hungarian method, O(n³)), since plans have a dozen steps and the base install has no
    scipy.
    """
    size = max(len(weights), len(weights[0]))
    top = max(max(row) for row in weights)
    cost = [
        [top - (weights[i][j] if i < len(weights) and j < len(weights[0]) else 0.0) for j in range(size)]
        for i in range(size)
    ]
    u, v, match = [0.0] * (size + 1), [0.0] * (size + 1), [0] * (size + 1)
    for row in range(1, size + 1):
        match[0], column = row, 0
        least, way, seen = [float("inf")] * (size + 1), [0] * (size + 1), [False] * (size + 1)
        while True:
            seen[column] = True
            at, delta, following = match[column], float("inf"), 0
            for j in range(1, size + 1):
                if not seen[j]:
                    slack = cost[at - 1][j - 1] - u[at] - v[j]
                    if slack < least[j]:
                        least[j], way[j] = slack, column
                    if least[j] < delta:
                        delta, following = least[j], j
            for j in range(size + 1):
                if seen[j]:
                    u[match[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            column = following
            if match[column] == 0:
                break
        while column:
            match[column], column = match[way[column]], way[column]
    found: list[int | None] = [None] * len(weights)
    for j in range(1, len(weights[0]) + 1):
        if match[j] <= len(weights) and weights[match[j] - 1][j - 1] > 0:
            found[match[j] - 1] = j - 1
    return found


def _longest_increasing(places: Sequence[int]) -> int:
    ends: list[int] = []
    for place in places:
        spot = bisect_left(ends, place)
        ends[spot : spot + 1] = [place]
    return len(ends)
