"""The step grammar of R3-RAG: what is read, what is refused and why, and what a run of steps leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents.stepwise import (
    ANALYSIS,
    ANSWER,
    DOCUMENTS,
    QUERY,
    STEPS,
    StepProblem,
    StepTurn,
    Stepwise,
    parse_step,
    render_documents,
    write_step,
)
from ken.core import (
    Answer,
    BadInput,
    Malformed,
    Observation,
    Passage,
    Question,
    Sampling,
    Search,
    SourceError,
    Thought,
    Trajectory,
)
from ken.models.scripted import ScriptedModel
from ken.sources import Sources

QUESTION = Question(id="q", text="Where was the mentor of Ann born?", answers=("Bonn",))


@pytest.mark.parametrize(
    ("text", "analysis", "action"),
    [
        ("Step 1: The problem analysis: a The retrieval query: q", "a", Search(query="q")),
        ("Step 1:\nThe problem analysis: a b\nThe final answer: Bonn", "a b", Answer(text="Bonn")),
        ("Step 1: The problem analysis: a The retrieval query: q1? q2?", "a", Search(query="q1?")),
        ("Step 1: The problem analysis: a The retrieval query: q\nThe final answer: x", "a", Search(query="q")),
        ("Step 1: The problem analysis: a The final answer: x The retrieval query: q", "a", Answer(text="x")),
        (f"Step 1: The problem analysis: a The retrieval query: q {DOCUMENTS}", "a", Search(query="q")),
        (f"Step 1: The problem analysis: a The retrieval query: q {DOCUMENTS} made up", "a", Search(query="q")),
        ("I begin. Step 1: The problem analysis: a The final answer: x?", "a", Answer(text="x?")),
        (
            "**Step 1:**\n**The problem analysis:** a\n**The retrieval query:** q\n**The retrieval documents:**",
            "a",
            Search(query="q"),
        ),
        ("step 1: the problem  analysis : a the retrieval\nquery: q", "a", Search(query="q")),
    ],
)
def test_a_step_is_read(text: str, analysis: str, action: Search | Answer) -> None:
    turn = parse_step(text, 1)
    assert isinstance(turn, StepTurn)
    assert (turn.number, turn.analysis, turn.action) == (1, analysis, action)
    content = action.query if isinstance(action, Search) else action.text
    assert text[turn.start : turn.end] == content


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", StepProblem.NO_STEP),
        ("The problem analysis: a The final answer: x", StepProblem.NO_STEP),
        ("Step 10: The problem analysis: a The final answer: x", StepProblem.NO_STEP),
        (
            "Step 1: The problem analysis: a The retrieval query: q Step 2: The problem analysis: b",
            StepProblem.SEVERAL_STEPS,
        ),
        ("Step 2: The problem analysis: a The final answer: x", StepProblem.WRONG_NUMBER),
        ("Step 1: The final answer: x", StepProblem.NO_ANALYSIS),
        ("Step 1: The problem analysis: The final answer: x", StepProblem.NO_ANALYSIS),
        ("The problem analysis: a Step 1: The final answer: x", StepProblem.NO_ANALYSIS),
        ("Step 1: The problem analysis: a", StepProblem.NO_ACTION),
        ("The final answer: x Step 1: The problem analysis: a", StepProblem.NO_ACTION),
        ("Step 1: The problem analysis: a The retrieval query: ", StepProblem.EMPTY_QUERY),
        ("Step 1: The problem analysis: a The retrieval query: ??", StepProblem.EMPTY_QUERY),
        ("Step 1: The problem analysis: a The final answer:\n", StepProblem.EMPTY_ANSWER),
    ],
)
def test_what_is_no_step_says_why(text: str, problem: StepProblem) -> None:
    assert parse_step(text, 1) == Malformed(text=text, problem=problem)


def test_every_problem_has_a_case() -> None:
    cases = next(m for m in test_what_is_no_step_says_why.pytestmark if m.name == "parametrize").args[1]
    assert {problem for _, problem in cases} == set(StepProblem)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
pieces = st.sampled_from(["Step 1:", "Step 2:", "Step 12:", ANALYSIS, QUERY, ANSWER, DOCUMENTS, "**", "?", "\n"])


@given(st.lists(words | pieces).map(" ".join), st.none() | st.integers(1, 9))
def test_reading_never_raises_and_never_invents(text: str, number: int | None) -> None:
    turn = parse_step(text, number)
    if isinstance(turn, Malformed):
        assert turn.text == text
        assert turn.problem in list(StepProblem)
    else:
        assert number in {None, turn.number}
        assert turn.analysis
        assert turn.analysis in text
        content = turn.action.query if isinstance(turn.action, Search) else turn.action.text
        assert text[turn.start : turn.end] == content != ""


content = st.text(st.characters(categories=["L", "N"]), min_size=1).map(str.strip).filter(bool)


@given(st.integers(1, 9), content, content, st.booleans())
def test_what_is_written_is_read_back(number: int, analysis: str, text: str, asks: bool) -> None:
    written = write_step(number, analysis, query=text) if asks else write_step(number, analysis, answer=text)
    turn = parse_step(written, number)
    assert isinstance(turn, StepTurn)
    assert (turn.number, turn.analysis) == (number, analysis)
    assert turn.action == (Search(query=text) if asks else Answer(text=text))
    assert written.endswith(DOCUMENTS) == asks


@given(st.lists(words | pieces).map(" ".join))
def test_no_document_passes_for_a_step(text: str) -> None:
    shown = render_documents([Passage(id="d", title="T", text=text)])
    after = f"Step 2: {ANALYSIS} a {DOCUMENTS} {shown}"
    turn = parse_step(after, 2)
    assert isinstance(turn, Malformed)
    assert turn.problem == StepProblem.NO_ACTION


def test_documents_are_titled_lines_cut_to_their_share() -> None:
    passages = [Passage(id="a", title="Ann", text="mentor\nBob."), Passage(id="b", title="Bob", text="Bob was born.")]
    assert render_documents(passages) == "Ann: mentor Bob.\nBob was born."
    assert render_documents(passages, characters=12) == "Ann: mentor "
    assert render_documents([]) == ""


# --- the loop
# ---------------------------------------------------------------------------------------------------------------------


class Library:
    """Returns its passages in order, whatever is asked."""

    name = "library"

    def __init__(self, size: int) -> None:
        self.passages = [Passage(id=f"d{i}", title=f"T{i}", text=f"text {i}") for i in range(size)]
        self.queries: list[str] = []

    async def search(self, query: str, k: int) -> list[Passage]:
        self.queries.append(query)
        return self.passages[:k]

    async def close(self) -> None:
        """Nothing to release."""


class Broken(Library):
    async def search(self, query: str, k: int) -> list[Passage]:
        raise SourceError("the search engine is down")


def queries_then(answer: str | None, after: int = 99) -> ScriptedModel:
    """Asks query 1, 2, …; answers once it has asked `after` times."""

    def reply(prompt: str) -> str:
        number = 1 + prompt.count(DOCUMENTS)
        if number > after:
            return write_step(number, "enough", answer=answer)
        return write_step(number, f"need {number}", query=f"query {number}") + " T9: made up"

    return ScriptedModel(reply, control_tokens=True)


def attempt(model: ScriptedModel, library: Library, strategy: Stepwise, *, top_k: int = 2, **how: float) -> Trajectory:
    sources = Sources(search=library, top_k=top_k)
    return asyncio.run(strategy.run(QUESTION, model, sources, sampling=Sampling(**how), sample=0))


def test_steps_become_thoughts_searches_and_an_answer_in_one_conversation() -> None:
    trajectory = attempt(queries_then("Bonn", after=2), Library(9), Stepwise())
    assert [type(step) for step in trajectory.steps] == [Thought, Search, Observation] * 2 + [Thought, Answer]
    assert trajectory.answer == "Bonn"
    assert [s.role for s in trajectory.segments] == [
        "prompt",
        "policy",
        "observation",
        "policy",
        "observation",
        "policy",
    ]
    assert trajectory.segments[0].text.startswith(f"{STEPS.token}\n\nThe question: {QUESTION.text}")
    assert trajectory.segments[2].text == " T0: text 0\nT1: text 1\n"
    assert all(s.text.count(DOCUMENTS) == s.text.endswith(DOCUMENTS) for s in trajectory.segments if s.role == "policy")


def test_no_passage_comes_twice_and_none_after_the_budget() -> None:
    library = Library(20)
    trajectory = attempt(queries_then(None), library, Stepwise(6, max_passages=5))
    shown = [[p.id for p in s.passages] for s in trajectory.steps if isinstance(s, Observation)]
    assert shown == [["d0", "d1"], ["d2", "d3"], ["d4"], [], [], []]
    assert len(library.queries) == 3
    assert trajectory.unfinished
    assert trajectory.error is None


def test_steps_run_out_without_an_answer() -> None:
    trajectory = attempt(queries_then("Bonn", after=5), Library(20), Stepwise(5))
    assert len(trajectory.searches) == 5
    assert trajectory.unfinished
    assert not trajectory.malformed


def test_an_empty_result_and_a_broken_engine_are_told_to_the_model() -> None:
    nothing = attempt(queries_then("x", after=1), Library(0), Stepwise())
    assert nothing.segments[2].text == " none\n"
    broken = attempt(queries_then("x", after=1), Broken(0), Stepwise())
    assert broken.segments[2].text == " none, the search engine did not answer\n"
    assert [s.error for s in broken.steps if isinstance(s, Observation)] == [True]
    assert broken.answer == "x"


def test_a_model_that_ends_its_step_itself_is_given_the_marker() -> None:
    model = ScriptedModel(lambda prompt: f"Step 1: {ANALYSIS} a {QUERY} q" if "T0" not in prompt else "x")
    trajectory = attempt(model, Library(1), Stepwise(2))
    assert trajectory.segments[2].text == f"\n{DOCUMENTS} T0: text 0\n"


def scripted(*replies: str) -> ScriptedModel:
    left = list(replies)
    return ScriptedModel(lambda prompt: left.pop(0))


GOOD, BAD = write_step(1, "a", answer="Bonn"), "what?"


@pytest.mark.parametrize(
    ("replies", "retries", "temperature", "calls", "answer"),
    [
        ([BAD, BAD, GOOD], 3, 1.0, 3, "Bonn"),
        ([BAD, BAD, BAD, BAD], 3, 1.0, 4, None),
        ([BAD], 0, 1.0, 1, None),
        ([BAD], 3, 0.0, 1, None),  # greedy: it would only repeat itself
    ],
)
def test_a_malformed_step_is_written_again(
    replies: Sequence[str], retries: int, temperature: float, calls: int, answer: str | None
) -> None:
    model = scripted(*replies)
    trajectory = attempt(model, Library(1), Stepwise(retries=retries), temperature=temperature)
    assert len(model.calls) == calls == trajectory.usage.model_calls
    assert trajectory.answer == answer
    assert trajectory.malformed == (answer is None)
    assert [s.role for s in trajectory.segments] == ["prompt", "policy"]
    assert len({call.sampling.seed for call in model.calls}) == calls
    assert {call.conversation for call in model.calls} == {model.calls[0].conversation}


def test_a_retracted_step_leaves_no_trace_in_a_later_turn() -> None:
    model = scripted(write_step(1, "a", query="q"), BAD, write_step(2, "b", answer="Bonn"))
    trajectory = attempt(model, Library(1), Stepwise(retries=1), temperature=1)
    assert [s.role for s in trajectory.segments] == ["prompt", "policy", "observation", "policy"]
    assert trajectory.segments[2].text == " T0: text 0\n"
    assert BAD not in "".join(s.text for s in trajectory.segments)


@pytest.mark.parametrize(("sample", "temperature"), [(0, 0.1), (1, 0.4), (3, 1.0), (5, 0.4)])
def test_samples_climb_the_temperature_ladder(sample: int, temperature: float) -> None:
    model = scripted(GOOD)
    strategy = Stepwise(temperatures=(0.1, 0.4, 0.7, 1.0))
    trajectory = asyncio.run(strategy.run(QUESTION, model, Sources(), sample=sample))
    assert [call.sampling.temperature for call in model.calls] == [temperature]
    assert trajectory.sampling.temperature == temperature


@pytest.mark.parametrize(
    "wrong", [{"max_steps": 10}, {"max_steps": 0}, {"retries": -1}, {"max_passages": 0}, {"document_characters": 0}]
)
def test_what_the_grammar_cannot_hold_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        Stepwise(**wrong)
    with pytest.raises(BadInput):
        write_step(10, "a", query="q")
