"""Shortest paths between entities by bidirectional breadth-first search (Pohl 1971), for any store of triples.

The search is a generator that asks for edges and is sent them, so that it runs over a store in this process and over
one behind the network alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

MOST_EDGES = 500_000  # that one search looks at
_MOST_STEPS = 500_000  # that writing out the paths of one length takes


class Edge(NamedTuple):
    """A triple of ids. In a path it stands as in the graph, whichever way it was walked."""

    subject: str
    relation: str
    object: str


class Around(NamedTuple):
    """The edges that have any of some entities at either end; `cut` are those of these entities that have more."""

    edges: Iterable[Edge]
    cut: Collection[str] = ()


Path = tuple[Edge, ...]
Search = Generator[Sequence[str], Around, list[Path]]
"""Yields entities, is sent what is around them, and returns the paths."""
_Known = dict[str, set[Edge]]


def shortest_paths(starts: Collection[str], ends: Collection[str], max_hops: int, limit: int) -> Search:
    """The `limit` shortest simple paths of at most `max_hops` edges from a start to an end, edges walked in either
    direction; shorter ones first, equally long ones ordered by the entities and relations on the way.

    Between its ends a path meets no other start or end. An entity that is start and end gives no path of length 0.
    A hub whose edges were cut is crossed by way of the neighbours that the other side comes to; between two such hubs,
    and beyond `MOST_EDGES`, paths may be missed.
    """
    starts, ends = frozenset(starts), frozenset(ends)
    known: _Known = defaultdict(set)
    sides = _Side(starts), _Side(ends)
    found: list[Path] = []
    left = MOST_EDGES
    for length in range(1, max_hops + 1 if limit > 0 else 1):
        while left > 0 and (side := _to_grow(sides, length)):
            if wanted := sorted(side.frontier - side.asked - _other_side(sides, side).asked):
                around = yield wanted
                for edge in islice(around.edges, left):
                    left -= 1
                    known[edge.subject].add(edge)
                    known[edge.object].add(edge)
                side.cut.update(around.cut)
            side.grow(known, _other_side(sides, side).cut)
        found += islice(_paths_of(length, known, starts, ends), limit - len(found))
        if len(found) >= limit:
            break
    return found


class _Side:
    """What a search knows around its starts, or around its ends: all edges of what is fewer than `radius` steps away,
    but for entities whose edges were cut."""

    def __init__(self, origin: frozenset[str]) -> None:
        self.radius = 0
        self.frontier = set(origin)  # what is `radius` steps away
        self.asked: set[str] = set()
        self.cut: set[str] = set()
        self.nearest_cut: int | None = None  # steps to an entity whose edges were cut
        self._seen = set(origin)

    def grow(self, known: _Known, cut_before: set[str]) -> None:
        """One step further: the edges of the frontier are known now."""
        if self.nearest_cut is None and not self.frontier.isdisjoint(self.cut | cut_before):
            self.nearest_cut = self.radius
        self.asked |= self.frontier
        nearby = {_other(edge, entity) for entity in self.frontier for edge in known.get(entity, ())}
        self.frontier = nearby - self._seen
        self._seen |= nearby
        self.radius += 1


def _other_side(sides: tuple[_Side, _Side], side: _Side) -> _Side:
    return sides[1] if side is sides[0] else sides[0]


def _to_grow(sides: tuple[_Side, _Side], length: int) -> _Side | None:
    """The side to grow before all paths of this length are known; None when they are.

    Of a path's edges one side knows the first r, the other the last r': r + r' must be the length. Where edges of an
    entity d steps from one side were cut, the other must come as far as its neighbours: length - d steps.
    """
    if not all(side.frontier or side.radius for side in sides):
        return None
    for side in sides:
        across = _other_side(sides, side)
        if side.nearest_cut is not None and across.radius < length - side.nearest_cut and across.frontier:
            return across
    if not all(side.frontier for side in sides) or sum(side.radius for side in sides) >= length:
        return None  # where nothing is left to find on one side, all its edges are known
    return min(sides, key=lambda side: (len(side.frontier), side.radius))


def _paths_of(length: int, known: _Known, starts: frozenset[str], ends: frozenset[str]) -> Iterator[Path]:
    """The simple paths of exactly `length` known edges, in order."""
    # reach[j]: from where an end is j steps away, by any walk. What is left to fail is only that a path meets itself.
    topics = starts | ends
    reach = [set(ends)]
    for _ in range(length - 1):
        reach.append({_other(edge, entity) for entity in reach[-1] for edge in known.get(entity, ())} - topics)
    steps = _MOST_STEPS
    for start in sorted(starts):
        way: list[Edge] = []
        visited = {start: None}
        stack = [_onwards(start, known, reach[length - 1])]
        while stack and steps:
            edge, entity = next(stack[-1], (None, ""))
            if edge is None:
                stack.pop()
                if way:
                    way.pop()
                    visited.popitem()
            elif entity not in visited:
                steps -= 1
                if len(way) == length - 1:
                    yield (*way, edge)
                else:
                    way.append(edge)
                    visited[entity] = None
                    stack.append(_onwards(entity, known, reach[length - 1 - len(way)]))


def _onwards(entity: str, known: _Known, towards: set[str]) -> Iterator[tuple[Edge | None, str]]:
    steps = ((_other(edge, entity), edge) for edge in known.get(entity, ()))
    return iter([(edge, other) for other, edge in sorted(step for step in steps if step[0] in towards)])


def _other(edge: Edge, entity: str) -> str:
    return edge.object if edge.subject == entity else edge.subject
