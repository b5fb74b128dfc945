"""Every strategy in every branch: what it asks, what it records, what it counts, and that it never loses a question."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from ken.agents import STRATEGIES, Adaptive, Direct, Rag, SearchLoop, Strategy, load_strategy
from ken.agents.instructions import (
    CLOSED,
    DECIDE,
    INVALID_ACTION,
    INVALID_ANSWER,
    NO_MORE_SEARCHES,
    NOTHING_FOUND,
    READ,
    SEARCH,
    SEARCH_FAILED,
)
from ken.core import (
    Answer,
    BadInput,
    Decision,
    Malformed,
    ModelError,
    Observation,
    Passage,
    Question,
    Sampling,
    SourceError,
    Thought,
    Trajectory,
)
from ken.models.scripted import ScriptedModel
from ken.sources import Sources

QUESTION = Question(id="q", text="Where does the Elbe end?", answers=("North Sea",))
FOUND = (Passage(id="elbe", title="Elbe", text="The Elbe flows into the North Sea."),)
ANSWER = "<think> rivers </think> <answer> North Sea </answer>"
SEARCHES = "<think> look </think> <search> mouth of the Elbe </search>"


class Retriever:
    """Answers from a script: passages, or an error to raise; the last entry repeats."""

    name = "scripted"

    def __init__(self, *answers: Sequence[Passage] | Exception) -> None:
        self.answers, self.queries = answers, []

    async def search(self, query: str, k: int) -> list[Passage]:
        self.queries.append((query, k))
        answer = self.answers[min(len(self.queries), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    async def close(self) -> None:
        pass


def says(*replies: str | Exception) -> ScriptedModel:
    """A model that says these things in turn and then fails the test."""
    left = iter(replies)

    def reply(prompt: str) -> str:
        said = next(left)
        if isinstance(said, Exception):
            raise said
        return said

    return ScriptedModel(reply)


def attempt(strategy: Strategy, model: ScriptedModel, retriever: Retriever | None = None, **how: object) -> Trajectory:
    trajectory = asyncio.run(strategy.run(QUESTION, model, Sources(search=retriever), **how))
    assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory
    _check_segments(trajectory)
    assert trajectory.usage.model_calls == sum(segment.role == "policy" for segment in trajectory.segments)
    return trajectory


def _check_segments(trajectory: Trajectory) -> None:
    """Policy segments never follow one another, and each is preceded by what the environment said."""
    roles = [segment.role for segment in trajectory.segments]
    assert roles[1::2] == ["policy"] * len(roles[1::2])
    assert set(roles[::2]) <= {"prompt", "observation"}
    assert not roles or roles[0] == "prompt"


def kinds(trajectory: Trajectory) -> list[str]:
    return [step.kind for step in trajectory.steps]


# --- direct ---


def test_direct_answers_from_the_closed_book_prompt() -> None:
    model = says(ANSWER)
    trajectory = attempt(Direct(), model)
    assert trajectory.steps == (Thought(text="rivers"), Answer(text="North Sea"))
    assert [m.content for m in model.calls[0].conversation] == [CLOSED, QUESTION.text]
    assert model.calls[0].sampling.stop == ("</answer>",)
    assert [(s.role, s.text) for s in trajectory.segments] == [
        ("prompt", model.calls[0].prompt),
        ("policy", ANSWER),
    ]
    assert (trajectory.usage.model_calls, trajectory.usage.search_calls, trajectory.error) == (1, 0, None)


def test_direct_reminds_once_of_the_form_and_then_ends_unfinished() -> None:
    model = says("The North Sea.", "As I said.")
    trajectory = attempt(Direct(), model)
    assert kinds(trajectory) == ["thought", "malformed", "thought", "malformed"]
    assert trajectory.unfinished
    assert trajectory.malformed == 2
    assert model.calls[1].conversation[-1].content == INVALID_ANSWER
    assert attempt(Direct(), says("The North Sea.", ANSWER)).answer == "North Sea"


def test_an_empty_answer_is_malformed_once() -> None:
    assert attempt(Direct(), says("<answer> </answer>", ANSWER)).malformed == 1


def test_a_search_where_none_is_possible_is_malformed_and_no_search() -> None:
    trajectory = attempt(Direct(), says(f"<search>x</search> {ANSWER}"))
    assert trajectory.searches == ()
    assert (trajectory.malformed, trajectory.answer) == (1, "North Sea")


def test_a_verdict_nobody_asked_for_is_no_decision() -> None:
    text = f"<assessment>yes</assessment> {ANSWER}"
    assert attempt(Direct(), says(text)).decision is None
    assert attempt(SearchLoop(), says(text), Retriever(FOUND)).decision is None


# --- rag ---


def test_rag_searches_with_the_question_and_reads() -> None:
    model, retriever = says(ANSWER), Retriever(FOUND)
    trajectory = attempt(Rag(), model, retriever)
    assert retriever.queries == [(QUESTION.text, 3)]
    assert kinds(trajectory) == ["search", "observation", "thought", "answer"]
    instruction, user = (message.content for message in model.calls[0].conversation)
    assert instruction == READ
    assert user.startswith("<information>Doc 1(Title: Elbe) The Elbe flows")
    assert user.endswith(QUESTION.text)
    assert trajectory.usage.search_calls == 1


def test_rag_reads_nothing_when_nothing_is_found() -> None:
    trajectory = attempt(Rag(), says(ANSWER), Retriever(()))
    assert (trajectory.answer, trajectory.passages, trajectory.error) == ("North Sea", (), None)


def test_rag_ends_with_an_error_when_the_search_fails() -> None:
    model = says()
    trajectory = attempt(Rag(), model, Retriever(SourceError("the index is gone")))
    assert trajectory.error == "the search failed: the index is gone"
    assert trajectory.steps[-1] == Observation(note="the index is gone", error=True)
    assert model.calls == []
    assert trajectory.usage.search_calls == 1


# --- search ---


def test_search_alternates_between_searching_and_reading() -> None:
    model, retriever = says(SEARCHES, "<search> North Sea </search>", ANSWER), Retriever(FOUND)
    trajectory = attempt(SearchLoop(), model, retriever)
    assert [query for query, _ in retriever.queries] == ["mouth of the Elbe", "North Sea"]
    assert kinds(trajectory) == ["thought", "search", "observation", "search", "observation", "thought", "answer"]
    assert trajectory.passages == FOUND
    assert (trajectory.usage.model_calls, trajectory.usage.search_calls) == (3, 2)
    assert [s.role for s in trajectory.segments] == ["prompt", "policy", *["observation", "policy"] * 2]
    assert trajectory.segments[2].text.count("<information>") == 1
    assert [m.role for m in model.calls[2].conversation] == ["system", "user"] + ["policy", "observation"] * 2
    assert model.calls[0].conversation[0].content == SEARCH
    assert {call.sampling.stop for call in model.calls} == {("</search>", "</answer>")}


@pytest.mark.parametrize("nonsense", ["I do not know.", "<search> </search>", "<answer></answer>", "", "<search>x"])
def test_an_invalid_action_is_reminded_of_counted_and_costs_a_turn(nonsense: str) -> None:
    model = says(nonsense, ANSWER)
    trajectory = attempt(SearchLoop(), model, Retriever(FOUND))
    assert (trajectory.malformed, trajectory.answer) == (1, "North Sea")
    assert model.calls[1].conversation[-1].content == INVALID_ACTION
    assert trajectory.searches == ()
    always = attempt(SearchLoop(max_turns=2), ScriptedModel(lambda prompt: nonsense), Retriever(FOUND))
    assert (always.malformed, always.usage.model_calls, always.unfinished) == (3, 3, True)


def test_nothing_found_is_said() -> None:
    model = says(SEARCHES, ANSWER)
    trajectory = attempt(SearchLoop(), model, Retriever(()))
    assert model.calls[1].conversation[-1].content == NOTHING_FOUND
    assert trajectory.segments[2].text == NOTHING_FOUND.text
    assert trajectory.steps[2] == Observation()


def test_a_failing_search_engine_is_noted_counted_and_the_attempt_goes_on() -> None:
    model = says(SEARCHES, SEARCHES, ANSWER)
    trajectory = attempt(SearchLoop(), model, Retriever(SourceError("timeout"), FOUND))
    assert model.calls[1].conversation[-1].content == SEARCH_FAILED
    assert trajectory.steps[2] == Observation(note="timeout", error=True)
    assert (trajectory.answer, trajectory.error) == ("North Sea", None)
    assert (trajectory.usage.search_calls, len(trajectory.searches)) == (2, 2)


def test_a_search_after_the_last_turn_is_not_carried_out() -> None:
    model, retriever = says(SEARCHES, SEARCHES, f"<search>more</search> {ANSWER}"), Retriever(FOUND)
    trajectory = attempt(SearchLoop(max_turns=1), model, retriever)
    assert len(retriever.queries) == len(trajectory.searches) == 1
    assert model.calls[2].conversation[-1].content == NO_MORE_SEARCHES
    assert model.calls[2].sampling.stop == ("</answer>",)
    assert trajectory.answer == "North Sea"  # although it wrote one more search first
    assert trajectory.malformed == 2


def test_a_model_that_only_searches_makes_max_turns_searches_and_ends_unfinished() -> None:
    trajectory = attempt(SearchLoop(), ScriptedModel(lambda prompt: SEARCHES), Retriever(FOUND))
    assert (trajectory.usage.search_calls, trajectory.usage.model_calls) == (4, 6)
    assert trajectory.unfinished
    assert kinds(trajectory).count("malformed") == 3
    with pytest.raises(BadInput, match="max_turns"):
        SearchLoop(max_turns=0)


# --- adaptive ---


def verdict(word: str) -> str:
    return f"I think so. <assessment>{word}</assessment>"


def test_adaptive_answers_closed_book_what_it_knows() -> None:
    model, retriever = says(verdict("yes"), ANSWER), Retriever(FOUND)
    trajectory = attempt(Adaptive(), model, retriever)
    assert trajectory.decision == Decision(knows=True, rationale="I think so.")
    assert retriever.queries == []
    assert [m.content for m in model.calls[0].conversation] == [DECIDE, QUESTION.text]
    assert [m.content for m in model.calls[1].conversation] == [
        CLOSED,
        QUESTION.text,
    ]
    assert [s.role for s in trajectory.segments] == ["prompt", "policy", "prompt", "policy"]
    assert trajectory.strategy == "adaptive"


def test_adaptive_searches_for_what_it_does_not_know() -> None:
    trajectory = attempt(Adaptive(), says(verdict("no"), SEARCHES, ANSWER), Retriever(FOUND))
    assert trajectory.decision == Decision(knows=False, rationale="I think so.")
    assert kinds(trajectory) == ["decision", "thought", "search", "observation", "thought", "answer"]
    assert trajectory.usage.model_calls == 3


@pytest.mark.parametrize("text", ["I cannot say.", verdict("perhaps"), "<think>" + verdict("yes")])
def test_an_unparseable_verdict_goes_to_search_and_is_counted(text: str) -> None:
    trajectory = attempt(Adaptive(), says(text, SEARCHES, ANSWER), Retriever(FOUND))
    assert isinstance(trajectory.steps[0], Malformed)
    assert trajectory.decision == Decision(knows=None, rationale=text)
    assert (trajectory.malformed, len(trajectory.searches), trajectory.answer) == (1, 1, "North Sea")


def test_confidence_is_the_probability_of_yes_and_of_the_answer() -> None:
    chances = {" yes": -0.1, " no": -0.2, " Sea": -0.5}

    def decide(word: str) -> Trajectory:
        replies = iter([f"<assessment> {word} </assessment>", "<answer> Sea </answer>"])
        model = ScriptedModel(lambda prompt: next(replies), logprob=lambda token: chances.get(token, 0.0))
        return attempt(Adaptive(), model, Retriever(FOUND))

    assert decide("yes").decision.confidence == pytest.approx(0.9048, abs=1e-4)  # e^-0.1
    assert decide("no").decision.confidence == pytest.approx(0.1813, abs=1e-4)  # 1 - e^-0.2
    assert decide("yes").answer_confidence == decide("no").answer_confidence == pytest.approx(0.6065, abs=1e-4)
    assert attempt(Adaptive(), says(verdict("yes"), ANSWER), Retriever(FOUND)).decision.confidence is None


# --- all ---


@pytest.mark.parametrize("name", ["rag", "search", "adaptive"])
def test_without_an_index_the_attempt_ends_with_an_error(name: str) -> None:
    model = ScriptedModel(lambda prompt: verdict("no") if DECIDE.text in prompt else SEARCHES)
    trajectory = attempt(load_strategy(name), model)
    assert "no index" in trajectory.error
    assert (trajectory.searches, trajectory.usage.search_calls) == ((), 0)


def test_a_model_error_keeps_what_happened_until_then() -> None:
    trajectory = attempt(SearchLoop(), says(SEARCHES, ModelError("the server is gone")), Retriever(FOUND))
    assert trajectory.error == "the server is gone"
    assert kinds(trajectory) == ["thought", "search", "observation"]
    assert [s.role for s in trajectory.segments] == ["prompt", "policy"]
    assert trajectory.usage.model_calls == trajectory.usage.search_calls == 1
    assert trajectory.question == QUESTION


def test_a_defect_is_raised_and_not_hidden_in_a_trajectory() -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(Direct(), ScriptedModel(lambda prompt: str(1 // 0)))


def test_text_that_no_file_can_hold_is_made_encodable() -> None:
    assert attempt(Direct(), says("<answer>a\ud800b</answer>")).answer == "a?b"


def test_samples_and_questions_draw_with_different_seeds_and_reruns_with_the_same() -> None:
    def seeds(question: Question, **how: object) -> list[int]:
        model = ScriptedModel(lambda prompt: "no")
        asyncio.run(Direct().run(question, model, Sources(), **how))
        return [call.sampling.seed for call in model.calls]

    other = QUESTION.model_copy(update={"id": "other"})
    runs = [seeds(QUESTION), seeds(QUESTION, sample=0), seeds(QUESTION, sample=1), seeds(other)]
    runs.append(seeds(QUESTION, sampling=Sampling(seed=1)))
    everything = [seed for run in runs for seed in run]
    assert len(set(everything)) == len(everything) == 10
    assert seeds(QUESTION, sample=1) == runs[2]


def test_the_sampling_of_the_attempt_reaches_the_model() -> None:
    model = says(ANSWER)
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=33)
    assert attempt(Direct(), model, sampling=sampling).sampling == sampling
    used = model.calls[0].sampling
    assert (used.temperature, used.top_p, used.max_tokens) == (0.7, 0.9, 33)


def test_unknown_strategies_are_refused_with_those_there_are() -> None:
    assert {"direct", "rag", "search", "adaptive", "ircot", "self-ask", "stepwise", "tools"} <= STRATEGIES.keys()
    assert all(load_strategy(name).name == name for name in STRATEGIES)
    with pytest.raises(BadInput, match="direct, rag, search, adaptive"):
        load_strategy("guess")


def test_a_thousand_attempts_at_once_do_not_mix() -> None:
    def reply(prompt: str) -> str:
        number = prompt.split("number ")[1].split("?", maxsplit=1)[0]
        return f"<answer>{number}</answer>" if f"found {number}" in prompt else f"<search>{number}</search>"

    class Echo(Retriever):
        async def search(self, query: str, k: int) -> list[Passage]:
            await asyncio.sleep(0)
            return [Passage(id=query, text=f"found {query}")]

    async def everything() -> Iterable[Trajectory]:
        model, sources = ScriptedModel(reply), Sources(search=Echo(()))
        asked = [Question(id=str(i), text=f"What is number {i}?") for i in range(1000)]
        return await asyncio.gather(*(SearchLoop().run(q, model, sources) for q in asked))

    for i, trajectory in enumerate(asyncio.run(everything())):
        assert trajectory.question.id == trajectory.answer == trajectory.searches[0].query == str(i)
        assert (trajectory.usage.model_calls, trajectory.usage.search_calls) == (2, 1)


def test_usage_adds_up() -> None:
    model = says(SEARCHES, ANSWER)
    usage = attempt(SearchLoop(), model, Retriever(FOUND)).usage
    assert usage.completion_tokens == len(SEARCHES.split()) + len(ANSWER.split())
    assert usage.prompt_tokens == sum(len(call.prompt.split()) for call in model.calls)
    assert usage.seconds > 0
