"""Turns of conversations, and the files they come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ken.core import BadInput, DataError, Question
from ken.core.conversation import UNANSWERABLE, ConversationTurn, Exchange, history_of, read_demonstrations, read_turns

SAID = (Exchange(query="who wrote Emma", answer="Jane Austen"),)


def written(folder: Path, *records: dict[str, Any], name: str = "turns.json", lines: bool = False) -> Path:
    path = folder / name
    texts = [json.dumps(record) for record in records]
    path.write_text("\n".join(texts) if lines else f"[{', '.join(texts)}]", encoding="utf-8")
    return path


def test_a_turn_becomes_a_question_and_keeps_history_depth_and_gold() -> None:
    turn = ConversationTurn(id="c_2", query="when did she die", history=SAID, gold=("p7", "p9"), meta={"topic": "x"})
    question = turn.question()
    assert (question.id, question.text, question.answers) == ("c_2", "when did she die", ())
    assert question.supporting_ids == ("p7", "p9")
    assert question.meta["depth"] == turn.depth == 2
    assert question.meta["topic"] == "x"
    assert history_of(question) == SAID
    assert history_of(Question.model_validate_json(question.model_dump_json())) == SAID


def test_a_question_that_stands_alone_has_no_history_and_a_broken_one_is_refused() -> None:
    assert history_of(Question(id="q", text="who?")) == ()
    with pytest.raises(BadInput, match=r"\[query, answer\] pairs"):
        history_of(Question(id="q", text="who?", meta={"history": ["a", "b"]}))


def test_topiocqa_with_its_gold_file(tmp_path: Path) -> None:
    turns = written(
        tmp_path,
        {"Conversation_no": 1, "Turn_no": 1, "Question": "who wrote Emma", "Answer": "Jane Austen", "Context": []},
        {
            "Conversation_no": 1,
            "Turn_no": 2,
            "Question": "when did she die",
            "Answer": "1817",
            "Context": ["who wrote Emma", "Jane Austen"],
            "Topic": "Jane Austen",
        },
    )
    gold = written(
        tmp_path,
        {"conv_id": 1, "turn_id": 1, "positive_ctxs": [{"passage_id": "5498209", "title": "Emma"}]},
        {"conv_id": 1, "turn_id": 2, "positive_ctxs": [{"passage_id": 77}]},
        name="gold.json",
    )
    first, second = read_turns(turns, gold=gold)
    assert (first.id, first.history, first.gold) == ("1_1", (), ("5498209",))
    assert (second.id, second.history, second.gold) == ("1_2", SAID, ("77",))
    assert second.meta == {"topic": "Jane Austen"}
    assert [turn.gold for turn in read_turns(turns)] == [(), ()]


def test_scai_qrecc_takes_its_history_from_what_the_user_typed(tmp_path: Path) -> None:
    common = {"Conversation_no": 9, "Conversation_source": "quac"}
    path = written(
        tmp_path,
        {
            **common,
            "Turn_no": 1,
            "Question": "who wrote it",
            "Context": [],
            "Truth_answer": "",
            "Truth_rewrite": "who wrote Emma",
            "Truth_passages": [],
        },
        {
            **common,
            "Turn_no": 2,
            "Question": "when did she die",
            "Context": ["who wrote Emma", ""],
            "Truth_answer": "1817",
            "Truth_rewrite": "when did Jane Austen die",
            "Truth_passages": ["http://a_p1", "http://b_p0"],
        },
    )
    first, second = read_turns(path)
    assert first.gold == ()
    assert second.history == (Exchange(query="who wrote it", answer=UNANSWERABLE),)
    assert second.gold == ("http://a_p1", "http://b_p0")
    assert second.rewrite == "when did Jane Austen die"


@pytest.mark.parametrize(
    "record",
    [
        {
            "qid": "topiocqa-train_1_2",
            "question": "when did she die",
            "context": ["who wrote Emma", "Jane Austen"],
            "positive_ctxs": [{"passage_id": "12"}],
        },
        {
            "qid": "QReCC-Train_1_2",
            "question": "when did she die",
            "context": ["who wrote Emma", "Jane Austen"],
            "truth_rewrite": "when did Austen die",
            "truth_passages": ["12"],
        },
        {
            "sample_id": "QReCC-Train_1_2",
            "cur_utt_text": "when did she die",
            "ctx_utts_text": ["who wrote Emma", "Jane Austen"],
            "oracle_utt_text": "when did Austen die",
            "pos_docs_pids": [12],
        },
    ],
)
def test_derived_forms_one_object_a_line(record: dict[str, Any], tmp_path: Path) -> None:
    (turn,) = read_turns(written(tmp_path, record, name="turns.jsonl", lines=True))
    assert turn.history == SAID
    assert turn.gold == ("12",)
    assert turn.rewrite == ("" if "positive_ctxs" in record else "when did Austen die")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"foo": 1}, "expected 'qid' to be a string"),
        ({"qid": "a", "question": "q", "context": ["only a query"]}, "query, answer, query, answer"),
        ({"qid": "a", "question": " ", "context": []}, "the query is empty"),
        ({"qid": "a", "question": "q", "context": [], "positive_ctxs": ["p"]}, "'passage_id'"),
        ({"Conversation_no": 1, "Turn_no": 1, "Question": "q"}, "expected the key 'Context'"),
        ({"sample_id": "a", "cur_utt_text": "q", "ctx_utts_text": [], "pos_docs_pids": [[1]]}, "ids, strings"),
    ],
)
def test_a_broken_turn_is_told_with_its_line(record: dict[str, Any], problem: str, tmp_path: Path) -> None:
    good = {"qid": "good", "question": "q", "context": []}
    path = written(tmp_path, good, record, name="turns.jsonl", lines=True)
    with pytest.raises(DataError, match=f"turns.jsonl:2: .*{problem}"):
        list(read_turns(path))
    bad: list[DataError] = []
    assert [turn.id for turn in read_turns(path, bad=bad)] == ["good"]
    assert [error.line for error in bad] == [2]


def test_ids_are_unique_and_a_file_holds_something(tmp_path: Path) -> None:
    record = {"qid": "a", "question": "q", "context": []}
    with pytest.raises(DataError, match="on line 1"):
        list(read_turns(written(tmp_path, record, record, lines=True)))
    with pytest.raises(BadInput, match="holds no turns"):
        list(read_turns(written(tmp_path, name="empty.json")))
    with pytest.raises(BadInput, match="there is no file"):
        list(read_turns(tmp_path / "absent.json"))


def test_demonstrations_are_turns_with_a_response(tmp_path: Path) -> None:
    path = tmp_path / "shots.jsonl"
    turn = {"qid": 1, "question": "when did she die", "context": ["who wrote Emma", "Jane Austen"]}
    path.write_text(json.dumps({**turn, "response": "<think>she</think>"}))
    (shot,) = read_demonstrations(path)
    assert (shot.turn.query, shot.turn.depth, shot.response) == ("when did she die", 2, "<think>she</think>")
    path.write_text(json.dumps(turn))
    with pytest.raises(DataError, match=r":1: expected the key 'response'"):
        read_demonstrations(path)
    path.write_text("\n")
    with pytest.raises(BadInput, match="holds no demonstrations"):
        read_demonstrations(path)
