"""The measures of trec_eval over ranks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.metrics import RankScores, ranks_of
from ken.metrics.ranks import ndcg, recall, reciprocal


@pytest.mark.parametrize(
    ("ranks", "relevant", "expected"),
    [
        # MRR, NDCG@3, R@5, R@10
        ((1,), 1, (1, 1, 1, 1)),
        ((2,), 1, (1 / 2, 1 / math.log2(3), 1, 1)),
        ((4,), 1, (1 / 4, 0, 1, 1)),
        ((6,), 1, (1 / 6, 0, 0, 1)),
        ((), 1, (0, 0, 0, 0)),
        ((1, 2), 2, (1, 1, 1, 1)),
        ((1, 3), 2, (1, (1 + 1 / 2) / (1 + 1 / math.log2(3)), 1, 1)),
        (
            (3, 7),
            4,
            (1 / 3, (1 / 2) / (1 + 1 / math.log2(3) + 1 / 2), 1 / 4, 1 / 2),
        ),  # the best order fills three places
    ],
)
def test_scores_of_known_ranks(ranks: tuple[int, ...], relevant: int, expected: tuple[float, ...]) -> None:
    found = RankScores.of(ranks, relevant)
    assert (found.mrr, found.ndcg_3, found.r_5, found.r_10) == pytest.approx(expected)


@given(st.lists(st.integers(1, 120), unique=True, max_size=5), st.integers(1, 4), st.integers(1, 100))
def test_scores_lie_in_the_unit_interval_and_a_better_rank_is_never_worse(ranks: list[int], more: int, k: int) -> None:
    relevant = len(ranks) + more
    for score in (ndcg(ranks, relevant, k), recall(ranks, relevant, k), reciprocal(ranks)):
        assert 0 <= score <= 1
    assert recall(ranks, relevant, k) <= recall(ranks, relevant, k + 1)
    if ranks and min(ranks) > 1:
        better = [min(ranks) - 1, *(rank for rank in ranks if rank != min(ranks))]
        assert ndcg(better, relevant, k) >= ndcg(ranks, relevant, k)
        assert reciprocal(better) > reciprocal(ranks)


def test_means_and_bad_numbers() -> None:
    one, none = RankScores.of((1,), 1), RankScores.of((), 1)
    assert RankScores.mean([one, none]).mrr == 0.5
    assert ranks_of("xaybz", ["a", "b"]) == (2, 4)
    assert ranks_of("aab", ["b"]) == (2,), "a document takes one rank"
    with pytest.raises(ValueError, match="no scores"):
        RankScores.mean([])
    for call in (lambda: recall((1,), 1, 0), lambda: ndcg((1,), 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            call()
    with pytest.raises(ValueError, match="2 of 1 relevant"):
        RankScores.of((1, 2), 1)
