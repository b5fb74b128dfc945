"""What do several samples agree on? A vote, with its consensus (KnowRL, arXiv 2510.11407; self-consistency)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ken.core import BadInput
from ken.metrics.text import normalize_answer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vote(Generic[T]):
    """The outcome of a vote.

    winner: what most voted for, as its first voter said it; None for a tie (4:4), and when nobody cast a vote.
    share: of all k votes, those for the winner, in [0, 1] (c(x) of KnowRL); 0 without a winner.
    agrees: for each vote, in order, whether it was for the winner (the reward of KnowRL's majority rule).
    """

    winner: T | None
    share: float
    agrees: tuple[bool, ...]


def majority(votes: Sequence[T | None], *, key: Callable[[T], Hashable] | None = None) -> Vote[T]:
    """Count k votes; the most frequent wins, more than half is not needed.

    None is a vote that could not be read: it never wins, agrees with nothing, and counts among the k. key: votes of
    equal key are the same vote. Raises `BadInput` for no votes, `TypeError` for one string.
    """
    if isinstance(votes, str):
        raise TypeError("votes is one string; pass a list of votes")
    if not votes:
        raise BadInput("there are no votes to count; sample the model at least once")
    keys: list[Any] = [None if vote is None else (vote if key is None else key(vote),) for vote in votes]
    first, *others = [*Counter(k for k in keys if k is not None).most_common(2), (None, 0)]
    if first[0] is None or first[1] == others[0][1]:
        return Vote(None, 0.0, (False,) * len(votes))
    agrees = tuple(k == first[0] for k in keys)
    return Vote(votes[agrees.index(True)], first[1] / len(votes), agrees)


def majority_answer(answers: Sequence[str | None]) -> Vote[str]:
    """The vote among answers, those being the same that are equal after SQuAD normalisation. As `majority`."""
    return majority(answers, key=lambda answer: normalize_answer(answer) or " ".join(answer.lower().split()))
