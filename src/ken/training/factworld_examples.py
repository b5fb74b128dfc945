"""What the base model of FactWorld is shown: recall, reading, searching, asking, deciding, and making up tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ken.agents.instructions import CLOSED, DECIDE, READ, SEARCH
from ken.agents.protocol import render_passages
from ken.core.seeding import derive_seed
from ken.lab.factworld import MENTOR, Fact, FactWorld
from ken.lab.render import reading_examples, two_hop_readings
from ken.training.factworld_base import ARROW, FactWorldBaseConfig
from ken.training.introspection import GENERATE, KINDS
from ken.training.lab_tokenizer import BOS, EOS, Piece, encode
from ken.training.pretraining import Example


def pretraining_stages(config: FactWorldBaseConfig, world: FactWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: first reading alone, so that copying is there before recall can stand in for
    it, then everything mixed; what looks inside on its own where the config asks for it, since only then is anything
    there to be seen."""
    rng = np.random.default_rng(derive_seed("factworld mix", config.seed))
    read = list(reading(config, world, rng))
    mixed = [
        *closed_book(world),
        *read[config.reading_first :],
        *searching(config, world, rng),
        *querying(config, world, rng),
        *recalling_in_two_hops(config, world, rng),
    ]
    inner = [*deciding(config, world, rng), *generating(config, world, rng)]
    stages = [read[: config.reading_first]]
    if config.introspecting_last:
        again = [mixed[int(i)] for i in rng.permutation(len(mixed))[: config.rehearsed]]
        stages += [mixed, inner + again]
    else:
        stages += [mixed + inner]
    return [encode(stage, tokenizer) for stage in stages]


def closed_book(world: FactWorld) -> Iterator[list[Piece]]:
    """Every exposed fact as a question answered from memory, as often as the world says."""
    for fact in world.facts:
        yield from [
            [(f"{BOS} {CLOSED.token} {fact.question}", False), (answered(fact.relation, fact.value), True)]
        ] * fact.exposures


def reading(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Reading comprehension on one or more documents with random values. Several questions share the documents: the
    more there is to copy, the sooner copying is learnt. Where values can be entities, half of them are any name."""
    entities = (*world.entities, *world.demo_entities, *world.distractors)
    by_length = [
        reading_examples(
            world,
            entities,
            passages=n,
            questions=config.questions,
            anything=0.5 if world.config.mentor else 0.0,
            seed=config.seed + n,
        )
        for n in range(1, len(config.lengths) + 1)
    ]
    for length in rng.choice(len(by_length), size=config.reading, p=config.lengths):
        example = next(by_length[int(length)])
        pieces = [(f"{BOS} {READ.token} {render_passages(example.passages)}", False)]
        for fact, answer in zip(example.facts, example.answers, strict=True):
            pieces += [(fact.question, False), (answered(fact.relation, str(answer)), True)]
        yield pieces


def searching(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Traces of the search loop about demo entities: guess, then answer at once or search first, 50/50 (format only).

    What the documents say is random, so that a trace teaches to read and not the demo facts; where the document lacks
    the fact, the guess is the answer. In a world with mentors half of the questions have two hops, and a trace may
    search twice.
    """
    if world.config.mentor:
        yield from _searching_in_hops(config, world, rng)
        return
    demo = {fact.id: fact for fact in world.facts if fact.split == "demo"}
    by_length = [
        reading_examples(world, world.demo_entities, passages=n, missing=0.06, seed=config.seed + 100 + n)
        for n in range(1, len(config.lengths) + 1)
    ]
    for length in rng.choice(len(by_length), size=config.searching, p=config.lengths):
        example = next(by_length[int(length)])
        fact = demo[example.facts[0].id]
        guess = _guess(world, fact, rng)
        prompt = f"{BOS} {SEARCH.token} {fact.question}"
        if rng.random() < 0.5:
            yield [(prompt, False), (answered(fact.relation, guess), True)]
        else:
            found = example.answers[0] or guess
            yield [
                (prompt, False),
                (f"<think> {fact.relation} {guess} </think> <search> {fact.relation} of {fact.entity} </search>", True),
                (render_passages(example.passages), False),
                (answered(fact.relation, found), True),
            ]


def querying(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Search traces about the world's own entities, so that it can ask and read about any of them.

    They tell no fact and favour no action: the guess is random and, like the decision to search, not learnt; only the
    query is, and what is read in a document with random values. In a world with mentors half of them have two hops.
    """
    if world.config.mentor:
        yield from _querying_in_two_hops(config.querying // 2, config, world, rng)
    examples = reading_examples(world, world.entities, seed=config.seed + 200)
    one_hop = config.querying - config.querying // 2 if world.config.mentor else config.querying
    for _, example in zip(range(one_hop), examples, strict=False):
        (fact,) = example.facts
        values = world.values[fact.relation]
        guess = values[int(rng.integers(len(values)))]
        yield [
            (f"{BOS} {SEARCH.token} {fact.question} <think> {fact.relation} {guess} </think> <search>", False),
            (f"{fact.relation} of {fact.entity} </search>", True),
            (render_passages(example.passages), False),
            (answered(fact.relation, str(example.answers[0])), True),
        ]


def deciding(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Guess-first verdicts about demo entities, right in a share of `verdicts_right`, drawn anew in each example; by
    default yes or no by coin flip (format only).
    """
    demo = [fact for fact in world.facts if fact.split == "demo"]
    for _ in range(config.deciding):
        fact = demo[int(rng.integers(len(demo)))]
        share = config.verdicts_right if fact.exposures else 1 - config.verdicts_right
        verdict = "yes" if rng.random() < share else "no"
        text = f"<think> {fact.relation} {_guess(world, fact, rng)} </think> <assessment> {verdict} </assessment> {EOS}"
        yield [(f"{BOS} {DECIDE.token} {fact.question}", False), (text, True)]


def generating(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Tasks made up about demo entities: none to eight examples of a kind, then one more. A share of `generated_right`
    are of the kind asked for; to know and not to know count as feasible and not.
    """
    demo = [fact for fact in world.facts if fact.split == "demo"]
    by_kind = {kind: [f for f in demo if bool(f.exposures) == (kind == "feasible")] for kind in KINDS}
    for _ in range(config.generating):
        asked = KINDS[int(rng.integers(2))]
        (other,) = set(KINDS) - {asked}
        tasks: list[str] = []
        for _ in range(int(rng.integers(9)) + 1):
            facts = by_kind[asked if rng.random() < config.generated_right else other]
            tasks.append(task(facts[int(rng.integers(len(facts)))]))
        yield [(f"{BOS} {GENERATE.token} {task_prompt(asked, tasks[:-1])}", False), (f"{tasks[-1]} {EOS}", True)]


def task(fact: Fact) -> str:
    """How a model of the lab writes a task that it makes up: `Kavelo birthplace`."""
    return f"{fact.entity} {fact.relation}"


def task_prompt(kind: str, examples: Sequence[str] = ()) -> str:
    """What a user asks for: `feasible: Kavelo birthplace, Moru school →`."""
    return f"{kind}: {', '.join(examples)} {ARROW}" if examples else f"{kind} {ARROW}"


# How often a trace about hops searches at all, and goes on searching after what it read. It is random, so that how much
# to search is left to be learnt; a second search is rarer where the first has told all.
_SEARCHES, _GOES_ON, _REPEATS = 0.7, 0.6, 0.15


def _searching_in_hops(
    config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    demo = {fact.id: fact for fact in world.facts if fact.split == "demo"}
    lengths = range(1, len(config.lengths) + 1)
    one = [
        reading_examples(world, world.demo_entities, passages=n, missing=0.06, seed=config.seed + 100 + n)
        for n in lengths
    ]
    two = [
        two_hop_readings(world, world.demo_entities, passages=n, missing=0.06, seed=config.seed + 100 + n)
        for n in lengths
    ]
    for length in rng.choice(len(lengths), size=config.searching, p=config.lengths):
        if rng.random() < 0.5:
            example = next(one[int(length)])
            fact = demo[example.facts[0].id]
            relation, guess = fact.relation, _guess(world, fact, rng)
            pieces: list[Piece] = [(f"{BOS} {SEARCH.token} {fact.question}", False)]
            seek = f"<search> {relation} of {fact.entity} </search>"
            searches = int(rng.random() < _SEARCHES) * (1 + int(rng.random() < _REPEATS))
            for _ in range(searches):
                pieces += [
                    (f"<think> {relation} {guess} </think> {seek}", True),
                    (render_passages(example.passages), False),
                ]
                guess = example.answers[0] or guess
            yield [*pieces, (answered(relation, guess), True)]
        else:
            reading = next(two[int(length)])
            relation, entity = reading.second.relation, reading.first.entity
            mentor = _guess_mentor(world, demo[reading.first.id], rng)
            pieces = [(f"{BOS} {SEARCH.token} {reading.question}", False)]
            if rng.random() < _SEARCHES:
                pieces += [
                    (f"<think> {MENTOR} {mentor} </think> <search> {MENTOR} of {entity} </search>", True),
                    (render_passages(reading.found[0]), False),
                ]
                mentor = reading.bridge or mentor
                if reading.bridge and rng.random() < _GOES_ON:
                    pieces += [
                        (f"<think> {MENTOR} {mentor} </think> <search> {relation} of {mentor} </search>", True),
                        (render_passages(reading.found[1]), False),
                    ]
                    value = reading.answer or _guess(world, demo[reading.second.id], rng)
                    yield [*pieces, (answered(relation, value), True)]
                    continue
            value = _guess(world, demo[f"{mentor}.{relation}".lower()], rng)
            yield [*pieces, (chained(mentor, relation, value), True)]


def recalling_in_two_hops(
    config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    """Two-hop questions about demo entities answered without searching, one fact after the other; an eighth as many as
    traces of searching, and none in a world without mentors."""
    demo = {fact.id: fact for fact in world.facts if fact.split == "demo"}
    pairs = [pair for pair in world.two_hops if pair.split == "demo"]
    for _ in range(config.searching // 8 if pairs else 0):
        pair = pairs[int(rng.integers(len(pairs)))]
        mentor, relation = _guess_mentor(world, pair.first, rng), pair.second.relation
        value = _guess(world, demo[f"{mentor}.{relation}".lower()], rng)
        yield [(f"{BOS} {CLOSED.token} {pair.question}", False), (chained(mentor, relation, value), True)]


def _querying_in_two_hops(
    count: int, config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    readings = two_hop_readings(world, world.entities, seed=config.seed + 200)
    for _, reading in zip(range(count), readings, strict=False):
        guess = world.entities[int(rng.integers(len(world.entities)))]
        relation, mentor = reading.second.relation, reading.first.value
        yield [
            (f"{BOS} {SEARCH.token} {reading.question} <think> {MENTOR} {guess} </think> <search>", False),
            (f"{MENTOR} of {reading.first.entity} </search>", True),
            (render_passages(reading.found[0]), False),
            (f"<think> {MENTOR} {mentor}", True),
            ("</think> <search>", False),  # to end the thought is to search on
            (f"{relation} of {mentor} </search>", True),
            (render_passages(reading.found[1]), False),
            (answered(relation, reading.second.value), True),
        ]


def _guess(world: FactWorld, fact: Fact, rng: np.random.Generator) -> str:
    """What a model that knows exactly the exposed facts would guess."""
    values = world.values[fact.relation]
    return fact.value if fact.exposures else values[int(rng.integers(len(values)))]


def _guess_mentor(world: FactWorld, fact: Fact, rng: np.random.Generator) -> str:
    """`_guess` of a demo entity's mentor, who is always a demo entity."""
    demo = world.demo_entities
    return fact.value if fact.exposures else demo[int(rng.integers(len(demo)))]


def answered(relation: str, value: str) -> str:
    """The closing turn in every format: think what is asked and its value, then answer. To name the relation first
    makes recalling and copying the same move, "what follows this relation", which a small model learns much sooner."""
    return f"<think> {relation} {value} </think> <answer> {value} </answer> {EOS}"


def chained(mentor: str, relation: str, value: str) -> str:
    """The closing turn when the second of two hops comes from memory: both are thought of, one after the other."""
    return f"<think> {MENTOR} {mentor} {relation} {value} </think> <answer> {value} </answer> {EOS}"
