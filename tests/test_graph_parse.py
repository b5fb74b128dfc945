"""What models say about relations, entities and triples, read: the forms that occur, and nothing ever raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents.graph_parse import (
    NO_RELATIONS,
    SCORE_COUNT,
    UNKNOWN_RELATION,
    parse_braced,
    parse_enough,
    parse_relations,
    parse_scores,
    parse_unbraced,
)
from ken.metrics import exact_match, lenient_match
from ken.sources.search.okapi import okapi

OFFERED = ["people.person.spouse", "birth place", "twin (inverse)", "mother"]


@pytest.mark.parametrize(
    ("said", "scores"),
    [
        (
            "1. {birth place (Score: 0.7)}: it says where.\n2. {mother (Score: 0.3)}",
            [("birth place", 0.7), ("mother", 0.3)],
        ),
        ("1 . { birth place ( Score : 0.7 ) } 2 . { mother ( Score : 0.3 ) }", [("birth place", 0.7), ("mother", 0.3)]),
        ("**people.person.spouse** (Score: 1.0)", [("people.person.spouse", 1.0)]),
        ("- Birth  Place (score: .4)", [("birth place", 0.4)]),
        ("{twin (inverse) (Score: 0.5)}", [("twin (inverse)", 0.5)]),
        ("{mother (Score: 0.2)} {mother (Score: 0.9)}", [("mother", 0.2)]),
        ("{mother (Score: 6)}\n{birth place (Score: 2)}", [("mother", 0.75), ("birth place", 0.25)]),
    ],
)
def test_scored_relations(said: str, scores: list[tuple[str, float]]) -> None:
    assert parse_relations(said, OFFERED, 3).scores == tuple(scores)
    assert parse_relations(said, OFFERED, 3).problems == ()


def test_relations_are_cut_ranked_and_their_problems_counted() -> None:
    said = "{mother (Score: 0.1)} {birth place (Score: 0.8)} {father (Score: 0.1)}"
    found = parse_relations(said, OFFERED, 1)
    assert found.scores == (("birth place", 0.8),)
    assert found.problems == (UNKNOWN_RELATION,)
    assert parse_relations("none of them", OFFERED, 1).problems == (NO_RELATIONS,)
    assert parse_relations("{mother; birth place (Score: 0.5)}", ["mother; birth place"], 3).scores == ()


@pytest.mark.parametrize(
    ("said", "count", "scores"),
    [
        ("0.1, 0.9", 2, [0.1, 0.9]),
        ("Score: 1, 0, 0", 3, [1.0, 0.0, 0.0]),
        ("Ann: 0.2\nBob: 0.8", 2, [0.2, 0.8]),
        ("0.5 , 0.5 .", 2, [0.5, 0.5]),
        ("9.0, 1.0", 2, [0.9, 0.1]),
    ],
)
def test_scores_of_entities(said: str, count: int, scores: list[float]) -> None:
    assert parse_scores(said, count) == (pytest.approx(scores), None)


@pytest.mark.parametrize("said", ["", "0.1", "0.1, 0.2, 0.7, 0.0", "high, low, none", "1, 2"])
def test_another_number_of_scores_counts_all_alike(said: str) -> None:
    assert parse_scores(said, 3) == ([1 / 3] * 3, SCORE_COUNT)


@pytest.mark.parametrize(
    ("said", "enough", "answer"),
    [
        ("{Yes}. So the answer is {Rome}.", True, "Rome"),
        ("{ Yes } . { City Rome }", True, "City Rome"),
        ("Yes. {{Rome}}", True, "Rome"),
        ("{No}. The triplets do not say.", False, None),
        ("{Yes.} I know.", True, None),
        ("Nothing known", None, None),
        ("", None, None),
    ],
)
def test_verdicts_and_answers_in_braces(said: str, enough: bool | None, answer: str | None) -> None:
    assert parse_enough(said) == enough
    found = parse_braced(said)
    assert (found and found[0]) == answer
    assert found is None or said[found[1] : found[2]] == answer


def test_an_answer_without_braces_is_what_follows_or_ends() -> None:
    assert parse_unbraced("Because.\nThe answer is: **Rome**.") == "Rome"
    assert parse_unbraced("Well.\nRome.") == "Rome"
    assert parse_unbraced(" \n ") == ""


@given(st.text(max_size=200), st.lists(st.text(max_size=20), max_size=4), st.integers(1, 5))
def test_nothing_that_a_model_says_raises(said: str, offered: list[str], count: int) -> None:
    for name, score in parse_relations(said, offered, count).scores:
        assert name in offered
        assert 0 <= score <= 1
    scores, _ = parse_scores(said, count)
    assert len(scores) == count
    assert all(0 <= score <= 1 for score in scores)
    parse_enough(said), parse_braced(said), parse_unbraced(said)


@given(st.lists(st.sampled_from(["mother", "birth place", "spouse"]), unique=True, min_size=1), st.data())
def test_what_is_written_in_the_form_is_read_back(names: list[str], data: st.DataObject) -> None:
    scores = [data.draw(st.integers(0, 10)) / 10 for _ in names]
    said = "\n".join(f"{i}. {{{n} (Score: {s})}}: so." for i, (n, s) in enumerate(zip(names, scores, strict=True), 1))
    assert dict(parse_relations(said, names, len(names)).scores) == dict(zip(names, scores, strict=True))


# --- the measures beside it ---


@pytest.mark.parametrize(
    ("said", "lenient", "strict"),
    [
        ("Labor", True, True),
        ("the Labor", True, True),
        ("Labor Party of Australia", True, False),
        ("a", True, False),
        ("L a b o r", True, False),
        ("Greens", False, False),
        ("", False, False),
        (None, False, False),
    ],
)
def test_the_papers_lenient_measure_beside_the_strict_one(said: str | None, lenient: bool, strict: bool) -> None:
    assert (lenient_match(said, ["Labor"]), exact_match(said, ["Labor"])) == (lenient, strict)


@given(st.text(min_size=1, max_size=8), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3))
def test_a_gold_in_its_own_words_is_always_right_leniently(gold: str, others: list[str]) -> None:
    assert lenient_match(gold, [gold, *others]) == bool("".join(gold.lower().split()))


def test_bm25_prefers_the_text_with_the_rarer_word_and_never_counts_against_one() -> None:
    scores = okapi("the capital of Rome", ["capital of", "mayor of", "river"])
    assert scores[0] > scores[1] > scores[2] == 0
    assert okapi("x", []) == []
    assert all(score >= 0 for score in okapi("a a b", ["a", "a", "a b"]))
