"""A world rendered: documents, triples, questions, statements and reading examples, all from the same facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ken.core import BadInput, Passage, Question
from ken.core.seeding import derive_seed
from ken.lab.factworld import Fact, FactWorld, TwoHop


def documents(world: FactWorld) -> list[Passage]:
    """One document per entity, demo entities and distractors included, without the facts that are withheld."""
    facts = (*world.facts, *world.distractor_facts)
    return [document(list(group)) for _, group in groupby(facts, key=lambda fact: fact.entity)]


def document(facts: Sequence[Fact]) -> Passage:
    """The document of one entity: `Kavelo: birthplace Tarsin, employer Moru, school Velta, sponsor Dako.`"""
    entity = facts[0].entity
    told = ", ".join(f"{fact.relation} {fact.value}" for fact in facts if not fact.withheld)
    return Passage(id=entity.lower(), title=entity, text=f"{entity}: {told or 'nothing is recorded'}.")


def triples(world: FactWorld) -> list[tuple[str, str, str]]:
    """All facts as (entity, relation, value), withheld ones included; demo entities and distractors too."""
    return [(fact.entity, fact.relation, fact.value) for fact in (*world.facts, *world.distractor_facts)]


def questions(world: FactWorld, split: str | None = None) -> list[Question]:
    """One question per fact of `split` ("train", "test", "demo", "ood", or None for train and test).

    `meta`: exposures in pretraining, popular, withheld, split, and supporting_ids (the document, empty when it lacks
    the fact).
    """
    wanted = {"train", "test"} if split is None else {split}
    return [_question(fact) for fact in world.facts if fact.split in wanted]


def _question(fact: Fact) -> Question:
    return Question(
        id=fact.id,
        text=fact.question,
        answers=(fact.value,),
        meta={
            "exposures": fact.exposures,
            "popular": fact.popular,
            "withheld": fact.withheld,
            "split": fact.split,
            "supporting_ids": [] if fact.withheld else [fact.entity.lower()],
        },
    )


def two_hop_questions(world: FactWorld, split: str | None = None) -> list[Question]:
    """One question per pair of facts to be joined, of `split` as in `questions`; none in a world without mentors.

    "test" pairs contain a held-out entity, as the one asked about or as its mentor. `meta`: hops (2), bridge (the
    mentor, whom the question does not name), hop_exposures (of both facts) and exposures (the fewer of the two: both
    are needed), popular (both are), withheld (either is), split, and supporting_ids (the documents that hold a fact
    that is needed, in the order of the hops).
    """
    wanted = {"train", "test"} if split is None else {split}
    return [_two_hop_question(pair) for pair in world.two_hops if pair.split in wanted]


def _two_hop_question(pair: TwoHop) -> Question:
    hops = (pair.first, pair.second)
    return Question(
        id=pair.id,
        text=pair.question,
        answers=(pair.second.value,),
        meta={
            "hops": 2,
            "bridge": pair.first.value,
            "hop_exposures": [fact.exposures for fact in hops],
            "exposures": min(fact.exposures for fact in hops),
            "popular": all(fact.popular for fact in hops),
            "withheld": any(fact.withheld for fact in hops),
            "split": pair.split,
            "supporting_ids": [fact.entity.lower() for fact in hops if not fact.withheld],
        },
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence that is true or false in the world. `exposures` is that of the fact it is about."""

    text: str
    true: bool
    fact: Fact


def statements(world: FactWorld, split: str | None = None, *, seed: int = 0) -> list[Statement]:
    """One statement per fact of `split` (as in `questions`), true with probability ½; a false one names another value
    of the relation.
    """
    rng = np.random.default_rng(derive_seed("factworld statements", world.config.seed, seed))
    wanted = {"train", "test"} if split is None else {split}
    result = []
    for fact in world.facts:
        true = bool(rng.random() < 0.5)
        other = _other(world.values[fact.relation], fact.value, rng)
        if fact.split in wanted:
            value = fact.value if true else other
            result.append(Statement(f"The {fact.relation} of {fact.entity} is {value}.", true, fact))
    return result


def _other(values: Sequence[str], value: str, rng: np.random.Generator) -> str:
    index = int(rng.integers(len(values) - 1))
    return values[index] if values[index] != value else values[-1]


@dataclass(frozen=True, slots=True)
class ReadingExample:
    """Documents with random values and questions about them, to be answered by reading.

    `answers[i]` belongs to `facts[i]`; it is None when the document lacks the fact that is asked for.
    """

    passages: tuple[Passage, ...]
    facts: tuple[Fact, ...]
    answers: tuple[str | None, ...]


def reading_examples(
    world: FactWorld,
    entities: Iterable[str],
    *,
    passages: int = 1,
    questions: int = 1,
    first: float = 0.9,
    missing: float = 0.0,
    anything: float = 0.0,
    seed: int = 0,
) -> Iterator[ReadingExample]:
    """Endless reading comprehension: every name is trained, no value is true, so the answer can only be read.

    passages, questions: documents and distinct questions per example (at most as many as relations). A question is
    about the first document with probability `first`, as a search engine would rank it. missing: probability that a
    document lacks a fact. anything: probability that a value is any name of the world, of an entity too, so that
    copying is learnt for all of them. Raises `BadInput` for fewer entities than passages, or more questions than
    relations.
    """
    pool = tuple(entities)
    if not (1 <= passages <= len(pool) and 1 <= questions <= len(world.relations)):
        raise BadInput(
            f"there are no examples of {passages} passages and {questions} questions with {len(pool)} entities and "
            f"{len(world.relations)} relations; ask for at least one of each and at most as many as there are"
        )
    rng = np.random.default_rng(derive_seed("factworld reading", world.config.seed, seed))
    return _reading_examples(
        world, pool, rng, passages=passages, questions=questions, first=first, missing=missing, anything=anything
    )


def _reading_examples(
    world: FactWorld,
    pool: Sequence[str],
    rng: np.random.Generator,
    *,
    passages: int,
    questions: int,
    first: float,
    missing: float,
    anything: float,
) -> Iterator[ReadingExample]:
    relations = len(world.relations)
    while True:
        picked = [pool[int(index)] for index in rng.choice(len(pool), size=passages, replace=False)]
        told = [_random_facts(world, entity, rng, missing, anything) for entity in picked]
        facts = [fact for group in told for fact in group]
        elsewhere = (rng.random(questions) >= first) & (passages > 1)
        about = [int(rng.integers(1, passages)) if other else 0 for other in elsewhere]
        asked = [
            place * relations + int(relation)
            for place, relation in zip(about, rng.permutation(relations)[:questions], strict=False)
        ]
        yield ReadingExample(
            passages=tuple(document(group) for group in told),
            facts=tuple(facts[i] for i in asked),
            answers=tuple(None if facts[i].withheld else facts[i].value for i in asked),
        )


@dataclass(frozen=True, slots=True)
class TwoHopReading:
    """Two searches' worth of documents with random values: what is found about the entity, then about its mentor.

    `first` is the mentor fact of the entity asked about, `second` the fact asked for, about the mentor; `bridge` and
    `answer` are their values, None when the document lacks them. Without a bridge, `second` is about anybody.
    """

    found: tuple[tuple[Passage, ...], tuple[Passage, ...]]
    first: Fact
    second: Fact

    @property
    def bridge(self) -> str | None:
        return None if self.first.withheld else self.first.value

    @property
    def answer(self) -> str | None:
        return None if self.second.withheld else self.second.value

    @property
    def question(self) -> str:
        return TwoHop(self.first, self.second).question


def two_hop_readings(
    world: FactWorld, entities: Iterable[str], *, passages: int = 1, missing: float = 0.0, seed: int = 0
) -> Iterator[TwoHopReading]:
    """Endless two-hop reading about `entities`, mentors drawn among them at random, so that nothing told is true.

    passages: documents found by each search, the right one first. missing: probability that a document lacks a fact.
    Raises `BadInput` in a world without mentors and for fewer entities than passages, or than two.
    """
    pool = tuple(entities)
    if not world.config.mentor or not 1 <= passages <= len(pool) or len(pool) < 2:
        raise BadInput(
            f"there is no two-hop reading of {passages} passages with {len(pool)} entities; use a world with "
            "mentors, and at least two entities and as many as passages"
        )
    rng = np.random.default_rng(derive_seed("factworld two-hop reading", world.config.seed, seed))
    return _two_hop_readings(world, pool, rng, passages=passages, missing=missing)


def _two_hop_readings(
    world: FactWorld, pool: Sequence[str], rng: np.random.Generator, *, passages: int, missing: float
) -> Iterator[TwoHopReading]:
    count = max(2, passages)
    while True:
        picked = [[pool[int(i)] for i in rng.choice(len(pool), size=count, replace=False)] for _ in range(2)]
        entity = picked[0][0]
        mentor = picked[1][0] if picked[1][0] != entity else picked[1][1]
        told = [
            [_random_facts(world, name, rng, missing) for name in [who, *(n for n in others if n != who)][:passages]]
            for who, others in ((entity, picked[0]), (mentor, picked[1]))
        ]
        first = replace(told[0][0][-1], value=mentor)
        told[0][0][-1] = first
        yield TwoHopReading(
            found=(tuple(map(document, told[0])), tuple(map(document, told[1]))),
            first=first,
            second=told[1][0][int(rng.integers(len(world.relations) - 1))],
        )


def _random_facts(
    world: FactWorld, entity: str, rng: np.random.Generator, missing: float, anything: float = 0.0
) -> list[Fact]:
    """An entity with a random value for every relation, each lacking from its document with probability `missing`."""
    facts = []
    for relation in world.relations:
        values = world.values[relation]
        if anything and rng.random() < anything:
            values = (*world.entities, *world.demo_entities, *(v for known in world.values.values() for v in known))
        value = values[int(rng.integers(len(values)))]
        facts.append(Fact(entity, relation, value, False, 0, bool(rng.random() < missing), "train"))
    return facts
