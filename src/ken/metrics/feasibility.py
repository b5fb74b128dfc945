"""Does a model judge rightly what it can do? Scores of verdicts "feasible" or not against labels.

The labels decide what is measured. Intrinsic (KnowRL, arXiv 2510.11407; Line of Duty): the kind of task that the model
itself meant to make up, so that the score is its agreement with itself. Extrinsic: what is true of the task, or what it
can really do. The two are never to be mixed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Feasibility:
    """The confusion of verdicts and labels, in tasks. A verdict that could not be read is in `unread_*` and wrong.

    feasible_feasible: labelled feasible and judged so; feasible_infeasible: labelled feasible, judged infeasible; …
    """

    feasible_feasible: int
    feasible_infeasible: int
    infeasible_feasible: int
    infeasible_infeasible: int
    unread_feasible: int = 0
    unread_infeasible: int = 0

    @property
    def n(self) -> int:
        """Number of tasks."""
        return (
            self.feasible_feasible
            + self.feasible_infeasible
            + self.infeasible_feasible
            + self.infeasible_infeasible
            + self.unreadable
        )

    @property
    def unreadable(self) -> int:
        return self.unread_feasible + self.unread_infeasible

    @property
    def accuracy(self) -> float:
        """Share of tasks judged as labelled, in [0, 1]."""
        return (self.feasible_feasible + self.infeasible_infeasible) / self.n

    @property
    def f1_feasible(self) -> float:
        """F1 of "feasible", in [0, 1]; 0 where 0/0."""
        return _f1(self.feasible_feasible, self.infeasible_feasible, self.feasible_infeasible + self.unread_feasible)

    @property
    def f1_infeasible(self) -> float:
        """F1 of "infeasible", in [0, 1]; 0 where 0/0 (SelfAware's measure, of questions that have no answer)."""
        return _f1(
            self.infeasible_infeasible, self.feasible_infeasible, self.infeasible_feasible + self.unread_infeasible
        )

    @property
    def macro_f1(self) -> float:
        """Mean of both F1."""
        return (self.f1_feasible + self.f1_infeasible) / 2

    @property
    def says_feasible(self) -> float:
        """Share of the verdicts that could be read, in [0, 1]; 0 when none could."""
        read = self.n - self.unreadable
        return (self.feasible_feasible + self.infeasible_feasible) / read if read else 0.0

    @property
    def overconfident(self) -> float:
        """Share of all tasks judged feasible and labelled infeasible."""
        return self.infeasible_feasible / self.n

    @property
    def underconfident(self) -> float:
        """Share of all tasks judged infeasible and labelled feasible."""
        return self.feasible_infeasible / self.n


def feasibility(verdicts: Sequence[bool | None], labels: Sequence[bool]) -> Feasibility:
    """Cross verdicts (True: feasible; None: could not be read) with labels; entry i of both belongs to task i.

    Raises `ValueError` for no tasks or unequal lengths.
    """
    if len(verdicts) != len(labels):
        raise ValueError(f"{len(verdicts)} verdicts but {len(labels)} labels; pass one of each per task")
    if not verdicts:
        raise ValueError("there are no verdicts to score; pass at least one")
    pairs = list(zip(labels, verdicts, strict=True))
    return Feasibility(
        feasible_feasible=pairs.count((True, True)),
        feasible_infeasible=pairs.count((True, False)),
        infeasible_feasible=pairs.count((False, True)),
        infeasible_infeasible=pairs.count((False, False)),
        unread_feasible=pairs.count((True, None)),
        unread_infeasible=pairs.count((False, None)),
    )


def feasibility_by(
    verdicts: Sequence[bool | None], labels: Sequence[bool], keys: Sequence[Key]
) -> dict[Key, Feasibility]:
    """`feasibility` of the tasks of every key (a type of self-knowledge, a reason), in the order they first occur.

    Raises `ValueError` as `feasibility`.
    """
    if len(keys) != len(labels):
        raise ValueError(f"{len(keys)} keys but {len(labels)} labels; pass one of each per task")
    feasibility(verdicts, labels)
    places: dict[Key, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    return {key: feasibility([verdicts[i] for i in at], [labels[i] for i in at]) for key, at in places.items()}


def _f1(hits: int, wrong: int, missed: int) -> float:
    return 2 * hits / (2 * hits + wrong + missed) if hits else 0.0
