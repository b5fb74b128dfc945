"""A query split by a model: every part is searched, the results take turns, and a silent model costs nothing."""

from __future__ import annotations

import asyncio

import pytest

from ken.agents.subqueries import SubQueries
from ken.core import BadInput, ModelError, Passage
from ken.models.scripted import ScriptedModel


class Letters:
    """Finds for each word its three pages, best first."""

    name = "letters"

    def __init__(self) -> None:
        self.queries: list[str] = []

    async def search(self, query: str, k: int) -> list[Passage]:
        self.queries.append(query)
        return [Passage(id=f"{query[0]}{i}", text=query) for i in range(3)][:k]

    async def close(self) -> None:
        """Nothing to release."""


def search(reply: str, k: int = 3, **options: int) -> tuple[list[str], list[str]]:
    """(ids found, queries sent)"""
    letters = Letters()
    retriever = SubQueries(letters, ScriptedModel(lambda prompt: reply), **options)
    found = asyncio.run(retriever.search("a and b", k))
    return [p.id for p in found], letters.queries


def test_the_parts_take_turns() -> None:
    assert search("b first\nc second", k=5) == (["b0", "c0", "b1", "c1", "b2"], ["b first", "c second"])
    assert search("b first\nc second", k=1)[0] == ["b0"]


@pytest.mark.parametrize(
    ("reply", "queries"),
    [
        ("- b\n* c\n3. d", ["b", "c", "d"]),
        ("<think>two?</think>\n\nb\n\nb\n", ["b"]),
        ("b\nc\nd\ne\nf", ["b", "c", "d", "e"]),
        ("", ["a and b"]),
        ("1984 film", ["1984 film"]),
    ],
)
def test_how_a_reply_is_read(reply: str, queries: list[str]) -> None:
    assert search(reply)[1] == queries


def test_no_passage_comes_twice() -> None:
    found, _ = search("bx\nby", k=6)
    assert found == ["b0", "b1", "b2"]


def test_when_the_model_is_down_the_whole_query_is_searched_for() -> None:
    def down(prompt: str) -> str:
        raise ModelError("down")

    letters = Letters()
    asyncio.run(SubQueries(letters, ScriptedModel(down)).search("a and b", 2))
    assert letters.queries == ["a and b"]
    with pytest.raises(BadInput):
        SubQueries(letters, ScriptedModel(down), most=0)
