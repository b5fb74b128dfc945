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


Path = tuple[Edge, ...]
Search = Generator[Sequence[str], Iterable[Edge], list[Path]]
"""Yields entities, is sent the edges that have any of them at either end, and returns the paths."""
_Known = dict[str, set[Edge]]


def shortest_paths(starts: Collection[str], ends: Collection[str], max_hops: int, limit: int) -> Search:
    """The `limit` shortest simple paths of at most `max_hops` edges from a start to an end, edges walked in either
    direction; shorter ones first, equally long ones ordered by the entities and relations on the way.

    Between its ends a path meets no other start or end. An entity that is start and end gives no path of length 0.
    After `MOST_EDGES` no more edges are asked for, so that in a graph of many hubs paths may be missed.
    """
    starts, ends = frozenset(starts), frozenset(ends)
    known: _Known = defaultdict(set)
    frontiers, asked = [set(starts), set(ends)], set[str]()
    seen = [set(starts), set(ends)]
    found: list[Path] = []
    edges_seen = 0
    for length in range(1, max_hops + 1 if limit > 0 else 1):
        # One side grows by a step each time. What is within r steps of the starts and r' of the ends is known then, and
        # with it all paths of r + r' edges.
        if all(frontiers) and edges_seen < MOST_EDGES:
            side = 0 if len(frontiers[0]) <= len(frontiers[1]) else 1
            wanted = sorted(frontiers[side] - asked)
            asked.update(wanted)
            if wanted:
                for edge in islice((yield wanted), MOST_EDGES - edges_seen):
                    edges_seen += 1
                    known[edge.subject].add(edge)
                    known[edge.object].add(edge)
            nearby = {_other(edge, entity) for entity in frontiers[side] for edge in known[entity]}
            frontiers[side] = nearby - seen[side]
            seen[side] |= nearby
        found += islice(_paths_of(length, known, starts, ends), limit - len(found))
        if len(found) >= limit:
            break
    return found


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
