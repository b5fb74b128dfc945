"""A world rendered: documents, triples, questions, statements and reading examples, all from the same facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ken.core import BadInput, Passage, Question
from ken.core.seeding import derive_seed
from ken.lab.factworld import Fact, FactWorld


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
    """One question per fact of `split` ("train", "test", "demo", or None for train and test).

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
    seed: int = 0,
) -> Iterator[ReadingExample]:
    """Endless reading comprehension: every name is trained, no value is true, so the answer can only be read.

    passages, questions: documents and distinct questions per example (at most as many as relations). A question is
    about the first document with probability `first`, as a search engine would rank it. missing: probability that a
    document lacks a fact. Raises `BadInput` for fewer entities than passages, or more questions than relations.
    """
    pool = tuple(entities)
    if not (1 <= passages <= len(pool) and 1 <= questions <= len(world.relations)):
        raise BadInput(
            f"there are no examples of {passages} passages and {questions} questions with {len(pool)} entities and "
            f"{len(world.relations)} relations; ask for at least one of each and at most as many as there are"
        )
    rng = np.random.default_rng(derive_seed("factworld reading", world.config.seed, seed))
    return _reading_examples(world, pool, rng, passages=passages, questions=questions, first=first, missing=missing)


def _reading_examples(
    world: FactWorld,
    pool: Sequence[str],
    rng: np.random.Generator,
    *,
    passages: int,
    questions: int,
    first: float,
    missing: float,
) -> Iterator[ReadingExample]:
    relations = len(world.relations)
    while True:
        facts = []
        for index in rng.choice(len(pool), size=passages, replace=False):
            for relation in world.relations:
                value = world.values[relation][int(rng.integers(world.config.values))]
                facts.append(Fact(pool[int(index)], relation, value, False, 0, bool(rng.random() < missing), "train"))
        told = [facts[i : i + relations] for i in range(0, len(facts), relations)]
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
