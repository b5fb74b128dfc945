"""How well pairs of texts are told apart (arXiv 2505.12452; card 54, Metrics)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ken.core.pairs import DIFFERENT, SAME


@dataclass(frozen=True, slots=True)
class PairScores:
    """misjudge: share of the different pairs judged the same; miss: share of the same pairs not judged so; None where
    there are none of the kind. unjudged: pairs without a verdict, which count as wrong."""

    misjudge: float | None
    miss: float | None
    unjudged: int

    @property
    def balanced_accuracy(self) -> float | None:
        """One minus the mean of both errors; a judge that always says "different" has 0.5. None without both kinds."""
        if self.misjudge is None or self.miss is None:
            return None
        return 1 - (self.misjudge + self.miss) / 2


def score_pairs(verdicts: Sequence[str | None], golds: Sequence[str]) -> PairScores:
    """verdicts, golds: "same" or "different"; a verdict is None where there was none. Raises `ValueError` for unequal
    lengths or a gold that is neither."""
    if len(verdicts) != len(golds):
        raise ValueError(f"{len(verdicts)} verdicts but {len(golds)} golds; pass one of each per pair")
    if wrong := [gold for gold in golds if gold not in (SAME, DIFFERENT)]:
        raise ValueError(f"a gold is {wrong[0]!r}; pairs are {SAME!r} or {DIFFERENT!r}")
    errors = {
        gold: [verdict != gold for verdict, g in zip(verdicts, golds, strict=True) if g == gold]
        for gold in (SAME, DIFFERENT)
    }
    share = {gold: sum(wrong) / len(wrong) if wrong else None for gold, wrong in errors.items()}
    return PairScores(share[DIFFERENT], share[SAME], sum(verdict is None for verdict in verdicts))
