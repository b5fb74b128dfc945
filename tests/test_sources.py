"""Several sources outside: what a question needed, what was chosen, and what accuracy costs."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents import load_strategy
from ken.agents.adaptive import Adaptive
from ken.agents.attempt import Attempt
from ken.agents.background import run
from ken.agents.strategy import Strategy, check_sources
from ken.agents.tools import ToolLoop
from ken.auditing import AuditSettings, measure
from ken.auditing.html import render_html
from ken.core import (
    Answer,
    BadInput,
    Decision,
    Entity,
    GraphQuery,
    Observation,
    Question,
    Sampling,
    Search,
    Step,
    ToolCall,
    Trajectory,
    Usage,
)
from ken.metrics.pareto import pareto_front
from ken.metrics.source_use import NEEDS, chosen_source, needed_source, source_table
from ken.models import Instruction
from ken.models.scripted import ScriptedModel
from ken.sources import Sources

LOOK: dict[str, tuple[Step, ...]] = {
    "inside": (),
    "search": (Search(query="q"), Observation()),
    "graph": (GraphQuery(entity=Entity(id="e", label="e")), Observation()),
    "tools": (ToolCall(name="code"), Observation(note="7")),
}


# --- metrics ---------------------------------------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    front = pareto_front(points)
    assert set(front) == {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    assert all(points[a] <= points[b] for a, b in pairwise(front))


def test_a_number_that_is_none_has_no_place_on_the_front() -> None:
    with pytest.raises(ValueError, match="nan"):
        pareto_front([(1.0, float("nan"))])


def test_what_was_chosen_is_what_was_said_or_else_what_was_asked_first() -> None:
    def made(*steps: Step) -> Trajectory:
        return Trajectory(question=Question(id="a", text="a"), strategy="s", steps=steps)

    assert chosen_source(made(*LOOK["graph"], *LOOK["search"])) == "graph"
    assert chosen_source(made()) == "inside"
    assert chosen_source(made(Decision(knows=True))) == "inside"
    assert chosen_source(made(Decision(knows=False), *LOOK["tools"])) == "tools"
    assert chosen_source(made(Decision(knows=False, source="graph"), *LOOK["search"])) == "graph"
    assert chosen_source(made(Decision(knows=None), *LOOK["search"])) == "unreadable"


@given(st.lists(st.sampled_from(["inside", "search", "graph", "tools", "unreadable"]), min_size=1), st.data())
def test_every_question_stands_in_the_table_once(choices: list[str], data: st.DataObject) -> None:
    some = st.sets(st.sampled_from(["inside", "search", "graph", "tools"]))
    suffices = [data.draw(some) for _ in choices]
    found = source_table(choices, suffices)  # type: ignore[arg-type]
    assert sum(sum(row.values()) for row in found.table.values()) == len(choices)
    assert all(tuple(row) == NEEDS for row in found.table.values())
    assert found.possible == len(choices) - sum(needed_source(s) == "none" for s in suffices)  # type: ignore[arg-type]
    assert found.fit is None or 0 <= found.fit <= 1


def test_a_choice_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no choice 'library'"):
        source_table(["library"], [set()])


# --- the audit -------------------------------------------------------------------------------------------------------

QUESTIONS = {name: Question(id=name, text=f"{name}?", answers=("yes",)) for name in ("known", "read", "linked", "any")}
RIGHT = {  # which source, alone, brings the right answer
    "known": {"inside", "search"},
    "read": {"search"},
    "linked": {"graph"},
    "any": {"search", "graph"},
}
CHOICE = {"known": "inside", "read": "search", "linked": "search", "any": "graph"}


def attempt(name: str, strategy: str, source: str, *, sample: int | None = None, tokens: int = 0) -> Trajectory:
    decides = (Decision(knows=source == "inside", source=source),) if strategy == "adaptive" else ()  # type: ignore[arg-type]
    answer = Answer(text="yes" if source in RIGHT[name] else "no")
    return Trajectory(
        question=QUESTIONS[name],
        strategy=strategy,
        sample=sample,
        steps=(*decides, *LOOK[source], answer),
        usage=Usage(prompt_tokens=tokens),
    )


SETTINGS = AuditSettings(model="m", strategies=("direct", "search", "graph", "adaptive"), samples=1)
ATTEMPTS = [
    made
    for name in QUESTIONS
    for made in (
        attempt(name, "direct", "inside", sample=0),
        attempt(name, "direct", "inside", tokens=10),
        attempt(name, "search", "search", tokens=100),
        attempt(name, "graph", "graph", tokens=300),
        attempt(name, "adaptive", CHOICE[name], tokens=90),
    )
]


def test_the_audit_says_which_source_was_needed_and_what_was_chosen() -> None:
    report = measure(ATTEMPTS, SETTINGS)
    assert report.sources is not None
    needed = {need: count for need, count in report.sources.needed.items() if count}
    assert needed == {"inside": 1, "search": 1, "graph": 1, "several": 1}
    adaptive = report.sources.strategies["adaptive"]
    assert adaptive.table["search"]["graph"] == 1  # the mistake
    assert adaptive.table["graph"]["several"] == 1
    assert (adaptive.fitting, adaptive.possible) == (3, 4)
    assert report.sources.strategies["direct"].fit == 0.25


def test_a_graph_strategy_does_not_count_as_one_that_looks_nothing_up() -> None:
    uses = {s.strategy: s.boundaries[0].use for s in measure(ATTEMPTS, SETTINGS).strategies}
    assert (uses["graph"].needed, uses["graph"].harmful, uses["graph"].missed) == (3, 1, 0)
    assert uses["direct"].missed == 3


def test_the_front_is_of_the_questions_that_all_strategies_attempted() -> None:
    report = measure(ATTEMPTS, SETTINGS)
    found = {t.strategy: t for t in report.tradeoffs}
    assert {name: (t.accuracy, t.tokens) for name, t in found.items()} == {
        "direct": (0.25, 10),
        "search": (0.75, 100),
        "graph": (0.5, 300),
        "adaptive": (0.75, 90),
    }
    assert [t.strategy for t in report.tradeoffs if t.best] == ["direct", "adaptive"]
    fewer = [t for t in ATTEMPTS if (t.strategy, t.question.id) != ("graph", "known")]
    assert all(t.questions == 3 for t in measure(fewer, SETTINGS).tradeoffs)


def test_the_report_draws_both_and_leaves_them_out_where_there_is_one_source() -> None:
    page = render_html(measure(ATTEMPTS, SETTINGS), ATTEMPTS)
    assert "Exact match against tokens per question" in page
    assert "<h2>Sources</h2>" in page
    assert "lookups per question" in page
    alone = [t for t in ATTEMPTS if t.strategy in {"direct", "search"}]
    report = measure(alone, SETTINGS.model_copy(update={"strategies": ("direct", "search")}))
    assert report.sources is None
    page = render_html(report, alone)
    assert "<h2>Sources</h2>" not in page
    assert "searches per question" in page


# --- choosing --------------------------------------------------------------------------------------------------------


class Walk(Strategy):
    """Stands for a strategy that walks a graph: answers what the graph says."""

    name = "graph"
    needs_graph = True

    async def solve(self, attempt: Attempt) -> None:
        attempt.steps += [*LOOK["graph"], Answer(text="from the graph", source="graph")]


class Library:
    name = "library"

    async def search(self, query: str, k: int) -> list[Any]:
        return []

    async def close(self) -> None: ...


class Nowhere:
    """A graph that is never asked."""

    name = "nowhere"


BOTH = Sources(search=Library(), graph=Nowhere())  # type: ignore[arg-type]


def chooser(verdict: str) -> ScriptedModel:
    def reply(prompt: str) -> str:
        if "where its answer should come from" in prompt:
            return f"<think> a relation </think><assessment> {verdict} </assessment>"
        return "<answer> from the model </answer>"

    return ScriptedModel(reply)


@pytest.fixture
def walking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("ken.agents").agents.STRATEGIES, "graph", Walk)


@pytest.mark.usefixtures("walking")
@pytest.mark.parametrize(
    ("verdict", "source", "answer"),
    [
        ("inside", "inside", "from the model"),
        ("Graph.", "graph", "from the graph"),
        ("search", "search", "from the model"),
    ],
)
def test_of_several_sources_the_model_says_which(verdict: str, source: str, answer: str) -> None:
    made = run(Adaptive().run(Question(id="a", text="who?"), chooser(verdict), BOTH))
    assert made.decision is not None
    assert (made.decision.source, made.decision.knows) == (source, source == "inside")
    assert made.answer == answer


@pytest.mark.usefixtures("walking")
@pytest.mark.parametrize("verdict", ["yes", "tools", "the library", ""])
def test_a_choice_that_was_not_offered_is_malformed_and_leads_to_the_first_source(verdict: str) -> None:
    made = run(Adaptive().run(Question(id="a", text="who?"), chooser(verdict), BOTH))
    assert made.decision is not None
    assert made.decision.knows is None
    assert made.malformed == 1
    assert made.answer == "from the model"  # the search loop's


def test_only_what_is_there_is_offered() -> None:
    offered: list[str] = []

    def reply(prompt: str) -> str:
        if "where its answer should come from" in prompt:
            offered.append(prompt)
            return "<assessment>tools</assessment>"
        return "<answer> 4 </answer>"

    adaptive = Adaptive(tools=ToolLoop(search=False))
    made = run(adaptive.run(Question(id="a", text="2+2?"), ScriptedModel(reply), Sources(search=Library())))
    assert "<assessment>tools" in offered[0]
    assert "graph" not in offered[0]
    assert made.decision is not None
    assert made.decision.source == "tools"
    assert made.strategy == "adaptive-tools"


def test_a_strategy_without_its_source_is_refused() -> None:
    with pytest.raises(BadInput, match="no knowledge graph was given, and 'graph' needs one"):
        check_sources([Walk()], Sources(search=Library()))
    with pytest.raises(BadInput, match="no index was given, and 'rag', 'adaptive' need one"):
        check_sources([load_strategy("rag"), Adaptive()], Sources())
    check_sources([Adaptive()], Sources(graph=Nowhere()))  # type: ignore[arg-type]


# --- questions aside -------------------------------------------------------------------------------------------------

ASIDE = Instruction(text="Say it back.", token="<echo>")


class Asides(Strategy):
    name = "asides"

    async def solve(self, attempt: Attempt) -> None:
        attempt.begin(ASIDE, "first")
        await attempt.generate(stop=())
        said = await asyncio.gather(*(attempt.aside(ASIDE, f"part {i}") for i in range(3)))
        attempt.observe("more")
        last = await attempt.generate(stop=())
        attempt.steps.append(Answer(text=" ".join([*(g.text for g in said), last.text])))


def test_questions_aside_run_at_once_are_kept_in_order_and_stay_out_of_the_conversation() -> None:
    model = ScriptedModel(lambda prompt: "+".join(prompt.split("\n\n")[1:]))

    class Backwards:
        """Answers what was asked last first."""

        spec = "backwards"

        async def generate(self, conversation: Any, **options: Any) -> Any:
            text = conversation[-1].content
            for _ in range(5 - int(text[-1]) if text.startswith("part") else 0):
                await asyncio.sleep(0)
            return await model.generate(conversation, **options)

    made = run(Asides().run(Question(id="a", text="a"), Backwards(), Sources(), sampling=Sampling(temperature=1.0)))  # type: ignore[arg-type]
    assert made.answer == "part 0 part 1 part 2 first+first+more"
    assert [s.text for s in made.segments if s.role == "policy"] == [
        "first",
        "part 0",
        "part 1",
        "part 2",
        "first+first+more",
    ]
    assert made.usage.model_calls == 5
    assert len({call.sampling.seed for call in model.calls}) == 5
