"""Question files and corpora are read as published; what cannot be read is reported with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ken.core import BadInput, DataError, KenError, Passage, Question
from ken.core.readers import join_contents, read_corpus, read_questions, split_contents

MUSIQUE100 = Path(__file__).parents[2] / "shared" / "data" / "musique100"

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "answer": "yes",
    "question": "Were Scott Derrickson and Ed Wood of the same nationality?",
    "supporting_facts": [["Scott Derrickson", 0], ["Ed Wood", 0], ["Ed Wood", 1]],
    "context": [
        ["Ed Wood", ["Edward Davis Wood Jr. was an American filmmaker.", " He also acted."]],
        ["Scott Derrickson", ["Scott Derrickson is an American director."]],
        ["Adam Collis", ["Adam Collis is an actor."]],
    ],
    "type": "comparison",
    "level": "hard",
}

MUSIQUE = {
    "id": "2hop__482757_12019",
    "paragraphs": [
        {"idx": 0, "title": "Green", "paragraph_text": "Green is an album by R.E.M.", "is_supporting": True},
        {"idx": 1, "title": "Green", "paragraph_text": "Green is a colour.", "is_supporting": False},
        {"idx": 2, "title": "R.E.M.", "paragraph_text": "R.E.M. came from Athens.", "is_supporting": True},
    ],
    "question": "Where is the band of Green from?",
    "question_decomposition": [
        {"id": 1, "question": "Green >> performer", "answer": "R.E.M.", "paragraph_support_idx": 0}
    ],
    "answer": "Athens",
    "answer_aliases": ["Athens, Georgia", "Athens"],
    "answerable": True,
}


# --- the published formats of questions ------------------------------------------------------------------------------


def test_flashrag_and_search_r1_jsonl(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "nq.jsonl",
        {
            "id": "test_0",
            "question": "who got the first nobel prize in physics?",
            "golden_answers": ["Röntgen", "W. Röntgen"],
        },
        {"id": "test_1", "question": "when?", "golden_answers": ["1901"], "metadata": {"supporting_ids": [6, "10"]}},
    )
    first, second = read_questions(path)
    assert first == Question(
        id="test_0", text="who got the first nobel prize in physics?", answers=("Röntgen", "W. Röntgen")
    )
    assert second.supporting_ids == ("6", "10")


def test_tapo_jsonl_keeps_the_source_that_says_how_to_score(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "tapo.jsonl",
        {"question": "12 * 34?", "golds": ["408"], "source": "calculator"},
        {"question": "Who?", "golds": "Ann", "source": None},
        {"question": "Where?", "golden_answers": ["Rome"], "source": "nq", "metadata": {"source": "gsm8k", "level": 1}},
    )
    first, second, third = read_questions(path)
    assert (first.answers, first.meta) == (("408",), {"source": "calculator"})
    assert (second.answers, second.meta) == (("Ann",), {})
    assert third.meta == {"source": "gsm8k", "level": 1}, "what the metadata says of it comes first"


def test_hotpotqa_array_with_its_documents_named_by_title(tmp_path: Path) -> None:
    path = tmp_path / "hotpot_dev_distractor_v1.json"
    path.write_text(json.dumps([HOTPOT], indent=1), encoding="utf-8")
    (question,) = read_questions(path)
    assert question.id == HOTPOT["_id"]
    assert question.answers == ("yes",)
    assert question.supporting_ids == ("Scott Derrickson", "Ed Wood")  # each once
    assert (question.meta["type"], question.meta["level"]) == ("comparison", "hard")
    passages = list(read_corpus(path))
    assert [p.id for p in passages] == ["Ed Wood", "Scott Derrickson", "Adam Collis"]
    assert passages[0].text == "Edward Davis Wood Jr. was an American filmmaker. He also acted."
    assert set(question.supporting_ids) <= {p.id for p in passages}


def test_musique_jsonl_tells_paragraphs_of_one_title_apart(tmp_path: Path) -> None:
    path = lines(tmp_path / "musique_ans_v1.0_dev.jsonl", MUSIQUE, {**MUSIQUE, "id": "again"})
    question, _ = read_questions(path)
    assert question.answers == ("Athens", "Athens, Georgia")
    assert len(question.supporting_ids) == 2
    assert question.meta["decomposition"] == MUSIQUE["question_decomposition"]
    passages = list(read_corpus(path))
    assert [p.title for p in passages] == ["Green", "Green", "R.E.M."]  # the second question adds nothing new
    by_id = {p.id: p for p in passages}
    assert len(by_id) == 3
    assert [by_id[i].text for i in question.supporting_ids] == [
        "Green is an album by R.E.M.",
        "R.E.M. came from Athens.",
    ]
    assert all(p.source == str(path) for p in passages)


def test_test_splits_and_unanswerable_questions_have_no_golds(tmp_path: Path) -> None:
    unlabelled = {k: MUSIQUE[k] for k in ("id", "question")}
    unlabelled["paragraphs"] = [{"idx": 0, "title": "Green", "paragraph_text": "An album."}]
    hotpot = {k: HOTPOT[k] for k in ("_id", "question", "context")}
    path = lines(
        tmp_path / "q.jsonl",
        unlabelled,
        {**MUSIQUE, "id": "full", "answerable": False},
        hotpot,
        {"id": "g", "question": "q?", "golden_answers": []},
        {"id": "h", "question": "q?"},
        {"id": "i", "question": "q?", "golden_answers": None, "metadata": None},
        {"id": "j", "question": "q?", "golden_answers": [""]},
    )
    assert [q.answers for q in read_questions(path)] == [()] * 7


def test_a_text_file_is_one_question_a_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text('[1] Who?\n\n  Where?  \r\n{"not": "json"\n', encoding="utf-8")
    assert [(q.id, q.text) for q in read_questions(path)] == [
        ("line-1", "[1] Who?"),
        ("line-3", "Where?"),
        ("line-4", '{"not": "json"'),
    ]


def test_answers_may_be_one_value_a_number_or_repeated(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "q.jsonl",
        {"question": "a?", "answer": "x"},
        {"question": "b?", "answers": [7, 7.5, "7", " "]},
        {"id": 12, "question": "c?", "golden_answers": 3},
        {"id": None, "_id": "underscore", "question": "d?"},
    )
    questions = list(read_questions(path))
    assert [q.answers for q in questions] == [("x",), ("7", "7.5"), ("3",), ()]
    assert [q.id for q in questions] == ["line-1", "line-2", "12", "underscore"]


def test_a_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    for name, body in {
        "q.jsonl": '\n{"id": "1", "question": "a?"}\n\r\n{"id": "2", "question": "b?"}',
        "q.json": '  [{"id": "1", "question": "a?"}, {"id": "2", "question": "b?"}]',
        "q.txt": "a?\nb?",
    }.items():
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + body.encode())
        assert [q.text for q in read_questions(path)] == ["a?", "b?"], name


def test_line_separators_inside_strings_do_not_split_a_record(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"id": "1", "question": "a\u2028b\x85c?"})
    assert [q.text for q in read_questions(path)] == ["a\u2028b\x85c?"]


# --- corpora ---------------------------------------------------------------------------------------------------------


def test_corpora_with_contents_or_with_title_and_text(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "wiki-18.jsonl",
        {"id": "0", "contents": '"Aspirin"\nA common "drug".'},
        {"id": 1, "contents": "No title here.\nSecond line."},
        {"id": "2", "title": "Rain", "text": "It falls."},
        {"id": "3", "title": None, "text": "It falls."},
        {"_id": "4", "title": "Only a title", "text": ""},
        {"id": "5", "title": "Given", "contents": '"Quoted"\ntext'},
    )
    source = str(path)
    assert list(read_corpus(path)) == [
        Passage(id="0", title="Aspirin", text='A common "drug".', source=source),
        Passage(id="1", text="No title here.\nSecond line.", source=source),
        Passage(id="2", title="Rain", text="It falls.", source=source),
        Passage(id="3", text="It falls.", source=source),
        Passage(id="4", title="Only a title", text="", source=source),
        Passage(id="5", title="Given", text="text", source=source),
    ]


@given(st.text(min_size=1).filter(lambda t: "\n" not in t), st.text())
def test_contents_split_into_what_they_were_joined_from(title: str, text: str) -> None:
    found_title, found_text = split_contents(join_contents(title, text))
    if not text[:1].isspace():  # leading white space of a text is not kept
        assert (found_title, found_text) == (title, text)


# --- broken input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{oops", "not JSON"),
        (b'{"id": "2", "question": "b?"', "not JSON"),
        (b"[1, 2]", "expected a JSON object, found a list"),
        (b'"text"', "expected a JSON object, found a string"),
        (b"null", "expected a JSON object, found null"),
        (b"true", "expected a JSON object, found a boolean"),
        (b'{"id": "2", "q": "b?"}', "expected the key 'question', found id, q"),
        (b"{}", "expected the key 'question', found no keys"),
        (b'{"question": 5}', "expected 'question' to be a string, found a number"),
        (b'{"question": null}', "expected 'question' to be a string, found null"),
        (b'{"question": "  "}', "the question is empty"),
        (b'{"id": ["x"], "question": "b?"}', "expected 'id' to be a string or a number, found a list"),
        (b'{"question": "b?", "golden_answers": [["x"]]}', "answers to be a list of strings"),
        (b'{"question": "b?", "golden_answers": {"x": 1}}', "answers to be a list of strings"),
        (b'{"question": "b?", "metadata": [1]}', "'metadata' to be an object, found a list"),
        (b'{"question": "b?", "paragraphs": 3}', "'paragraphs' to be a list, found a number"),
        (b'{"question": "b?", "paragraphs": [], "answer_aliases": "x"}', "'answer_aliases' to be a list"),
        (b'{"question": "b?", "_id": "2", "context": [], "supporting_facts": ["x"]}', "'supporting_facts'"),
        (b'{"question": "caf\xe9?"}', "not UTF-8 (byte 17)"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8 (byte 0)"),
        (b'{"question": "\\ud83d?"}', "surrogate"),
        (b'{"question": "b?", "metadata": {"x": NaN}}', "NaN is not a finite number"),
        (b'{"question": "b?", "metadata": {"x": 1e999}}', "1e999 is not a finite number"),
        (b'{"question": "b?", "id": ' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"question": "b?", "metadata": {"x": ' + b"[" * 400 + b"]" * 400 + b"}}", "meta.x"),
        (b'{"question": "b?", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b'{"id": "1", "question": "b?"}', "the id '1' was used before, on line 1"),
    ],
)
def test_a_broken_line_is_reported_with_file_line_and_expectation_or_skipped(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"id": "1", "question": "a?"}\n\n' + line + b'\n{"id": "3", "question": "c?"}\n')
    with pytest.raises(DataError) as raised:
        list(read_questions(path))
    assert problem in str(raised.value)
    assert str(raised.value).startswith(f"{path}:3: ")
    assert (raised.value.path, raised.value.line) == (path, 3)
    assert len(str(raised.value)) < len(str(path)) + 300
    assert "\n" not in str(raised.value)

    bad: list[DataError] = []
    assert [q.id for q in read_questions(path, bad=bad)] == ["1", "3"]
    assert [str(error) for error in bad] == [str(raised.value)]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"contents": "x"}, "expected the key 'id'"),
        ({"id": "", "contents": "x"}, "expected the key 'id'"),
        ({"id": {}, "contents": "x"}, "expected 'id' to be a string or a number"),
        ({"id": "2"}, "expected the key 'text', found id"),
        ({"id": "2", "contents": 5}, "expected 'contents' to be a string, found a number"),
        ({"id": "2", "text": None}, "expected 'text' to be a string, found null"),
        ({"id": "2", "contents": " \n"}, "the document '2' is empty"),
        ({"id": "2", "paragraphs": ["x"]}, "each of 'paragraphs' to be an object, found a string"),
        ({"id": "2", "paragraphs": [{"title": "t"}]}, "expected the key 'paragraph_text'"),
        ({"id": "2", "context": [["title", "text"]]}, "[title, [sentences]]"),
        ({"id": "2", "context": {"title": []}}, "expected 'context' to be a list, found an object"),
    ],
)
def test_a_broken_document_is_reported_or_skipped(tmp_path: Path, record: Any, problem: str) -> None:
    good = {"id": "1", "contents": "a"}
    path = lines(tmp_path / "c.jsonl", good, record, {"id": "3", "text": "c"})
    with pytest.raises(DataError, match=":2: ") as raised:
        list(read_corpus(path))
    assert problem in str(raised.value)
    bad: list[DataError] = []
    assert [p.id for p in read_corpus(path, bad=bad)] == ["1", "3"]
    assert [error.line for error in bad] == [2]


def test_questions_before_a_broken_line_are_yielded_first(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"question": "a?"}, 5)
    reader = read_questions(path)
    assert next(reader).text == "a?"
    with pytest.raises(DataError):
        next(reader)


def test_an_entry_of_an_array_is_reported_by_its_position(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps([HOTPOT, 7, {**HOTPOT, "_id": "2"}]), encoding="utf-8")
    bad: list[DataError] = []
    assert [q.id for q in read_questions(path, bad=bad)] == [HOTPOT["_id"], "2"]
    assert [error.line for error in bad] == [2]
    assert "found a number" in str(bad[0])


@pytest.mark.parametrize(
    ("body", "line", "problem"),
    [
        (b'[{"question": "a?"},\n{"question": }]', 2, "not JSON"),
        (b"[" * 100_000, 1, "not JSON"),
        (b'[{"question": "caf\xe9"}]', 1, "not UTF-8"),
        (b'[{"question": "a?", "x": Infinity}]', 1, "Infinity is not a finite number"),
    ],
)
def test_an_array_that_cannot_be_parsed_is_one_error(tmp_path: Path, body: bytes, line: int, problem: str) -> None:
    path = tmp_path / "q.json"
    path.write_bytes(body)
    with pytest.raises(DataError, match=problem) as raised:
        list(read_questions(path, bad=[]))
    assert raised.value.line == line


@pytest.mark.parametrize("body", [b"", b"\n \n", b"\xef\xbb\xbf", b"[]"])
def test_a_file_without_questions_is_an_error_and_without_documents_is_empty(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(body)
    with pytest.raises(BadInput, match="holds no questions"):
        list(read_questions(path))
    with pytest.raises(BadInput, match="holds no questions"):  # errors of another file do not hide it
        list(read_questions(path, bad=[DataError("other.jsonl", 1, "broken")]))
    assert list(read_corpus(path)) == []


def test_a_file_of_broken_lines_only_reports_them(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", 1, 2)
    bad: list[DataError] = []
    assert list(read_questions(path, bad=bad)) == []
    assert [error.line for error in bad] == [1, 2]


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for read in (read_questions, read_corpus):
        with pytest.raises(BadInput, match="there is no file"):
            list(read(tmp_path / "nowhere.jsonl"))
        with pytest.raises(BadInput, match="is a folder"):
            list(read(tmp_path))
        with pytest.raises(BadInput, match="cannot be read"):
            list(read(tmp_path / ("x" * 300)))
        with pytest.raises(BadInput):
            list(read("null\0byte"))


# --- anything at all -------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8)
keys = st.sampled_from(
    [
        "id",
        "_id",
        "question",
        "golden_answers",
        "golds",
        "source",
        "answers",
        "answer",
        "answer_aliases",
        "metadata",
        "supporting_ids",
        "supporting_facts",
        "context",
        "paragraphs",
        "title",
        "text",
        "contents",
        "paragraph_text",
        "is_supporting",
        "answerable",
        "question_decomposition",
    ]
) | st.text(max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)
records = st.fixed_dictionaries({}, optional={"question": st.text(max_size=8), "id": scalars}).flatmap(
    lambda base: st.dictionaries(keys, values, max_size=5).map(lambda rest: {**rest, **base})
)


def read_everything(path: Path) -> None:
    for read in (read_questions, read_corpus):
        try:
            list(read(path))
        except KenError as error:
            str(error).encode()  # and it can be printed
        bad: list[DataError] = []
        try:
            for item in read(path, bad=bad):
                assert type(item).model_validate_json(item.model_dump_json()) == item
        except KenError:
            pass


@in_one_folder
@given(
    st.sampled_from(["x.jsonl", "x.json", "x.txt"]), st.binary(max_size=200) | st.binary(max_size=60).map(b"[{".__add__)
)
def test_no_bytes_raise_anything_but_a_ken_error(tmp_path: Path, name: str, body: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(body)
    read_everything(path)


@in_one_folder
@given(st.lists(records, max_size=3), st.booleans(), st.booleans())
def test_no_json_objects_raise_anything_but_a_ken_error(
    tmp_path: Path, objects: list[Any], array: bool, ascii_only: bool
) -> None:
    path = tmp_path / "x.json"
    dumped = [json.dumps(o, ensure_ascii=ascii_only) for o in objects]
    path.write_text("[" + ",".join(dumped) + "]" if array else "\n".join(dumped), encoding="utf-8")
    read_everything(path)


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not MUSIQUE100.exists(), reason="the shared musique100 data is not on this machine")
def test_musique100_is_read_whole_and_its_evidence_is_in_its_corpus() -> None:
    questions = list(read_questions(MUSIQUE100 / "questions.jsonl"))
    corpus = {p.id: p for p in read_corpus(MUSIQUE100 / "corpus.jsonl")}
    assert (len(questions), len(corpus)) == (100, 1890)
    assert all(q.answers and q.supporting_ids for q in questions)
    assert all(i in corpus for q in questions for i in q.supporting_ids)
    assert questions[0].answers == ("G. Stanley Hall", "Stanley Hall")
