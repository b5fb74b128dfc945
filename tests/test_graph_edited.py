"""A graph with triples taken out and put in answers as one that was made so; what it stands on is not changed."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, Entity, Triple
from ken.sources import KnowledgeGraph
from ken.sources.graph.edited import EditedGraph, correct
from ken.sources.graph.store import TripleStore

NAMES = st.sampled_from("abcde")
FACTS = st.sets(st.tuples(NAMES, st.sampled_from(["r", "s"]), NAMES), min_size=1, max_size=12)


def triple(fact: tuple[str, str, str]) -> Triple:
    s, r, o = fact
    return Triple(subject=Entity(id=s, label=s), relation=r, object=Entity(id=o, label=o))


@settings(max_examples=60, deadline=None)
@given(FACTS, FACTS, FACTS)
def test_it_answers_as_a_graph_that_was_made_so(
    facts: set[tuple[str, str, str]], removed: set[tuple[str, str, str]], added: set[tuple[str, str, str]]
) -> None:
    """Whatever is removed and added, also what is not there and what is there already."""
    base = TripleStore.of(sorted(facts), name="base")
    edited: KnowledgeGraph = EditedGraph(base, removed=map(triple, removed), added=map(triple, added))
    same = TripleStore.of(sorted((facts - removed) | added), name="same")

    async def compare() -> None:
        for name in "abcde":
            assert await edited.relations(name) == await same.relations(name)
            assert set(await edited.edges(name, limit=100)) == set(await same.edges(name, limit=100))
            for relation in "rs":
                for direction in ("out", "in"):
                    ours = await edited.neighbours(name, relation, direction, limit=100)  # type: ignore[arg-type]
                    theirs = await same.neighbours(name, relation, direction, limit=100)  # type: ignore[arg-type]
                    assert ours == theirs
        for start in "ab":
            ours, theirs = [await g.paths([start], ["e"], max_hops=3, limit=1) for g in (edited, same)]
            assert [len(path) for path in ours] == [len(path) for path in theirs]

    asyncio.run(compare())


def test_of_a_hub_no_more_come_than_were_asked_for_and_the_same_each_time() -> None:
    base = TripleStore.of([("hub", "r", f"n{i:03}") for i in range(300)], name="hub")
    edited = EditedGraph(base, removed=[triple(("hub", "r", "n007"))], added=[triple(("hub", "r", "new"))])
    first, second = (asyncio.run(edited.neighbours("hub", "r", "out", limit=10, seed=3)) for _ in range(2))
    assert first == second
    assert (len(first.entities), first.total) == (10, 300)
    everything = asyncio.run(edited.neighbours("hub", "r", "out", limit=1000))
    assert "new" in {one.id for one in everything.entities}
    assert "n007" not in {one.id for one in everything.entities}


def test_new_entities_have_names_and_are_found_by_them() -> None:
    base = TripleStore.of([("a", "r", "b")], name="base")
    new = Triple(subject=Entity(id="a", label="a"), relation="r", object=Entity(id="q1", label="New Town"))
    edited = asyncio.run(correct(base, triple(("a", "r", "b")), new))
    assert [one.label for one in asyncio.run(edited.entities(["q1", "a"]))] == ["New Town", "a"]
    assert [one.entity.id for one in asyncio.run(edited.link("new town"))][:1] == ["q1"]
    assert [str(t) for t in asyncio.run(base.edges("a", limit=9))] == ["a, r, b"]


def test_what_the_graph_does_not_hold_cannot_be_corrected() -> None:
    base = TripleStore.of([("a", "r", "b")], name="base")
    with pytest.raises(BadInput, match=r"does not hold \(a, r, c\)"):
        asyncio.run(correct(base, triple(("a", "r", "c")), triple(("a", "r", "d"))))
