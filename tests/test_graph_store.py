"""A graph in this process answers as plain Python over the same triples does, whatever the words are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import networkx
import pyoxigraph as ox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, Entity, Triple
from ken.sources import KnowledgeGraph
from ken.sources.graph import store as module
from ken.sources.graph.nodes import as_node, id_of
from ken.sources.graph.paths import Around, Edge, shortest_paths
from ken.sources.graph.profile import FREEBASE_PROFILE, PLAIN, PROFILES, WIKIDATA
from ken.sources.graph.protocol import Relation
from ken.sources.graph.store import TripleStore

Result = TypeVar("Result")

EUROPE = [
    ("Lisbon", "capital of", "Portugal"),
    ("Porto", "located in", "Portugal"),
    ("Portugal", "borders", "Spain"),
    ("Spain", "borders", "Portugal"),
    ("Madrid", "capital of", "Spain"),
    ("Spain", "borders", "France"),
    ("Lisbon", "skos:altLabel", "Lisboa"),
    ("Lisbon", "population", '"545000"'),
    ("Reykjavik", "capital of", "Iceland"),
    ("Ouroboros", "eats", "Ouroboros"),
]


def run(awaitable: Awaitable[Result]) -> Result:
    async def wait() -> Result:
        return await awaitable

    return asyncio.run(wait())


@pytest.fixture(scope="module")
def europe() -> TripleStore:
    return TripleStore.of(EUROPE)


def said(triples: Iterable[Triple]) -> list[str]:
    return [str(one) for one in triples]


def test_it_is_a_knowledge_graph(europe: TripleStore):
    assert isinstance(europe, KnowledgeGraph)
    assert len(europe) == len(EUROPE)


def test_relations_are_sorted_and_come_in_both_directions(europe: TripleStore):
    assert run(europe.relations("Portugal")) == (
        Relation("borders", "in", "borders"),
        Relation("borders", "out", "borders"),
        Relation("capital of", "in", "capital of"),
        Relation("located in", "in", "located in"),
    )


def test_names_are_no_relations(europe: TripleStore):
    assert [one.name for one in run(europe.relations("Lisbon"))] == ["capital of", "population"]


def test_neighbours_by_relation_and_direction(europe: TripleStore):
    found = run(europe.neighbours("Portugal", "borders", "out", limit=5))
    assert found.entities == (Entity(id="Spain", label="Spain"),)
    assert found.total == 1
    assert [one.id for one in run(europe.neighbours("Spain", "borders", "out", limit=5)).entities] == [
        "France",
        "Portugal",
    ]


def test_a_literal_is_a_value_that_nothing_leads_on_from(europe: TripleStore):
    (value,) = run(europe.neighbours("Lisbon", "population", "out", limit=5)).entities
    assert value == Entity(id="545000", label="545000", literal=True)
    assert run(europe.relations(value.id)) == ()


def test_edges_are_out_before_in_and_each_once(europe: TripleStore):
    assert said(run(europe.edges("Portugal", limit=9))) == [
        "Portugal, borders, Spain",
        "Spain, borders, Portugal",
        "Lisbon, capital of, Portugal",
        "Porto, located in, Portugal",
    ]
    assert said(run(europe.edges("Portugal", limit=2))) == ["Portugal, borders, Spain", "Spain, borders, Portugal"]
    assert said(run(europe.edges("Ouroboros", limit=9))) == ["Ouroboros, eats, Ouroboros"]


@pytest.mark.parametrize("stranger", ["Atlantis", "", "_:b7", "http://x.y/z", "urn:ken:", "a b\n}", "\ud800", "545000"])
def test_what_it_does_not_have_has_nothing_and_its_id_as_label(europe: TripleStore, stranger: str):
    assert run(europe.relations(stranger)) == ()
    assert run(europe.edges(stranger, limit=5)) == ()
    assert run(europe.neighbours(stranger, "borders", "in", limit=5)).entities == ()
    assert run(europe.neighbours("Spain", stranger, "in", limit=5)).total == 0
    assert run(europe.paths([stranger], ["Spain"], max_hops=3, limit=5)) == ()
    (entity,) = run(europe.entities([stranger]))
    assert entity.label == entity.id.replace("\ud800", "?")


@pytest.mark.parametrize(
    ("mention", "expected", "how"),
    [
        ("Lisbon", "Lisbon", "exact"),
        (" lisbon ", "Lisbon", "exact"),
        ("LISBOA", "Lisbon", "alias"),
        ("the kingdom of Spain", "Spain", "words"),
        ("Atlantis", None, None),
        ("", None, None),
        ("?!", None, None),
    ],
)
def test_a_mention_is_linked_by_label_then_alias_then_words(
    europe: TripleStore, mention: str, expected: str | None, how: str | None
):
    found = run(europe.link(mention))
    assert [(one.entity.id, one.how) for one in found] == ([(expected, how)] if expected else [])


def test_of_namesakes_the_one_with_more_edges_comes_first():
    triples = [("http://x.y/1", "rdfs:label", "Paris"), ("http://x.y/2", "rdfs:label", "Paris")]
    triples += [("http://x.y/2", "has", f"arrondissement {n}") for n in range(20)]
    graph = TripleStore.of(triples)
    first, second = run(graph.link("paris", 5))
    assert (first.entity.id, second.entity.id) == ("http://x.y/2", "http://x.y/1")
    assert first.score > second.score
    run(graph.close())


def test_labels_of_iris_are_in_our_language_where_there_is_one():
    store = ox.Store()
    store.bulk_load(
        b'<http://x.y/a> <http://www.w3.org/2000/01/rdf-schema#label> "Lissabon"@de, "Lisbon"@en . '
        b"<http://x.y/a> <http://x.y/capitalOf> <http://x.y/z#Portugal> . "
        b'<http://x.y/capitalOf> <http://www.w3.org/2000/01/rdf-schema#label> "capital of" . ',
        format=ox.RdfFormat.TURTLE,
    )
    graph = TripleStore.filled(store, name="x")
    assert said(run(graph.edges("http://x.y/a", limit=5))) == ["Lisbon, capital of, Portugal"]
    assert [one.how for one in run(graph.link("Lissabon"))] == ["alias"]
    assert run(graph.relations("http://x.y/a")) == (Relation("http://x.y/capitalOf", "out", "capital of"),)


def test_an_empty_word_is_refused():
    with pytest.raises(BadInput, match="none of them empty"):
        TripleStore.of([("a", " ", "b")])


# --- any words at all ---

ids = st.text(max_size=30) | st.from_regex(r"[a-z]{1,5}:[ -~]{1,20}", fullmatch=True) | st.sampled_from(
    ["urn:ken:a", "urn:ken:%41", "_:b0", "Q42", "m.0abc", "http://[::1]/", "http://x/%zz", "a:b", ":", "P31"]
)  # fmt: skip


@given(ids.filter(bool), st.sampled_from(list(PROFILES.values())))
@settings(max_examples=300)
def test_every_id_has_a_node_and_comes_back_from_it(identifier: str, profile):
    node = as_node(identifier, profile)
    back = id_of(node, profile)
    assert as_node(back, profile) == node
    if not identifier.startswith(("urn:ken:", "_:", "http://www.wikidata", "http://rdf.free")):
        assert back == identifier


words = st.sampled_from(["a", "b", "c", "d", "B", "é è", "x:y", "<", '"'])
triples = st.lists(st.tuples(words, st.sampled_from(["r", "s t", "u:v"]), words), max_size=25)


@given(triples, words)
@settings(max_examples=60, deadline=None)
def test_it_says_what_the_triples_say(triples: list[tuple[str, str, str]], entity: str):
    graph = TripleStore.of(triples)
    facts = set(triples)
    expected = {(r, "out") for s, r, _ in facts if s == entity} | {(r, "in") for _, r, o in facts if o == entity}
    assert [(one.name, one.direction) for one in run(graph.relations(entity))] == sorted(expected)
    for relation, direction in expected:
        near = run(graph.neighbours(entity, relation, direction, limit=99))
        outward = direction == "out"
        ends = {o if outward else s for s, r, o in facts if r == relation and (s if outward else o) == entity}
        assert [one.id for one in near.entities] == sorted(ends)
        assert near.total == len(ends)
    found = {(t.subject.id, t.relation, t.object.id) for t in run(graph.edges(entity, limit=99))}
    assert found == {fact for fact in facts if entity in (fact[0], fact[2])}


# --- paths ---

nodes = st.integers(0, 6).map(str)


@given(
    st.sets(st.tuples(nodes, st.sampled_from("rs"), nodes), max_size=14),
    st.sets(nodes, min_size=1, max_size=2),
    st.sets(nodes, min_size=1, max_size=2),
    st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_paths_are_those_of_networkx(facts, starts, ends, max_hops):
    graph = networkx.MultiGraph()
    graph.add_nodes_from([*starts, *ends])
    graph.add_edges_from((s, o, (s, r, o)) for s, r, o in facts)
    expected = []
    for start in starts:
        for end in ends - {start}:
            inner = graph.copy()
            inner.remove_nodes_from((starts | ends) - {start, end})
            expected += [
                tuple(edge[2] for edge in path)
                for path in networkx.all_simple_edge_paths(inner, start, end, cutoff=max_hops)
                if path
            ] if max_hops else []  # fmt: skip
    found = _search(facts, starts, ends, max_hops, 10_000)
    assert sorted(map(len, found)) == [len(path) for path in found]
    assert sorted(found) == sorted(expected)
    few = _search(facts, starts, ends, max_hops, 3)
    assert few == found[:3]


def _search(facts, starts, ends, max_hops, limit) -> list[tuple]:
    search = shortest_paths(starts, ends, max_hops, limit)
    edges = [Edge(*fact) for fact in facts]
    try:
        wanted = next(search)
        while True:
            assert wanted
            wanted = search.send(Around([e for e in edges if e.subject in wanted or e.object in wanted]))
    except StopIteration as end:
        return [tuple(tuple(edge) for edge in path) for path in end.value]


def test_paths_walk_edges_either_way_and_are_written_as_in_the_graph(europe: TripleStore):
    paths = run(europe.paths(["Lisbon"], ["France"], max_hops=3, limit=9))
    assert [said(path) for path in paths] == [
        ["Lisbon, capital of, Portugal", "Portugal, borders, Spain", "Spain, borders, France"],
        ["Lisbon, capital of, Portugal", "Spain, borders, Portugal", "Spain, borders, France"],
    ]
    assert run(europe.paths(["Lisbon"], ["France"], max_hops=2, limit=9)) == ()


def test_a_disconnected_graph_has_no_path_and_cycles_end(europe: TripleStore):
    assert run(europe.paths(["Lisbon"], ["Iceland"], max_hops=50, limit=9)) == ()
    assert run(europe.paths(["Ouroboros"], ["Iceland"], max_hops=50, limit=9)) == ()
    assert run(europe.paths(["Spain"], ["Spain"], max_hops=5, limit=9)) == ()
    ring = TripleStore.of([(str(n), "next", str((n + 1) % 30)) for n in range(30)])
    assert [len(path) for path in run(ring.paths(["0"], ["10"], max_hops=30, limit=9))] == [10, 20]


# --- hubs ---


def hub(size: int) -> TripleStore:
    store = ox.Store()
    node, predicate = as_node("hub", PLAIN), as_node("holds", PLAIN)
    store.bulk_extend(ox.Quad(node, predicate, as_node(f"n{i}", PLAIN)) for i in range(size))
    store.add(ox.Quad(node, as_node("made by", PLAIN), as_node("someone", PLAIN)))
    store.add(ox.Quad(as_node("n7", PLAIN), predicate, as_node("treasure", PLAIN)))
    return TripleStore(store, name="hub")


@pytest.fixture(params=[3_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def big(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[TripleStore, int]:
    if request.param < module.WINDOW:
        monkeypatch.setattr(module, "WINDOW", 1_000)
        monkeypatch.setattr(module, "HUB", 100)
    return hub(request.param), request.param


def test_a_hub_gives_a_sample_that_the_seed_draws(big: tuple[TripleStore, int]):
    graph, size = big
    found = run(graph.neighbours("hub", "holds", "out", limit=5, seed=1))
    assert found.total == size
    assert len(found.entities) == 5
    assert found == run(graph.neighbours("hub", "holds", "out", limit=5, seed=1))
    drawn = {
        one.id for s in range(40) for one in run(graph.neighbours("hub", "holds", "out", limit=5, seed=s)).entities
    }
    assert len(drawn) > 150
    places = sorted(int(one[1:]) for one in drawn)
    assert places[0] < size / 4  # from everywhere in the order of storage
    assert places[-1] > 3 * size / 4


def test_the_relations_of_a_hub_are_not_hidden_by_its_size(big: tuple[TripleStore, int]):
    graph, _ = big
    assert [one.name for one in run(graph.relations("hub"))] == ["holds", "made by"]
    assert "hub, made by, someone" in said(run(graph.edges("hub", limit=10)))


def test_a_path_through_a_hub_is_found_from_its_other_side(big: tuple[TripleStore, int]):
    graph, size = big
    (path,) = run(graph.paths([f"n{size - 1}"], ["treasure"], max_hops=3, limit=5))
    assert said(path) == [f"hub, holds, n{size - 1}", "hub, holds, n7", "n7, holds, treasure"]


@pytest.mark.slow
def test_a_hub_of_a_million_costs_bounded_memory_and_time():
    import tracemalloc

    graph = hub(1_000_000)
    tracemalloc.start()
    started = time.monotonic()
    run(graph.neighbours("hub", "holds", "out", limit=10, seed=3))
    run(graph.relations("hub"))
    run(graph.edges("hub", limit=30))
    assert time.monotonic() - started < 20
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


# --- profiles (card 44, step 1) ---


@pytest.mark.parametrize(
    ("profile", "iri", "shown"),
    [
        (FREEBASE_PROFILE, "http://rdf.freebase.com/ns/people.person.nationality", True),
        (FREEBASE_PROFILE, "http://rdf.freebase.com/ns/type.object.type", False),
        (FREEBASE_PROFILE, "http://rdf.freebase.com/ns/type.object.name", False),
        (FREEBASE_PROFILE, "http://rdf.freebase.com/ns/common.topic.image", False),
        (FREEBASE_PROFILE, "http://rdf.freebase.com/ns/freebase.valuenotation.is_reviewed", False),
        (FREEBASE_PROFILE, "http://www.w3.org/2002/07/owl#sameAs", False),
        (WIKIDATA, "http://www.wikidata.org/prop/direct/P36", True),
        (WIKIDATA, "http://www.wikidata.org/prop/P36", False),
        (WIKIDATA, "http://schema.org/description", False),
        (PLAIN, "http://x.y/knows", True),
        (PLAIN, "http://www.w3.org/2002/07/owl#sameAs", False),
        (PLAIN, "http://www.w3.org/2000/01/rdf-schema#label", False),
    ],
)
def test_relations_that_say_nothing_are_not_shown(profile, iri: str, shown: bool):
    assert profile.shows(iri) == shown


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("capital", True),
        ("country of citizenship", False),
        ("Country", False),
        ("country of birth", True),
        ("VIAF ID", False),
        ("ISO 3166-1 alpha-2 code", False),
        ("ID card", True),
        ("instance of", False),
        ("official website", False),
        ("Wikimedia import URL", False),
        ("topic's main Wikimedia portal", False),
        ("death rate", False),
        ("commons category", False),
    ],
)
def test_wikidata_relations_are_filtered_by_label_as_in_the_paper(label: str, shown: bool):
    assert WIKIDATA.shows_label(label) == shown


def test_short_ids():
    assert WIKIDATA.entity_iri("Q42") == "http://www.wikidata.org/entity/Q42"
    assert WIKIDATA.relation_iri("P31") == "http://www.wikidata.org/prop/direct/P31"
    assert WIKIDATA.property_iri("http://www.wikidata.org/prop/direct/P31") == "http://www.wikidata.org/entity/P31"
    assert FREEBASE_PROFILE.entity_iri("m.02mjmr") == "http://rdf.freebase.com/ns/m.02mjmr"
    assert FREEBASE_PROFILE.relation_name("http://rdf.freebase.com/ns/people.person.nationality") == (
        "people.person.nationality"
    )
    assert PLAIN.entity_iri("Q42") == "urn:ken:Q42"
