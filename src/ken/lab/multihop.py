"""A multi-hop world: entities linked by relations, one document each, questions that need several documents (card 40,
Miniature claim check).

Every entity has a value for every relation, but its document states only some of them, each in one of three wordings.
A question names its first entity only, so one search with the whole question finds the first document and rarely the
next: whoever asks must decompose. Which fact is needed, and which document states it, is known for every question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from ken.core.errors import BadInput
from ken.core.explained import Explained
from ken.core.question import Question
from ken.core.seeding import derive_seed
from ken.core.steps import Passage
from ken.lab.names import invented_names

Kind = Literal["2-hop", "3-hop", "comparison"]
Split = Literal["train", "test"]
KINDS: tuple[Kind, ...] = ("2-hop", "3-hop", "comparison")


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation in its wordings, the first of which is its name. literal: its values are numbers, not entities."""

    wordings: tuple[str, ...]
    literal: bool = False

    @property
    def name(self) -> str:
        return self.wordings[0]


ENTITY_RELATIONS = (
    Relation(("mentor", "teacher", "tutor")),
    Relation(("employer", "boss", "principal")),
    Relation(("rival", "opponent", "competitor")),
    Relation(("sponsor", "patron", "backer")),
    Relation(("spouse", "partner", "consort")),
    Relation(("neighbour", "adjacent", "bordering")),
    Relation(("successor", "heir", "follower")),
    Relation(("idol", "hero", "favourite")),
)
LITERAL_RELATIONS = (
    Relation(("height", "stature", "tallness"), literal=True),
    Relation(("age", "seniority", "maturity"), literal=True),
    Relation(("wealth", "fortune", "riches"), literal=True),
    Relation(("rank", "grade", "standing"), literal=True),
)


class MultiHopConfig(Explained):
    """Sizes of a world; the defaults are card 40's.

    Every relation has values of its own (see `MultiHopWorld.values`), which is not on the card: a tiny model learns to
    read "who is the tutor" by what a tutor can be, and where everybody can be everything, it did not learn to read.
    numbers: literals run from 10 to 9 + numbers. min/max_stated: how many of its facts a document states. held_out:
    share of the links between entities that no training question uses, and of which all test questions consist.

    Raises `BadInput` for a value out of range.
    """

    called = "a MultiHopWorld"

    entities: int = Field(default=800, ge=4)
    entity_relations: int = Field(default=8, ge=1, le=len(ENTITY_RELATIONS))
    literal_relations: int = Field(default=4, ge=1, le=len(LITERAL_RELATIONS))
    numbers: int = Field(default=90, ge=2, le=990)
    min_stated: int = Field(default=5, ge=1)
    max_stated: int = Field(default=7, ge=1)
    train: int = Field(default=4000, ge=0)
    test: int = Field(default=600, ge=0)
    held_out: float = Field(default=0.2, ge=0, le=1)
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> MultiHopConfig:
        relations = self.entity_relations + self.literal_relations
        if not self.min_stated <= self.max_stated <= relations:
            raise BadInput(
                f"a document cannot state {self.min_stated} to {self.max_stated} facts of {relations}; "
                "choose min_stated ≤ max_stated ≤ the number of relations"
            )
        if self.entities < 2 * self.entity_relations or self.numbers < 2 * self.literal_relations:
            raise BadInput(
                f"{self.entities} entities and {self.numbers} numbers do not give each of {self.entity_relations} and "
                f"{self.literal_relations} relations two values of its own; raise them"
            )
        return self


@dataclass(frozen=True, slots=True)
class Link:
    """One stated fact: the `relation` of `subject` is `value`. The document says it in `wording`."""

    subject: str
    relation: Relation
    value: str
    wording: str
    held_out: bool

    @property
    def document(self) -> str:
        """The id of the document that states it."""
        return document_id(self.subject)

    @property
    def sentence(self) -> str:
        """As its document says it: `Kavelo tutor Moru`."""
        return f"{self.subject} {self.wording} {self.value}"


def document_id(entity: str) -> str:
    return entity.lower()


class MultiHopWorld:
    """A world: what every document states, and questions about it, all fixed by the config and its seed."""

    def __init__(self, config: MultiHopConfig | None = None) -> None:
        self.config = config or MultiHopConfig()
        c = self.config
        rng = np.random.default_rng(derive_seed("multihop names", c.seed))
        self.entities = tuple(islice(invented_names(rng), c.entities))
        self.relations = (*ENTITY_RELATIONS[: c.entity_relations], *LITERAL_RELATIONS[: c.literal_relations])
        self.numbers = tuple(str(10 + i) for i in range(c.numbers))

    @cached_property
    def stated(self) -> dict[str, tuple[Link, ...]]:
        """What the document of each entity states, in its order."""
        rng = np.random.default_rng(derive_seed("multihop facts", self.config.seed))
        return {entity: self._state(entity, rng) for entity in self.entities}

    def _state(self, entity: str, rng: np.random.Generator) -> tuple[Link, ...]:
        relations = self.some_relations(rng)
        values = [self._value(relation, entity, rng) for relation in relations]
        held_out = {value: bool(rng.random() < self.config.held_out) for value in values}  # of two links, both or none
        return tuple(
            Link(entity, relation, value, str(rng.choice(relation.wordings)), held_out[value])
            for relation, value in zip(relations, values, strict=True)
        )

    def some_relations(self, rng: np.random.Generator) -> list[Relation]:
        """The relations that one document states, in its order."""
        count = int(rng.integers(self.config.min_stated, self.config.max_stated + 1))
        return [self.relations[int(i)] for i in rng.permutation(len(self.relations))[:count]]

    @cached_property
    def values(self) -> dict[str, tuple[str, ...]]:
        """What each relation can lead to, by its name. No two relations share a value: employers are no mentors, and
        ages are no heights."""
        ours, kinds = self.relations, self.config.entity_relations
        entities = {r.name: self.entities[i::kinds] for i, r in enumerate(ours[:kinds])}
        each = len(self.numbers) // max(1, self.config.literal_relations)
        numbers = {r.name: self.numbers[i * each : (i + 1) * each] for i, r in enumerate(ours[kinds:])}
        return entities | numbers

    @cached_property
    def relation_to(self) -> dict[str, Relation]:
        """The one relation that can lead to an entity."""
        relations = {relation.name: relation for relation in self.relations}
        return {
            v: relations[name] for name, values in self.values.items() if not relations[name].literal for v in values
        }

    def _value(self, relation: Relation, entity: str, rng: np.random.Generator) -> str:
        values = self.values[relation.name]
        value = values[int(rng.integers(len(values) - 1))]
        return value if value != entity else values[-1]  # nobody is their own mentor

    @cached_property
    def chains(self) -> dict[Split, tuple[tuple[Kind, tuple[Link, ...]], ...]]:
        """The facts behind every question of a split, in the order in which they are needed; no two questions of the
        world have the same facts."""
        rng = np.random.default_rng(derive_seed("multihop questions", self.config.seed))
        taken: set[frozenset[tuple[str, str]]] = set()
        return {
            "train": self._draw(rng, self.config.train, taken, held_out=False),
            "test": self._draw(rng, self.config.test, taken, held_out=True),
        }

    def _draw(
        self, rng: np.random.Generator, count: int, taken: set[frozenset[tuple[str, str]]], *, held_out: bool
    ) -> tuple[tuple[Kind, tuple[Link, ...]], ...]:
        drawn: list[tuple[Kind, tuple[Link, ...]]] = []
        misses = 0
        while len(drawn) < count:
            kind = KINDS[len(drawn) % len(KINDS)]
            links = self._comparison(rng) if kind == "comparison" else self._chain(rng, int(kind[0]), held_out)
            # Two entities are compared once only, whatever in.
            key = frozenset((link.subject, "" if kind == "comparison" else link.relation.name) for link in links)
            if not links or key in taken:
                misses += 1
                if misses > 1000 + 200 * count:
                    raise BadInput(
                        f"this world has no {count} distinct {'test' if held_out else 'train'} questions "
                        f"({len(drawn)} were found); ask for fewer, or for more entities"
                    )
                continue
            taken.add(key)
            drawn.append((kind, links))
        return tuple(drawn)

    def _chain(self, rng: np.random.Generator, hops: int, held_out: bool) -> tuple[Link, ...]:
        """Facts of which each is about the value of the one before; () when the walk fails."""
        links: list[Link] = []
        entity = self.entities[int(rng.integers(len(self.entities)))]
        seen = {entity}
        for hop in range(1, hops + 1):
            last = hop == hops
            open_ = [
                link
                for link in self.stated[entity]
                if link.value not in seen and (last or (not link.relation.literal and link.held_out == held_out))
            ]
            if not open_:
                return ()
            link = open_[int(rng.integers(len(open_)))]
            links.append(link)
            entity = link.value
            seen.add(entity)
        return tuple(links)

    def _comparison(self, rng: np.random.Generator) -> tuple[Link, ...]:
        """The same literal of two entities, not equal; () when the draw has none."""
        one, other = (self.entities[int(i)] for i in rng.choice(len(self.entities), size=2, replace=False))
        numbers = {link.relation: link for link in self.stated[other] if link.relation.literal}
        both = [
            (link, numbers[link.relation])
            for link in self.stated[one]
            if link.relation in numbers and numbers[link.relation].value != link.value
        ]
        return both[int(rng.integers(len(both)))] if both else ()


def documents(world: MultiHopWorld) -> list[Passage]:
    """One document per entity."""
    return [document(links) for links in world.stated.values()]


def document(links: Sequence[Link]) -> Passage:
    """The document of one entity: title `Kavelo`, text `Kavelo tutor Moru, Kavelo height 34, Kavelo patron Tarsin.`

    Every fact names its subject: where the title alone did, a tiny model that read several documents took any fact of
    the right relation, whoever it was about.
    """
    subject = links[0].subject
    text = ", ".join(link.sentence for link in links) + "."
    return Passage(id=document_id(subject), title=subject, text=text)


def triples(world: MultiHopWorld) -> list[tuple[str, str, str]]:
    """Everything the documents state, as (subject, relation, value)."""
    return [(link.subject, link.relation.name, link.value) for links in world.stated.values() for link in links]


def questions(world: MultiHopWorld, split: Split) -> list[Question]:
    """The questions of a split, in a fixed order in which every prefix mixes all kinds.

    `meta`: kind, split, dataset, `evidence` (the needed facts: subject, relation, value, the document and its text;
    each needs the one before when `ordered`) and supporting_ids (their documents).
    """
    rng = np.random.default_rng(derive_seed("multihop wordings", world.config.seed, split))
    return [
        _question(f"{split}-{number}", kind, links, split, rng)
        for number, (kind, links) in enumerate(world.chains[split])
    ]


def _question(name: str, kind: Kind, links: Sequence[Link], split: Split, rng: np.random.Generator) -> Question:
    if kind == "comparison":
        text, answer = compare(links, str(rng.choice(links[0].relation.wordings)), greater=bool(rng.random() < 0.5))
    else:
        text, answer = ask_chain(links, [str(rng.choice(link.relation.wordings)) for link in links]), links[-1].value
    evidence: list[JsonValue] = [
        {
            "subject": link.subject,
            "relation": link.relation.name,
            "value": link.value,
            "document": link.document,
            "text": link.sentence,
        }
        for link in links
    ]
    return Question(
        id=name,
        text=text,
        answers=(answer,),
        meta={
            "kind": kind,
            "split": split,
            "dataset": "multihop",
            "ordered": kind != "comparison",
            "evidence": evidence,
            "supporting_ids": [link.document for link in links],
        },
    )


def ask_chain(links: Sequence[Link], wordings: Sequence[str]) -> str:
    """`What is the height of the tutor of Kavelo?`, in the given wordings, one per link.

    Raises `ValueError` when a link is not about the value of the one before.
    """
    if any(after.subject != before.value for before, after in pairwise(links)):
        raise ValueError("these links form no chain")
    path = " of the ".join(reversed(wordings))
    return f"What is the {path} of {links[0].subject}?"


def compare(links: Sequence[Link], wording: str, *, greater: bool) -> tuple[str, str]:
    """(question, answer): `Which has the greater stature, Kavelo or Moru?`"""
    one, other = links
    first = (int(one.value) > int(other.value)) == greater
    text = f"Which has the {'greater' if greater else 'lower'} {wording}, {one.subject} or {other.subject}?"
    return text, (one if first else other).subject


def random_pages(
    world: MultiHopWorld, rng: np.random.Generator, count: int, *, chained: bool = False
) -> list[tuple[Link, ...]]:
    """`count` documents about different entities with random values, none of them true: material to learn reading from.

    chained: some fact of every document but the last leads to the next. Such facts come in a random place.
    """
    subjects = [world.entities[int(i)] for i in rng.choice(len(world.entities), size=count, replace=False)]
    pages = []
    for place, subject in enumerate(subjects):
        links = [
            Link(subject, relation, world._value(relation, subject, rng), str(rng.choice(relation.wordings)), False)
            for relation in world.some_relations(rng)
        ]
        if chained and place + 1 < count:
            after = subjects[place + 1]
            leading = world.relation_to[after]
            stated = [i for i, link in enumerate(links) if link.relation == leading]
            i = stated[0] if stated else int(rng.integers(len(links)))
            links[i] = Link(subject, leading, after, str(rng.choice(leading.wordings)), False)
        pages.append(tuple(links))
    return pages
