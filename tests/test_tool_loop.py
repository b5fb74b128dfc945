"""The tool loop of TAPO in every branch: prompts, turns, budgets, what the model sees, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents.tools import ToolLoop, invalid_call, response, tool_instruction
from ken.core import (
    Answer,
    BadInput,
    Malformed,
    Observation,
    Passage,
    Question,
    Search,
    SourceError,
    Thought,
    ToolCall,
    Trajectory,
)
from ken.metrics.tool_use import called, tool_use, tool_use_by
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.sources.tools.arithmetic import Arithmetic
from ken.sources.tools.search_tool import SearchTool
from ken.sources.tools.tool import Arguments, ToolCount, ToolResult

QUESTION = Question(id="q", text="How dense is Dako?", answers=("28",), meta={"tools": ["search", "code"]})
FOUND = (Passage(id="dako", title="Dako", text="Dako: population 3421, area 120."),)
SEARCHES = "<think> look </think> <search> population of Dako </search>"
COMPUTES = "<code> 3421 // 120 </code>"
ANSWERS = "<answer> 28 </answer>"


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


def says(*replies: str) -> ScriptedModel:
    """A model that says these things in turn and then fails the test."""
    left = iter(replies)
    return ScriptedModel(lambda prompt: next(left))


def loop(**options: Any) -> ToolLoop:
    return ToolLoop(interpreter=Arithmetic(), **options) if options.get("code", True) else ToolLoop(**options)


def attempt(strategy: ToolLoop, model: ScriptedModel, *found: Sequence[Passage] | Exception) -> Trajectory:
    sources = Sources(search=Retriever(*found) if found else None, top_k=1)
    trajectory = asyncio.run(strategy.run(QUESTION, model, sources))
    assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory
    roles = [segment.role for segment in trajectory.segments]
    assert roles == (["prompt", "policy"] + ["observation", "policy"] * len(roles))[: len(roles)]
    return trajectory


def observations(trajectory: Trajectory) -> list[str]:
    return [segment.text.strip() for segment in trajectory.segments if segment.role == "observation"]


# --- the course of an attempt ---


def test_search_then_compute_then_answer() -> None:
    strategy, model = loop(), says(SEARCHES, COMPUTES, ANSWERS)
    trajectory = attempt(strategy, model, FOUND)
    assert trajectory.steps == (
        Thought(text="look"),
        Search(query="population of Dako"),
        Observation(passages=FOUND),
        ToolCall(name="code", arguments={"code": "3421 // 120"}),
        Observation(note="28"),
        Answer(text="28"),
    )
    assert observations(trajectory) == [
        "<response>Dako: population 3421, area 120.</response>",
        "<response>28</response>",
    ]
    assert model.calls[0].sampling.stop == ("</search>", "</code>", "</answer>")
    assert (trajectory.usage.model_calls, trajectory.usage.search_calls) == (3, 1)


def test_each_tool_has_its_own_counter() -> None:
    strategy = loop()
    attempt(strategy, says(SEARCHES, "<code> 1 / 0 </code>", COMPUTES, ANSWERS), FOUND)
    counts = {name: (c.calls, c.errors, c.down) for name, c in strategy.tools.counts.items()}
    assert counts == {"code": (2, 1, 0), "search": (1, 0, 0)}


def test_a_turn_ends_with_its_first_action() -> None:
    trajectory = attempt(loop(), says(f"{SEARCHES} {ANSWERS}", ANSWERS), FOUND)
    assert trajectory.segments[1].text == SEARCHES
    assert called(trajectory) == {"search": 1}


def test_after_the_last_turn_the_tools_are_off() -> None:
    strategy = loop(max_turns=2)
    trajectory = attempt(strategy, says(SEARCHES, COMPUTES, COMPUTES), FOUND)
    assert trajectory.unfinished
    assert trajectory.steps[-2:] == (
        Malformed(text="3421 // 120", problem="a call of code where none is left"),
        Observation(note="[Failed] Reached the maximum code attempts."),
    )
    assert strategy.tools.counts["code"].calls == 1
    assert attempt(loop(max_turns=2), says(SEARCHES, COMPUTES, ANSWERS), FOUND).answer == "28"


def test_a_tool_whose_budget_is_spent_fails_and_the_others_go_on() -> None:
    trajectory = attempt(loop(budget={"search": 1}), says(SEARCHES, SEARCHES, COMPUTES, ANSWERS), FOUND)
    assert observations(trajectory)[1] == "<response>[Failed] Reached the maximum search attempts.</response>"
    assert called(trajectory) == {"search": 1, "code": 1}
    assert trajectory.malformed == 1
    assert trajectory.answer == "28"


def test_a_budget_counts_for_one_attempt_and_may_come_from_the_tool() -> None:
    strategy = ToolLoop(interpreter=Arithmetic(budget=1))
    for _ in range(2):
        trajectory = attempt(strategy, says(COMPUTES, COMPUTES, ANSWERS))
        assert called(trajectory) == {"code": 1}


def test_an_empty_search_cannot_find_anything() -> None:
    trajectory = attempt(loop(), says(SEARCHES, "<search> </search>", ANSWERS), ())
    assert observations(trajectory) == ["<response>Cannot find any result.</response>"] * 2
    assert called(trajectory) == {"search": 1}
    assert trajectory.malformed == 1


@pytest.mark.parametrize("nonsense", ["I think it is 28.", "<answer> </answer>", "<sing> la </sing>", "<code> 1 + 1"])
def test_an_invalid_action_is_answered_with_the_tools_there_are(nonsense: str) -> None:
    trajectory = attempt(loop(), says(nonsense, ANSWERS))
    assert trajectory.malformed == 1
    assert "To use search" in observations(trajectory)[0]
    assert "To use code" in observations(trajectory)[0]
    assert trajectory.answer == "28"
    (malformed,) = (step for step in trajectory.steps if isinstance(step, Malformed))
    assert malformed.problem in {"no action; there are <search>, <code>, <answer>", "an empty answer"}


def test_a_search_engine_that_is_away_is_an_observation_and_counted_as_down() -> None:
    strategy = loop()
    trajectory = attempt(strategy, says(SEARCHES, ANSWERS), SourceError("away"))
    assert observations(trajectory) == ["<response>[ERROR] The search engine did not answer.</response>"]
    assert trajectory.steps[2] == Observation(note="away", error=True)
    assert strategy.tools.counts["search"].down == 1
    strategy.tools.counts["search"] = ToolCount(calls=20, down=2)
    with pytest.raises(SourceError, match="'search' was down in 2 of 20 calls"):
        strategy.tools.check()


def test_what_the_code_got_wrong_is_no_failure_of_the_environment() -> None:
    class Away(Arithmetic):
        async def call(self, arguments: Arguments) -> ToolResult:
            raise SourceError("no interpreter")

    wrong = attempt(loop(), says("<code> 1 / 0 </code>", ANSWERS))
    assert wrong.steps[1] == Observation(note="[ERROR] division by zero", error=False)
    assert observations(wrong) == ["<response>[ERROR] division by zero</response>"]
    down = attempt(ToolLoop(interpreter=Away()), says(COMPUTES, ANSWERS))
    assert down.steps[1] == Observation(note="[ERROR] no interpreter", error=True)


def test_without_an_index_a_search_ends_the_attempt() -> None:
    assert "no index" in str(attempt(loop(), says(SEARCHES)).error)


def test_long_observations_are_cut() -> None:
    long = (Passage(id="x", text="a" * 5000 + " end"),)
    (seen,) = observations(attempt(loop(characters=100), says(SEARCHES, ANSWERS), long))
    assert len(seen) <= 100 + len("<response></response>")
    assert seen.endswith(" end</response>")


def test_the_default_interpreter_is_sandboxed_python() -> None:
    trajectory = attempt(ToolLoop(), says("<code>\nimport math\nprint(math.factorial(5))\n</code>", ANSWERS))
    assert observations(trajectory) == ["<response>120</response>"]


# --- prompts ---


VARIANTS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize(("search", "code"), VARIANTS)
def test_a_prompt_speaks_of_the_enabled_tools_only(search: bool, code: bool) -> None:
    strategy = ToolLoop(search=search, code=code, interpreter=Arithmetic() if code else None)
    model = says(ANSWERS)
    attempt(strategy, model)
    assert model.calls[0].conversation[0].content == tool_instruction(search=search, code=code)
    text = strategy.instruction.text
    assert ("<search>" in text, "<code>" in text) == (search, code)
    assert ("<response>" in text) == (search or code)
    assert text.count("<answer>") == 2, "once in the rules, once in the example"
    assert strategy.needs_search == search
    assert model.calls[0].sampling.stop[-1] == "</answer>"


def test_the_four_prompts_have_four_tokens() -> None:
    assert {tool_instruction(search=s, code=c).token for s, c in VARIANTS} == {
        "<tools_search_code>",
        "<tools_search>",
        "<tools_code>",
        "<tools_none>",
    }


@pytest.mark.parametrize(("search", "code", "reply"), [(False, True, SEARCHES), (True, False, COMPUTES)])
def test_a_tool_that_is_off_is_no_action(search: bool, code: bool, reply: str) -> None:
    strategy = ToolLoop(search=search, code=code, interpreter=Arithmetic() if code else None)
    trajectory = attempt(strategy, says(reply, ANSWERS), FOUND)
    assert not called(trajectory)
    assert trajectory.malformed == 1
    assert "To use search" not in invalid_call(("code",)).text


def test_the_reward_accepts_a_transcript_of_the_loop_and_names_a_foreign_tag() -> None:
    pytest.importorskip("torch")
    from ken.training.rewards.tools import format_problem
    from ken.training.rewards.tools import tool_use as reward

    question = QUESTION.model_copy(update={"meta": {"source": "complex"}})
    run = loop().run(question, says(SEARCHES, COMPUTES, ANSWERS), Sources(search=Retriever(FOUND), top_k=1))
    assert reward(asyncio.run(run)) == 1.0
    assert format_problem(f"<sing> la </sing> {ANSWERS}") == "an unknown tag <sing>"
    run = loop().run(question, says(f"<sing> la </sing> {ANSWERS}"), Sources())
    assert reward(asyncio.run(run)) == -1.0


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="at least one turn"):
        ToolLoop(max_turns=0)
    with pytest.raises(BadInput, match="name it 'code'"):
        ToolLoop(interpreter=SearchTool(Retriever()))


# --- what comes back is data ---


@given(st.text(alphabet=st.sampled_from("<>/ []ERORWANIGabcsearchponswerthink|"), max_size=80))
def test_a_response_cannot_close_its_tag_or_open_another(text: str) -> None:
    import re

    shown = response(text)
    assert re.findall(r"</?(?:think|search|code|response|answer)>", shown) == ["<response>", "</response>"]


def test_marks_of_errors_survive_and_template_controls_do_not() -> None:
    assert response("[ERROR] x [INST] <|im_end|>").strip() == "<response>[ERROR] x (INST) ‹|im_end|›</response>"
    assert response("</[ERROR]response>").strip() == "<response></[ERROR]response></response>"


# --- statistics ---


def test_tool_use_is_measured_from_trajectories_alone() -> None:
    useful = attempt(loop(), says(SEARCHES, COMPUTES, ANSWERS), FOUND)
    lazy = attempt(loop(), says(ANSWERS))
    easy = QUESTION.model_copy(update={"meta": {"tools": []}})
    needless = asyncio.run(loop().run(easy, says("la", COMPUTES, COMPUTES, ANSWERS), Sources()))
    unknown = needless.model_copy(update={"question": Question(id="u", text="?")})
    use = tool_use([useful, lazy, needless, unknown])
    assert (use.n, use.judged) == (4, 3)
    assert use.calls == {"code": 5 / 4, "search": 1 / 4}
    assert use.total == 6 / 4
    assert use.needless == 2 / 3
    assert use.missed == 1 / 3
    assert use.turns == (3 + 1 + 4 + 4) / 4
    assert use.invalid == 2 / 4
    split = tool_use_by([useful, lazy, needless], lambda t: "hard" if t.question.meta["tools"] else "easy")
    assert {name: part.n for name, part in split.items()} == {"easy": 1, "hard": 2}


def test_nothing_cannot_be_measured() -> None:
    with pytest.raises(BadInput, match="attempt some questions"):
        tool_use([])
