"""The reader of the multi-hop world: it is shown nothing that is true, in words it knows, and its gates tell readers
from guessers."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest

from ken.agents.stepwise import DOCUMENTS
from ken.lab.multihop import MultiHopConfig, MultiHopWorld, triples
from ken.models.scripted import ScriptedModel
from ken.training.multihop_base import (
    MultiHopBaseConfig,
    build_tokenizer,
    closed_book,
    copying,
    measure_gates,
    pretraining_stages,
    reading,
    smoke_config,
)

SMALL = MultiHopBaseConfig(world=MultiHopConfig(entities=200, train=0, test=0), copying=60, reading=200, closed=40)


@pytest.fixture(scope="module")
def world() -> MultiHopWorld:
    return MultiHopWorld(SMALL.world)


def test_every_word_is_in_the_vocabulary_and_the_longest_example_in_the_context(world: MultiHopWorld) -> None:
    tokenizer = build_tokenizer(world)
    stages = pretraining_stages(SMALL, world, tokenizer)
    assert [len(stage) for stage in stages] == [60, 240]
    for example in (example for stage in stages for example in stage):
        assert tokenizer.unk_token_id not in example.ids
        assert len(example.ids) < SMALL.context
        assert any(example.learn)
    assert len(build_tokenizer(MultiHopWorld())) < 1500


def test_the_markers_of_the_grammar_are_one_token_each_and_survive_decoding(world: MultiHopWorld) -> None:
    tokenizer = build_tokenizer(world)
    text = f"Step 1: The problem analysis: need age of Ann The retrieval query: age {DOCUMENTS}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 9  # three markers, the documents' marker, and five words
    assert tokenizer.decode(ids) == text.replace("Ann", "<unk>")


def test_what_is_learnt_is_quoted_from_the_documents_and_answers_follow(world: MultiHopWorld) -> None:
    rng = np.random.default_rng(0)
    true = {(s, v) for s, _, v in triples(world)}
    told = hits = 0
    for pieces in [*copying(world, 60, rng), *reading(SMALL, world, rng)]:
        shown = pieces[0][0]
        for (question, asked), (text, learnt) in zip(pieces[1::2], pieces[2::2], strict=True):
            assert (asked, learnt) == (False, True)
            thought = re.search(r"<think> (.*) </think> <answer> (.*) </answer>", text)
            quotes = (thought[1] if thought else text).split(" , ")
            for quote in quotes:
                subject, wording, value = quote.split()
                assert re.search(rf"\b{subject} {wording} {value}\b", shown)
                told, hits = told + 1, hits + ((subject, value) in true)
            if thought and question.startswith("What"):
                assert thought[2] == quotes[-1].split()[2]
                assert quotes[0].split()[0] in question
            elif thought:
                numbers = {q.split()[0]: int(q.split()[2]) for q in quotes}
                pick = max if "greater" in question else min
                assert thought[2] == pick(numbers, key=lambda s: numbers[s])
    assert hits < 0.03 * told


def test_a_closed_book_example_shows_no_document(world: MultiHopWorld) -> None:
    for pieces in closed_book(SMALL, world, np.random.default_rng(0)):
        assert [learn for _, learn in pieces] == [False, True]
        assert DOCUMENTS not in pieces[0][0]
        assert "<information>" not in pieces[0][0]


def test_a_perfect_reader_passes_the_gates_and_a_guesser_does_not(world: MultiHopWorld) -> None:
    wordings = {wording: r for r in world.relations for wording in r.wordings}

    def read(prompt: str) -> str:
        question = prompt.rpartition("\n\n")[2]
        facts = {
            (fact[1], wordings[fact[2]].name): fact[3]
            for page in re.finditer(r"\(Title: \w+\) ([^.]*)\.", prompt)
            for fact in re.finditer(r"(\w+) (\w+) (\w+)", page[1])
        }
        asked = [wordings[word].name for word in re.findall(r"\w+", question) if word in wordings]
        names = [name for name in re.findall(r"\w+", question) if name in world.entities]
        if question.startswith("Which"):
            pick = max if "greater" in question else min
            answer = pick(names, key=lambda name: int(facts[name, asked[0]]))
        else:
            answer = names[0]
            for relation in reversed(asked):
                answer = facts.get((answer, relation), "unknown")
        return f"<answer> {answer} </answer>"

    perfect = asyncio.run(measure_gates(ScriptedModel(read), world, examples=40))
    assert [gate.value for gate in perfect if gate.name != "closed book"] == [1.0] * 6
    assert all(gate.passed for gate in perfect)
    guesser = asyncio.run(measure_gates(ScriptedModel(lambda prompt: "<answer> 42 </answer>"), world, examples=40))
    assert not all(gate.passed for gate in guesser)


def test_the_smoke_model_speaks_the_same_formats() -> None:
    config = smoke_config()
    assert not config.gated
    stages = pretraining_stages(config, MultiHopWorld(config.world), build_tokenizer(MultiHopWorld(config.world)))
    assert sum(len(e.ids) for stage in stages for e in stage) < 200_000
