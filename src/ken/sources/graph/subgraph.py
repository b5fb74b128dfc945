"""The part of a graph that connects what a question names with its candidates (G_sub of KSL, arXiv 2309.03118; built as
in QA-GNN, arXiv 2104.06378, section 3.1, whose preprocessing the paper shares as far as could be seen).
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ken.core import BadInput, Entity, Question, Triple
from ken.core.choices import choices_of
from ken.core.seeding import derive_seed
from ken.sources.graph.mentions import mentioned
from ken.sources.graph.names import normal_name
from ken.sources.graph.paths import Around, Edge, shortest_paths
from ken.sources.graph.protocol import Direction, KnowledgeGraph, Linked, Neighbours, Relation

Relevance = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]
"""How relevant texts (labels, or relations with labels) are to a question; higher is more."""


async def shared_words(question: str, texts: Sequence[str]) -> list[float]:
    """Relevance without a model: the share of a text's words that the question has, too."""
    known = set(re.findall(r"\w+", question.casefold()))
    return [
        sum(word in known for word in words) / len(words) if (words := re.findall(r"\w+", text.casefold())) else 0.0
        for text in texts
    ]


@dataclass(frozen=True, slots=True)
class Topics:
    """What the graph has of a question: the entities that its text names, and those of each candidate."""

    question: tuple[Entity, ...]
    choices: tuple[tuple[Entity, ...], ...]

    @property
    def place(self) -> dict[str, int]:
        """Of each candidate's entities (by id) which candidate they mean; those of several mean none."""
        named = Counter(entity.id for some in self.choices for entity in {e.id: e for e in some}.values())
        return {e.id: i for i, some in enumerate(self.choices) for e in some if named[e.id] == 1}

    @property
    def heads(self) -> tuple[Entity, ...]:
        """Where a walk can begin: entities of the question that are no candidate, since a way of no length says
        nothing."""
        candidates = {entity.id for some in self.choices for entity in some}
        return tuple(entity for entity in self.question if entity.id not in candidates)


class Subgraph:
    """A small `KnowledgeGraph` in memory: some triples of another, `entities` among them that have none."""

    def __init__(self, triples: Iterable[Triple], entities: Iterable[Entity] = (), *, name: str = "subgraph") -> None:
        self.name = name
        self.triples = tuple({(t.subject.id, t.relation, t.object.id): t for t in triples}.values())
        ends = (end for t in self.triples for end in (t.subject, t.object))
        self.nodes: Mapping[str, Entity] = {entity.id: entity for entity in (*entities, *ends)}
        self._around: dict[str, list[Triple]] = defaultdict(list)
        for triple in self.triples:
            self._around[triple.subject.id].append(triple)
            if triple.object.id != triple.subject.id:
                self._around[triple.object.id].append(triple)

    def __contains__(self, triple: Triple) -> bool:
        key = (triple.subject.id, triple.relation, triple.object.id)
        return any((t.subject.id, t.relation, t.object.id) == key for t in self._around.get(triple.subject.id, ()))

    def distances(self, start: str, most: int) -> dict[str, int]:
        """How many edges, walked either way, away from an entity others are, up to `most`."""
        found, frontier = {start: 0}, [start]
        for distance in range(1, most + 1):
            near = {end for entity in frontier for end in self._near(entity)}
            frontier = sorted(near - found.keys())
            found |= dict.fromkeys(frontier, distance)
        return found

    def without(self, entities: Collection[str]) -> Subgraph:
        """The same but for some entities and their triples."""
        left = (t for t in self.triples if t.subject.id not in entities and t.object.id not in entities)
        return Subgraph(left, (one for one in self.nodes.values() if one.id not in entities), name=self.name)

    def _near(self, entity: str) -> set[str]:
        around = self._around.get(entity, ())
        return {t.object.id if t.subject.id == entity else t.subject.id for t in around}

    async def relations(self, entity: str) -> tuple[Relation, ...]:
        """As in `KnowledgeGraph`; so are the others."""
        found = set()
        for t in self._around.get(entity, ()):
            directions: list[Direction] = [
                *(["out"] if t.subject.id == entity else []),  # type: ignore[list-item]
                *(["in"] if t.object.id == entity else []),  # type: ignore[list-item]
            ]
            found |= {Relation(t.relation, direction, t.label or t.relation) for direction in directions}
        return tuple(sorted(found))

    async def neighbours(
        self, entity: str, relation: str, direction: Direction, *, limit: int, seed: int = 0
    ) -> Neighbours:
        ends = {
            other.id: other
            for t in self._around.get(entity, ())
            if t.relation == relation
            for one, other in ((t.subject, t.object) if direction == "out" else (t.object, t.subject),)
            if one.id == entity
        }
        order = sorted(ends)
        if len(order) > limit:
            order = sorted(sorted(order, key=lambda end: derive_seed(entity, relation, direction, seed, end))[:limit])
        return Neighbours(tuple(ends[end] for end in order), len(ends))

    async def edges(self, entity: str, *, limit: int) -> tuple[Triple, ...]:
        def place(t: Triple) -> tuple[bool, str, str]:
            out = t.subject.id == entity
            return not out, t.relation, t.object.id if out else t.subject.id

        return tuple(sorted(self._around.get(entity, ()), key=place)[: max(0, limit)])

    async def entities(self, ids: Sequence[str]) -> tuple[Entity, ...]:
        return tuple(self.nodes.get(one, Entity(id=one, label=one)) for one in ids)

    async def link(self, mention: str, k: int = 1) -> tuple[Linked, ...]:
        name = normal_name(mention)
        by_name = sorted(e for e, entity in self.nodes.items() if mention == e or normal_name(entity.label) == name)
        return tuple(Linked(self.nodes[one], "exact", 1.0) for one in by_name[: max(0, k)])

    async def paths(
        self, starts: Sequence[str], ends: Sequence[str], *, max_hops: int, limit: int
    ) -> tuple[tuple[Triple, ...], ...]:
        known = {(t.subject.id, t.relation, t.object.id): t for t in self.triples}
        search = shortest_paths(set(starts), set(ends), max_hops, limit)
        try:
            wanted = next(search)
            while True:
                around = [t for entity in wanted for t in self._around.get(entity, ())]
                wanted = search.send(Around([Edge(t.subject.id, t.relation, t.object.id) for t in around]))
        except StopIteration as end:
            return tuple(tuple(known[tuple(edge)] for edge in path) for path in end.value)

    async def close(self) -> None:
        """Nothing is held."""


class SubgraphExtractor:
    """Links a question and its candidates to a graph, and takes what lies between them.

    hops: entities on ways of at most so many edges between two topics are kept, topics always. nodes: at most so many
    of them; the most relevant by `relevance` stay, of equal ones those on the shortest ways from the question to a
    candidate. hub_edges: of an entity at most so many edges are looked at. max_words: of a mention.

    Raises `BadInput` for numbers below 1.
    """

    def __init__(
        self,
        *,
        hops: int = 2,
        nodes: int = 200,
        hub_edges: int = 500,
        max_words: int = 5,
        relevance: Relevance = shared_words,
    ) -> None:
        if min(hops, nodes, hub_edges, max_words) < 1:
            raise BadInput("hops, nodes, hub_edges and max_words of a subgraph must be at least 1")
        self.hops, self.nodes, self.hub_edges, self.max_words = hops, nodes, hub_edges, max_words
        self.relevance = relevance

    async def of(self, graph: KnowledgeGraph, question: Question) -> tuple[Topics, Subgraph]:
        """What the graph has of a question, and what connects it. Raises `SourceError`."""
        topics = await self.topics(graph, question)
        return topics, await self.extract(graph, topics, question.text)

    async def topics(self, graph: KnowledgeGraph, question: Question) -> Topics:
        """What the graph has of a question. A candidate that has a name there as a whole means that entity, another all
        that it mentions. Raises `SourceError`."""
        named = await mentioned(graph, question.text, max_words=self.max_words)
        choices = []
        for choice in choices_of(question):
            whole = [one.entity for one in await graph.link(choice, 1) if one.how != "words"]
            choices.append(tuple(whole) or await mentioned(graph, choice, max_words=self.max_words))
        return Topics(named, tuple(choices))

    async def extract(self, graph: KnowledgeGraph, topics: Topics, question: str = "") -> Subgraph:
        """All triples between the entities that are kept. It does not know which candidate is right. Raises
        `SourceError`."""
        ends = {e.id: e for e in (*topics.question, *(e for some in topics.choices for e in some))}
        gathered: dict[str, tuple[Triple, ...]] = {}
        frontier = list(ends)
        # What lies on a way of k edges is within ⌈k/2⌉ of one of its ends.
        for _ in range(math.ceil(self.hops / 2)):
            await self._gather(graph, frontier, gathered)
            near = {e for entity in frontier for t in gathered[entity] for e in _ends(t)}
            frontier = sorted(near - gathered.keys())
        seen = Subgraph((t for some in gathered.values() for t in some), ends.values(), name=graph.name)
        kept = await self._kept(seen, topics, question)
        await self._gather(graph, [entity for entity in kept if entity not in gathered], gathered)
        between = [t for e in kept for t in gathered[e] if t.subject.id in kept and t.object.id in kept]
        return Subgraph(between, (seen.nodes[entity] for entity in kept), name=graph.name)

    async def _gather(
        self, graph: KnowledgeGraph, entities: Sequence[str], gathered: dict[str, tuple[Triple, ...]]
    ) -> None:
        found = await asyncio.gather(*(graph.edges(entity, limit=self.hub_edges) for entity in entities))
        # A value leads nowhere and its id is its text, which may be that of an entity.
        gathered |= {
            entity: tuple(t for t in triples if not (t.subject.literal or t.object.literal))
            for entity, triples in zip(entities, found, strict=True)
        }

    async def _kept(self, seen: Subgraph, topics: Topics, question: str) -> list[str]:
        asked = {entity.id for entity in topics.question}
        options = {entity.id for some in topics.choices for entity in some}
        near: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for topic in sorted(asked | options):
            for entity, distance in seen.distances(topic, self.hops - 1).items():
                near[entity].append((distance, topic))
        between: dict[str, int] = {}  # the length of the shortest way through an entity, doubled where it is not one
        for entity, by in near.items():  # from the question to a candidate
            if entity in asked | options:
                continue
            by.sort()
            length = min((a + b for a, s in by for b, t in by if s != t), default=self.hops + 1)
            straight = min((a + b for a, s in by for b, t in by if s in asked and t in options and s != t), default=99)
            if length <= self.hops:
                between[entity] = straight if straight <= self.hops else 2 * self.hops
        order = sorted(between)
        scores = await self.relevance(question, [seen.nodes[entity].label for entity in order])
        ranked = sorted(zip(order, scores, strict=True), key=lambda pair: (-pair[1], between[pair[0]], pair[0]))
        topics_first = [entity for entity in seen.nodes if entity in asked | options]
        return [*topics_first, *(entity for entity, _ in ranked)][: max(self.nodes, len(topics_first))]


def _ends(triple: Triple) -> tuple[str, str]:
    return triple.subject.id, triple.object.id
