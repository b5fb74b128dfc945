"""A world of facts and figures, in which it is known which tool a question needs (card 22, Miniature claim check).

Every entity has numbers (population, area, price, year) and names (birthplace, club). Half of the entities are exposed:
pretraining shows their facts, so that nothing need be looked up; of the others nobody tells but the documents. Products
and quotients of large numbers are beyond a small model's head; those of one digit are not. So there are questions that
need no tool, a search, a calculation, or both in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field

from ken.core import Passage, Question
from ken.core.explained import Explained
from ken.core.seeding import derive_seed
from ken.lab.names import invented_names

# The range of each number, both ends included. A density (population // area) is then between 1 and 99.
NUMBERS = {"population": (1000, 9999), "area": (101, 999), "price": (101, 999), "year": (1001, 2099)}
NAMES = ("birthplace", "club")
RELATIONS = (*NUMBERS, *NAMES)
SNIPPETS = (("population", "area"), ("price", "year"), NAMES)  # what a document says in one sentence each

Kind = Literal["K", "S", "C", "H", "D"]
KINDS: dict[Kind, tuple[str, ...]] = {"K": (), "S": ("search",), "C": ("code",), "H": ("search", "code"), "D": ()}
"""Kinds of questions and the tools they need: a known fact, an unexposed fact (search), a calculation on numbers of
three digits (code), a calculation on unexposed facts (hybrid: search, then code), easy arithmetic on single digits."""

SCORED_AS = {"K": "nq", "S": "nq", "C": "calculator", "H": "complex", "D": "calculator"}
"""Which of TAPO's sources a kind of question stands for, and so how its answer is scored (card 22, Reward)."""


class CalculationWorldConfig(Explained):
    """Sizes of a world. exposed: share of the entities that pretraining tells of. demo_entities: serve only to show
    formats. values: names of each kind (birthplaces, clubs).

    questions: of each kind, as far as there are so many. test_share: of them, held out from training; questions, not
    entities, since what is tested is when a tool is used.

    Raises `BadInput` for a value out of range.
    """

    called = "a CalculationWorld"

    entities: int = Field(default=300, ge=4)
    demo_entities: int = Field(default=200, ge=2)
    exposed: float = Field(default=0.5, ge=0, le=1)
    values: int = Field(default=40, ge=2)
    questions: int = Field(default=800, ge=1)
    test_share: float = Field(default=0.25, ge=0, le=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing with a name and a value for each of `RELATIONS`, as text. exposed: pretraining tells of it."""

    name: str
    values: dict[str, str]
    exposed: bool

    def number(self, relation: str) -> int:
        return int(self.values[relation])


class CalculationWorld:
    """A world: entities, demo entities, and the questions about them, all fixed by the config and its seed."""

    def __init__(self, config: CalculationWorldConfig | None = None) -> None:
        self.config = config or CalculationWorldConfig()
        c = self.config
        names = invented_names(np.random.default_rng(derive_seed("calculation names", c.seed)))
        self.values = {relation: tuple(islice(names, c.values)) for relation in NAMES}
        own, demo = list(islice(names, c.entities)), list(islice(names, c.demo_entities))
        rng = np.random.default_rng(derive_seed("calculation facts", c.seed))
        exposed = set(rng.permutation(c.entities)[: round(c.exposed * c.entities)].tolist())
        self.entities = tuple(Entity(name, self.draw(rng), i in exposed) for i, name in enumerate(own))
        self.demo_entities = tuple(Entity(name, self.draw(rng), False) for name in demo)

    def draw(self, rng: np.random.Generator) -> dict[str, str]:
        """Random values of all relations."""
        drawn = {relation: str(rng.integers(low, high + 1)) for relation, (low, high) in NUMBERS.items()}
        return drawn | {relation: str(rng.choice(self.values[relation])) for relation in NAMES}

    @cached_property
    def documents(self) -> tuple[Passage, ...]:
        """Three sentences about each entity, demo entities included."""
        return tuple(snippet(entity, told) for entity in (*self.entities, *self.demo_entities) for told in SNIPPETS)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """All questions, by kind. `meta`: kind; source, for the scorer; tools that it needs, and how many calls of them
        (`calls`); split ("train" or "test"); supporting_ids, the sentences that tell."""
        c = self.config
        rng = np.random.default_rng(derive_seed("calculation questions", c.seed))
        made: list[Question] = []
        for kind in KINDS:
            drawn = list(islice(_distinct(self._ask(kind, rng)), c.questions))
            test = set(rng.permutation(len(drawn))[: round(c.test_share * len(drawn))].tolist())
            made += [_placed(question, "test" if i in test else "train") for i, question in enumerate(drawn)]
        return tuple(made)

    def split(self, split: Literal["train", "test"]) -> list[Question]:
        """The questions of one split, by kind."""
        return [question for question in self.questions if question.meta["split"] == split]

    def _ask(self, kind: Kind, rng: np.random.Generator) -> Iterator[Question]:
        """Endless random questions of a kind; none when no entity fits."""
        pool = [entity for entity in self.entities if entity.exposed == (kind == "K")]
        if (kind in "KS" and not pool) or (kind == "H" and len(pool) < 2):
            return
        while True:
            match kind:
                case "K" | "S":
                    yield fact_question(pool[int(rng.integers(len(pool)))], str(rng.choice(RELATIONS)), kind)
                case "C":
                    yield sum_question(*hard_sum(rng), "C")
                case "D":
                    yield sum_question(*easy_sum(rng), "D")
                case _:
                    first, second = (pool[int(i)] for i in rng.choice(len(pool), size=2, replace=False))
                    yield density_question(first) if rng.random() < 0.5 else difference_question(first, second)


# --- questions -------------------------------------------------------------------------------------------------------


def fact_question(entity: Entity, relation: str, kind: Kind) -> Question:
    text = f"What is the {relation} of {entity.name}?"
    told = [sentence_id(entity, relation)]
    return _question(f"{entity.name}.{relation}", text, entity.values[relation], kind, told)


def sum_question(a: int, sign: str, b: int, kind: Kind) -> Question:
    return _question(f"{a}{sign}{b}", f"What is {a} {sign} {b}?", str(calculate(a, sign, b)), kind, [])


def density_question(entity: Entity) -> Question:
    """People on a unit of area, whole: two numbers that one sentence tells."""
    value = entity.number("population") // entity.number("area")
    told = [sentence_id(entity, "population")]
    return _question(f"{entity.name}.density", f"What is the density of {entity.name}?", str(value), "H", told)


def difference_question(one: Entity, other: Entity) -> Question:
    """By how much one price is above another: two searches. The dearer comes first, so that the answer is no less
    than 0."""
    dear, cheap = sorted((one, other), key=lambda entity: -entity.number("price"))
    value = dear.number("price") - cheap.number("price")
    told = [sentence_id(dear, "price"), sentence_id(cheap, "price")]
    text = f"What is the price of {dear.name} minus the price of {cheap.name}?"
    return _question(f"{dear.name}-{cheap.name}.price", text, str(value), "H", told)


def calculate(a: int, sign: str, b: int) -> int:
    """a `sign` b for + - * //."""
    return {"+": a + b, "-": a - b, "*": a * b, "//": a // b if b else 0}[sign]


def hard_sum(rng: np.random.Generator) -> tuple[int, str, int]:
    """Product, difference or quotient of two numbers of three digits, the greater first."""
    b, a = sorted(int(x) for x in rng.integers(101, 1000, size=2))
    return a, str(rng.choice(["*", "-", "//"])), b


def easy_sum(rng: np.random.Generator) -> tuple[int, str, int]:
    """Sum, difference or product of two digits, the greater first."""
    b, a = sorted(int(x) for x in rng.integers(0, 10, size=2))
    return a, str(rng.choice(["+", "-", "*"])), b


def _question(identifier: str, text: str, answer: str, kind: Kind, told: list[str]) -> Question:
    needed = KINDS[kind]
    searches = len(told) if "search" in needed else 0
    return Question(
        id=f"{kind}.{identifier}".lower(),
        text=text,
        answers=(answer,),
        meta={
            "kind": kind,
            "source": SCORED_AS[kind],
            "tools": list(needed),
            "calls": searches + ("code" in needed),
            "supporting_ids": [*told],
        },
    )


def _placed(question: Question, split: str) -> Question:
    return question.model_copy(update={"meta": {**question.meta, "split": split}})


def _distinct(questions: Iterator[Question]) -> Iterator[Question]:
    """Each question once; ends when a thousand in a row are known, as small kinds run out."""
    seen: set[str] = set()
    repeated = 0
    for question in questions:
        repeated = repeated + 1 if question.id in seen else 0
        if repeated >= 1000:
            return
        if not repeated:
            seen.add(question.id)
            yield question


# --- documents -------------------------------------------------------------------------------------------------------


def snippet(entity: Entity, told: tuple[str, ...]) -> Passage:
    """One sentence of an entity's document: `Kavelo: population 3421, area 120.`

    A search returns sentences, as web search returns snippets: with the tags around it at most 17 tokens of a tokenizer
    that spells numbers digit by digit.
    """
    facts = ", ".join(f"{relation} {entity.values[relation]}" for relation in told)
    return Passage(id=sentence_id(entity, told[0]), title=entity.name, text=f"{entity.name}: {facts}.")


def sentence_id(entity: Entity, relation: str) -> str:
    """The id of the sentence that tells this relation: the entity, and the first relation it tells."""
    told = next(told for told in SNIPPETS if relation in told)
    return f"{entity.name}.{told[0]}".lower()
