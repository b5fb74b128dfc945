"""Questions with candidates: read from the files of the field, shown with letters, answered by letter or words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.core import DataError, Question
from ken.core.choices import choices_of, chosen, letter, lettered
from ken.core.readers import read_questions

CSQA = {
    "answerKey": "B",
    "id": "c1",
    "question": {
        "question_concept": "fish",
        "stem": "Where do fish live?",
        "choices": [{"label": "A", "text": "tree"}, {"label": "B", "text": "river"}],
    },
}
OBQA_HUB = {
    "id": "o1",
    "question_stem": "A magnet attracts",
    "choices": {"text": ["wood", "iron"], "label": ["A", "B"]},
    "answerKey": "B",
}
MEDQA = {
    "question": "A patient … ?",
    "answer": "Nitrofurantoin",
    "options": {"A": "Ampicillin", "E": "Nitrofurantoin"},
    "answer_idx": "E",
    "meta_info": "step2&3",
}
OWN = {"question": "Where does the Elbe end?", "choices": ["North Sea", "Baltic Sea"], "answer": "North Sea"}


def read(tmp_path: Path, *records: object) -> list[Question]:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return list(read_questions(path))


def test_files_of_commonsenseqa_openbookqa_and_medqa_are_read_as_they_are(tmp_path: Path) -> None:
    csqa, obqa, medqa, own = read(tmp_path, CSQA, OBQA_HUB, MEDQA, OWN)
    assert (csqa.text, csqa.answers, choices_of(csqa)) == ("Where do fish live?", ("river",), ("tree", "river"))
    assert csqa.meta["question_concept"] == "fish"
    assert (obqa.text, obqa.answers) == ("A magnet attracts", ("iron",))
    assert (medqa.id, medqa.answers, choices_of(medqa)) == (
        "line-3",
        ("Nitrofurantoin",),
        ("Ampicillin", "Nitrofurantoin"),
    )
    assert (own.answers, choices_of(own)) == (("North Sea",), ("North Sea", "Baltic Sea"))


def test_a_test_split_without_key_has_no_answers(tmp_path: Path) -> None:
    (question,) = read(tmp_path, {k: v for k, v in CSQA.items() if k != "answerKey"})
    assert question.answers == ()


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({**CSQA, "answerKey": "F"}, "none of the choices A, B"),
        ({"question": "x?", "choices": [{"label": "A"}]}, "choice 1 has no text"),
        ({"question": {"choices": ["a"]}}, "stem"),
        ({"question": "x?", "options": "A or B"}, "list or an object"),
    ],
)
def test_broken_choices_are_reported_with_their_line(tmp_path: Path, broken: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(tmp_path, broken)


def test_duplicates_and_blanks_are_no_candidates() -> None:
    question = Question(id="q", text="?", meta={"choices": ["Rome", " rome ", "", "Oslo", None]})
    assert choices_of(question) == ("Rome", "Oslo")
    assert choices_of(Question(id="q", text="?")) == ()


@pytest.mark.parametrize(
    ("said", "place"),
    [("B", 1), ("(b)", 1), ("B) Oslo", 1), ("b.", 1), ("Oslo.", 1), ("**Rome**", 0), ("A: Rome", 0)],
)
def test_a_candidate_is_named_by_its_letter_or_its_words(said: str, place: int) -> None:
    assert chosen(said, ["Rome", "Oslo"]) == place


@pytest.mark.parametrize("said", ["Paris", "", "C", "a city in Norway", "Be brave"])
def test_what_names_no_candidate_is_none(said: str) -> None:
    assert chosen(said, ["Rome", "Oslo"]) is None


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L"]), min_size=2), min_size=1, max_size=8), st.text())
def test_reading_a_choice_never_raises_and_every_letter_is_read(options: list[str], noise: str) -> None:
    chosen(noise, options)
    for place in range(len(options)):
        assert chosen(f"{letter(place)})", options) == place
    assert lettered(options).startswith("A) ")
