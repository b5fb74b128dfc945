"""IRCoT: the sentence that a thought adds is the next query, until the thought adds none."""

from __future__ import annotations

import asyncio

import pytest

from ken.agents.ircot import Ircot, split_sentences
from ken.core import Answer, BadInput, Malformed, Passage, Question, Trajectory
from ken.models.scripted import ScriptedModel
from ken.sources import Sources

QUESTION = Question(id="q", text="Where was the mentor of Ann born?", answers=("Bonn",))
PAGES = {
    "Ann": Passage(id="ann", title="Ann", text="mentor Bob"),
    "Bob": Passage(id="bob", title="Bob", text="born in Bonn"),
}


class Pages:
    name = "pages"

    async def search(self, query: str, k: int) -> list[Passage]:
        return [page for name, page in PAGES.items() if name in query][-k:]

    async def close(self) -> None:
        """Nothing to release."""


def attempt(model: ScriptedModel, rounds: int = 4) -> Trajectory:
    return asyncio.run(Ircot(rounds).run(QUESTION, model, Sources(search=Pages(), top_k=1)))


def reader(prompt: str) -> str:
    thought = "Ann's mentor is Bob." + (" Bob was born in Bonn." if "Title: Bob" in prompt else "")
    return f"<think> {thought} </think> <answer> {'Bonn' if 'born in' in prompt else 'Bob'} </answer>"


def test_each_new_sentence_is_the_next_query() -> None:
    trajectory = attempt(ScriptedModel(reader))
    assert [s.query for s in trajectory.searches] == [QUESTION.text, "Ann's mentor is Bob.", "Bob was born in Bonn."]
    assert [p.id for p in trajectory.passages] == ["ann", "bob"]
    assert trajectory.answer == "Bonn"


def test_when_the_rounds_are_used_up_it_reads_once_more() -> None:
    model = ScriptedModel(reader)
    trajectory = attempt(model, rounds=1)
    assert len(model.calls) == 2
    assert "Title: Bob" in model.calls[-1].prompt
    assert trajectory.answer == "Bonn"


def test_an_answer_out_of_form_is_asked_for_again_once() -> None:
    replies = ["<search> x </search>", "<answer> Bonn </answer>"]
    trajectory = attempt(ScriptedModel(lambda prompt: replies.pop(0)))
    assert [type(s) for s in trajectory.steps[-2:]] == [Malformed, Answer]
    assert trajectory.answer == "Bonn"


def test_sentences_and_clauses() -> None:
    assert split_sentences("a of B is C , d of C is E") == ["a of B is C", "d of C is E"]
    assert split_sentences("One, two. Three?\nFour") == ["One, two.", "Three?", "Four"]
    assert split_sentences(" ") == []
    with pytest.raises(BadInput):
        Ircot(0)
