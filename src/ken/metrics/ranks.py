"""The measures of trec_eval, from the ranks that the relevant documents of a query took.

Ranks are those of distinct documents, from 1, best first; documents that were not found have none. `relevant` ≥ 1 is
how many relevant documents there are, found or not; all are equally relevant. Sources: Voorhees 1999 (reciprocal rank),
Järvelin & Kekäläinen 2002 (NDCG, with gain 1 and discount log2(1 + rank), as trec_eval has it), Manning et al. 2008,
section 8.4 (recall).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

Ranks = Sequence[int]


def reciprocal(ranks: Ranks) -> float:
    """1 / the best rank, 0 without any; in [0, 1]."""
    return 1 / min(ranks) if ranks else 0.0


def ndcg(ranks: Ranks, relevant: int, k: int) -> float:
    """NDCG@k, in [0, 1]: discounted gain among the first k, over that of the best possible order."""
    _check(ranks, relevant, k)
    best = math.fsum(1 / math.log2(1 + rank) for rank in range(1, min(relevant, k) + 1))
    return math.fsum(1 / math.log2(1 + rank) for rank in ranks if rank <= k) / best


def recall(ranks: Ranks, relevant: int, k: int) -> float:
    """Recall@k, in [0, 1]: share of the relevant documents among the first k."""
    _check(ranks, relevant, k)
    return sum(rank <= k for rank in ranks) / relevant


def _check(ranks: Ranks, relevant: int, k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if relevant < 1 or len(ranks) > relevant:
        raise ValueError(
            f"{len(ranks)} of {relevant} relevant documents were found; give how many there are, at least 1"
        )


@dataclass(frozen=True, slots=True)
class RankScores:
    """What conversational search reports of a query, or the means over several (card 17: MRR, NDCG@3, R@5/10/20/100).
    All in [0, 1]; recall at 100 needs ranks that were looked for so deep."""

    mrr: float
    ndcg_3: float
    r_5: float
    r_10: float
    r_20: float
    r_100: float

    @classmethod
    def of(cls, ranks: Ranks, relevant: int) -> RankScores:
        """Of one query. Raises `ValueError` when there are no relevant documents."""
        found = (recall(ranks, relevant, k) for k in (5, 10, 20, 100))
        return cls(reciprocal(ranks), ndcg(ranks, relevant, 3), *found)

    @classmethod
    def mean(cls, scores: Sequence[RankScores]) -> RankScores:
        """The means. Raises `ValueError` without any."""
        if not scores:
            raise ValueError("there are no scores to average; pass at least one")
        return cls(*(math.fsum(getattr(s, name) for s in scores) / len(scores) for name in MEASURES))


MEASURES = tuple(field.name for field in fields(RankScores))
