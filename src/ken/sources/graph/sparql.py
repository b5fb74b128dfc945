"""A knowledge graph behind a SPARQL 1.1 endpoint: Wikidata, a Freebase dump in Virtuoso, or any other.

What one question needs is asked in few, small queries (`queries`); labels are remembered.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx

import ken
from ken.core import Entity, SourceError, Triple
from ken.core.seeding import derive_seed
from ken.sources.graph import queries
from ken.sources.graph.names import normal_name
from ken.sources.graph.paths import Around, Edge, shortest_paths
from ken.sources.graph.profile import PLAIN, WIKIDATA, Profile
from ken.sources.graph.protocol import Direction, Linked, Neighbours, Relation
from ken.sources.graph.store import triple
from ken.sources.graph.terms import is_iri
from ken.sources.patient import NoAnswer, Patient
from ken.sources.search.unicode import well_formed

RELATIONS = 2_000  # of one entity that are looked at, from at most as many of its triples as READ
READ = 100_000
WINDOW = 1_000  # neighbours of a hub among which a sample is drawn, and edges of one that are sorted
COUNTED = 100_000  # up to how many neighbours are counted
AROUND = 10_000  # edges that one query of a search for paths brings
MOST_QUERIES = 100  # of one search for paths
_BATCH = 100  # nodes in one query
_CACHED = 50_000  # labels


class SparqlGraph:
    """A `KnowledgeGraph` behind a SPARQL endpoint.

    url: of the endpoint. profile: by default Wikidata's at wikidata.org, else plain RDF.
    timeout: seconds for one query. retries, backoff: see `Patient`. concurrency: most queries at once (Wikidata allows
        five).
    client: makes the HTTP client; for tests, proxies, certificates or credentials.

    Ids are as in `Profile`. Blank nodes have no id that an endpoint knows: they are shown, and nothing leads on from
    them. Of a hub, relations come from the first `READ` triples, and samples from a run of `WINDOW` neighbours, in the
    endpoint's order, that begins at a random one of the first `COUNTED`.
    """

    def __init__(
        self,
        url: str,
        *,
        profile: Profile | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        backoff: float = 0.5,
        concurrency: int = 5,
        client: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        address = _address(url)
        self.name = str(address.copy_with(username=None, password=None)) if address.userinfo else url
        of_wikidata = address.host == "wikidata.org" or address.host.endswith(".wikidata.org")
        self.profile = profile or (WIKIDATA if of_wikidata else PLAIN)
        self._service = Patient(
            url, timeout=timeout, retries=retries, backoff=backoff, concurrency=concurrency, client=client
        )
        self._labels: OrderedDict[str, str] = OrderedDict()

    # --- the protocol ---

    async def relations(self, entity: str) -> tuple[Relation, ...]:
        iri = self.profile.entity_iri(entity)
        outward, inward = await asyncio.gather(
            *(
                self._select(queries.relations(iri, direction, self.profile, limit=RELATIONS, read=READ))
                for direction in ("out", "in")
            )
        )
        names = {(row["p"].value, "out") for row in outward} | {(row["p"].value, "in") for row in inward}
        shown = [(name, direction) for name, direction in names if self.profile.shows(name)]
        labels = await self._relation_labels(name for name, _ in shown)
        found = (Relation(self.profile.relation_name(name), d, labels[name]) for name, d in shown)  # type: ignore[arg-type]
        return tuple(sorted(one for one in found if self.profile.shows_label(one.label)))

    async def neighbours(
        self, entity: str, relation: str, direction: Direction, *, limit: int, seed: int = 0
    ) -> Neighbours:
        asked = (self.profile.entity_iri(entity), self.profile.relation_iri(relation), direction)
        drawn = random.Random(derive_seed(seed, entity, relation, direction))
        terms = await self._ends(*asked, limit=WINDOW + 1)
        total: int | None = len(terms)
        if len(terms) > WINDOW:
            counted = await self._count(*asked)
            total = counted if counted < COUNTED else None
            terms = await self._ends(*asked, limit=WINDOW, offset=drawn.randrange(max(1, counted - WINDOW)))
        if len(terms) > limit:
            terms = drawn.sample(terms, max(limit, 0))
        found = await self._entities(terms)
        return Neighbours(tuple(sorted(found, key=lambda one: one.id)), total)

    async def edges(self, entity: str, *, limit: int) -> tuple[Triple, ...]:
        if limit < 1:
            return ()
        iri = self.profile.entity_iri(entity)
        sides: tuple[Direction, ...] = ("out", "in")
        rows = await asyncio.gather(
            *(self._select(queries.edges(iri, side, self.profile, limit=WINDOW)) for side in sides)
        )
        name = self.profile.relation_name
        edges = sorted(
            {
                (side == "in", name(row["p"].value), self._id(row["x"]), row["p"].value, row["x"])
                for side, found in zip(sides, rows, strict=True)
                for row in found
                if self.profile.shows(row["p"].value) and not (side == "in" and row["x"].value == iri)
            }
        )
        labels = await self._relation_labels({edge[3] for edge in edges})
        chosen = [edge for edge in edges if self.profile.shows_label(labels[edge[3]])][:limit]
        here, *others = await self._entities([_Term("uri", iri), *(edge[4] for edge in chosen)])
        return tuple(
            triple(here, relation, labels[predicate], other) if not inward else
            triple(other, relation, labels[predicate], here)
            for (inward, relation, _, predicate, _), other in zip(chosen, others, strict=True)
        )  # fmt: skip

    async def entities(self, ids: Sequence[str]) -> tuple[Entity, ...]:
        found = await self._entities([_Term("uri", self.profile.entity_iri(one)) for one in ids])
        return tuple(one.model_copy(update={"id": asked}) for asked, one in zip(ids, found, strict=True))

    async def link(self, mention: str, k: int = 1) -> tuple[Linked, ...]:
        # Some endpoints undo \u before they read quotes and escapes; without a backslash there is nothing to undo.
        mention = " ".join(well_formed(mention).replace("\\", " ").split())[:500]
        if k < 1 or not mention:
            return ()
        if self.profile.name == WIKIDATA.name:
            return await self._search_wikidata(mention, k)
        found: dict[str, Linked] = {}
        iri = self.profile.entity_iri(mention)
        if await self._select(queries.known(iri)):
            (entity,) = await self._entities([_Term("uri", iri)])
            found[iri] = Linked(entity, "exact", 4.0)
        for how, predicates, score in (("exact", self.profile.labels, 2.0), ("alias", self.profile.aliases, 1.0)):
            if len(found) < k:
                rows = await self._select(queries.named(_spellings(mention), predicates, self.profile, limit=100))
                await self._add(found, ((row["e"], how, score) for row in rows))
        if len(found) < k:
            await self._add(found, await self._by_words(mention, k))
        return tuple(sorted(found.values(), key=lambda one: (-one.score, one.entity.id))[:k])

    async def paths(
        self, starts: Sequence[str], ends: Sequence[str], *, max_hops: int, limit: int
    ) -> tuple[tuple[Triple, ...], ...]:
        left = MOST_QUERIES
        of = self.profile.entity_iri
        search = shortest_paths({*map(of, starts)}, {*map(of, ends)}, max_hops, limit)
        try:
            wanted = next(search)
            while True:
                batches = [wanted[i : i + _BATCH] for i in range(0, len(wanted), _BATCH)][: left // 2]
                left -= 2 * len(batches)
                found = await asyncio.gather(*(self._around(batch) for batch in batches))
                asked = {entity for batch in batches for entity in batch}
                cut = {entity for around in found for entity in around.cut}.union(set(wanted) - asked)
                wanted = search.send(Around([edge for around in found for edge in around.edges], cut))
        except StopIteration as end:
            return await self._triples(end.value)

    async def close(self) -> None:
        await self._service.close()

    # --- asking ---

    async def _select(self, query: str) -> list[_Row]:
        """The rows of a query. Raises `SourceError`."""
        headers = {
            "Accept": "application/sparql-results+json",
            "User-Agent": f"ken/{ken.__version__} (knowledge graph client; httpx/{httpx.__version__})",
        }
        try:
            response = await self._service.post(data={"query": query}, headers=headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise SourceError(f"{self.name} is no address that can be asked ({error}); check it") from error
        except NoAnswer as error:
            raise SourceError(
                f"the SPARQL endpoint {self.name} {error}; check that it runs and can be reached, or try again later"
            ) from error
        if response.status_code != 200:
            detail = " ".join(response.text.split())[:200]
            raise SourceError(
                f"the SPARQL endpoint {self.name} refused a query ({response.status_code}: {detail}); check the address"
            )
        try:
            rows = response.json()["results"]["bindings"]
            return [_Row(self.name, {name: _term(value) for name, value in row.items()}) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _unexpected(self.name, "no results in JSON") from error

    async def _ends(
        self, entity: str, relation: str, direction: Direction, *, limit: int, offset: int = 0
    ) -> list[_Term]:
        rows = await self._select(queries.neighbours(entity, relation, direction, limit=limit, offset=offset))
        return sorted({row["x"] for row in rows})

    async def _count(self, entity: str, relation: str, direction: Direction) -> int:
        rows = await self._select(queries.count(entity, relation, direction, most=COUNTED))
        text = rows[0]["n"].value if rows else "0"
        return int(text) if text.isdecimal() else 0

    async def _by_words(self, mention: str, k: int) -> list[tuple[_Term, str, float]]:
        words = normal_name(mention).split()
        if not words or self.profile.name != PLAIN.name:
            return []
        rows = await self._select(queries.containing(words[:10], self.profile, limit=1_000))
        # Of names that hold the words, the one with the fewest others is the nearest.
        return [(row["e"], "words", len(" ".join(words)) / (1 + len(row["l"].value))) for row in rows]

    async def _search_wikidata(self, mention: str, k: int) -> tuple[Linked, ...]:
        """Labels there have many namesakes; Wikidata's own search knows which is meant most often."""
        iri = self.profile.entity_iri(mention)
        if self.profile.entity_id(iri) != iri and await self._select(queries.known(iri)):  # it is an id
            terms = [_Term("uri", iri)]
        else:
            rows = await self._select(queries.wikidata_search(mention, self.profile, limit=min(k, 50)))
            terms = [row["e"] for row in rows]
        name = normal_name(mention)
        return tuple(
            Linked(one, "exact" if name in (normal_name(one.label), normal_name(one.id)) else "words", 1 / (1 + rank))
            for rank, one in enumerate(await self._entities(terms))
        )

    async def _add(self, found: dict[str, Linked], rows: Iterable[tuple[_Term, str, float]]) -> None:
        best: dict[_Term, tuple[str, float]] = {}
        for term, how, score in rows:
            if term.value not in found and score > best.get(term, ("", -1.0))[1]:
                best[term] = (how, score)
        for term, entity in zip(best, await self._entities(best), strict=True):
            how, score = best[term]
            found[term.value] = Linked(entity, how, min(score, 4.0))  # type: ignore[arg-type]

    async def _around(self, entities: Sequence[str]) -> Around:
        entities = [one for one in entities if is_iri(one)]
        if not entities:
            return Around(())
        outward, inward = await asyncio.gather(
            *(
                self._select(queries.edges_around(entities, direction, self.profile, limit=AROUND))
                for direction in ("out", "in")
            )
        )
        edges = [Edge(row["e"].value, row["p"].value, row["x"].value) for row in outward]
        edges += [Edge(row["x"].value, row["p"].value, row["e"].value) for row in inward]
        labels = await self._relation_labels({edge.relation for edge in edges})
        shown = [e for e in edges if self.profile.shows(e.relation) and self.profile.shows_label(labels[e.relation])]
        return Around(shown, entities if max(len(outward), len(inward)) >= AROUND else ())

    async def _triples(self, paths: Sequence[Sequence[Edge]]) -> tuple[tuple[Triple, ...], ...]:
        nodes = list(dict.fromkeys(node for path in paths for edge in path for node in (edge.subject, edge.object)))
        entities = dict(zip(nodes, await self._entities([_Term("uri", node) for node in nodes]), strict=True))
        labels = await self._relation_labels({edge.relation for path in paths for edge in path})

        def of(edge: Edge) -> Triple:
            relation = self.profile.relation_name(edge.relation)
            return triple(entities[edge.subject], relation, labels[edge.relation], entities[edge.object])

        return tuple(tuple(map(of, path)) for path in paths)

    # --- names ---

    def _id(self, term: _Term) -> str:
        if term.kind == "uri":
            return self.profile.entity_id(term.value)
        return f"_:{term.value}" if term.kind == "bnode" else term.value

    async def _entities(self, terms: Iterable[_Term]) -> list[Entity]:
        """Entities for terms, in order, with their labels."""
        terms = list(terms)
        labels = await self._labels_of(term.value for term in terms if term.kind == "uri")
        entities = []
        for term in terms:
            identifier = self._id(term)
            if term.kind == "uri":
                label = labels.get(term.value) or self.profile.label_of(term.value)
                entities.append(Entity(id=identifier, label=label))
            else:
                entities.append(Entity(id=identifier, label=identifier, literal=term.kind != "bnode"))
        return entities

    async def _relation_labels(self, predicates: Iterable[str]) -> dict[str, str]:
        described = {predicate: self.profile.property_iri(predicate) for predicate in predicates}
        labels = await self._labels_of(described.values())
        return {p: labels.get(node) or self.profile.label_of(p) for p, node in described.items()}

    async def _labels_of(self, iris: Iterable[str]) -> Mapping[str, str]:
        """The labels of nodes; "" for those without one."""
        wanted = dict.fromkeys(one for one in iris if is_iri(one))
        missing = [one for one in wanted if one not in self._labels]
        batches = [missing[i : i + _BATCH] for i in range(0, len(missing), _BATCH)]
        found = await asyncio.gather(*map(self._ask_labels, batches))
        fresh = {node: label for batch in found for node, label in batch.items()}
        labels = {one: fresh[one] if one in fresh else self._labels[one] for one in wanted}
        self._labels.update(fresh)
        while len(self._labels) > _CACHED:
            self._labels.popitem(last=False)
        return labels

    async def _ask_labels(self, nodes: Sequence[str]) -> dict[str, str]:
        rows = await self._select(queries.labels(nodes, self.profile, limit=20 * len(nodes)))
        order = {predicate: place for place, predicate in enumerate(self.profile.labels)}

        def rank(row: _Row) -> tuple[int, bool, str, str]:
            language = row["l"].language
            return order.get(row["q"].value, 99), language not in ("", self.profile.language), language, row["l"].value

        labels = dict.fromkeys(nodes, "")
        for row in sorted(rows, key=rank):
            if not labels.get(row["e"].value, "x"):
                labels[row["e"].value] = row["l"].value
        return labels


class _Term(NamedTuple):
    """A value in a result (SPARQL 1.1 Query Results JSON Format, section 3.2.2)."""

    kind: str
    value: str
    language: str = ""


class _Row(dict[str, _Term]):
    """Values by variable; one that was asked for and is not there is the endpoint's fault."""

    def __init__(self, endpoint: str, values: dict[str, _Term]) -> None:
        super().__init__(values)
        self._endpoint = endpoint

    def __missing__(self, name: str) -> _Term:
        raise _unexpected(self._endpoint, f"a result without ?{name}")


def _unexpected(endpoint: str, problem: str) -> SourceError:
    return SourceError(f"{endpoint} does not answer as a SPARQL endpoint does ({problem}); check the address")


def _term(value: Any) -> _Term:
    kind, text = value["type"], value["value"]
    if not (isinstance(kind, str) and isinstance(text, str)):
        raise TypeError("a term has a type and a value, both texts")
    return _Term(kind, well_formed(text), str(value.get("xml:lang", "")).lower())


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SourceError(f"{url!r} is no address of a SPARQL endpoint ({error}); give http://HOST/sparql") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise SourceError(f"{url!r} is no address of a SPARQL endpoint; give http://HOST/sparql")
    return address


def _spellings(mention: str) -> list[str]:
    """An endpoint compares letter by letter: the mention in the cases that names are written in."""
    capital = mention[:1].upper() + mention[1:]
    return list(dict.fromkeys([mention, capital, mention.title(), mention.lower(), mention.upper()]))
