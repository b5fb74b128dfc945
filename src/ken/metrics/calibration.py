"""Do confidences mean what they say? Calibration error, Brier score, AUROC and the risk-coverage curve.

All take one confidence per attempt and whether that attempt was right (entry i of both belongs to question i), do not
depend on the order of the attempts, and raise `ValueError` for empty input, unequal lengths, or a confidence that is
nan or (except in `auroc` and `risk_coverage`, where only the order counts) outside [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ken.metrics.statistics import Floats

Scores = Sequence[float] | Floats
Outcomes = Sequence[bool] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """A bin of attempts: how many, their mean confidence, the share that is right.

    It holds the confidences in (low, high], in the first bin also `low`; a bin of equal mass those in [low, high].
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(
    confidences: Scores, correct: Outcomes | Scores, *, bins: int = 15, equal_mass: bool = False
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve: the bins that hold an attempt, in order of confidence.

    correct: whether each attempt was right, or how right it was, in [0, 1], such as its token F1; `accuracy` is the
    mean of either.
    bins: number of bins ≥ 1. They have equal width over [0, 1] (Guo et al. 2017, section 2), or with `equal_mass`
    about equal numbers of attempts (adaptive ECE, Nguyen & O'Connor 2015); equal confidences always share a bin.
    """
    scores, right = _graded(confidences, correct)
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    edges = np.linspace(0.0, 1.0, bins + 1)
    if equal_mass:
        # By the rank of the last attempt with this confidence: ties stay together and the attempt order cannot matter.
        place = (np.searchsorted(np.sort(scores), scores, side="right") - 1) * bins // scores.size
    else:
        place = np.searchsorted(edges[1:-1], scores, side="left")
    return tuple(
        ReliabilityBin(
            low=float(scores[members].min() if equal_mass else edges[b]),
            high=float(scores[members].max() if equal_mass else edges[b + 1]),
            count=int(members.sum()),
            confidence=float(scores[members].mean()),
            accuracy=float(right[members].mean()),
        )
        for b in np.unique(place)
        for members in [place == b]
    )


def expected_calibration_error(
    confidences: Scores, correct: Outcomes | Scores, *, bins: int = 15, equal_mass: bool = False
) -> float:
    """ECE in [0, 1]: Σ_b (count_b / n) · |accuracy_b − confidence_b| (Guo et al. 2017, equation 3).

    Arguments as for `reliability`.
    """
    curve = reliability(confidences, correct, bins=bins, equal_mass=equal_mass)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in curve) / sum(b.count for b in curve)


def brier_score(confidences: Scores, correct: Outcomes) -> float:
    """Mean squared distance of the confidence from the outcome 0 or 1, in [0, 1]; lower is better. (Brier 1950.)"""
    scores, right = _checked(confidences, correct, probability=True)
    return float(np.mean((scores - right) ** 2))


def auroc(scores: Scores, positive: Outcomes) -> float | None:
    """Probability that a positive scores above a negative, ties counting half. In [0, 1]; None if a class is absent.

    The Mann-Whitney form of the area under the ROC curve (Hanley & McNeil 1982). Only the order of `scores` matters.
    """
    values, labels = _checked(scores, positive, probability=False)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of each distinct value
    above = float(rank[place][labels].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """A risk-coverage curve: point i answers only attempts with confidence ≥ thresholds[i].

    thresholds fall, coverage (share answered, in (0, 1]) rises, risk (share wrong among the answered, in [0, 1]) goes
    with them.
    aurc: area under the curve, lower is better. excess_aurc: its distance, ≥ 0, from that of a confidence that ranks
    every right answer above every wrong one; unlike aurc it does not reward mere accuracy.
    """

    thresholds: tuple[float, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    aurc: float
    excess_aurc: float


def risk_coverage(confidences: Scores, correct: Outcomes) -> RiskCoverage:
    """Selective risk against coverage (El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017) with its area.

    AURC is the mean selective risk over the n coverages 1/n … n/n (Geifman, Uziel & El-Yaniv 2019); where confidences
    tie, it is the expectation over their orders. `excess_aurc` is E-AURC of the same paper with the optimum computed
    exactly. Only the order of the confidences matters.
    """
    scores, right = _checked(confidences, correct, probability=False)
    values, place, counts = np.unique(
        -scores, return_inverse=True, return_counts=True
    )  # ascending −score: most confident first
    wrong = np.bincount(place, weights=(~right).astype(np.float64), minlength=values.size)
    answered = np.cumsum(counts)
    area = _area(np.repeat(wrong / counts, counts))  # each tied attempt carries the expected loss of its group
    best = _area(np.sort((~right).astype(np.float64)))
    return RiskCoverage(
        thresholds=tuple((-values).tolist()),
        coverage=tuple((answered / scores.size).tolist()),
        risk=tuple((np.cumsum(wrong) / answered).tolist()),
        aurc=area,
        excess_aurc=max(0.0, area - best),
    )


def _area(losses: Floats) -> float:
    return float(np.mean(np.cumsum(losses) / np.arange(1, losses.size + 1)))


def _graded(confidences: Scores, grades: Outcomes | Scores) -> tuple[Floats, Floats]:
    right = np.asarray(grades, dtype=np.float64)
    scores, _ = _checked(confidences, np.ones(right.shape, dtype=bool), probability=True)
    if not ((right >= 0) & (right <= 1)).all():
        raise ValueError("a grade lies outside [0, 1]; pass whether each attempt was right, or a score such as F1")
    return scores, right


def _checked(confidences: Scores, correct: Outcomes, *, probability: bool) -> tuple[Floats, NDArray[np.bool_]]:
    scores = np.asarray(confidences, dtype=np.float64)
    right = np.asarray(correct, dtype=bool)
    if scores.ndim != 1 or right.ndim != 1 or scores.size != right.size:
        raise ValueError(
            f"{scores.size} confidences but {right.size} outcomes; pass one flat list of each, one entry per attempt"
        )
    if not scores.size:
        raise ValueError("there are no confidences to score; pass at least one")
    if np.isnan(scores).any():
        raise ValueError("a confidence is nan; drop attempts without a confidence")
    if probability and (scores.min() < 0 or scores.max() > 1):
        raise ValueError("a confidence lies outside [0, 1]; turn scores into probabilities first")
    return scores, right
