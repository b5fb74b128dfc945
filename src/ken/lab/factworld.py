"""FactWorld: people, relations and values with known truth about who can know what (card 01, Miniature claim check).

Every entity is popular or rare. Popular entities' facts are mostly seen in pretraining, rare ones' mostly not, and how
often is drawn log-uniformly, so that what a model pretrained on the world knows is graded, as with real corpora. One
document per entity lists its facts; a few facts are withheld from it, so that search can fail too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from ken.core.errors import BadInput
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.names import invented_names

RELATIONS = ("birthplace", "employer", "school", "sponsor", "residence", "club", "publisher", "rival")


class FactWorldConfig(Frozen):
    """Sizes and rates of a world; the defaults are card 01's, but for max_exposures (40, not 60: docs/design.md).

    exposed_*: probability that a fact is seen in pretraining; min/max_exposures: how often, drawn log-uniformly.
    withheld_*: probability that the entity's document lacks a fact. test_share: facts held out from every training
    prompt.

    Raises `BadInput` for a value out of range.
    """

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

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler[FactWorldConfig]) -> FactWorldConfig:
        try:
            config = handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise BadInput(f"a FactWorld cannot have {name} = {first['input']!r}: {first['msg'].lower()}") from error
        if config.max_exposures < config.min_exposures:
            raise BadInput(
                f"max_exposures ({config.max_exposures}) is below min_exposures ({config.min_exposures}); raise it"
            )
        return config


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. `exposures`: how often pretraining shows it (0: never). `withheld`: its document does not contain it.

    split: "train" and "test" facts are about the world's entities; "demo" facts, about others, serve only to
    demonstrate formats.
    """

    entity: str
    relation: str
    value: str
    popular: bool
    exposures: int
    withheld: bool
    split: Literal["train", "test", "demo"]

    @property
    def id(self) -> str:
        return f"{self.entity}.{self.relation}".lower()

    @property
    def question(self) -> str:
        return f"What is the {self.relation} of {self.entity}?"


class FactWorld:
    """A world: `facts` about entities, demo facts, and distractor documents, all fixed by the config and its seed."""

    def __init__(self, config: FactWorldConfig | None = None) -> None:
        self.config = config or FactWorldConfig()
        c = self.config
        rng = np.random.default_rng(derive_seed("factworld names", c.seed))
        names = invented_names(rng)
        self.relations = RELATIONS[: c.relations]
        self.entities = tuple(islice(names, c.entities))
        self.demo_entities = tuple(islice(names, c.demo_entities))
        self.distractors = tuple(islice(names, c.distractors))
        self.values = {relation: tuple(islice(names, c.values)) for relation in self.relations}

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """All facts: the world's entities first, then the demo entities', each in the order of `relations`."""
        c = self.config
        rng = np.random.default_rng(derive_seed("factworld facts", c.seed))
        facts: list[Fact] = []
        for entity in (*self.entities, *self.demo_entities):
            demo = len(facts) >= len(self.entities) * len(self.relations)
            popular = bool(rng.random() < c.popular)
            for relation in self.relations:
                value = self.values[relation][int(rng.integers(c.values))]
                exposed = rng.random() < (c.exposed_popular if popular else c.exposed_rare)
                exposures = round(float(np.exp(rng.uniform(np.log(c.min_exposures), np.log(c.max_exposures)))))
                withheld = bool(rng.random() < (c.withheld_popular if popular else c.withheld_rare))
                test = rng.random() < c.test_share
                split: Literal["train", "test", "demo"] = "demo" if demo else "test" if test else "train"
                facts.append(Fact(entity, relation, value, popular, exposures if exposed else 0, withheld, split))
        return tuple(facts)

    @cached_property
    def distractor_facts(self) -> tuple[Fact, ...]:
        """Facts of the distractor entities: documents nobody asks about, never seen in pretraining."""
        rng = np.random.default_rng(derive_seed("factworld distractors", self.config.seed))
        return tuple(
            Fact(entity, relation, str(rng.choice(self.values[relation])), False, 0, False, "train")
            for entity in self.distractors
            for relation in self.relations
        )
