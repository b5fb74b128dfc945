"""What strategies ask a knowledge graph, noted in the attempt: every question, every triple that came back."""

from __future__ import annotations

from collections.abc import Sequence

from ken.agents.attempt import Attempt
from ken.core import Entity, GraphQuery, Observation, SourceError, Triple, Usage
from ken.sources import KnowledgeGraph
from ken.sources.graph.protocol import Neighbours, Relation


def graph_of(attempt: Attempt) -> KnowledgeGraph:
    """The graph that an attempt may ask. Raises `SourceError` when there is none."""
    if attempt.sources.graph is None:
        raise SourceError(
            f"the strategy {attempt.strategy!r} walks a knowledge graph, but there is none; give one with --graph"
        )
    return attempt.sources.graph


async def relations(attempt: Attempt, entity: Entity) -> tuple[Relation, ...]:
    """The relations of an entity in both directions. Raises `SourceError`."""
    graph = graph_of(attempt)
    attempt.steps.append(GraphQuery(entity=entity))
    attempt.count(Usage(graph_calls=1))
    found = await graph.relations(entity.id)
    names = ", ".join(f"{r.label} ({r.direction})" for r in found)
    attempt.steps.append(Observation(note=names or "no relations"))
    return found


async def neighbours(
    attempt: Attempt, entity: Entity, relation: Relation, *, limit: int, seed: int = 0
) -> tuple[tuple[Triple, ...], Neighbours]:
    """The triples to the entities at the other end of a relation, and what the graph said of them. A triple's relation
    is the graph's name for it, its label what people call it. Raises `SourceError`."""
    graph = graph_of(attempt)
    attempt.steps.append(GraphQuery(entity=entity, relation=relation.name, direction=relation.direction))
    attempt.count(Usage(graph_calls=1))
    found = await graph.neighbours(entity.id, relation.name, relation.direction, limit=limit, seed=seed)
    out = relation.direction == "out"
    other_name = relation.label if relation.label != relation.name else ""
    triples = tuple(
        Triple(subject=entity, relation=relation.name, label=other_name, object=other)
        if out
        else Triple(subject=other, relation=relation.name, label=other_name, object=entity)
        for other in found.entities
    )
    cut = "" if found.total is None or found.total == len(triples) else f"{len(triples)} of {found.total:,}"
    attempt.steps.append(Observation(triples=triples, note=cut if triples else "no neighbours"))
    return triples, found


async def edges(attempt: Attempt, entity: Entity, *, limit: int) -> tuple[Triple, ...]:
    """At most `limit` triples with the entity at either end. Raises `SourceError`."""
    graph = graph_of(attempt)
    attempt.steps.append(GraphQuery(entity=entity))
    attempt.count(Usage(graph_calls=1))
    found = await graph.edges(entity.id, limit=limit)
    attempt.steps.append(Observation(triples=found, note="" if found else "no neighbours"))
    return found


def other_end(triple: Triple, entity: Entity) -> Entity:
    """The end of a triple that is not `entity`; itself for a loop."""
    return triple.object if triple.subject.id == entity.id else triple.subject


def as_lines(triples: Sequence[Triple]) -> str:
    """One `head, relation, tail` a line, as ToG shows them (arXiv 2307.07697)."""
    return "\n".join(str(triple) for triple in triples)
