"""Recall, hits, reciprocal rank and answer recall over ranked documents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.core import Passage
from ken.metrics import answer_in_passages, hit_at_k, mean_reciprocal_rank, recall_at_k, reciprocal_rank

ids = st.sampled_from("abcdefgh")
rankings = st.lists(ids, max_size=12)
relevants = st.sets(ids, min_size=1)
depths = st.integers(min_value=1, max_value=12)


@pytest.mark.parametrize(
    ("ranking", "relevant", "k", "expected"),
    [
        ("abc", "a", 1, (1.0, True, 1.0)),
        ("abc", "c", 2, (0.0, False, 1 / 3)),
        ("abc", "c", 3, (1.0, True, 1 / 3)),
        ("abcd", "bdx", 4, (2 / 3, True, 1 / 2)),
        ("aaab", "b", 2, (1.0, True, 1 / 2)),  # passages of one document take one rank
        ("", "a", 5, (0.0, False, 0.0)),
        ("abc", "x", 3, (0.0, False, 0.0)),
        ("ab", "ab", 10, (1.0, True, 1.0)),
    ],
)
def test_ranking_measures_of_known_rankings(
    ranking: str, relevant: str, k: int, expected: tuple[float, bool, float]
) -> None:
    recall, hit, rr = expected
    assert recall_at_k(list(ranking), list(relevant), k) == pytest.approx(recall)
    assert hit_at_k(list(ranking), list(relevant), k) is hit
    assert reciprocal_rank(list(ranking), list(relevant)) == pytest.approx(rr)


@given(rankings, relevants, depths)
def test_recall_grows_with_k_and_agrees_with_hits_and_ranks(ranking: list[str], relevant: set[str], k: int) -> None:
    recall = recall_at_k(ranking, relevant, k)
    assert 0.0 <= recall <= recall_at_k(ranking, relevant, k + 1) <= 1.0
    assert hit_at_k(ranking, relevant, k) is (recall > 0)
    assert hit_at_k(ranking, relevant, k) is (reciprocal_rank(ranking, relevant) >= 1 / k)
    assert recall_at_k(ranking, relevant, len(ranking) + 1) == len(relevant & set(ranking)) / len(relevant)


@given(st.lists(st.tuples(rankings, relevants), min_size=1, max_size=6))
def test_mrr_is_the_mean_reciprocal_rank(pairs: list[tuple[list[str], set[str]]]) -> None:
    mrr = mean_reciprocal_rank([r for r, _ in pairs], [d for _, d in pairs])
    assert mrr == pytest.approx(sum(reciprocal_rank(r, d) for r, d in pairs) / len(pairs))
    assert 0.0 <= mrr <= 1.0


def test_a_ranking_may_be_a_generator() -> None:
    assert recall_at_k((c for c in "abc"), {"c"}, 3) == 1.0
    assert reciprocal_rank((c for c in "abc"), {"b"}) == 0.5


def test_unknown_documents_wrong_k_and_unequal_lengths_are_errors() -> None:
    for call in (lambda: recall_at_k(["a"], [], 1), lambda: hit_at_k(["a"], [], 1), lambda: reciprocal_rank(["a"], [])):
        with pytest.raises(ValueError, match="no relevant documents"):
            call()
    for k in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            recall_at_k(["a"], ["a"], k)
        with pytest.raises(ValueError, match="at least 1"):
            hit_at_k(["a"], ["a"], k)
    with pytest.raises(TypeError, match="one string"):
        recall_at_k(["a"], "a", 1)
    with pytest.raises(ValueError, match="2 rankings but 1"):
        mean_reciprocal_rank([["a"], ["b"]], [["a"]])
    with pytest.raises(ValueError, match="no rankings"):
        mean_reciprocal_rank([], [])


@pytest.mark.parametrize(
    ("title", "text", "golds", "found"),
    [
        ("", "He was born in Paris, France.", ["paris"], True),
        ("Paris", "A city.", ["Paris"], True),  # the title is shown to the model too
        ("", "I know that.", ["no"], False),  # whole words only
        ("", "In 1963 it ended", ["196"], False),
        ("", "new and york", ["New York"], False),  # in order and adjacent
        ("New", "York", ["New York"], False),  # never across title and text
        ("", "It is the University of the Arts", ["University of Arts"], True),  # articles fall away on both sides
        ("", "anything at all", ["The The"], False),  # a gold that normalises to nothing ...
        ("The The", "A band.", ["The The"], True),  # ... must be the whole title or text
        ("", "", ["x"], False),
    ],
)
def test_a_gold_must_stand_in_a_passage_as_whole_words(title: str, text: str, golds: list[str], found: bool) -> None:
    assert answer_in_passages([Passage(id="1", title=title, text=text)], golds) is found


def test_no_passage_holds_no_answer_and_any_passage_or_gold_suffices() -> None:
    passages = [Passage(id="1", text="rain"), Passage(id="2", text="the green hat")]
    assert answer_in_passages([], ["x"]) is False
    assert answer_in_passages(passages, ["sun", "green hat"]) is True
    with pytest.raises(ValueError, match="no gold answer"):
        answer_in_passages(passages, [])
