"""What a question names, and the part of a graph that connects it with the candidates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import Question
from ken.sources import KnowledgeGraph
from ken.sources.graph.mentions import mentioned
from ken.sources.graph.store import TripleStore
from ken.sources.graph.subgraph import Subgraph, SubgraphExtractor, Topics

GRAPH = TripleStore.of(
    [
        ("guitar", "part", "string"),
        ("guitar string", "made of", "steel"),
        ("wolf", "lives in", "wood"),
        ("bake", "needs", "oven"),
        ("New York", "is in", "America"),
        ("NYC", "rdfs:label", "New York City"),
        ("NYC", "skos:altLabel", "Big Apple"),
        ("NYC", "has", "park"),
    ]
)


def names(text: str, **how: int) -> list[str]:
    return [e.id for e in asyncio.run(mentioned(GRAPH, text, **how))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Which guitar string is best?", ["guitar string"]),  # the longest, not its parts
        ("a string, and a guitar", ["string", "guitar"]),  # in the order of the text
        ("Where do wolves live?", []),  # "wolve" is no word of the graph, and nothing is guessed
        ("Why do people like baking?", ["bake"]),
        ("Ovens get hot", ["oven"]),
        ("the Big Apple's parks", ["NYC", "park"]),
        ("new york city", ["NYC"]),
        ("What is it?", []),
        ("", []),
    ],
)
def test_entities_are_found_by_their_names_and_lemmas(text: str, found: list[str]) -> None:
    assert names(text) == found


def test_words_that_only_resemble_a_name_are_no_mention() -> None:
    assert names("the strings attached to guitars and stringed things") == ["string", "guitar"]
    assert names("New York", max_words=1) == []


def extracted(edges: Sequence[tuple[str, str]], asked: Sequence[str], options: Sequence[str], **how: int) -> Subgraph:
    graph = TripleStore.of((a, "r", b) for a, b in edges)

    async def extract() -> Subgraph:
        some = await graph.entities([*asked, *options])
        topics = Topics(some[: len(asked)], tuple((e,) for e in some[len(asked) :]))
        return await SubgraphExtractor(**how).extract(graph, topics)

    return asyncio.run(extract())


def test_what_lies_on_a_way_of_two_hops_is_kept_and_dead_ends_are_not() -> None:
    graph = extracted([("q", "x"), ("x", "a"), ("q", "y"), ("y", "z"), ("z", "b")], ["q"], ["a", "b"])
    assert set(graph.nodes) == {"q", "a", "b", "x"}
    wider = extracted([("q", "x"), ("x", "a"), ("q", "y"), ("y", "z"), ("z", "b")], ["q"], ["a", "b"], hops=3)
    assert set(wider.nodes) == {"q", "a", "b", "x", "y", "z"}


def test_the_cap_keeps_topics_and_the_shortest_ways() -> None:
    edges = [("q", f"x{i}") for i in range(50)] + [(f"x{i}", "a") for i in range(50)]
    graph = extracted(edges, ["q"], ["a"], nodes=10)
    assert {"q", "a"} < set(graph.nodes)
    assert len(graph.nodes) == 10


def test_a_hub_is_looked_at_only_so_far() -> None:
    edges = [("q", f"x{i}") for i in range(3000)] + [("x1", "a")]
    assert len(extracted(edges, ["q"], ["a"], hub_edges=100).triples) <= 101


def test_entities_that_mean_two_candidates_mean_none() -> None:
    graph = TripleStore.of([("apple", "r", "bread"), ("cake", "r", "apple")])
    question = Question(id="q", text="cake?", meta={"choices": ["apple", "Apple", "the apples and bread"]})
    topics = asyncio.run(SubgraphExtractor().topics(graph, question))
    assert topics.place == {"bread": 1}
    assert [e.id for e in topics.heads] == ["cake"]


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=30),
    st.integers(1, 4),
)
def test_it_holds_exactly_what_networkx_finds_near_enough_to_two_topics(pairs: set[tuple[int, int]], hops: int) -> None:
    topics = ["n0", "n1", "n2"]
    edges = [(f"n{a}", f"n{b}") for a, b in pairs]
    peer = nx.Graph(edges)
    peer.add_nodes_from(topics)
    far = {t: nx.single_source_shortest_path_length(peer, t) for t in topics}
    near = {
        node
        for node in peer
        for s in topics
        for t in topics
        if s != t and far[s].get(node, 99) + far[t].get(node, 99) <= hops
    }
    found = extracted(edges, topics[:1], topics[1:], hops=hops)
    assert set(found.nodes) == near | set(topics)
    assert {(t.subject.id, t.object.id) for t in found.triples} == {e for e in edges if set(e) <= set(found.nodes)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from("rs"), st.integers(0, 8)), min_size=1, max_size=20))
def test_a_subgraph_answers_as_the_store_does(triples: list[tuple[int, str, int]]) -> None:
    store = TripleStore.of((f"n{a}", r, f"n{b}") for a, r, b in triples)

    async def compare() -> None:
        everything = {t for i in range(9) for t in await store.edges(f"n{i}", limit=999)}
        sub: KnowledgeGraph = Subgraph(everything)
        for one in (f"n{i}" for i in range(10)):
            assert await sub.relations(one) == await store.relations(one)
            assert set(await sub.edges(one, limit=999)) == set(await store.edges(one, limit=999))
            for relation in await store.relations(one):
                asked = (one, relation.name, relation.direction)
                assert await sub.neighbours(*asked, limit=99) == await store.neighbours(*asked, limit=99)
                assert len((await sub.neighbours(*asked, limit=1)).entities) == 1
            assert await sub.paths([one], ["n0"], max_hops=4, limit=50) == await store.paths(
                [one], ["n0"], max_hops=4, limit=50
            )

    asyncio.run(compare())
