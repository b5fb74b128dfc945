"""A graph with a few triples taken out and others put in, over any graph: what it holds is not changed.

For correcting what an answer rested on (ToG, arXiv 2307.07697, "knowledge correctability") and for asking what would
follow if something were otherwise, also where nobody may write, as on a public endpoint.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from ken.core import BadInput, Entity, Triple
from ken.core.seeding import derive_seed
from ken.sources.graph.protocol import Direction, KnowledgeGraph, Linked, Neighbours, Relation

Key = tuple[str, str, str]

MOST = 1000  # edges of one entity that a search for paths looks at


class EditedGraph:
    """`graph` without `removed` and with `added`. Closing it closes `graph`.

    Labels and links are those of `graph`, and of the entities of `added`, which it may not have.
    """

    def __init__(self, graph: KnowledgeGraph, *, removed: Iterable[Triple] = (), added: Iterable[Triple] = ()) -> None:
        self.name = f"{graph.name} (edited)"
        self._graph = graph
        self._added = {_key(t): t.model_copy(update={"score": None}) for t in added}
        self._removed = {_key(t) for t in removed} - self._added.keys()
        self._new = {one.id: one for t in self._added.values() for one in (t.subject, t.object)}

    async def relations(self, entity: str) -> tuple[Relation, ...]:
        found = {(r.name, r.direction): r for r in await self._graph.relations(entity)}
        for subject, relation, object_ in self._removed:
            for end, direction in ((subject, "out"), (object_, "in")):
                if end == entity and (relation, direction) in found:
                    left = await self.neighbours(entity, relation, _direction(direction), limit=1)
                    if not left.entities:
                        del found[relation, _direction(direction)]
        for subject, relation, object_ in self._added:
            for end, direction in ((subject, "out"), (object_, "in")):
                if end == entity:
                    label = next((r.label for (name, _), r in found.items() if name == relation), relation)
                    found.setdefault(
                        (relation, _direction(direction)), Relation(relation, _direction(direction), label)
                    )
        return tuple(sorted(found.values()))

    async def neighbours(
        self, entity: str, relation: str, direction: Direction, *, limit: int, seed: int = 0
    ) -> Neighbours:
        gone = {_other(key, direction) for key in self._removed if self._at(key, entity, relation, direction)}
        more = {
            one.id: one
            for key, triple in self._added.items()
            if self._at(key, entity, relation, direction)
            for one in (triple.object if direction == "out" else triple.subject,)
        }
        found = await self._graph.neighbours(entity, relation, direction, limit=limit + len(gone), seed=seed)
        if not gone and not more:
            return found
        left = {one.id: one for one in found.entities if one.id not in gone}
        ends = sorted({**left, **more}.values(), key=lambda one: one.id)
        if found.total == len(found.entities):
            total: int | None = len(ends)
        else:  # a sample: what is removed is taken to be there
            total = None if found.total is None else found.total - len(gone) + len(more.keys() - left.keys())
        if len(ends) > limit:
            rng = random.Random(derive_seed("edited graph", entity, relation, direction, seed))
            ends = sorted(rng.sample(ends, limit), key=lambda one: one.id)
        return Neighbours(tuple(ends), total)

    async def edges(self, entity: str, *, limit: int) -> tuple[Triple, ...]:
        touched = sum(entity in (key[0], key[2]) for key in self._removed)
        found = await self._graph.edges(entity, limit=limit + touched)
        every = {_key(t): t for t in found if _key(t) not in self._removed}
        every |= {key: triple for key, triple in self._added.items() if entity in (key[0], key[2])}
        ordered = sorted(every.values(), key=lambda t: (t.subject.id != entity, t.relation, _far(t, entity)))
        return tuple(ordered[:limit])

    async def entities(self, ids: Sequence[str]) -> tuple[Entity, ...]:
        found = await self._graph.entities(ids)
        return tuple(self._new.get(one.id, one) if one.label == one.id else one for one in found)

    async def link(self, mention: str, k: int = 1) -> tuple[Linked, ...]:
        wanted = " ".join(mention.casefold().split())
        same = [
            one for one in self._new.values() if wanted in (one.id.casefold(), " ".join(one.label.casefold().split()))
        ]
        found = {one.entity.id: one for one in await self._graph.link(mention, k)}
        best = max((one.score for one in found.values()), default=1.0)
        for one in same:
            found.setdefault(one.id, Linked(one, "exact", best))
        return tuple(sorted(found.values(), key=lambda one: (-one.score, one.how != "exact"))[:k])

    async def paths(
        self, starts: Sequence[str], ends: Sequence[str], *, max_hops: int, limit: int
    ) -> tuple[tuple[Triple, ...], ...]:
        """Breadth first over `edges`, at most `MOST` of an entity: the graph itself does not know of the edit."""
        from collections import deque

        found: list[tuple[Triple, ...]] = []
        waiting: deque[tuple[str, tuple[Triple, ...], frozenset[str]]] = deque(
            (one, (), frozenset({one})) for one in dict.fromkeys(starts)
        )
        goals, shortest = set(ends), max_hops
        while waiting and len(found) < limit:
            here, path, seen = waiting.popleft()
            if len(path) >= shortest:
                continue
            for triple in await self.edges(here, limit=MOST):
                there = triple.object if triple.subject.id == here else triple.subject
                if there.id in seen or (there.literal and there.id not in goals):
                    continue
                if there.id in goals:
                    found.append((*path, triple))
                    shortest = len(path) + 1
                else:
                    waiting.append((there.id, (*path, triple), seen | {there.id}))
        return tuple(found[:limit])

    async def close(self) -> None:
        await self._graph.close()

    @staticmethod
    def _at(key: Key, entity: str, relation: str, direction: str) -> bool:
        return key[1] == relation and key[0 if direction == "out" else 2] == entity


async def correct(graph: KnowledgeGraph, old: Triple, new: Triple) -> EditedGraph:
    """`graph` with `new` in place of `old`. Raises `BadInput` when it does not hold `old`, `SourceError`."""
    there = await graph.neighbours(old.subject.id, old.relation, "out", limit=MOST)
    if old.object.id not in {one.id for one in there.entities} and not (
        there.total is None or there.total > len(there.entities)
    ):
        raise BadInput(f"the graph does not hold ({old}); give the triple as `explain` prints it")
    return EditedGraph(graph, removed=[old], added=[new])


def _key(triple: Triple) -> Key:
    return triple.subject.id, triple.relation, triple.object.id


def _other(key: Key, direction: Direction) -> str:
    return key[2] if direction == "out" else key[0]


def _far(triple: Triple, entity: str) -> str:
    return triple.object.id if triple.subject.id == entity else triple.subject.id


def _direction(name: str) -> Direction:
    return "out" if name == "out" else "in"
