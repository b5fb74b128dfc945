"""What was each search good for? Every question falls into exactly one class of `SearchUse`.

Call counts alone hide under-search (AdaSearch, card 01): a strategy that never searches wastes nothing and misses
everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class SearchUse(StrEnum):
    """The class of one attempt: did it search, can the model answer alone (the oracle), is the final answer right?

    "needed": searched, and could not answer alone. "wasted": searched, could answer alone, and is right. "harmful":
    searched, could answer alone, and is now wrong. "missed": did not search, and could not answer alone. "saved": did
    not search, and could answer alone.
    """

    NEEDED = "needed"
    WASTED = "wasted"
    HARMFUL = "harmful"
    MISSED = "missed"
    SAVED = "saved"


def classify_search(searched: bool, solvable: bool, correct: bool) -> SearchUse:
    """The class of one attempt. `correct` matters only after a search by a model that could have answered alone."""
    if not searched:
        return SearchUse.SAVED if solvable else SearchUse.MISSED
    if not solvable:
        return SearchUse.NEEDED
    return SearchUse.WASTED if correct else SearchUse.HARMFUL


@dataclass(frozen=True, slots=True)
class SearchUseCounts:
    """Questions per class, and search calls by whether they were needed (a question may take several calls).

    needed_correct: how many of the needed ended with a right answer. needed_calls: calls on questions that the model
    cannot answer alone. unneeded_calls: calls on the wasted and the harmful.
    """

    needed: int
    wasted: int
    harmful: int
    missed: int
    saved: int
    needed_correct: int
    needed_calls: int
    unneeded_calls: int

    @property
    def n(self) -> int:
        """Number of questions."""
        return self.needed + self.wasted + self.harmful + self.missed + self.saved

    @property
    def searched(self) -> int:
        """Number of questions with at least one search."""
        return self.needed + self.wasted + self.harmful

    @property
    def calls_per_question(self) -> float:
        """Mean search calls over all questions."""
        return (self.needed_calls + self.unneeded_calls) / self.n

    @property
    def needed_success(self) -> float | None:
        """Share of the needed searches that ended with a right answer; None when no search was needed."""
        return _share(self.needed_correct, self.needed)

    @property
    def over_search_rate(self) -> float | None:
        """Share searched of the questions that the model can answer alone; None when there are none."""
        return _share(self.wasted + self.harmful, self.wasted + self.harmful + self.saved)

    @property
    def under_search_rate(self) -> float | None:
        """Share not searched of the questions that the model cannot answer alone; None when there are none."""
        return _share(self.missed, self.missed + self.needed)

    @property
    def unneeded_call_rate(self) -> float | None:
        """Share of all search calls that were not needed; None when nothing was searched."""
        return _share(self.unneeded_calls, self.needed_calls + self.unneeded_calls)

    def rate(self, use: SearchUse) -> float:
        """Share of all questions in the class `use`; the five rates sum to 1."""
        return int(getattr(self, use.value)) / self.n


def count_search_use(searches: Sequence[int], solvable: Sequence[bool], correct: Sequence[bool]) -> SearchUseCounts:
    """Count classes and calls over questions; entry i of each list belongs to question i.

    searches: search calls per attempt, ≥ 0. solvable: can the model answer alone (an oracle). correct: is the final
    answer right.
    Raises `ValueError` for no questions, unequal lengths or a negative count.
    """
    if not len(searches) == len(solvable) == len(correct):
        raise ValueError(
            f"{len(searches)} search counts, {len(solvable)} oracle labels and {len(correct)} outcomes; "
            "pass one of each per question"
        )
    if len(searches) == 0:  # works for arrays too
        raise ValueError("there are no attempts to classify; pass at least one")
    if min(searches) < 0:
        raise ValueError("a number of search calls is negative; counts start at 0")
    rows = list(zip(searches, solvable, correct, strict=True))
    uses = [classify_search(calls > 0, can, right) for calls, can, right in rows]
    return SearchUseCounts(
        **{use.value: uses.count(use) for use in SearchUse},
        needed_correct=sum(use is SearchUse.NEEDED and bool(row[2]) for use, row in zip(uses, rows, strict=True)),
        needed_calls=sum(int(calls) for calls, can, _ in rows if not can),
        unneeded_calls=sum(int(calls) for calls, can, _ in rows if can),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
