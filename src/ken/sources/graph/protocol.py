"""The protocol behind which every knowledge graph stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ken.core import Entity, Triple

Direction = Literal["out", "in"]
"""Whether an entity is the subject ("out") or the object ("in") of a triple."""


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """A relation that an entity takes part in. `name` is the graph's own; `label` is what people call it."""

    name: str
    direction: Direction
    label: str


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The entities at the other end of a relation. `total` is how many there are, more than were asked for where it is
    greater than their number; None where counting them would cost too much."""

    entities: tuple[Entity, ...]
    total: int | None


@dataclass(frozen=True, slots=True)
class Linked:
    """An entity that a mention may mean. `how`: it is its id, label ("exact"), another name of it ("alias"), or its
    label shares words with it ("words"); `score` is comparable only within one list, higher is better."""

    entity: Entity
    how: Literal["exact", "alias", "words"]
    score: float


@runtime_checkable
class KnowledgeGraph(Protocol):
    """A knowledge graph as strategies see it. Many calls may be awaited at once. All raise `SourceError` when the graph
    does not answer; an entity that it does not have has no relations, no neighbours and its id as label.

    `name` identifies it in logs (a file, a folder, a URL).
    """

    name: str

    async def relations(self, entity: str) -> tuple[Relation, ...]:
        """The relations of an entity in both directions, each once, sorted by name and direction (a prompt must not
        depend on the order of storage)."""
        ...

    async def neighbours(
        self, entity: str, relation: str, direction: Direction, *, limit: int, seed: int = 0
    ) -> Neighbours:
        """At most `limit` entities at the other end, sorted by id; of more, a sample that `seed` draws, the same each
        time. A hub with a million neighbours costs no more memory than `limit`."""
        ...

    async def edges(self, entity: str, *, limit: int) -> tuple[Triple, ...]:
        """At most `limit` triples with the entity at either end, out before in, sorted by relation and neighbour."""
        ...

    async def entities(self, ids: Sequence[str]) -> tuple[Entity, ...]:
        """The entities with these ids, in this order."""
        ...

    async def link(self, mention: str, k: int = 1) -> tuple[Linked, ...]:
        """The `k` entities that a mention most likely means, best first; fewer when fewer match."""
        ...

    async def paths(
        self, starts: Sequence[str], ends: Sequence[str], *, max_hops: int, limit: int
    ) -> tuple[tuple[Triple, ...], ...]:
        """At most `limit` shortest paths from any of `starts` to any of `ends`, edges walked in either direction, none
        visiting an entity twice; shorter ones first. No path of zero length."""
        ...

    async def close(self) -> None:
        """Release files and connections."""
        ...
