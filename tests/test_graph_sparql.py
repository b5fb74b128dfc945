"""A graph behind a SPARQL endpoint, served over HTTP from pyoxigraph, answers as the same graph in this process; no id
or mention changes what is asked; an endpoint that is down, slow or talks nonsense ends in a sentence."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pyoxigraph as ox
import pytest
from faulty_server import refused_url
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import Asked, sparql_endpoint
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from test_graph_store import EUROPE, said

from ken.core import SourceError
from ken.sources import KnowledgeGraph
from ken.sources.graph import queries
from ken.sources.graph import sparql as module
from ken.sources.graph.loading import quads_of
from ken.sources.graph.opening import open_graph
from ken.sources.graph.profile import FREEBASE_PROFILE, PLAIN, PROFILES, WIKIDATA
from ken.sources.graph.sparql import SparqlGraph
from ken.sources.graph.store import TripleStore
from ken.sources.graph.terms import WORDS, iri_word, is_iri, word_iri

# Words have no labels of their own, and only a store of ours can read their IRIs.
LABELS = [(name, "rdfs:label", name) for name in ("Lisbon", "Porto", "Portugal", "Spain", "Madrid", "France")]


def store_of(triples: list[tuple[str, str, str]]) -> ox.Store:
    store = ox.Store()
    store.bulk_extend(quads_of(triples, PLAIN))
    return store


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Asked]:
    with sparql_endpoint(store_of(EUROPE + LABELS)) as asked:
        yield asked


def ask(url: str, question: Callable[[SparqlGraph], Awaitable[Any]], **options: Any) -> Any:
    async def go() -> Any:
        graph = SparqlGraph(url, **({"backoff": 0.01, "timeout": 30} | options))
        try:
            return await question(graph)
        finally:
            await graph.close()

    return asyncio.run(go())


def local(question: Callable[[TripleStore], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        graph = TripleStore.of(EUROPE + LABELS)
        try:
            return await question(graph)
        finally:
            await graph.close()

    return asyncio.run(go())


@pytest.mark.parametrize(
    "question",
    [
        lambda graph: graph.relations("Portugal"),
        lambda graph: graph.relations("Atlantis"),
        lambda graph: graph.neighbours("Spain", "borders", "out", limit=5),
        lambda graph: graph.neighbours("Lisbon", "population", "out", limit=5),
        lambda graph: graph.neighbours("Spain", "eats", "in", limit=5),
        lambda graph: graph.edges("Portugal", limit=9),
        lambda graph: graph.edges("Portugal", limit=2),
        lambda graph: graph.edges("Ouroboros", limit=9),
        lambda graph: graph.entities(["Lisbon", "Atlantis"]),
        lambda graph: graph.paths(["Lisbon"], ["France"], max_hops=4, limit=9),
        lambda graph: graph.paths(["Lisbon"], ["Iceland"], max_hops=9, limit=9),
    ],
)
def test_it_answers_as_the_graph_in_this_process(endpoint: Asked, question: Callable[[Any], Awaitable[Any]]):
    assert ask(endpoint.url, question) == local(question)


@pytest.mark.parametrize(
    ("mention", "expected", "how"),
    [
        ("Lisbon", "Lisbon", "exact"),
        ("lisbon", "Lisbon", "exact"),
        ("lisboa", "Lisbon", "alias"),
        ("tuga", "Portugal", "words"),
        ("Atlantis", None, None),
        ("", None, None),
    ],
)
def test_mentions_are_linked(endpoint: Asked, mention: str, expected: str | None, how: str | None):
    found = ask(endpoint.url, lambda graph: graph.link(mention))
    assert [(one.entity.id, one.how) for one in found] == ([(expected, how)] if expected else [])


def test_it_says_who_asks_and_every_query_has_a_limit(endpoint: Asked):
    ask(endpoint.url, lambda graph: graph.paths(["Lisbon"], ["France"], max_hops=3, limit=5))
    ask(endpoint.url, lambda graph: graph.link("nobody"))
    assert all(" LIMIT " in query for query in endpoint.queries)
    assert all(header["user-agent"].startswith("ken/") for header in endpoint.headers)


def test_open_graph_opens_an_address(endpoint: Asked):
    graph = open_graph(endpoint.url)
    assert isinstance(graph, KnowledgeGraph)
    assert graph.name == endpoint.url
    assert open_graph(f"freebase:{endpoint.url}").profile == FREEBASE_PROFILE  # type: ignore[attr-defined]
    assert open_graph("https://query.wikidata.org/sparql").profile == WIKIDATA  # type: ignore[attr-defined]
    assert open_graph("http://me:secret@localhost/sparql").name == "http://localhost/sparql"


def test_a_hub_is_counted_and_sampled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WINDOW", 20)
    monkeypatch.setattr(module, "COUNTED", 100)
    triples = [("hub", "holds", f"n{i:03}") for i in range(90)] + [("vast", "holds", f"n{i:03}") for i in range(150)]
    with sparql_endpoint(store_of(triples)) as asked:
        found = ask(asked.url, lambda graph: graph.neighbours("hub", "holds", "out", limit=5, seed=1))
        assert found == ask(asked.url, lambda graph: graph.neighbours("hub", "holds", "out", limit=5, seed=1))
        assert (len(found.entities), found.total) == (5, 90)
        vast = ask(asked.url, lambda graph: graph.neighbours("vast", "holds", "out", limit=5, seed=1))
        assert (len(vast.entities), vast.total) == (5, None)


WD = "http://www.wikidata.org/"
DOUGLAS = f"""
@prefix wd: <{WD}entity/> . @prefix wdt: <{WD}prop/direct/> . @prefix p: <{WD}prop/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
wd:Q42 rdfs:label "Douglas Adams"@en, "Douglas Adams (de)"@de ; wdt:P19 wd:Q350 ; wdt:P214 "113230702" ;
  wdt:P31 wd:Q5 ; wdt:P569 "1952-03-11" ; p:P19 wd:statement1 .
wd:Q350 rdfs:label "Cambridge"@en .
wd:P19 rdfs:label "place of birth"@en . wd:P214 rdfs:label "VIAF ID"@en . wd:P31 rdfs:label "instance of"@en .
wd:P569 rdfs:label "date of birth"@en .
"""


def test_wikidata_has_short_ids_labels_of_properties_and_the_filters_of_the_paper():
    store = ox.Store()
    store.bulk_load(DOUGLAS.encode(), format=ox.RdfFormat.TURTLE)
    with sparql_endpoint(store) as asked:
        relations = ask(asked.url, lambda graph: graph.relations("Q42"), profile=WIKIDATA)
        assert [(one.name, one.label) for one in relations] == [("P19", "place of birth"), ("P569", "date of birth")]
        near = ask(asked.url, lambda graph: graph.neighbours("Q42", "P19", "out", limit=5), profile=WIKIDATA)
        assert [(one.id, one.label) for one in near.entities] == [("Q350", "Cambridge")]
        edges = ask(asked.url, lambda graph: graph.edges("Q42", limit=5), profile=WIKIDATA)
        assert said(edges) == [
            "Douglas Adams, place of birth, Cambridge",
            "Douglas Adams, date of birth, 1952-03-11",
        ]
        assert edges[0].relation == "P19"
        assert ask(asked.url, lambda graph: graph.link("Q42"), profile=WIKIDATA)[0].entity.label == "Douglas Adams"


# --- no id and no mention changes the shape of a query ---

hostile = st.text(max_size=40) | st.sampled_from(
    [
        '" } #', "' }", "> ?p ?o } #", "\\", '\\"', "\\u0022", "x> . ?s ?p ?o", "a\nb", '"""', "http://x/> <y", "{",
        "$a", "http://x/\\u003E", "?x", "<http://x>", "urn:ken:%3E", "_:b", "http://x/%3e", "Q42> }", "m.0 }", "\x00",
        "\ud800",
        "'; DROP ALL", "} UNION { ?s ?p ?o", "http://a b", "é:\u202e", "[] ?p ?o", "http://[::1]/x", "http://x:99999/",
    ]
)  # fmt: skip
CANARY = [("canary", "sings", "song"), ("canary", "rdfs:label", "canary")]


@given(hostile, st.sampled_from(list(PROFILES.values())))
@example('" } UNION { ?e ?q ?l } #', PLAIN)
@settings(max_examples=120, deadline=None)
def test_whatever_the_id_a_query_parses_and_finds_only_what_was_asked(text, profile):
    store = store_of(CANARY)
    entity, relation = profile.entity_iri(text), profile.relation_iri(text)
    for query in (
        queries.relations(entity, "out", profile, limit=9, read=9),
        queries.relations(entity, "in", profile, limit=9, read=9),
        queries.neighbours(entity, relation, "out", limit=9),
        queries.edges(entity, "in", profile, limit=9),
        queries.edges_around([entity], "out", profile, limit=9),
        queries.labels([entity], profile, limit=9),
        queries.known(entity),
    ):
        rows = list(store.query(query))
        assert not rows or text in ("canary", "song")
    (count,) = store.query(queries.count(entity, relation, "out", most=9))
    assert count["n"].value == "0"


@given(hostile)
@settings(max_examples=120, deadline=None)
def test_a_literal_is_the_text_whatever_is_in_it(text: str):
    shown = text.encode(errors="replace").decode()
    (row,) = ox.Store().query(f"SELECT ?l {{ VALUES ?l {{ {queries.quoted(text)} }} }}")
    assert row["l"] == ox.Literal(shown)
    (row,) = ox.Store().query(f"SELECT ?l {{ VALUES ?l {{ {queries.quoted(text, 'en')} }} }}")
    assert row["l"] == ox.Literal(shown, language="en")


WIKIBASE, API = "http://wikiba.se/ontology#", "https://www.mediawiki.org/ontology#API/"


def service(mention: str) -> ox.Store:
    """What Wikidata's search service is told, as triples, and one result."""
    call, result = ox.NamedNode("http://www.bigdata.com/rdf#serviceParam"), ox.NamedNode("http://x.y/Q1")
    told = {
        f"{WIKIBASE}api": "EntitySearch",
        f"{WIKIBASE}endpoint": "www.wikidata.org",
        f"{API}search": mention.encode(errors="replace").decode(),
        f"{API}language": "en",
    }
    store = ox.Store()
    store.extend(ox.Quad(call, ox.NamedNode(name), ox.Literal(value)) for name, value in told.items())
    store.add(ox.Quad(result, ox.NamedNode(f"{WIKIBASE}apiOutputItem"), ox.NamedNode(f"{API}item")))
    store.add(ox.Quad(result, ox.NamedNode(f"{WIKIBASE}apiOrdinal"), ox.Literal(True)))
    return store


@given(hostile.filter(str.strip))
@settings(max_examples=80, deadline=None)
def test_whatever_the_mention_only_what_is_called_so_is_found(text: str):
    store = store_of(CANARY)
    for query in (
        queries.named([text], PLAIN.labels, PLAIN, limit=9),
        queries.containing([text], PLAIN, limit=9),
    ):
        assert not list(store.query(query)) or text.lower() in "canary"
    search = queries.wikidata_search(text, WIKIDATA, limit=5).replace("SERVICE wikibase:mwapi", "")  # call nobody
    (row,) = service(text).query(search)
    assert row["e"].value == "http://x.y/Q1"


@given(st.text(max_size=30) | st.from_regex(r"[a-z]+:(//)?[!-~]{1,12}", fullmatch=True))
@settings(max_examples=150)
def test_an_iri_that_we_call_safe_is_one_and_any_word_has_one(text: str):
    if is_iri(text):
        assert ox.NamedNode(text).value == text
        assert not set(text) & set('<>"{}|^`\\ \n\t')
        with pytest.raises(ValueError, match="no absolute IRI"):
            queries.iri(f"{text}>")
    assert is_iri(word_iri(text)) or not text
    if text and not is_iri(text):
        assert iri_word(word_iri(text)) == text.encode(errors="replace").decode()
    assert word_iri(text).startswith(WORDS)


@pytest.mark.parametrize("language", ['en" . ?s ?p ?o', "e n", "en@", "é"])
def test_a_language_is_a_language(language: str):
    with pytest.raises(ValueError, match="no language tag"):
        queries.quoted("x", language)


# --- endpoints that fail ---


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda: HTMLResponse("<html>hello</html>"), "no results in JSON"),
        (lambda: JSONResponse({"hello": 1}), "no results in JSON"),
        (lambda: JSONResponse([1]), "no results in JSON"),
        (lambda: JSONResponse({"results": {"bindings": [{"p": 3}]}}), "no results in JSON"),
        (lambda: JSONResponse({"results": {"bindings": [{"p": {"type": 1, "value": []}}]}}), "no results in JSON"),
        (lambda: JSONResponse({"results": {"bindings": [{"other": {"type": "uri", "value": "x"}}]}}), r"without \?p"),
        (lambda: PlainTextResponse("go away", 403), "refused a query .403: go away"),
        (lambda: PlainTextResponse("busy", 503), "did not answer after 3 attempts .it answered 503"),
    ],
)
def test_nonsense_ends_in_a_sentence(reply: Callable[[], Any], said: str):
    with sparql_endpoint(ox.Store(), lambda number, query: reply()) as asked:
        with pytest.raises(SourceError, match=said) as error:
            ask(asked.url, lambda graph: graph.relations("Lisbon"), retries=2)
        assert asked.url in str(error.value)


def test_what_passes_is_tried_again():
    def instead(number: int, query: str) -> Any:
        return PlainTextResponse("busy", 429, {"retry-after": "0"}) if number < 2 else None

    with sparql_endpoint(store_of(EUROPE), instead) as asked:
        found = ask(asked.url, lambda graph: graph.neighbours("Portugal", "borders", "out", limit=5))
        assert [one.id for one in found.entities] == ["Spain"]


def test_an_endpoint_that_is_slow_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/sparql"
        with pytest.raises(SourceError, match=r"did not answer after 2 attempts \(Timeout"):
            ask(url, lambda graph: graph.edges("Lisbon", limit=5), retries=1, timeout=0.1)


def test_an_endpoint_that_is_down_is_given_up():
    with pytest.raises(SourceError, match=r"did not answer after 2 attempts \(ConnectError"):
        ask(refused_url(), lambda graph: graph.link("Lisbon"), retries=1)


@pytest.mark.parametrize("url", ["ftp://x.y/sparql", "http://", "nonsense"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(SourceError, match="no address of a SPARQL endpoint"):
        SparqlGraph(url)


def test_the_http_client_may_be_ones_own():
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=json.dumps({"results": {"bindings": []}}))

    client = lambda: httpx.AsyncClient(transport=httpx.MockTransport(answer))  # noqa: E731
    assert ask("http://nowhere.invalid/sparql", lambda graph: graph.relations("x"), client=client) == ()
