"""Dialogues from shortest paths: what a walk would have said, had it gone straight to the answer."""

from __future__ import annotations

import asyncio

import pytest

from ken.agents.solver import Solver
from ken.agents.solver_prompts import CHOOSE, HEAD, SOLVE
from ken.core import BadInput, Question
from ken.core.choices import choices_of
from ken.sources.graph.store import TripleStore
from ken.sources.graph.subgraph import SubgraphExtractor
from ken.training.path_dialogues import PathDialogues, build_path_dialogues

GRAPH = TripleStore.of(
    [
        ("sailor", "lives in", "harbour"),
        ("harbour", "sells", "fish"),
        ("sailor", "eats", "soup"),
        ("soup", "made of", "fish"),
        ("sailor", "owns", "boat"),
        ("boat", "made of", "tar"),
        ("tar", "near", "fish"),
    ]
)


def ask(
    name: str = "q", text: str = "What does the place where a sailor lives in sells?", **changes: object
) -> Question:
    fields = {"answers": ("fish",), "meta": {"choices": ["tar", "fish"]}, **changes}
    return Question(id=name, text=text, **fields)


def build(*questions: Question, **how: object) -> PathDialogues:
    solver = Solver(extractor=SubgraphExtractor(hops=3))
    return asyncio.run(build_path_dialogues(questions, GRAPH, solver, **how))


def said(made: PathDialogues) -> list[list[str]]:
    return [[m.content for m in dialogue if m.role == "policy"] for dialogue in made.dialogues]


def test_every_turn_is_the_next_entity_and_the_last_the_letter() -> None:
    made = build(ask(), ties="question")
    assert said(made) == [["lives in: harbour", "sells: fish", "ANSWER: B"]]
    (dialogue,) = made.dialogues
    assert [m.role for m in dialogue] == ["system", "user", *["policy", "observation"] * 2, "policy"]
    assert dialogue[0].content == SOLVE
    assert dialogue[-2].content == CHOOSE
    assert "Round 2. Current entity: harbour\nNeighbours:\nsells: fish" in dialogue[3].content


def test_prompts_are_those_of_inference() -> None:
    from ken.models.scripted import ScriptedModel
    from ken.sources import Sources

    (dialogue,) = build(ask(), ties="question").dialogues
    replies = iter(["lives in: harbour", "sells: fish"])
    model = ScriptedModel(lambda _: next(replies))
    asyncio.run(Solver(extractor=SubgraphExtractor(hops=3)).run(ask(), model, Sources(graph=GRAPH)))
    assert [m.content for m in model.calls[-1].conversation] == [m.content for m in dialogue[:4]]


def test_ties_are_broken_by_the_question_at_random_by_seed_or_not_at_all() -> None:
    soup = ask(text="What is the soup that a sailor eats made of?", meta={"choices": ["tar", "fish"]})
    by_question = ask(text="A sailor eats something; what is it made of?")
    assert said(build(by_question, ties="question")) == [["eats: soup", "made of: fish", "ANSWER: B"]]
    assert len(build(ask(), ties="all").dialogues) == 2
    drawn = {tuple(said(build(ask(), seed=seed))[0]) for seed in range(12)}
    assert drawn == {("lives in: harbour", "sells: fish", "ANSWER: B"), ("eats: soup", "made of: fish", "ANSWER: B")}
    assert said(build(soup, ties="question")) == [["made of: fish", "ANSWER: B"]]  # the question names soup, too


def test_no_path_goes_through_another_candidate() -> None:
    question = ask(meta={"choices": ["harbour", "soup", "fish"]})
    assert said(build(question)) == [["owns: boat", "made of: tar", "near: fish", "ANSWER: C"]]


def test_where_to_begin_is_learnt_too_when_asked_for() -> None:
    question = ask(text="Unlike a boat, what does the place a sailor lives in sells?")
    made = build(question, ties="question", heads=True)
    assert [d[0].content for d in made.dialogues] == [SOLVE, HEAD]
    assert said(made)[1] == ["sailor"]


def test_what_is_held_out_teaches_nothing_under_whatever_name() -> None:
    made = build(ask("train-1"), ask("test-1"), held_out=[ask("test-1")])
    assert (made.dialogues, made.skipped, made.questions) == ([], {"held out": 2}, 2)


def test_what_cannot_be_walked_is_counted_by_its_reason() -> None:
    made = build(
        ask("a", text="Who are you?"),
        ask("b", meta={"choices": ["tar", "gold"]}, answers=("gold",)),
        ask("c", answers=()),
        ask("d", meta={"choices": ["fish", "fish cake"]}, text="the shore"),
        ask("e"),
    )
    assert made.used == 1
    assert made.skipped == {
        "no entity of the question is in the graph": 2,
        "the answer is not in the graph": 1,
        "not exactly one candidate is right": 1,
    }
    assert choices_of(ask()) == ("tar", "fish")


def test_unknown_ties_are_refused() -> None:
    with pytest.raises(BadInput, match="random, question, all"):
        build(ask(), ties="first")
