"""A knowledge graph in pyoxigraph (RocksDB on disk, or in memory).

graph = TripleStore.of([("Lisbon", "capital of", "Portugal")])
await graph.relations("Portugal")  # capital of, inward

Beside the triples, which are the default graph, it keeps the names of all entities in a graph of its own: the label
that is shown, and the normal forms by which mentions are linked.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ken.core import Entity, Passage, SourceError, Triple
from ken.core.seeding import derive_seed
from ken.sources.graph.names import normal_name
from ken.sources.graph.nodes import NAMES, as_node, as_relation, id_of, is_entity, oxigraph
from ken.sources.graph.paths import Around, Edge, shortest_paths
from ken.sources.graph.profile import PLAIN, Profile
from ken.sources.graph.protocol import Direction, Linked, Neighbours, Relation
from ken.sources.search.unicode import well_formed

if TYPE_CHECKING:
    import pyoxigraph as ox

    from ken.sources.search.index import Index

Result = TypeVar("Result")

FEW = 500  # triples that are read at once; reading more goes to a thread
WINDOW = 20_000  # neighbours of a hub among which a sample is drawn, and edges of one that are sorted
HUB = 2_000  # edges of one entity that a search for paths looks at, each way

_CACHED = 100_000  # labels


class TripleStore:
    """A `KnowledgeGraph` in this process. Make one with `TripleStore.of`, `TripleStore.open` or `open_graph`.

    Reads that touch few triples are answered at once, others in a thread. Of a relation with more than `WINDOW`
    neighbours a sample comes from that many neighbouring ones of the store's order (on disk the order of a hash),
    beginning at a random place, so that it costs one count and one read of bounded size.
    """

    def __init__(self, store: ox.Store, *, name: str, profile: Profile = PLAIN, words: Path | None = None) -> None:
        """Not for callers. words: the folder of the index over labels; without one it is made when first needed."""
        self.name, self.profile = name, profile
        self._store, self._words_at = store, words
        self._ox = oxigraph()
        self._default, self._names = self._ox.DefaultGraph(), self._ox.NamedNode(f"{NAMES}graph")
        self._label, self._exact, self._alias = (
            self._ox.NamedNode(f"{NAMES}{what}") for what in ("label", "exact", "alias")
        )
        self._made: str | None = None
        self._index: Index | None = None
        self._index_lock = threading.Lock()
        self._node = lru_cache(_CACHED)(self._make_node)
        self._predicate = lru_cache(10_000)(self._make_predicate)
        self._entity = lru_cache(_CACHED)(self._make_entity)
        self._relation = lru_cache(_CACHED)(self._make_relation)
        self._counted = lru_cache(10_000)(self._count)
        self._all_relations = lru_cache(1_000)(self._distinct_relations)

    @classmethod
    def of(
        cls, triples: Iterable[tuple[str, str, str]], *, name: str = "memory", profile: Profile = PLAIN
    ) -> TripleStore:
        """A graph in memory of (subject, relation, object) words; IRIs stay what they are. The relations `rdfs:label`
        and `skos:altLabel` give a word another label and further names.

        Raises `BadInput` for an empty word, `Unsupported` when pyoxigraph is not installed.
        """
        from ken.sources.graph.loading import quads_of

        store = oxigraph().Store()
        store.bulk_extend(quads_of(triples, profile))
        return cls.filled(store, name=name, profile=profile)

    @classmethod
    def filled(cls, store: ox.Store, *, name: str, profile: Profile = PLAIN) -> TripleStore:
        """A graph over a store with triples in it, whose names are added."""
        from ken.sources.graph.naming import name_entities

        name_entities(store, profile)
        return cls(store, name=name, profile=profile)

    def __len__(self) -> int:
        """How many triples."""
        return int(next(iter(self._query("SELECT (COUNT(*) AS ?n) { ?s ?p ?o }")))["n"].value)

    def __repr__(self) -> str:
        return f"TripleStore({self.name!r})"

    # --- the protocol ---

    async def relations(self, entity: str) -> tuple[Relation, ...]:
        node = self._node(entity)
        if node is None:
            return ()
        first = self._predicates_of_few(node)
        names = first if first is not None else await asyncio.to_thread(self._all_relations, node)
        shown = ((iri, direction) for iri, direction in names if self.profile.shows(iri))
        found = (Relation(self.profile.relation_name(iri), direction, self._relation(iri)) for iri, direction in shown)
        return tuple(sorted(one for one in found if self.profile.shows_label(one.label)))

    async def neighbours(
        self, entity: str, relation: str, direction: Direction, *, limit: int, seed: int = 0
    ) -> Neighbours:
        node, predicate = self._node(entity), self._predicate(relation)
        if node is None or predicate is None:
            return Neighbours((), 0)
        few = self._few(self._ends(node, predicate, direction), FEW)
        asked = _Asked(entity, relation, direction, seed)
        if few is not None:
            chosen, total = _sample(few, asked, limit), len(few)
        else:
            chosen, total = await asyncio.to_thread(self._sample_of_many, node, asked, limit)
        return Neighbours(tuple(sorted(map(self._entity, chosen), key=lambda one: one.id)), total)

    async def edges(self, entity: str, *, limit: int) -> tuple[Triple, ...]:
        node = self._node(entity)
        if node is None or limit < 1:
            return ()
        few = self._few(self._both(node), FEW)
        if few is None:
            # An iterator of pyoxigraph belongs to the thread that made it, to its end.
            few = await asyncio.to_thread(lambda: self._few(self._both(node), WINDOW))
        if few is None:
            return await self._edges_of_hub(entity, limit)
        shown = [quad for quad in few if self._shows(quad.predicate.value)]
        return self._in_order(shown, node, limit)

    async def entities(self, ids: Sequence[str]) -> tuple[Entity, ...]:
        return tuple(self._named(one) for one in ids)

    async def link(self, mention: str, k: int = 1) -> tuple[Linked, ...]:
        if k < 1 or not (mention := well_formed(mention).strip()):
            return ()
        found = {one.entity.id: one for one in self._by_name(mention)}
        if len(found) < k:
            for one in await self._by_words(mention, k):
                found.setdefault(one.entity.id, one)
        return tuple(sorted(found.values(), key=lambda one: (-one.score, one.entity.id))[:k])

    async def paths(
        self, starts: Sequence[str], ends: Sequence[str], *, max_hops: int, limit: int
    ) -> tuple[tuple[Triple, ...], ...]:
        return await asyncio.to_thread(self._paths, starts, ends, max_hops, limit)

    async def close(self) -> None:
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)
            self._made = self._index = None

    # --- reading the store ---

    def _query(self, text: str) -> Any:
        return self._reading(lambda: self._store.query(text))

    def _reading(self, read: Callable[[], Result]) -> Result:
        try:
            return read()
        except (OSError, RuntimeError) as error:
            raise SourceError(
                f"the graph {self.name} cannot be read ({error}); build it again with `ken graph build`"
            ) from error

    def _both(self, node: Any) -> Iterator[Any]:
        """The triples with a node at either end, outward ones first."""
        yield from self._store.quads_for_pattern(node, None, None, self._default)
        yield from self._store.quads_for_pattern(None, None, node, self._default)

    def _ends(self, node: Any, predicate: Any, direction: Direction) -> Iterator[Any]:
        if direction == "out":
            return (quad.object for quad in self._store.quads_for_pattern(node, predicate, None, self._default))
        return (quad.subject for quad in self._store.quads_for_pattern(None, predicate, node, self._default))

    def _few(self, terms: Iterator[Any], most: int) -> list[Any] | None:
        """All of them, or None when they are more than `most`."""

        def read() -> list[Any] | None:
            found: list[Any] = []
            for term in terms:
                if len(found) == most:
                    return None
                found.append(term)
            return found

        return self._reading(read)

    def _predicates_of_few(self, node: Any) -> set[tuple[str, Direction]] | None:
        quads = self._few(self._both(node), FEW)
        return None if quads is None else self._predicates_of(node, quads)

    def _predicates_of(self, node: Any, quads: Iterable[Any]) -> set[tuple[str, Direction]]:
        found: set[tuple[str, Direction]] = set()
        for quad in quads:
            if quad.subject == node:
                found.add((quad.predicate.value, "out"))
            if quad.object == node:
                found.add((quad.predicate.value, "in"))
        return found

    def _distinct_relations(self, node: Any) -> set[tuple[str, Direction]]:
        if isinstance(node, self._ox.BlankNode):  # in a query it would be a variable
            return self._predicates_of(node, self._reading(lambda: set(self._both(node))))
        outward = self._query(f"SELECT DISTINCT ?p {{ {node} ?p ?o }}")
        inward = self._query(f"SELECT DISTINCT ?p {{ ?s ?p {node} }}")
        return {(row["p"].value, "out") for row in outward} | {(row["p"].value, "in") for row in inward}

    def _count(self, node: Any, predicate: Any, direction: Direction) -> int:
        if isinstance(node, self._ox.BlankNode):
            return self._reading(lambda: sum(1 for _ in self._ends(node, predicate, direction)))
        rows = self._query(f"SELECT (COUNT(*) AS ?n) {{ {_pattern(node, predicate, direction)} }}")
        return int(next(iter(rows))["n"].value)

    def _run(self, node: Any, predicate: Any, direction: Direction, offset: int, size: int) -> list[Any]:
        """That many ends of a relation, in the order of storage; what is passed over is not read."""
        if isinstance(node, self._ox.BlankNode):
            ends = self._ends(node, predicate, direction)
            return self._reading(lambda: list(islice(ends, offset, offset + size)))
        pattern = _pattern(node, predicate, direction)
        rows = self._query(f"SELECT ?x {{ {pattern} }} OFFSET {offset} LIMIT {size}")
        return self._reading(lambda: [row["x"] for row in rows])

    def _sample_of_many(self, node: Any, asked: _Asked, limit: int) -> tuple[list[Any], int]:
        predicate = self._predicate(asked.relation)
        total = self._counted(node, predicate, asked.direction)
        if total <= WINDOW:
            everything = self._reading(lambda: list(self._ends(node, predicate, asked.direction)))
            return _sample(everything, asked, limit), len(everything)
        start = asked.random("window").randrange(total)
        window = self._run(node, predicate, asked.direction, start, WINDOW)
        window += self._run(node, predicate, asked.direction, 0, WINDOW - len(window))
        return _sample(window, asked, limit), total

    async def _edges_of_hub(self, entity: str, limit: int) -> tuple[Triple, ...]:
        """An equal share of each relation: one with a million edges must not hide the others."""
        relations = sorted(await self.relations(entity), key=lambda one: (one.direction == "in", one.name))
        share = max(1, limit // max(1, len(relations)))
        here = self._named(entity)
        found: list[Triple] = []
        for one in relations:
            near = await self.neighbours(entity, one.name, one.direction, limit=min(share, limit - len(found)))
            for other in near.entities:
                ends = (here, other) if one.direction == "out" else (other, here)
                found.append(triple(ends[0], one.name, one.label, ends[1]))
        return tuple(found[:limit])

    def _in_order(self, quads: list[Any], node: Any, limit: int) -> tuple[Triple, ...]:
        name = self.profile.relation_name

        def place(quad: Any) -> tuple[bool, str, str]:
            out = quad.subject == node
            return not out, name(quad.predicate.value), self._id(quad.object if out else quad.subject)

        chosen = sorted(dict.fromkeys(quads), key=place)[:limit]  # a loop comes twice
        return tuple(
            triple(
                self._entity(quad.subject),
                name(quad.predicate.value),
                self._relation(quad.predicate.value),
                self._entity(quad.object),
            )
            for quad in chosen
        )

    # --- names ---

    def _by_name(self, mention: str) -> list[Linked]:
        found = []
        if (node := self._node(mention)) is not None and next(self._both(node), None) is not None:
            found.append(Linked(self._entity(node), "exact", 4.0))
        name = self._ox.Literal(normal_name(mention))
        for how, predicate, score in (("exact", self._exact, 2.0), ("alias", self._alias, 1.0)):
            for quad in self._few(self._store.quads_for_pattern(None, predicate, name, self._names), FEW) or ():
                weight = score + self._degree(quad.subject)
                found.append(Linked(self._entity(quad.subject), how, weight))  # type: ignore[arg-type]
        return sorted(found, key=lambda one: one.score)  # of two for one entity, the better one is the last

    def _degree(self, node: Any) -> float:
        """In [0, 1): of namesakes, the one that more is said about is more likely meant."""
        return sum(1 for _ in zip(range(99), self._both(node), strict=False)) / 100

    async def _by_words(self, mention: str, k: int) -> list[Linked]:
        if not normal_name(mention):
            return []
        passages = await asyncio.to_thread(self._search_words, mention, k)
        scored = ((one, one.score or 0.0) for one in passages)
        return [Linked(self._named(one.id), "words", score / (1.0 + score)) for one, score in scored]

    def _search_words(self, mention: str, k: int) -> list[Passage]:
        with self._index_lock:
            self._index = self._index or self._words()
        return self._index.search(mention, k) if self._index else []

    def _words(self) -> Index | None:
        """The index over labels and aliases."""
        from ken.sources.graph.naming import build_words
        from ken.sources.search.index import Index

        if self._words_at is None:
            self._made = tempfile.mkdtemp(prefix="ken-graph-")
            return build_words(self._store, self.profile, Path(self._made) / "words")
        return Index.open(self._words_at) if self._words_at.exists() else None

    # --- paths ---

    def _paths(
        self, starts: Sequence[str], ends: Sequence[str], max_hops: int, limit: int
    ) -> tuple[tuple[Triple, ...], ...]:
        search = shortest_paths(self._ids(starts), self._ids(ends), max_hops, limit)
        try:
            wanted = next(search)
            while True:
                wanted = search.send(self._around(wanted))
        except StopIteration as end:
            return tuple(tuple(map(self._triple, path)) for path in end.value)

    def _ids(self, ids: Sequence[str]) -> set[str]:
        """The ids as the graph writes them (an IRI that has a short form may be given)."""
        return {self._id(node) for one in ids if (node := self._node(one)) is not None}

    def _around(self, entities: Sequence[str]) -> Around:
        """At most `HUB` edges outward and as many inward of each entity, none to literals, none of hidden relations."""
        cut: set[str] = set()

        def edges() -> Iterator[Edge]:
            for entity in entities:
                if (node := self._node(entity)) is None:
                    continue
                for ends in ((node, None), (None, node)):
                    quads = self._store.quads_for_pattern(ends[0], None, ends[1], self._default)
                    few = self._reading(lambda quads=quads: list(islice(quads, HUB + 1)))  # type: ignore[misc]
                    if len(few) > HUB:
                        cut.add(entity)
                    for quad in few:
                        if is_entity(quad.object) and self._shows(quad.predicate.value):
                            relation = self.profile.relation_name(quad.predicate.value)
                            yield Edge(self._id(quad.subject), relation, self._id(quad.object))

        return Around(edges(), cut)

    def _triple(self, edge: Edge) -> Triple:
        label = self._relation(self.profile.relation_iri(edge.relation))
        return triple(self._named(edge.subject), edge.relation, label, self._named(edge.object))

    # --- terms ---

    def _make_node(self, identifier: str) -> Any:
        """The node of an id; None for what cannot be one."""
        return as_node(identifier, self.profile) if identifier else None

    def _make_predicate(self, name: str) -> Any:
        """The predicate of a relation's name; None for what cannot be one."""
        return as_relation(name, self.profile) if name else None

    def _id(self, term: Any) -> str:
        return id_of(term, self.profile)

    def _make_entity(self, term: Any) -> Entity:
        identifier = self._id(term)
        if not is_entity(term):
            return Entity(id=identifier, label=identifier, literal=True)
        return Entity(id=identifier, label=self._label_of(term) or self._unnamed(term))

    def _named(self, identifier: str) -> Entity:
        node = self._node(identifier)
        return Entity(id=identifier, label=identifier) if node is None else self._entity(node)

    def _label_of(self, term: Any) -> str:
        quad: Any = next(self._store.quads_for_pattern(term, self._label, None, self._names), None)
        return quad.object.value if quad else ""

    def _unnamed(self, term: Any) -> str:
        """What can be read of the IRI; of one that the graph does not have nothing is made up."""
        identifier = self._id(term)
        if isinstance(term, self._ox.BlankNode):
            return identifier
        known = term.value != identifier or next(self._both(term), None) is not None
        return self.profile.label_of(term.value) if known else identifier

    def _make_relation(self, iri: str) -> str:
        """The label of a relation."""
        for node in {self.profile.property_iri(iri), iri}:
            if label := self._label_of(self._ox.NamedNode(node)):
                return label
        return self.profile.label_of(iri)

    def _shows(self, iri: str) -> bool:
        return self.profile.shows(iri) and self.profile.shows_label(self._relation(iri))


def _pattern(node: Any, predicate: Any, direction: Direction) -> str:
    """Nodes write themselves as IRIs that the store has parsed: nothing in one can end it."""
    return f"{node} {predicate} ?x" if direction == "out" else f"?x {predicate} {node}"


class _Asked(NamedTuple):
    """What neighbours were asked for: what a sample of them depends on."""

    entity: str
    relation: str
    direction: Direction
    seed: int

    def random(self, what: str) -> random.Random:
        return random.Random(derive_seed(*self, what))


def _sample(terms: list[Any], asked: _Asked, limit: int) -> list[Any]:
    """All of them, or `limit` drawn without regard to the order of storage."""
    return terms if len(terms) <= limit else asked.random("sample").sample(sorted(terms, key=str), max(limit, 0))


def triple(subject: Entity, relation: str, label: str, object_: Entity) -> Triple:
    """A `Triple`, with a label where the relation's name is not it."""
    return Triple(subject=subject, relation=relation, label="" if label == relation else label, object=object_)
