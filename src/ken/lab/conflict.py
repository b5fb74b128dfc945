"""A world in which documents and memory can disagree: one-word facts about entities (card 57, Miniature claim check).

Some entities are known: a model is trained to remember their facts. Of others it has read nothing. A case is a question
with what the documents say beside it, so that for every answer it is known whether it came from inside (the remembered
value), from outside (the stated one), or from nowhere.

Sentences of one prompt are about different attributes, which is not on the card: tiny models learn to read by the kind
of a value, and hardly by the name beside it. Where noise was about the asked attribute too, one that read a single
document without a fault took any of three alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ken.core.errors import BadInput
from ken.core.explained import Explained
from ken.core.question import Question
from ken.core.seeding import derive_seed
from ken.core.steps import Passage
from ken.lab.names import invented_names

Kind = Literal["conflict", "agree", "new-entity", "no-evidence"]
KINDS: tuple[Kind, ...] = ("conflict", "agree", "new-entity", "no-evidence")
Split = Literal["dev", "test"]

ATTRIBUTES = ("tutor", "home", "trade", "metal", "colour", "motto", "fruit", "river")


class ConflictConfig(Explained):
    """Sizes of a world; the defaults are the card's.

    known: entities with facts to remember; new: entities of which nothing is known. values: of each attribute, all
    different and one word long. seed: of names and facts.

    Raises `BadInput` for a value out of range.
    """

    called = "a ConflictWorld"

    known: int = Field(default=500, ge=2)
    new: int = Field(default=100, ge=2)
    attributes: int = Field(default=6, ge=1, le=len(ATTRIBUTES))
    values: int = Field(default=40, ge=2)
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> ConflictConfig:
        if self.new < 6:
            raise BadInput(f"a ConflictWorld with {self.new} new entities cannot make noise about them; use 6 or more")
        return self


@dataclass(frozen=True, slots=True)
class Stated:
    """One sentence of a document: the `attribute` of `entity` is `value`."""

    entity: str
    attribute: str
    value: str

    @property
    def sentence(self) -> str:
        return f"{self.attribute} of {self.entity} {self.value} ."

    @property
    def question(self) -> str:
        return f"{self.attribute} of {self.entity}"


@dataclass(frozen=True, slots=True)
class Case:
    """A question and what lies beside it.

    memory: the value to be remembered, None for a new entity. context: the value that the gold document states, None
    where there is none. noise: sentences about other entities; `case.documents(k)` puts the gold one among k of them.
    place: in [0, 1), where among them.
    """

    id: str
    kind: Kind
    entity: str
    attribute: str
    memory: str | None
    context: str | None
    noise: tuple[Stated, ...]
    place: float

    @property
    def answer(self) -> str:
        """What is right: the document's value, or without one the remembered one."""
        answer = self.context or self.memory
        assert answer is not None
        return answer

    @property
    def question(self) -> Question:
        """`meta`: kind, memory and context, by which an answer is told to come from inside or outside."""
        return Question(
            id=self.id,
            text=Stated(self.entity, self.attribute, "").question,
            answers=(self.answer,),
            meta={"kind": self.kind, "memory": self.memory, "context": self.context, "dataset": "conflict"},
        )

    def documents(self, noise: int = 0) -> list[Passage]:
        """The gold document, if there is one, among `noise` others (at least one where there is no gold one). Raises
        `BadInput` for more noise than the case has."""
        if not 0 <= noise <= len(self.noise):
            raise BadInput(f"this case has {len(self.noise)} noise documents, not {noise}")
        sentences = list(self.noise[: noise or (self.context is None)])
        if self.context is not None:
            gold = Stated(self.entity, self.attribute, self.context)
            sentences.insert(int(self.place * (len(sentences) + 1)), gold)
        return [passage(sentence) for sentence in sentences]


def passage(stated: Stated) -> Passage:
    """A document of one sentence."""
    return Passage(id=f"{stated.entity}-{stated.attribute}".lower(), text=stated.sentence)


class ConflictWorld:
    """Names and facts, all fixed by the config and its seed."""

    def __init__(self, config: ConflictConfig | None = None) -> None:
        self.config = config or ConflictConfig()
        c = self.config
        rng = np.random.default_rng(derive_seed("conflict names", c.seed))
        names = list(islice(invented_names(rng), c.known + c.new + c.attributes * c.values))
        self.known, self.new = tuple(names[: c.known]), tuple(names[c.known : c.known + c.new])
        self.attributes = ATTRIBUTES[: c.attributes]
        words = [name.lower() for name in names[c.known + c.new :]]
        self.values = {a: tuple(words[i * c.values : (i + 1) * c.values]) for i, a in enumerate(self.attributes)}

    @property
    def entities(self) -> tuple[str, ...]:
        return (*self.known, *self.new)

    @cached_property
    def facts(self) -> dict[tuple[str, str], str]:
        """What is true of the known entities: (entity, attribute) → value."""
        rng = np.random.default_rng(derive_seed("conflict facts", self.config.seed))
        return {
            (e, a): self.values[a][int(i)]
            for e, row in zip(
                self.known, rng.integers(self.config.values, size=(len(self.known), len(self.attributes))), strict=True
            )
            for a, i in zip(self.attributes, row, strict=True)
        }

    def true(self, entity: str, attribute: str) -> Stated:
        """A fact to remember. Raises `KeyError` for an entity that is not known."""
        return Stated(entity, attribute, self.facts[entity, attribute])

    def random(self, entity: str, attribute: str, rng: np.random.Generator, *, but: str | None = None) -> Stated:
        """A sentence with a random value, other than `but`."""
        values = [value for value in self.values[attribute] if value != but]
        return Stated(entity, attribute, values[int(rng.integers(len(values)))])

    def noise(self, entity: str, attribute: str, count: int, rng: np.random.Generator) -> tuple[Stated, ...]:
        """True sentences about up to `count` other known entities, each about another attribute: as many as there are
        attributes beside this one."""
        others = [e for e in self.known if e != entity]
        about = [a for a in self.attributes if a != attribute]
        count = min(count, len(others), len(about))
        chosen = rng.choice(len(others), size=count, replace=False)
        return tuple(
            self.true(others[int(e)], about[int(a)])
            for e, a in zip(chosen, rng.permutation(len(about))[:count], strict=True)
        )

    def cases(self, kind: Kind, count: int, split: Split, *, noise: int = 4, draw: int = 0) -> list[Case]:
        """`count` questions of a kind, no fact asked twice; those of the two splits share none. draw: which of the
        split's, and what their documents say.

        Raises `BadInput` when the world has too few facts for that.
        """
        entities = self.new if kind == "new-entity" else self.known
        facts = [(e, a) for e in entities for a in self.attributes]
        # Every kind asks about facts of its own, in one order over both splits.
        order = np.random.default_rng(derive_seed("conflict cases", kind, self.config.seed)).permutation(len(facts))
        half = len(facts) // 2
        mine = order[:half] if split == "dev" else order[half:]
        if count > len(mine):
            raise BadInput(
                f"this world has {len(mine)} {split} questions of the kind {kind}, not {count}; ask for fewer"
            )
        rng = np.random.default_rng(derive_seed("conflict documents", kind, split, self.config.seed, draw))
        chosen = rng.permutation(mine)[:count]
        return [self._case(f"{kind}-{split}-{n}", kind, facts[int(i)], rng, noise) for n, i in enumerate(chosen)]

    def _case(self, name: str, kind: Kind, fact: tuple[str, str], rng: np.random.Generator, noise: int) -> Case:
        entity, attribute = fact
        memory = self.facts.get((entity, attribute))
        context = None
        if kind == "agree":
            context = memory
        elif kind != "no-evidence":  # of a new entity there is no memory to differ from
            context = self.random(entity, attribute, rng, but=memory).value
        return Case(
            name,
            kind,
            entity,
            attribute,
            memory,
            context,
            self.noise(entity, attribute, noise, rng),
            float(rng.random()),
        )


def shares(cases: Sequence[Case], answers: Sequence[str | None]) -> dict[str, float]:
    """Of the answers, the share that is right, that follows the document, that is the remembered value, and that is
    neither: acc, context_rate, memory_rate, other_rate. A value that is both (agree) counts in both."""
    if len(cases) != len(answers) or not cases:
        raise ValueError(f"{len(answers)} answers to {len(cases)} cases")
    n = len(cases)
    return {
        "acc": sum(a == c.answer for c, a in zip(cases, answers, strict=True)) / n,
        "context_rate": sum(a is not None and a == c.context for c, a in zip(cases, answers, strict=True)) / n,
        "memory_rate": sum(a is not None and a == c.memory for c, a in zip(cases, answers, strict=True)) / n,
        "other_rate": sum(a is None or a not in (c.context, c.memory) for c, a in zip(cases, answers, strict=True)) / n,
    }
