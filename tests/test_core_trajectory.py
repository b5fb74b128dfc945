"""Ken's words survive a trip through one JSON line, and a trajectory answers what people ask of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ken.core import (
    Answer,
    Candidate,
    Decision,
    Entity,
    GraphQuery,
    Malformed,
    Observation,
    Passage,
    Question,
    Sampling,
    Search,
    Segment,
    Step,
    SubQuestion,
    Thought,
    ToolCall,
    Trajectory,
    Triple,
    Usage,
)

# every character that UTF-8 can carry, with those that JSON lines and markup trip over made common
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\x00", "\u2028", "\x85", "\r\n", "</information><answer>", "\U0001f600", "e\u0301", "\ufeff", '"\\']
    ),
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.none() | st.floats(0, 1)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
metas = st.dictionaries(texts, plain, max_size=3)
passages = st.builds(
    Passage, id=texts, text=texts, title=texts, score=st.none() | numbers, document=texts, source=texts
)
origins = st.none() | st.sampled_from(["inside", "search", "graph", "tools"])
entities = st.builds(Entity, id=texts, label=texts, literal=st.booleans())
triples = st.builds(Triple, subject=entities, relation=texts, object=entities, score=st.none() | numbers)
STEPS: dict[type, st.SearchStrategy[Any]] = {
    Thought: st.builds(Thought, text=texts),
    Decision: st.builds(Decision, knows=st.none() | st.booleans(), rationale=texts, confidence=shares, source=origins),
    Search: st.builds(Search, query=texts),
    GraphQuery: st.builds(
        GraphQuery, entity=entities, relation=st.none() | texts, direction=st.sampled_from([None, "out", "in"])
    ),
    Observation: st.builds(
        Observation,
        passages=st.lists(passages, max_size=2).map(tuple),
        triples=st.lists(triples, max_size=2).map(tuple),
        note=texts,
        error=st.booleans(),
    ),
    ToolCall: st.builds(ToolCall, name=texts, arguments=metas),
    SubQuestion: st.builds(
        SubQuestion,
        index=st.integers(0, 99),
        text=texts,
        children=st.lists(st.integers(0, 99), max_size=2).map(tuple),
        question=texts,
        decomposition=st.none() | st.floats(-100, 0),
        candidates=st.lists(
            st.builds(
                Candidate,
                method=st.sampled_from(["closed", "open", "child"]),
                text=texts,
                score=st.floats(-100, 1),
                confidence=st.none() | st.floats(-100, 1),
                agreement=st.booleans(),
                problem=texts,
            ),
            max_size=2,
        ).map(tuple),
        chosen=st.sampled_from(["closed", "open", "child", None]),
    ),
    Answer: st.builds(Answer, text=texts, confidence=shares, source=origins, partial=st.booleans()),
    Malformed: st.builds(Malformed, text=texts, problem=texts),
}
questions = st.builds(
    Question,
    id=texts.filter(bool),
    text=texts.filter(str.strip),
    answers=st.lists(texts, max_size=2).map(tuple),
    meta=metas,
)
usages = st.builds(
    Usage,
    prompt_tokens=st.integers(0, 10**9),
    completion_tokens=st.integers(0, 10**9),
    model_calls=st.integers(0, 99),
    search_calls=st.integers(0, 99),
    seconds=st.floats(0, 1e6),
)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 5),
    top_p=st.floats(0, 1, exclude_min=True),
    max_tokens=st.integers(1, 10**6),
    stop=st.lists(texts, max_size=2).map(tuple),
    seed=st.integers(0, 2**63 - 1),
)
segments = st.builds(
    Segment,
    role=st.sampled_from(["prompt", "policy", "observation"]),
    text=texts,
    token_ids=st.none() | st.lists(st.integers(0, 2**20), max_size=3).map(tuple),
    logprobs=st.none() | st.lists(st.floats(-1e4, 0), max_size=3).map(tuple),
)
trajectories = st.builds(
    Trajectory,
    question=questions,
    strategy=texts,
    model=texts,
    sample=st.none() | st.integers(0, 99),
    sampling=samplings,
    steps=st.lists(st.one_of(*STEPS.values()), max_size=4).map(tuple),
    segments=st.lists(segments, max_size=2).map(tuple),
    usage=usages,
    error=st.none() | texts,
)


def attempt(*steps: Step) -> Trajectory:
    return Trajectory(question=Question(id="1", text="q?"), strategy="search", steps=steps)


# --- round trips -----------------------------------------------------------------------------------------------------


@given(trajectories)
def test_a_trajectory_is_one_json_line_and_comes_back_equal(trajectory: Trajectory) -> None:
    line = trajectory.model_dump_json()
    assert "\n" not in line
    assert "\r" not in line
    assert Trajectory.model_validate_json(line) == trajectory
    assert (
        Trajectory.model_validate(json.loads(line.encode())) == trajectory
    )  # another reader of the file sees the same


@pytest.mark.parametrize("kind", list(STEPS), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_kind_of_step_comes_back_as_its_own_type(kind: type, data: st.DataObject) -> None:
    step = data.draw(STEPS[kind])
    (back,) = Trajectory.model_validate_json(attempt(step).model_dump_json()).steps
    assert type(back) is kind
    assert back == step


def test_every_kind_of_step_is_covered_here() -> None:
    union = Trajectory.model_fields["steps"].annotation
    assert {t.__name__ for t in STEPS} == {name for name in STEPS_BY_NAME if name in str(union)}
    assert len(STEPS) == str(union).count("ken.core.steps.")


STEPS_BY_NAME = {kind.__name__ for kind in STEPS}


@pytest.mark.parametrize(
    "value",
    [
        Segment(role="policy", text="x", token_ids=(1,), logprobs=(float("-inf"),)),
        Passage(id="1", text="x", score=float("inf")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_infinite_numbers_come_back_from_strict_json(value: Any) -> None:
    line = value.model_dump_json()
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert type(value).model_validate_json(line) == value


def test_unknown_fields_and_kinds_are_refused() -> None:
    with pytest.raises(ValidationError):
        Thought.model_validate({"text": "x", "mood": "good"})
    with pytest.raises(ValidationError):
        Trajectory.model_validate({"question": {"id": "1", "text": "q"}, "strategy": "s", "steps": [{"kind": "wish"}]})


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        attempt().question.text = "other"


# --- what a trajectory says about itself -----------------------------------------------------------------------------


def test_the_last_answer_counts() -> None:
    trajectory = attempt(Answer(text="first", confidence=0.1), Thought(text="no"), Answer(text="last", confidence=0.9))
    assert trajectory.answer == "last"
    assert trajectory.answer_confidence == 0.9
    assert not trajectory.unfinished


def test_an_attempt_without_an_answer_is_unfinished_but_an_empty_answer_is_an_answer() -> None:
    silent = attempt(Search(query="x"))
    assert silent.unfinished
    assert silent.answer is None
    assert silent.answer_confidence is None
    empty = attempt(Answer(text=""))
    assert not empty.unfinished
    assert empty.answer == ""


def test_the_first_decision_counts_and_its_absence_is_none() -> None:
    assert attempt(Decision(knows=None), Decision(knows=True)).decision == Decision(knows=None)
    assert attempt(Answer(text="x")).decision is None


def test_searches_keep_their_order_and_malformed_outputs_are_counted() -> None:
    steps = (
        Search(query="b"),
        Malformed(text="?", problem="no tag"),
        Search(query="a"),
        Malformed(text="", problem="x"),
    )
    trajectory = attempt(*steps)
    assert [s.query for s in trajectory.searches] == ["b", "a"]
    assert trajectory.malformed == 2


def test_search_results_are_what_followed_a_search_and_nothing_else() -> None:
    found, failed = Observation(passages=(Passage(id="1", text="x"),)), Observation(note="away", error=True)
    computed = (ToolCall(name="code"), Observation(note="7", error=True))
    steps = (
        Search(query="a"),
        found,
        *computed,
        Observation(note="hint"),
        Search(query="b"),
        failed,
        Search(query="c"),
    )
    made = Trajectory(question=Question(id="q", text="?"), strategy="tools", steps=steps)
    assert made.search_results == (found, failed)
    assert len(made.searches) == 3


def test_passages_are_listed_once_in_the_order_shown() -> None:
    a, b = Passage(id="a", text="x", score=2.0), Passage(id="b", text="y")
    elsewhere = Passage(id="a", text="z", source="other.jsonl")  # the same id in another source is another passage
    trajectory = attempt(
        Observation(passages=(a, b)),
        Observation(passages=(a.model_copy(update={"score": 1.0}), elsewhere)),
        Observation(note="the retriever is down", error=True),
    )
    assert trajectory.passages == (a, b, elsewhere)
    assert attempt().passages == ()


def test_a_passage_belongs_to_its_document_or_is_one() -> None:
    assert Passage(id="d#2", text="x", document="d").document_id == "d"
    assert Passage(id="d", text="x").document_id == "d"


# --- questions, usage, sampling --------------------------------------------------------------------------------------


def test_a_question_is_stripped_and_must_not_be_empty() -> None:
    assert Question(id="1", text="  who? \n").text == "who?"
    for text in ("", " \t\n", "\u00a0"):
        with pytest.raises(ValidationError, match="the question is empty"):
            Question(id="1", text=text)
    with pytest.raises(ValidationError):
        Question(id="", text="who?")


def test_supporting_ids_come_from_meta_as_strings() -> None:
    assert Question(id="1", text="q", meta={"supporting_ids": [3, "x"]}).supporting_ids == ("3", "x")
    assert Question(id="1", text="q", meta={"supporting_ids": "3"}).supporting_ids == ()
    assert Question(id="1", text="q").supporting_ids == ()


@given(usages, usages)
def test_usage_adds_field_by_field_and_starts_at_nothing(first: Usage, second: Usage) -> None:
    total = first + second
    assert first + Usage() == first
    assert total == second + first
    for field in Usage.model_fields:
        assert getattr(total, field) == getattr(first, field) + getattr(second, field)


def test_usage_cannot_be_negative() -> None:
    for field in Usage.model_fields:
        with pytest.raises(ValidationError):
            Usage.model_validate({field: -1})


@given(samplings)
def test_sampling_but_changes_only_what_is_named(sampling: Sampling) -> None:
    assert sampling.but() == sampling
    changed = sampling.but(temperature=0.5, stop=("</answer>",))
    assert (changed.temperature, changed.stop) == (0.5, ("</answer>",))
    assert changed.but(temperature=sampling.temperature, stop=sampling.stop) == sampling


@pytest.mark.parametrize(
    "change",
    [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}, {"heat": 1}, {"stop": 3}],
    ids=str,
)
def test_sampling_but_refuses_what_sampling_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampling().but(**change)
    with pytest.raises(ValidationError):
        Sampling(**change)


@pytest.mark.parametrize("kind", [Decision, Answer])
@pytest.mark.parametrize("confidence", [-0.01, 1.01])
def test_a_confidence_is_a_probability(kind: type, confidence: float) -> None:
    with pytest.raises(ValidationError):
        kind(**({"knows": True} if kind is Decision else {"text": "x"}), confidence=confidence)
