"""FactWorld: people, relations and values with known truth about who can know what (card 01, Miniature claim check).

Every entity is popular or rare. Popular entities' facts are mostly seen in pretraining, rare ones' mostly not, and how
often is drawn log-uniformly, so that what a model pretrained on the world knows is graded, as with real corpora. One
document per entity lists its facts; a few facts are withheld from it, so that search can fail too.

On request a world also has mentors, which are entities themselves, so that questions of two hops exist (card 00), and
relations with a popularity of their own that no training prompt asks about (card 42, out-of-distribution set).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import Any, Literal

import numpy as np
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ken.core.errors import BadInput
from ken.core.explained import Explained
from ken.core.seeding import derive_seed
from ken.lab.names import invented_names

RELATIONS = ("birthplace", "employer", "school", "sponsor", "residence", "club", "publisher", "rival")
MENTOR = "mentor"

Split = Literal["train", "test", "demo", "ood"]


class FactWorldConfig(Explained):
    """Sizes and rates of a world; the defaults are card 01's, but for max_exposures (40, not 60: docs/design.md).

    exposed_*: probability that a fact is seen in pretraining; min/max_exposures: how often, drawn log-uniformly.
    withheld_*: probability that the entity's document lacks a fact. test_share: facts held out from every training
    prompt; with `mentor`, entities whose facts are all held out.
    ood_relations: how many of the relations, the last ones, are out of distribution: an entity is popular in each of
    them or not by a draw of its own, and no training prompt asks about them. mentor: one more relation, whose values
    are entities.

    Raises `BadInput` for a value out of range.
    """

    called = "a FactWorld"

    entities: int = Field(default=600, ge=1)
    demo_entities: int = Field(default=300, ge=1)
    distractors: int = Field(default=400, ge=0)
    relations: int = Field(default=4, ge=1, le=len(RELATIONS))
    values: int = Field(default=40, ge=2)
    popular: float = Field(default=0.5, ge=0, le=1)
    exposed_popular: float = Field(default=0.85, ge=0, le=1)
    exposed_rare: float = Field(default=0.15, ge=0, le=1)
    min_exposures: int = Field(default=4, ge=1)
    max_exposures: int = Field(default=40, ge=1)
    withheld_popular: float = Field(default=0.03, ge=0, le=1)
    withheld_rare: float = Field(default=0.12, ge=0, le=1)
    test_share: float = Field(default=0.25, ge=0, le=1)
    seed: int = 0
    ood_relations: int = Field(default=0, ge=0)
    mentor: bool = False

    @model_serializer(mode="wrap")
    def _unused_left_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was added later and is not used: a world is then written, and cached, as it was before."""
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if name not in {"ood_relations", "mentor"} or value}

    @model_validator(mode="after")
    def _together(self) -> FactWorldConfig:
        if self.max_exposures < self.min_exposures:
            raise BadInput(
                f"max_exposures ({self.max_exposures}) is below min_exposures ({self.min_exposures}); raise it"
            )
        if self.ood_relations >= self.relations:
            raise BadInput(
                f"{self.ood_relations} of {self.relations} relations cannot be out of distribution; leave at least "
                "one that is not"
            )
        if self.mentor and (min(self.entities, self.demo_entities) < 3 or self.distractors in {1, 2}):
            raise BadInput(
                "mentors need at least 3 entities, 3 demo entities, and 0 or at least 3 distractors, so that nobody "
                "mentors their own mentor; raise them"
            )
        return self


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "two-hop": {"mentor": True},
    "ood": {"relations": 5, "ood_relations": 1},
    "introspection": {},  # differs by its base model alone
}


def variant_world(name: str, **settings: Any) -> FactWorldConfig:
    """The config of the world called `name`, one of `VARIANTS`, with other settings on top. Raises `BadInput`."""
    if name not in VARIANTS:
        raise BadInput(f"there is no variant {name!r} of factworld; choose from {', '.join(VARIANTS)}")
    return FactWorldConfig(**{**VARIANTS[name], **settings})


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. `exposures`: how often pretraining shows it (0: never). `withheld`: its document does not contain it.
    `popular`: its entity is popular, in an out-of-distribution relation by that relation's own draw.

    split: "train", "test" and "ood" facts are about the world's entities; "demo" facts, about others, serve only to
    demonstrate formats.
    """

    entity: str
    relation: str
    value: str
    popular: bool
    exposures: int
    withheld: bool
    split: Split

    @property
    def id(self) -> str:
        return f"{self.entity}.{self.relation}".lower()

    @property
    def question(self) -> str:
        return f"What is the {self.relation} of {self.entity}?"


@dataclass(frozen=True, slots=True)
class TwoHop:
    """Two facts to be joined: `first` names the mentor that `second` is about. The question does not name the mentor.

    split: "test" when either entity is held out.
    """

    first: Fact
    second: Fact

    @property
    def id(self) -> str:
        return f"{self.first.id}.{self.second.relation}"

    @property
    def question(self) -> str:
        return f"What is the {self.second.relation} of the {self.first.relation} of {self.first.entity}?"

    @property
    def split(self) -> Split:
        joined: tuple[Split, ...] = ("demo", "ood", "test", "train")  # the first that either fact has
        return next(split for split in joined if split in {self.first.split, self.second.split})


class FactWorld:
    """A world: `facts` about entities, demo facts, and distractor documents, all fixed by the config and its seed."""

    def __init__(self, config: FactWorldConfig | None = None) -> None:
        self.config = config or FactWorldConfig()
        c = self.config
        rng = np.random.default_rng(derive_seed("factworld names", c.seed))
        names = invented_names(rng)
        plain = RELATIONS[: c.relations]
        self.relations = (*plain, MENTOR) if c.mentor else plain
        self.ood_relations = frozenset(plain[c.relations - c.ood_relations :])
        self.entities = tuple(islice(names, c.entities))
        self.demo_entities = tuple(islice(names, c.demo_entities))
        self.distractors = tuple(islice(names, c.distractors))
        self.values = {relation: tuple(islice(names, c.values)) for relation in plain}
        if c.mentor:
            self.values[MENTOR] = (*self.entities, *self.demo_entities, *self.distractors)

    @cached_property
    def mentors(self) -> dict[str, str]:
        """Whose mentor is who: one circle each of the entities, the demo entities and the distractors.

        So everybody has one mentor and mentors one, of their own kind; no mentor is likelier than another, and a
        mentor's name stands in two documents only, the own one and one that cannot answer for it.
        """
        rng = np.random.default_rng(derive_seed("factworld mentors", self.config.seed))
        circles = (
            [str(name) for name in rng.permutation(k)] for k in (self.entities, self.demo_entities, self.distractors)
        )
        return {name: circle[i - 1] for circle in circles for i, name in enumerate(circle)}

    @cached_property
    def held_out(self) -> frozenset[str]:
        """Entities all of whose facts are held out; only in worlds with mentors, else single facts are."""
        if not self.config.mentor:
            return frozenset()
        rng = np.random.default_rng(derive_seed("factworld held out", self.config.seed))
        count = round(self.config.test_share * len(self.entities))
        return frozenset(str(name) for name in rng.permutation(self.entities)[:count])

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """All facts: the world's entities first, then the demo entities', each in the order of `relations`."""
        c = self.config
        rng = np.random.default_rng(derive_seed("factworld facts", c.seed))
        facts: list[Fact] = []
        for entity in (*self.entities, *self.demo_entities):
            demo = len(facts) >= len(self.entities) * len(self.relations)
            popular_entity = bool(rng.random() < c.popular)
            for relation in self.relations:
                ood = relation in self.ood_relations
                popular = bool(rng.random() < c.popular) if ood else popular_entity
                drawn = int(rng.integers(c.values))
                value = self.mentors[entity] if relation == MENTOR else self.values[relation][drawn]
                exposed = rng.random() < (c.exposed_popular if popular else c.exposed_rare)
                exposures = round(float(np.exp(rng.uniform(np.log(c.min_exposures), np.log(c.max_exposures)))))
                withheld = bool(rng.random() < (c.withheld_popular if popular else c.withheld_rare))
                test = rng.random() < c.test_share
                if c.mentor:
                    test = entity in self.held_out
                split: Split = "demo" if demo else "ood" if ood else "test" if test else "train"
                facts.append(Fact(entity, relation, value, popular, exposures if exposed else 0, withheld, split))
        return tuple(facts)

    @cached_property
    def distractor_facts(self) -> tuple[Fact, ...]:
        """Facts of the distractor entities: documents nobody asks about, never seen in pretraining."""
        rng = np.random.default_rng(derive_seed("factworld distractors", self.config.seed))
        return tuple(
            Fact(entity, relation, self._any_value(entity, relation, rng), False, 0, False, "train")
            for entity in self.distractors
            for relation in self.relations
        )

    @cached_property
    def two_hops(self) -> tuple[TwoHop, ...]:
        """Every fact of every mentor but the mentor's own mentor, entity by entity; none without `mentor`."""
        if not self.config.mentor:
            return ()
        by_entity = {entity: list(facts) for entity, facts in groupby(self.facts, key=lambda fact: fact.entity)}
        return tuple(
            TwoHop(facts[-1], second) for facts in by_entity.values() for second in by_entity[facts[-1].value][:-1]
        )

    def _any_value(self, entity: str, relation: str, rng: np.random.Generator) -> str:
        return self.mentors[entity] if relation == MENTOR else str(rng.choice(self.values[relation]))
