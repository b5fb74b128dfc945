"""The graph world: its relations are the card's, its questions have the answers they claim, and its regions do not
touch."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from ken.core import BadInput
from ken.lab.graphworld import (
    BY_LABEL,
    RELATIONS,
    TYPES,
    GraphWorld,
    GraphWorldConfig,
    documents,
    questions,
    statements,
    triples,
    type_of,
)
from ken.sources.graph.store import TripleStore


@pytest.fixture(scope="module")
def world() -> GraphWorld:
    return GraphWorld()


def test_relations_are_those_of_the_card() -> None:
    assert len(RELATIONS) == 24
    assert Counter(relation.kind for relation in RELATIONS) == {"functional": 14, "fan-out": 8, "hub": 2}
    words = [word for relation in RELATIONS for word in relation.wordings]
    assert len(words) == len(set(words)) == 72, "two of three wordings share no word with any label"
    assert all(relation.domain not in relation.range for relation in RELATIONS)


def test_sizes_fan_outs_and_hubs_are_those_of_the_card(world: GraphWorld) -> None:
    for region, count in (("train", 100), ("test", 50)):
        assert {kind: len(names) for kind, names in world.entities[region].items()} == dict.fromkeys(TYPES, count)
        sizes: dict[str, set[int]] = {"functional": set(), "fan-out": set(), "hub": set()}
        for subject, by in world.outgoing.items():
            if subject in world.entities[region][type_of(subject)]:
                for label, objects in by.items():
                    sizes[BY_LABEL[label].kind].add(len(objects))
                    assert len(set(objects)) == len(objects)
        assert sizes == {"functional": {1}, "fan-out": {2, 3, 4, 5}, "hub": {27}}


def test_no_edge_leads_from_one_region_to_the_other_and_every_edge_keeps_to_its_schema(world: GraphWorld) -> None:
    for region in ("train", "test"):
        names = {name for kind in TYPES for name in world.entities[region][kind]}
        for edge in world.edges[region]:
            assert {edge.subject, edge.object} <= names
            assert (type_of(edge.subject), type_of(edge.object) in edge.relation.range) == (edge.relation.domain, True)


def test_answers_are_what_the_graph_gives_and_types_come_once(world: GraphWorld) -> None:
    graph = TripleStore.of(statements(world, "test"), name="test")

    async def follow(start: str, path: list[dict[str, str]]) -> set[str]:
        here = {start}
        for hop in path:
            found = [await graph.neighbours(one, hop["relation"], "out", limit=50) for one in here]
            here = {e.id for f in found for e in f.entities if type_of(e.label) == type_of(hop["value"])}
        return here

    asked = questions(world, "test", [(1, 20), (2, 20), (3, 20), (4, 20)])
    assert Counter(q.meta["hops"] for q in asked) == {1: 20, 2: 20, 3: 20, 4: 20}
    assert len({q.text for q in asked}) == 80
    for question in asked:
        path = question.meta["evidence"]
        (start,) = question.meta["topic_entities"]
        reached = asyncio.run(follow(start, path))
        labels = {one.label for one in asyncio.run(graph.entities(sorted(reached)))}
        assert labels <= set(question.answers)
        assert set(question.answers) - labels <= set(world.aliases.values())
        kinds = [type_of(path[0]["subject"]), *(type_of(hop["value"]) for hop in path)]
        assert len(set(kinds)) == len(kinds)
        assert question.text.startswith(f"What {kinds[-1]} is the ")


def test_the_same_seed_is_the_same_world_and_another_asks_other_questions(world: GraphWorld) -> None:
    counts = [(2, 30)]
    assert questions(GraphWorld(), "test", counts) == questions(world, "test", counts)
    first, second = (questions(world, "test", counts, seed=seed) for seed in (0, 1))
    assert len({q.text for q in first} & {q.text for q in second}) < 10


def test_triples_documents_and_aliases_tell_the_same_facts(world: GraphWorld) -> None:
    told = {(t.subject.label, t.relation, t.object.label) for t in triples(world)}
    pages = {page.title: page.text for page in documents(world)}
    assert all(f"The {relation} of {s} is {o}." in pages[s] for s, relation, o in told)
    assert sum(text.count(" of ") for text in pages.values()) == len(told)
    name, alias = next(iter(world.aliases.items()))
    assert alias in pages[name]
    graph = TripleStore.of(statements(world), name="both")
    (linked,) = asyncio.run(graph.link(alias))
    assert (linked.entity.label, linked.how) == (name, "alias")


def test_a_question_may_call_its_entity_by_another_name(world: GraphWorld) -> None:
    plain, other = (questions(world, "test", [(1, 100)], by_alias=by) for by in (False, True))
    changed = [(a, b) for a, b in zip(plain, other, strict=True) if a.text != b.text]
    assert 5 < len(changed) < 50
    assert all(a.answers == b.answers for a, b in changed)


def test_walks_are_drawn_once_and_refused_when_there_are_none(world: GraphWorld) -> None:
    taken: set = set()
    world.walks("test", 2, 50, np.random.default_rng(0), taken)
    world.walks("test", 2, 50, np.random.default_rng(0), taken)
    assert len(taken) == 100
    with pytest.raises(BadInput, match="1 to 4 hops"):
        world.walks("test", 5, 1, np.random.default_rng(0))
    with pytest.raises(BadInput, match="ask for fewer"):
        GraphWorld(GraphWorldConfig(train=8, test=8, hubs=0, hub_size=4)).walks(
            "test", 1, 300, np.random.default_rng(0)
        )


@pytest.mark.parametrize("wrong", [{"train": 3}, {"min_fan": 6}, {"hubs": 80}, {"hub_size": 101}, {"aliased": 2}])
def test_a_world_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(BadInput):
        GraphWorldConfig(**wrong)
