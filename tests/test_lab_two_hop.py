"""Mentors make questions of two hops, out-of-distribution relations are apart, and worlds without them stay as they
were."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput
from ken.lab import FactWorld, FactWorldConfig
from ken.lab.factworld import MENTOR
from ken.lab.render import (
    documents,
    questions,
    reading_examples,
    statements,
    triples,
    two_hop_questions,
    two_hop_readings,
)

rate = st.sampled_from([0.0, 0.3, 1.0])
mentored = st.builds(
    FactWorldConfig,
    entities=st.integers(3, 12),
    demo_entities=st.integers(3, 5),
    distractors=st.sampled_from([0, 3, 4]),
    relations=st.integers(2, 5),
    values=st.integers(2, 5),
    withheld_popular=rate,
    withheld_rare=rate,
    test_share=rate,
    ood_relations=st.integers(0, 1),
    mentor=st.just(True),
    seed=st.integers(0, 2**40),
)


def test_the_worlds_of_before_are_what_they_were() -> None:
    world = FactWorld()
    examples = islice(reading_examples(world, world.entities, passages=2, questions=3, missing=0.1), 50)
    everything = (
        world.facts,
        world.distractor_facts,
        documents(world),
        triples(world),
        questions(world),
        statements(world),
        tuple(examples),
    )
    assert hashlib.sha1(repr(everything).encode()).hexdigest() == "9b808215ba94a34a7439a4321791975375901d26"
    assert not {"mentor", "ood_relations"} & FactWorldConfig().model_dump().keys()
    assert world.two_hops == ()
    assert two_hop_questions(world) == questions(world, "ood") == []


@settings(max_examples=60, deadline=None)
@given(mentored)
def test_two_hop_questions_are_the_join_of_two_facts(config: FactWorldConfig) -> None:
    world = FactWorld(config)
    assert FactWorldConfig.model_validate_json(config.model_dump_json()) == config
    truth = {(entity, relation): value for entity, relation, value in triples(world)}
    facts = {fact.id: fact for fact in world.facts}
    texts = {document.id: document.text for document in documents(world)}
    asked = [q for split in ("train", "test", "demo", "ood") for q in two_hop_questions(world, split)]
    assert len(asked) == len({q.id for q in asked}) == (config.entities + config.demo_entities) * config.relations
    for question in asked:
        entity, _, relation = question.id.split(".")
        first = facts[f"{entity}.{MENTOR}"]
        second = facts[f"{first.value}.{relation}".lower()]
        assert question.text == f"What is the {relation} of the mentor of {first.entity}?"
        assert first.value not in question.text
        assert question.answers == (truth[truth[first.entity, MENTOR], relation],)
        meta = question.meta
        assert meta["bridge"] == first.value
        assert meta["hop_exposures"] == [first.exposures, second.exposures]
        assert meta["exposures"] == min(first.exposures, second.exposures)
        assert meta["withheld"] == (len(question.supporting_ids) < 2)
        assert question.supporting_ids == tuple(f.entity.lower() for f in (first, second) if not f.withheld)
        for fact in (first, second):
            assert (f"{fact.relation} {fact.value}" in texts[fact.entity.lower()]) != fact.withheld


@settings(max_examples=60, deadline=None)
@given(mentored)
def test_everybody_has_a_mentor_of_their_own_kind_and_nobody_mentors_their_mentor(config: FactWorldConfig) -> None:
    world = FactWorld(config)
    mentors = world.mentors
    for kind in (world.entities, world.demo_entities, world.distractors):
        assert sorted(mentors[name] for name in kind) == sorted(kind)
        assert all(mentors[name] != name != mentors[mentors[name]] for name in kind)


@settings(max_examples=60, deadline=None)
@given(mentored)
def test_no_training_prompt_contains_a_held_out_entity(config: FactWorldConfig) -> None:
    world = FactWorld(config)
    held_out = world.held_out
    assert len(held_out) == round(config.test_share * config.entities)
    for fact in world.facts:
        if fact.split in {"train", "test"}:
            assert (fact.split == "test") == (fact.entity in held_out)
    for question in two_hop_questions(world, "train"):
        assert not any(f" {name}?" in question.text or name == question.meta["bridge"] for name in held_out)
    for question in two_hop_questions(world, "test"):
        assert any(f" {name}?" in question.text or name == question.meta["bridge"] for name in held_out)


@settings(max_examples=60, deadline=None)
@given(mentored, st.integers(1, 3), rate)
def test_two_hop_readings_are_answered_by_both_searches_together(
    config: FactWorldConfig, passages: int, missing: float
) -> None:
    world = FactWorld(config)
    for reading in islice(two_hop_readings(world, world.demo_entities, passages=passages, missing=missing), 5):
        first, second = (found[0] for found in reading.found)
        assert [len({p.id for p in found}) for found in reading.found] == [passages, passages]
        assert first.title == reading.first.entity
        assert second.title == reading.second.entity == reading.first.value != first.title
        assert {p.title for found in reading.found for p in found} <= set(world.demo_entities)
        assert (f"mentor {reading.bridge}" in first.text) == (reading.bridge is not None)
        assert (f"{reading.second.relation} {reading.answer}" in second.text) == (reading.answer is not None)
        assert second.title not in reading.question
        if missing in (0.0, 1.0):
            assert (reading.bridge is None) == (reading.answer is None) == bool(missing)


def test_search_finds_the_entity_then_its_mentor_and_the_whole_question_never_finds_the_mentor(tmp_path: Path) -> None:
    from ken.sources.search.index import Index

    world = FactWorld(FactWorldConfig(mentor=True))
    index = Index.build(documents(world), tmp_path / "index")

    def first(queries: list[str], top: int) -> list[list[str]]:
        return [[passage.id for passage in index.search(query, top)] for query in queries]

    asked = two_hop_questions(world)[::7]
    entities = [question.id.split(".")[0] for question in asked]
    bridges = [str(question.meta["bridge"]).lower() for question in asked]
    hop_1 = first([f"mentor of {entity}" for entity in entities], 1)
    hop_2 = first([f"{q.id.split('.')[2]} of {bridge}" for q, bridge in zip(asked, bridges, strict=True)], 1)
    whole = first([question.text for question in asked], 3)
    assert sum(found == [e] for found, e in zip(hop_1, entities, strict=True)) >= 0.99 * len(asked)
    assert sum(found == [b] for found, b in zip(hop_2, bridges, strict=True)) >= 0.99 * len(asked)
    assert sum(b in found for found, b in zip(whole, bridges, strict=True)) <= 0.02 * len(asked)


def test_an_out_of_distribution_relation_has_a_popularity_of_its_own_and_is_never_asked_in_training() -> None:
    config = FactWorldConfig(entities=3000, demo_entities=5, distractors=0, relations=5, ood_relations=1)
    world = FactWorld(config)
    (relation,) = world.ood_relations
    assert {fact.relation for fact in world.facts if fact.split == "ood"} == {relation}
    assert not any(f"the {relation} of" in question.text for question in questions(world))
    assert len(questions(world, "ood")) == config.entities
    own = {fact.entity: fact.popular for fact in world.facts if fact.split == "ood"}
    others = {fact.entity: fact.popular for fact in world.facts if fact.split in {"train", "test"}}
    agreeing = sum(own[entity] == others[entity] for entity in own) / len(own)
    assert abs(agreeing - 0.5) < 4 * math.sqrt(0.25 / len(own))
    seen = Counter((f.popular, f.exposures > 0) for f in world.facts if f.split == "ood")
    for popular, share in ((True, config.exposed_popular), (False, config.exposed_rare)):
        count = seen[popular, True] + seen[popular, False]
        assert abs(seen[popular, True] / count - share) < 4 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"relations": 2, "ood_relations": 2}, "2 of 2 relations cannot be out of distribution"),
        ({"ood_relations": -1}, "ood_relations = -1"),
        ({"mentor": True, "entities": 2}, "mentors need at least 3 entities"),
        ({"mentor": True, "distractors": 2}, "mentors need at least 3 entities"),
    ],
)
def test_a_world_that_cannot_be_is_refused_in_one_sentence(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        FactWorldConfig(**wrong)
    assert "\n" not in str(error.value)


def test_two_hop_reading_needs_mentors() -> None:
    world = FactWorld()
    with pytest.raises(BadInput, match="use a world with mentors"):
        two_hop_readings(world, world.entities)
