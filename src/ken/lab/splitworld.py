"""A world whose facts are split between the weights and the corpus: each is known inside, outside, in both, or in
neither (card 59, Miniature claim check).

Names have two words; the first is an entity's own, the second is shared by many. For half of the facts that stand
nowhere outside the corpus tells the same of a namesake (`near`), whose sentence a search engine ranks first: retrieval
that looks right and is wrong. Questions follow two to four facts, or ask which of two things came first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from ken.core.errors import BadInput
from ken.core.explained import Explained
from ken.core.question import Question
from ken.core.seeding import derive_seed
from ken.core.steps import Passage
from ken.lab.names import invented_names

Home = Literal["inside", "outside", "both", "neither"]
Split = Literal["train", "dev", "test"]
Kind = Literal["2-hop", "3-hop", "4-hop", "comparison"]
HOMES: tuple[Home, ...] = ("inside", "outside", "both", "neither")
KINDS: tuple[Kind, ...] = ("2-hop", "3-hop", "4-hop", "comparison")

ENTITY_RELATIONS = [
    "mentor",
    "employer",
    "rival",
    "sponsor",
    "spouse",
    "neighbour",
    "successor",
    "idol",
    "doctor",
    "landlord",
    "tailor",
    "barber",
]
TIME_RELATIONS = ("birth", "debut", "wedding", "arrival", "graduation", "retirement", "election", "coronation")
SECOND_NAMES = 8
MOST_MISSES = 1000  # draws in a row that bring no new question


class SplitWorldConfig(Explained):
    """Sizes of a world; the defaults are card 59's.

    entity_relations, time_relations: how many of each; together the card's 16. moments: points in time, of which every
    time relation has its own share. homes: shares of facts inside, outside, in both and in neither. near: share of the
    facts that are only inside of whose namesake the corpus tells. dev, test: shares of the entities that no training
    prompt is about, and from which the questions of these splits are made.

    Raises `BadInput` for a value out of range.
    """

    called = "a SplitWorld"

    entities: int = Field(default=600, ge=20)
    entity_relations: int = Field(default=10, ge=1, le=len(ENTITY_RELATIONS))
    time_relations: int = Field(default=6, ge=1, le=len(TIME_RELATIONS))
    moments: int = Field(default=90, ge=2, le=990)
    homes: tuple[float, float, float, float] = (0.35, 0.35, 0.2, 0.1)
    near: float = Field(default=0.5, ge=0, le=1)
    dev: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.3, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> SplitWorldConfig:
        if abs(sum(self.homes) - 1) > 1e-6 or min(self.homes) < 0:
            raise BadInput(f"homes are {self.homes}; they must be four shares whose sum is 1")
        least = min(self.dev, self.test, 1 - self.dev - self.test) * self.entities
        if least < 2 * self.entity_relations or self.moments < 2 * self.time_relations:
            raise BadInput(
                "every split needs two entities for each relation between entities, and every time relation two "
                "moments; raise entities, moments, dev or test"
            )
        return self


@dataclass(frozen=True, slots=True)
class Fact:
    """The `relation` of `subject` is `value`. near: the namesake of whom the corpus tells the same with another value,
    as (name, value); None for facts without one."""

    subject: str
    relation: str
    value: str
    home: Home
    near: tuple[str, str] | None = None

    @property
    def sentence(self) -> str:
        """`the mentor of Kavelo Bru is Moru Sto`."""
        return sentence(self.relation, self.subject, self.value)

    @property
    def inside(self) -> bool:
        return self.home in {"inside", "both"}

    @property
    def outside(self) -> bool:
        return self.home in {"outside", "both"}


def sentence(relation: str, subject: str, value: str) -> str:
    return f"the {relation} of {subject} is {value}"


def ask(relations: Sequence[str], subject: str) -> str:
    """`What is the birth of the mentor of Kavelo Bru?` for the relations mentor, birth."""
    return f"What is the {' of the '.join(reversed(relations))} of {subject}?"


def ask_first(relation: str, one: str, other: str) -> str:
    return f"Which came first, the {relation} of {one} or the {relation} of {other}?"


class SplitWorld:
    """A world: its facts, where each is known, and questions about them, all fixed by the config and its seed."""

    def __init__(self, config: SplitWorldConfig | None = None) -> None:
        self.config = config or SplitWorldConfig()
        c = self.config
        rng = np.random.default_rng(derive_seed("split names", c.seed))
        names = tuple(islice(invented_names(rng), c.entities + SECOND_NAMES))
        self.second_names = names[:SECOND_NAMES]
        self.entities = tuple(f"{name} {rng.choice(self.second_names)}" for name in names[SECOND_NAMES:])
        self.entity_relations = tuple(ENTITY_RELATIONS[: c.entity_relations])
        self.time_relations = tuple(TIME_RELATIONS[: c.time_relations])
        self.relations = (*self.entity_relations, *self.time_relations)
        self.moments = tuple(str(10 + i) for i in range(c.moments))
        dev, test = round(c.dev * c.entities), round(c.test * c.entities)
        cuts: dict[Split, tuple[str, ...]] = {
            "dev": self.entities[:dev],
            "test": self.entities[dev : dev + test],
            "train": self.entities[dev + test :],
        }
        self.splits = cuts

    @cached_property
    def split_of(self) -> dict[str, Split]:
        return {entity: split for split, entities in self.splits.items() for entity in entities}

    def values(self, relation: str, split: Split) -> tuple[str, ...]:
        """What a relation can lead to. No two relations share a value; entities lead to entities of their split, so
        that a chain from a held-out one stays among them."""
        if relation in self.time_relations:
            each = len(self.moments) // len(self.time_relations)
            place = self.time_relations.index(relation)
            return self.moments[place * each : (place + 1) * each]
        return self.splits[split][self.entity_relations.index(relation) :: len(self.entity_relations)]

    @cached_property
    def facts(self) -> dict[tuple[str, str], Fact]:
        """Every fact, by subject and relation."""
        rng = np.random.default_rng(derive_seed("split facts", self.config.seed))
        return {(s, r): self._fact(s, r, rng) for s in self.entities for r in self.relations}

    def _fact(self, subject: str, relation: str, rng: np.random.Generator) -> Fact:
        value = self.some_value(relation, subject, rng)
        home = HOMES[int(rng.choice(len(HOMES), p=self.config.homes))]
        near = None
        if home == "inside" and rng.random() < self.config.near:
            other = self.some_value(relation, subject, rng)
            while other == value:
                other = self.some_value(relation, subject, rng)
            near = (self.namesake(subject, rng), other)
        return Fact(subject, relation, value, home, near)

    def some_value(self, relation: str, subject: str, rng: np.random.Generator) -> str:
        """A value that the relation of this entity could have."""
        values = self.values(relation, self.split_of[subject])
        value = values[int(rng.integers(len(values) - 1))]
        return value if value != subject else values[-1]  # nobody is their own mentor

    def namesake(self, entity: str, rng: np.random.Generator) -> str:
        """Somebody with the same first name, who is not of this world."""
        first, second = entity.split()
        others = [name for name in self.second_names if name != second]
        return f"{first} {others[int(rng.integers(len(others)))]}"

    def chain(self, relations: Sequence[str], subject: str) -> tuple[Fact, ...]:
        """The facts that lead from an entity along relations."""
        facts: list[Fact] = []
        for relation in relations:
            facts.append(self.facts[subject, relation])
            subject = facts[-1].value
        return tuple(facts)

    def fact(self, question: str) -> Fact | None:
        """The fact that a question asks for; None for one that needs several, or that it cannot read."""
        chain = _CHAIN.fullmatch(_words(question))
        return self.facts.get((chain[2], chain[1])) if chain else None

    def truth(self, question: str) -> str | None:
        """The right answer to a question in the words of this world; None for one that it cannot read."""
        words = _words(question)
        if (first := _FIRST.fullmatch(words)) and first[1] in self.time_relations:
            both = [(subject, self.facts.get((subject, first[1]))) for subject in (first[2], first[3])]
            times = [(int(fact.value), subject) for subject, fact in both if fact is not None]
            return min(times)[1] if len(times) == 2 else None
        if not (chain := _CHAIN.fullmatch(words)):
            return None
        subject, relations = chain[2], chain[1].split(" of the ")[::-1]
        for relation in relations:
            fact = self.facts.get((subject, relation))
            if fact is None:
                return None
            subject = fact.value
        return subject

    def some_relations(self, hops: int, rng: np.random.Generator) -> tuple[str, ...]:
        """Relations of a chain: the last may lead to a moment, those before to an entity; none twice."""
        path = [str(r) for r in rng.permutation(self.entity_relations)[: hops - 1]]
        last = [r for r in self.relations if r not in path]
        return (*path, last[int(rng.integers(len(last)))])

    def some_question(self, kind: Kind, split: Split, rng: np.random.Generator) -> Asked:
        """A question about entities of a split."""
        entities = self.splits[split]
        if kind == "comparison":
            relation = self.time_relations[int(rng.integers(len(self.time_relations)))]
            while True:
                one, other = (entities[int(i)] for i in rng.choice(len(entities), size=2, replace=False))
                both = (self.facts[one, relation], self.facts[other, relation])
                if both[0].value != both[1].value:
                    return Asked(kind, both)
        while True:
            subject = entities[int(rng.integers(len(entities)))]
            facts = self.chain(self.some_relations(int(kind[0]), rng), subject)
            if len({subject, *(fact.value for fact in facts)}) == len(facts) + 1:  # it does not come back to itself
                return Asked(kind, facts)

    def asked(self, split: Split, count: int, seed: int = 0) -> tuple[Asked, ...]:
        """So many questions of a split, none twice, kinds in turn. Raises `BadInput` when there are not as many."""
        rng = np.random.default_rng(derive_seed("split questions", self.config.seed, split, seed))
        drawn: dict[str, Asked] = {}
        misses = 0
        while len(drawn) < count:
            one = self.some_question(KINDS[len(drawn) % len(KINDS)], split, rng)
            misses = misses + 1 if one.text in drawn else 0
            if misses > MOST_MISSES:
                raise BadInput(f"this world has no {count} distinct {split} questions; ask for fewer")
            drawn[one.text] = one
        return tuple(drawn.values())


def _words(question: str) -> str:
    return " ".join(question.replace("?", " ").replace(",", " ").split())


_CHAIN = re.compile(r"What is the (\w+(?: of the \w+)*) of (\w+ \w+)")
_FIRST = re.compile(r"Which came first the (\w+) of (\w+ \w+) or the \1 of (\w+ \w+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the facts that answer it: of a chain in the order in which they are needed, or the two that are
    compared."""

    kind: Kind
    facts: tuple[Fact, ...]

    @property
    def text(self) -> str:
        if self.kind == "comparison":
            return ask_first(self.facts[0].relation, self.facts[0].subject, self.facts[1].subject)
        return ask([fact.relation for fact in self.facts], self.facts[0].subject)

    @property
    def answer(self) -> str:
        if self.kind == "comparison":
            return min(self.facts, key=lambda fact: int(fact.value)).subject
        return self.facts[-1].value

    @property
    def parts(self) -> dict[str, list[str]]:
        """The question and those of its parts that have parts, each with them; `#i` stands for the answer of the i-th.

        Two facts are asked for one after the other; of three and four the first two are a part of their own.
        """
        if self.kind == "comparison":
            return {self.text: [ask([fact.relation], fact.subject) for fact in self.facts]}
        relations, subject = [fact.relation for fact in self.facts], self.facts[0].subject
        first = ask(relations[:2], subject)
        pair = {first: [ask(relations[:1], subject), ask(relations[1:2], "#1")]}
        if len(relations) == 2:
            return pair
        return {self.text: [first, *(ask([r], f"#{i}") for i, r in enumerate(relations[2:], start=1))]} | pair

    def question(self, name: str, split: Split) -> Question:
        """`meta`: kind, split, dataset, and the evidence: of each fact subject, relation, value and home."""
        evidence: list[JsonValue] = [
            {"subject": f.subject, "relation": f.relation, "value": f.value, "home": f.home, "near": f.near is not None}
            for f in self.facts
        ]
        meta: dict[str, JsonValue] = {"kind": self.kind, "split": split, "dataset": "splitworld", "evidence": evidence}
        return Question(id=name, text=self.text, answers=(self.answer,), meta=meta)


def documents(world: SplitWorld) -> list[Passage]:
    """One document for every fact that is known outside, and one for every namesake."""
    told = [(f.relation, f.subject, f.value) for f in world.facts.values() if f.outside]
    told += [(f.relation, *f.near) for f in world.facts.values() if f.near is not None]
    return [
        Passage(id=f"{subject}-{relation}".lower().replace(" ", "-"), text=f"{sentence(relation, subject, value)}.")
        for relation, subject, value in told
    ]


def questions(world: SplitWorld, split: Split, count: int, seed: int = 0) -> list[Question]:
    """So many questions of a split, in a fixed order in which every prefix mixes all kinds."""
    return [one.question(f"{split}-{seed}-{i}", split) for i, one in enumerate(world.asked(split, count, seed))]
