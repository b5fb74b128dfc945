"""A FactWorld is what its config says: fixed by the seed, with the promised rates, and every rendering agrees."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput
from ken.lab import FactWorld, FactWorldConfig
from ken.lab.factworld import RELATIONS
from ken.lab.render import documents, questions, reading_examples, statements, triples

rate = st.sampled_from([0.0, 0.3, 1.0])
configs = st.builds(
    FactWorldConfig,
    entities=st.integers(1, 12),
    demo_entities=st.integers(1, 5),
    distractors=st.integers(0, 4),
    relations=st.integers(1, len(RELATIONS)),
    values=st.integers(2, 5),
    popular=rate,
    exposed_popular=rate,
    exposed_rare=rate,
    withheld_popular=rate,
    withheld_rare=rate,
    test_share=rate,
    min_exposures=st.integers(1, 4),
    max_exposures=st.integers(4, 20),
    seed=st.integers(0, 2**40),
)


def rendered(world: FactWorld) -> tuple:
    examples = tuple(islice(reading_examples(world, world.entities), 3))
    return world.facts, documents(world), triples(world), questions(world), statements(world), examples


def test_worlds_of_one_seed_are_equal_in_another_process_too_and_of_two_seeds_are_not() -> None:
    assert rendered(FactWorld()) == rendered(FactWorld())
    other = FactWorld(FactWorldConfig(seed=1))
    assert other.facts != FactWorld().facts
    assert not set(other.entities) & set(FactWorld().entities[:50])
    code = "from ken.lab import FactWorld; f = FactWorld().facts; print(f[0], f[-1])"
    facts = FactWorld().facts
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"{facts[0]} {facts[-1]}"


def test_the_shares_are_those_of_the_config() -> None:
    world = FactWorld(FactWorldConfig(entities=3000, demo_entities=1, distractors=0, max_exposures=15))
    facts = [fact for fact in world.facts if fact.split != "demo"]
    config = world.config

    def within(hits: int, count: int, share: float) -> bool:
        return abs(hits - count * share) <= 4 * math.sqrt(count * share * (1 - share))

    entities = {fact.entity: fact.popular for fact in facts}
    assert within(sum(entities.values()), len(entities), config.popular)
    assert within(sum(fact.split == "test" for fact in facts), len(facts), config.test_share)
    for popular, exposed, withheld in (
        (True, config.exposed_popular, config.withheld_popular),
        (False, config.exposed_rare, config.withheld_rare),
    ):
        group = [fact for fact in facts if fact.popular == popular]
        assert within(sum(fact.exposures > 0 for fact in group), len(group), exposed)
        assert within(sum(fact.withheld for fact in group), len(group), withheld)
    seen = sorted(fact.exposures for fact in facts if fact.exposures)
    assert (seen[0], seen[-1]) == (config.min_exposures, config.max_exposures)
    assert abs(seen[len(seen) // 2] - math.sqrt(config.min_exposures * config.max_exposures)) <= 1  # log-uniform


@settings(max_examples=60, deadline=None)
@given(configs)
def test_every_rendering_agrees_with_the_facts(config: FactWorldConfig) -> None:
    world = FactWorld(config)
    names = [
        *world.entities,
        *world.demo_entities,
        *world.distractors,
        *(v for vs in world.values.values() for v in vs),
    ]
    assert len({name.lower() for name in names}) == len(names)
    assert len(world.facts) == (config.entities + config.demo_entities) * config.relations
    for fact in world.facts:
        assert fact.value in world.values[fact.relation]
        assert fact.exposures == 0 or config.min_exposures <= fact.exposures <= config.max_exposures
        assert (fact.split == "demo") == (fact.entity in world.demo_entities)

    everything = (*world.facts, *world.distractor_facts)
    assert triples(world) == [(f.entity, f.relation, f.value) for f in everything]
    by_id = {document.id: document for document in documents(world)}
    assert len(by_id) == config.entities + config.demo_entities + config.distractors
    for fact in everything:
        text = by_id[fact.entity.lower()].text
        assert (f" {fact.relation} " in text) != fact.withheld
        assert fact.withheld or f"{fact.relation} {fact.value}" in text

    facts = {fact.id: fact for fact in world.facts}
    for split in ("train", "test", "demo"):
        for question in questions(world, split):
            fact = facts[question.id]
            assert (question.text, question.answers) == (fact.question, (fact.value,))
            assert question.meta["split"] == fact.split == split
            assert (question.meta["exposures"], question.meta["withheld"]) == (fact.exposures, fact.withheld)
            assert question.supporting_ids == (() if fact.withheld else (fact.entity.lower(),))
    assert len(questions(world)) == config.entities * config.relations

    for statement in statements(world):
        value = statement.text.removesuffix(".").rpartition(" is ")[2]
        assert value in world.values[statement.fact.relation]
        assert statement.true == (value == statement.fact.value)
        assert statement.text.startswith(f"The {statement.fact.relation} of {statement.fact.entity} is ")


@settings(max_examples=60, deadline=None)
@given(configs, st.data())
def test_reading_examples_are_answered_by_their_passages(config: FactWorldConfig, data: st.DataObject) -> None:
    world = FactWorld(config)
    passages = data.draw(st.integers(1, min(3, config.entities)))
    asked = data.draw(st.integers(1, config.relations))
    missing = data.draw(rate)
    examples = reading_examples(world, world.entities, passages=passages, questions=asked, missing=missing)
    for example in islice(examples, 5):
        assert len(example.passages) == passages
        assert len({p.id for p in example.passages}) == passages
        assert len(example.facts) == len(example.answers) == len(set(example.facts)) == asked
        texts = {passage.title: passage.text for passage in example.passages}
        for fact, answer in zip(example.facts, example.answers, strict=True):
            if answer is None:
                assert f" {fact.relation} " not in texts[fact.entity]
            else:
                assert f"{fact.relation} {answer}" in texts[fact.entity]
        if missing in (0.0, 1.0):
            assert all((answer is None) == bool(missing) for answer in example.answers)


def test_statements_are_true_half_of_the_time_and_depend_on_their_seed() -> None:
    world = FactWorld()
    made = statements(world)
    assert abs(sum(s.true for s in made) - len(made) / 2) < 2 * math.sqrt(len(made))
    assert statements(world, seed=1) != made


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"entities": 0}, "entities = 0"),
        ({"values": 1}, "values = 1"),
        ({"relations": len(RELATIONS) + 1}, "relations = 9"),
        ({"popular": 1.5}, "popular = 1.5"),
        ({"test_share": float("nan")}, "test_share = nan"),
        ({"min_exposures": 9, "max_exposures": 3}, "max_exposures .3. is below"),
        ({"colour": "red"}, "colour = 'red'"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_one_sentence(wrong: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        FactWorldConfig(**wrong)
    assert "\n" not in str(error.value)


def test_reading_examples_that_cannot_be_are_refused_at_once() -> None:
    world = FactWorld(FactWorldConfig(entities=2, relations=2))
    for wrong in ({"passages": 3}, {"passages": 0}, {"questions": 3}, {"questions": 0}):
        with pytest.raises(BadInput, match="there are no examples"):
            reading_examples(world, world.entities, **wrong)


def test_the_lab_does_not_import_torch() -> None:
    code = "import sys, ken.lab, ken.lab.render; print(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_world_has_a_base_model_and_only_factworld_has_variants() -> None:
    pytest.importorskip("torch", reason="needs the extra `lab`")
    from ken.training.lab_bases import lab_base
    from ken.training.lab_checkpoint import LabBaseConfig

    for world in ("factworld", "calculation", "conversations", "multihop"):
        config = lab_base(world, seed=3)
        assert config.called == world
        assert config.seed == config.world.seed == 3  # type: ignore[attr-defined]
        assert config.gated
    assert lab_base("factworld", variant="ood") != lab_base("factworld")
    with pytest.raises(TypeError, match="abstract method recipe"):
        LabBaseConfig()
    with pytest.raises(BadInput, match="no world 'atlantis'; choose from factworld, calculation"):
        lab_base("atlantis")
    with pytest.raises(BadInput, match="leave --variant out for multihop"):
        lab_base("multihop", variant="ood")
