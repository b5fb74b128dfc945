"""Does the model know what it knows? Solvability oracles, F1_aware and the decision table.

Source: AdaSearch (arXiv 2512.16883). The positive class is "knows: no search needed"; with the classes swapped a
model that always searches would look good. The oracle must come from the evaluated model's own weights, answering
closed book.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ken.core import Trajectory
from ken.metrics.statistics import Floats, Indices, Interval, bootstrap
from ken.metrics.text import exact_match, substring_match

Matcher = Callable[[str | None, Sequence[str]], bool]
"""Is this answer right, given the golds? `exact_match` or `substring_match`."""


def solve_rate(answers: Sequence[str | None], golds: Sequence[str], *, matcher: Matcher = substring_match) -> float:
    """Share of the K closed-book answers to one question that are right, in [0, 1].

    None is a sample without an answer, which is wrong. Raises `ValueError` for no answers or no golds.
    """
    if isinstance(answers, str):  # a str is a sequence of letters, so the mistake would pass
        raise TypeError("answers is one string; pass a list of sampled answers")
    if not answers:
        raise ValueError("there are no sampled answers (K = 0); sample at least one closed-book answer per question")
    return sum(matcher(answer, golds) for answer in answers) / len(answers)


def oracle_ksample(
    answers: Sequence[str | None], golds: Sequence[str], threshold: float = 0.5, matcher: Matcher = substring_match
) -> bool:
    """Can the model answer this question alone? True when the solve rate of its K closed-book samples is ≥ threshold.

    The pseudo-label of AdaSearch, with the authors' SubEM matcher; K and threshold are not given there.
    Raises `ValueError` when K = 0, threshold is outside [0, 1], or there are no golds.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must lie in [0, 1]")
    return solve_rate(answers, golds, matcher=matcher) >= threshold


def oracle_greedy(answer: str | None, golds: Sequence[str]) -> bool:
    """Can the model answer this question alone? True when its one greedy closed-book answer is an exact match."""
    return exact_match(answer, golds)


def decision_of(trajectory: Trajectory) -> bool | None:
    """What the attempt decided: True "I know", False "I must search", None when its verdict could not be read.

    An explicit decision counts; an agent without one decided "I know" iff it looked nothing up (AdaSearch, F1_aware of
    Search-R1; a question to a graph and the call of a tool count like a search).
    """
    return trajectory.decision.knows if trajectory.decision else not trajectory.lookups


@dataclass(frozen=True, slots=True)
class DecisionTable:
    """The 2×2 table of decision against truth, in questions.

    answered_known: decided "I know" and can answer alone (correct abstention from search; true positive).
    answered_unknown: decided "I know" but cannot (wrong abstention; false positive).
    searched_known: decided to search but can answer alone (unnecessary search; false negative).
    searched_unknown: decided to search and cannot answer alone (necessary search; true negative).
    malformed: how many of the searched had no readable decision. They are counted in the table too.
    """

    answered_known: int
    answered_unknown: int
    searched_known: int
    searched_unknown: int
    malformed: int = 0

    @property
    def n(self) -> int:
        """Number of questions."""
        return self.answered_known + self.answered_unknown + self.searched_known + self.searched_unknown

    @property
    def accuracy(self) -> float:
        """Share of questions decided rightly."""
        return (self.answered_known + self.searched_unknown) / self.n

    @property
    def known_rate(self) -> float:
        """Share of questions the model can answer alone."""
        return (self.answered_known + self.searched_known) / self.n

    @property
    def answer_rate(self) -> float:
        """Share of questions decided "I know"."""
        return (self.answered_known + self.answered_unknown) / self.n


@dataclass(frozen=True, slots=True)
class AwareScores:
    """Precision, recall and F1 of "I know" against what the model can answer alone, each in [0, 1]; 0 where 0/0."""

    precision: float
    recall: float
    f1: float
    table: DecisionTable


def decision_table(decisions: Sequence[bool | None], solvable: Sequence[bool]) -> DecisionTable:
    """Cross decisions (True: "I know") with what the model can answer alone; entry i of both belongs to question i.

    None is a decision that could not be read: the pipeline searches then, so it counts as a search, and in
    `malformed`.
    Raises `ValueError` for no questions or unequal lengths.
    """
    if len(decisions) != len(solvable):
        raise ValueError(f"{len(decisions)} decisions but {len(solvable)} oracle labels; pass one of each per question")
    if len(decisions) == 0:  # works for arrays too
        raise ValueError("there are no decisions to score; pass at least one")
    pairs = [(bool(decision), bool(can)) for decision, can in zip(decisions, solvable, strict=True)]
    return DecisionTable(
        answered_known=pairs.count((True, True)),
        answered_unknown=pairs.count((True, False)),
        searched_known=pairs.count((False, True)),
        searched_unknown=pairs.count((False, False)),
        malformed=sum(decision is None for decision in decisions),
    )


def f1_aware(decisions: Sequence[bool | None], solvable: Sequence[bool]) -> AwareScores:
    """F1_aware of AdaSearch: F1 of the decision "I know" against the oracle.

    Arguments and errors as for `decision_table`. A model that always searches scores 0; one that never searches 2p /
    (1 + p), where p is the share it can answer alone.
    """
    table = decision_table(decisions, solvable)
    hits, wrong, missed = table.answered_known, table.answered_unknown, table.searched_known
    return AwareScores(
        precision=hits / (hits + wrong) if hits else 0.0,
        recall=hits / (hits + missed) if hits else 0.0,
        f1=2 * hits / (2 * hits + wrong + missed) if hits else 0.0,
        table=table,
    )


def f1_aware_interval(
    decisions: Sequence[bool | None],
    solvable: Sequence[bool],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of F1_aware over questions. Errors as for `decision_table` and `bootstrap`."""
    decision_table(decisions, solvable)
    decided = np.array([bool(decision) for decision in decisions])
    known = np.asarray(solvable, dtype=bool)
    return bootstrap(_rowwise_f1(decided, known), known.size, level=level, resamples=resamples, seed=seed)


def f1_aware_difference(
    first: Sequence[bool | None],
    second: Sequence[bool | None],
    solvable: Sequence[bool],
    *,
    solvable_second: Sequence[bool] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Paired bootstrap interval of F1_aware(first) − F1_aware(second) on the same questions.

    Two strategies of one model share the oracle `solvable`; two models have one each, the second's being
    `solvable_second`.
    """
    known = np.asarray(solvable, dtype=bool)
    known_second = known if solvable_second is None else np.asarray(solvable_second, dtype=bool)
    decision_table(first, solvable)
    decision_table(second, solvable if solvable_second is None else solvable_second)
    if known.size != known_second.size:
        raise ValueError(
            f"{known.size} questions against {known_second.size}; a paired difference needs the same questions"
        )
    a = _rowwise_f1(np.array([bool(decision) for decision in first]), known)
    b = _rowwise_f1(np.array([bool(decision) for decision in second]), known_second)
    return bootstrap(lambda rows: a(rows) - b(rows), known.size, level=level, resamples=resamples, seed=seed)


def _rowwise_f1(decided: NDArray[np.bool_], known: NDArray[np.bool_]) -> Callable[[Indices], Floats]:
    # F1 = 2·TP / (positives decided + positives true): two sums per resample
    both, either = (decided & known).astype(np.float64), decided.astype(np.float64) + known

    def f1(rows: Indices) -> Floats:
        hits, total = both[rows].sum(axis=1), either[rows].sum(axis=1)
        scores: Floats = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
        return scores

    return f1
