"""Exact match, substring match and token F1 agree with SQuAD v1.1 and hold their bounds."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.metrics import exact_match, normalize_answer, substring_match, token_f1

words = st.sampled_from(["the", "The", "a", "An", "cat", "Cat's", "hat", "21", "!", "", "Ünal", "-", "é"])
phrases = st.one_of(st.text(max_size=20), st.lists(words, max_size=6).map(" ".join))
golds_lists = st.lists(phrases, min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat", "cat"),
        ("a  b\tc\n", "b c"),
        ("Cat's", "cats"),
        ("twenty-one", "twentyone"),  # punctuation is deleted, not replaced by a space
        ("A.", ""),  # punctuation goes first, so the letter becomes an article
        ("U.S.A.", "usa"),
        ("a.n", ""),  # ... and so does "an"
        ("theatre another", "theatre another"),  # articles are whole words
        ("an the a", ""),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation
        ("ÉCOLE", "école"),
        ("\u00a0x\u2003y", "x y"),  # any Unicode white space
        ("l'a b", "la b"),
        ("x—a—y", "x— —y"),  # a dash outside ASCII stays and bounds a word
        ("", ""),
    ],
)
def test_normalization_follows_the_order_of_squad(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@given(phrases)
def test_normalized_text_has_no_capitals_punctuation_articles_or_double_spaces(text: str) -> None:
    normal = normalize_answer(text)
    assert normal == normal.lower()
    assert not set(normal) & set(string.punctuation)
    assert normal == " ".join(normal.split())
    assert not {"a", "an", "the"} & set(normal.split())
    assert normalize_answer(normal) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "em", "sub", "f1"),
    [
        ("Paris", ["paris"], True, True, 1.0),
        ("the Paris!", ["Paris", "Lyon"], True, True, 1.0),
        ("It is Paris.", ["Lyon", "Paris"], False, True, 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("party", ["art"], False, True, 0.0),  # SubEM ignores word boundaries, as its source does
        ("art", ["party"], False, False, 0.0),  # and is not symmetric
        ("new york city", ["New York"], False, True, 0.8),
        ("york york", ["york"], False, True, 2 / 3),  # bags: a repeated word counts once against one
        ("York New", ["New York"], False, False, 1.0),  # F1 ignores order
        ("", ["Paris"], False, False, 0.0),
        ("the", ["Paris"], False, False, 0.0),
        (None, ["Paris"], False, False, 0.0),
        # golds that normalise to nothing are compared whole
        ("The The", ["the  the"], True, True, 1.0),
        ("A", ["A"], True, True, 1.0),
        ("The", ["A"], False, False, 0.0),
        ("anything at all", ["The The"], False, False, 0.0),
        ("", ["The"], False, False, 0.0),
        ("!!!", ["!!!"], True, True, 1.0),
        ("!", ["!!!"], False, False, 0.0),
        ("", [""], False, False, 0.0),
        (" ", ["  "], False, False, 0.0),
        (None, ["The"], False, False, 0.0),
        ("the cat", ["the", "cat"], True, True, 1.0),
    ],
)
def test_scores_of_known_pairs(prediction: str | None, golds: list[str], em: bool, sub: bool, f1: float) -> None:
    assert exact_match(prediction, golds) is em
    assert substring_match(prediction, golds) is sub
    assert token_f1(prediction, golds) == pytest.approx(f1)


@given(phrases, golds_lists)
def test_an_exact_match_is_a_substring_match_with_f1_of_one(prediction: str, golds: list[str]) -> None:
    if exact_match(prediction, golds):
        assert substring_match(prediction, golds)
        assert token_f1(prediction, golds) == 1.0
    assert 0.0 <= token_f1(prediction, golds) <= 1.0


@given(phrases, golds_lists, st.randoms())
def test_the_best_gold_counts_whatever_the_order(prediction: str, golds: list[str], random) -> None:
    shuffled = random.sample(golds, len(golds))
    for score in (exact_match, substring_match, token_f1):
        assert score(prediction, golds) == score(prediction, shuffled) == max(score(prediction, [g]) for g in golds)


@given(phrases)
def test_a_gold_is_right_unless_it_is_blank(gold: str) -> None:
    right = bool(gold.strip())
    assert exact_match(gold, [gold]) is right
    assert substring_match(gold, [gold]) is right
    assert token_f1(gold, [gold]) == float(right)


@given(phrases, phrases)
def test_f1_of_one_gold_is_symmetric_and_is_the_harmonic_mean(first: str, second: str) -> None:
    a, b = normalize_answer(first).split(), normalize_answer(second).split()
    if not a or not b:
        return
    assert token_f1(first, [second]) == token_f1(second, [first])
    left = list(b)
    shared = 0
    for word in a:
        if word in left:
            left.remove(word)
            shared += 1
    precision, recall = shared / len(a), shared / len(b)
    expected = 2 * precision * recall / (precision + recall) if shared else 0.0
    assert token_f1(first, [second]) == pytest.approx(expected)


@given(golds_lists)
def test_no_answer_is_never_right(golds: list[str]) -> None:
    assert exact_match(None, golds) is False
    assert substring_match(None, golds) is False
    assert token_f1(None, golds) == 0.0


@pytest.mark.parametrize("score", [exact_match, substring_match, token_f1])
@pytest.mark.parametrize("prediction", ["Paris", None])
def test_unknown_golds_are_an_error_and_not_a_zero(score, prediction) -> None:
    with pytest.raises(ValueError, match="no gold answer"):
        score(prediction, [])
    with pytest.raises(TypeError, match="one string"):
        score(prediction, "Paris")
