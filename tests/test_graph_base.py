"""The base models of the graph world: taught on the method's own prompts, told nothing of the region they are asked
about but single facts, and measured by gates that an oracle passes and a babbler does not."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest

from ken.core.seeding import derive_seed
from ken.lab.graphworld import RELATIONS, TYPES, GraphWorld, type_of
from ken.models.scripted import ScriptedModel
from ken.training import graph_base as base

SMALL = base.smoke_config()


@pytest.fixture(scope="module")
def world() -> GraphWorld:
    return GraphWorld(SMALL.world)


@pytest.fixture(scope="module")
def asked(world: GraphWorld) -> list:
    return base.walked_prompts(SMALL, world, np.random.default_rng(0))


def test_every_word_is_in_the_vocabulary_and_every_example_in_the_context(world: GraphWorld) -> None:
    tokenizer = base.build_tokenizer(world)
    stages = base.pretraining_stages(SMALL, world, tokenizer)
    assert len(stages) == 3
    assert len(stages[0]) == SMALL.quoting
    for example in (example for stage in stages for example in stage):
        assert tokenizer.unk_token_id not in example.ids
        assert len(example.ids) <= SMALL.context
        assert any(example.learn)
    assert len(base.build_tokenizer(GraphWorld())) < 1500


def test_a_score_is_one_token_and_survives_decoding(world: GraphWorld) -> None:
    tokenizer = base.build_tokenizer(world)
    text = "{ mayor ( Score : 0.8 ) }"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 8
    assert tokenizer.decode(ids) == text


def test_prompts_are_of_every_kind_and_only_of_the_training_region(world: GraphWorld, asked: list) -> None:
    assert {one.token for one in asked} == set(base.GRAPH_CONTROLS)
    ours = {name for kind in TYPES for name in world.entities["train"][kind]}
    for one in asked:
        named = re.findall(rf"(?:{'|'.join(TYPES)}) [A-Z]\w+", one.text)
        assert named
        assert set(named) <= ours


def test_exchanged_names_keep_types_and_differences_and_state_nothing_true_by_design(
    world: GraphWorld, asked: list
) -> None:
    rng = np.random.default_rng(1)
    told = {(e.subject, e.relation.label, e.object) for region in world.edges.values() for e in region}
    true = total = 0
    for one in asked:
        text, said = base._renamed([one.text, one.completion], world, rng)
        before, after = (re.findall(rf"(?:{'|'.join(TYPES)}) [A-Z]\w+", t) for t in (one.text, text))
        assert list(map(type_of, before)) == list(map(type_of, after))
        assert len(set(before)) == len(set(after))
        pairs = dict(zip(before, after, strict=True))
        for name in re.findall(rf"(?:{'|'.join(TYPES)}) [A-Z]\w+", one.completion):
            assert pairs[name] in said
        for triple in re.findall(r"^ (\w+ \w+) , (\w+) , (\w+ \w+) $", text, re.MULTILINE):
            total += 1
            true += triple in told
    assert total > 100
    assert true / total < 0.3, "a handful of a small world come out true by chance"


def test_of_the_test_region_only_single_facts_are_told(world: GraphWorld) -> None:
    known = base.known_edges(SMALL, world)
    every = [e for e in world.edges["test"] if e.relation.kind != "hub"]
    assert 0.3 < len(known["test"]) / len(every) < 0.5
    rng = np.random.default_rng(0)
    test_names = {name for kind in TYPES for name in world.entities["test"][kind]}
    for pieces in base.thoughts(SMALL, world, known["train"], rng):
        text = " ".join(piece for piece, _ in pieces)
        assert not any(name in text for name in test_names)
    examples = list(base.closed_book(SMALL, known, rng))
    assert len(examples) == SMALL.exposures * sum(map(len, known.values()))
    assert all(pieces[0][0].count(" of ") == 1 for pieces in examples), "one hop each"


def test_the_large_model_knows_more_of_the_same(world: GraphWorld) -> None:
    small, large = base.base_config("S"), base.base_config("L")
    assert (small.known, large.known, small.hidden_size, large.hidden_size) == (0.4, 0.7, 128, 160)
    few, many = (base.known_edges(c, GraphWorld())["test"] for c in (small, large))
    assert set(few) < set(many)


def test_gates_pass_one_who_sees_and_fail_a_babbler(world: GraphWorld) -> None:
    rng = np.random.default_rng(derive_seed("graph gates", SMALL.seed, 2**20))
    right = {one.text: one.completion for one in base.gate_prompts(SMALL, world, 12, rng)}
    known = {e.subject + e.relation.label: e.object for e in base.known_edges(SMALL, world)["test"]}

    def sees(prompt: str) -> str:
        text = prompt.partition("\n\n")[2]
        if text in right:
            return right[text]
        wording, _, subject = text.removesuffix(" ?").partition(" is the ")[2].partition(" of ")
        label = next(r.label for r in RELATIONS if wording in r.wordings)
        return f"<think> </think> <answer> {known.get(subject + label, 'unknown')} </answer>"

    for reply, passes in ((sees, True), (lambda prompt: "{Yes}. {City Nowhere}", False)):
        model = ScriptedModel(reply, control_tokens=True)
        gates = {g.name: g for g in asyncio.run(base.measure_gates(model, SMALL, world, examples=12))}
        assert len(gates) == 10
        asked = [g for g in gates.values() if g.gating and g.name != "facts it was not shown, closed book"]
        assert all(g.passed == passes for g in asked), gates
        assert gates["facts it was not shown, closed book"].value == 0.0
        assert gates["a premature Yes"].value == (0.0 if passes else 1.0)
