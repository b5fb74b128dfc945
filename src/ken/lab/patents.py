"""A world of near-identical patents: texts with jargon in their slots, and what the jargon means (card 54, Miniature
claim check).

A concept is a mechanism and a purpose; several terms, unrelated in form, mean the same concept. Two patents share a
template and differ in their terms; they describe the same invention when every slot's terms mean the same. So the
surface says nothing, and what decides is what the terms mean. Head terms are explained in a model's pretraining, tail
terms are not; a corpus explains all. Train and test terms are different ones, of the same concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field

from ken.core.errors import BadInput
from ken.core.frozen import Frozen
from ken.core.pairs import pair_question
from ken.core.question import Question
from ken.core.seeding import derive_seed
from ken.core.steps import Passage
from ken.lab.names import invented_names

Split = Literal["train", "test"]
SLOTS = 3

MECHANISMS = ("spring", "magnet", "lens", "pump", "valve", "coil", "gear", "membrane")
PURPOSES = ("cooling", "sorting", "sealing", "lifting", "mixing", "timing", "sensing", "storing")

TEMPLATES = (
    "an apparatus in which a {0} unit acts on a {1} stage , and a {2} part keeps the output stable over "
    "long periods of use in the field",
    "a method that first brings a {0} element into position , then drives a {1} module , and at last resets a {2} "
    "block before the next cycle begins",
    "a system for daily use that holds a {0} assembly next to a {1} carrier , both of which are controlled by "
    "a {2} section of the frame",
    "a device whose housing contains a {0} insert , a {1} layer around it , and a removable {2} cover that a "
    "person can replace without tools",
)
FILLER = (
    "Early work on it was published in a series of reports .",
    "Several groups have measured how it behaves under load .",
    "It is described in most handbooks of the field .",
    "Its cost has fallen over the last decades .",
    "Standards for it differ from country to country .",
)


class PatentConfig(Frozen):
    """concepts: at most 64. terms: a concept's. pairs: of each split; half of them same, half of them head terms only.
    seed: of everything."""

    concepts: int = Field(default=60, ge=8, le=len(MECHANISMS) * len(PURPOSES))
    terms: int = Field(default=6, ge=5, le=6)
    train: int = Field(default=4000, ge=4)
    test: int = Field(default=400, ge=4)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Term:
    """A word of jargon. head: explained in pretraining."""

    word: str
    mechanism: str
    purpose: str
    head: bool
    split: Split

    @property
    def meaning(self) -> str:
        return f"mechanism {self.mechanism} , purpose {self.purpose} ."

    @property
    def question(self) -> str:
        return f"what is {self.word} ?"

    @property
    def concept(self) -> tuple[str, str]:
        return self.mechanism, self.purpose


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts of one template. slots: the terms of either, slot by slot. deciding: the slot in which they differ, or,
    of the same, one of them. tail: whether a tail term stands in the deciding slot; all other terms are head terms."""

    id: str
    template: str
    slots: tuple[tuple[Term, Term], ...]
    same: bool
    deciding: int
    tail: bool

    @property
    def texts(self) -> tuple[str, str]:
        first, second = (self.template.format(*(slot[side].word for slot in self.slots)) for side in (0, 1))
        return first, second

    def terms(self, side: int) -> tuple[Term, ...]:
        """The terms of the first (0) or the second text (1), in the order of their slots."""
        return tuple(slot[side] for slot in self.slots)

    def question(self) -> Question:
        return pair_question(self.id, *self.texts, same=self.same, tail=self.tail)


class PatentWorld:
    """Terms and pairs, the same for the same config."""

    def __init__(self, config: PatentConfig) -> None:
        self.config = config

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """All terms. Of the six of a concept one or two are tail terms (a third of all), and two or three, two head
        terms among them, are held out for the test."""
        config = self.config
        rng = np.random.default_rng(derive_seed("patent world", config.seed))
        words = list(islice((n.lower() for n in invented_names(rng)), config.concepts * config.terms))
        every = [(m, p) for m in MECHANISMS for p in PURPOSES]
        chosen = [every[int(i)] for i in rng.permutation(len(every))[: config.concepts]]
        made: list[Term] = []
        for number, (mechanism, purpose) in enumerate(chosen):
            own = words[number * config.terms : (number + 1) * config.terms]
            held_tail = number % 3 < 2  # in two concepts of three the test has a tail term, too
            kinds: list[tuple[bool, Split]] = [(True, "test"), (True, "test")]
            kinds += [(False, "test"), (False, "train")] if held_tail else [(False, "train"), (False, "train")]
            kinds += [(True, "train")] * (config.terms - len(kinds))
            made += [Term(w, mechanism, purpose, head, split) for w, (head, split) in zip(own, kinds, strict=True)]
        return tuple(made)

    def of(self, split: Split, *, head: bool | None = None) -> list[Term]:
        """The terms of a split; head: only those, or only the others."""
        return [t for t in self.terms if t.split == split and (head is None or t.head == head)]

    def pairs(self, split: Split) -> list[Pair]:
        """The pairs of a split: same and different in turn, head terms only for two in four."""
        rng = np.random.default_rng(derive_seed("patent pairs", split, self.config.seed))
        count = self.config.train if split == "train" else self.config.test
        return [
            self._pair(f"{split}-{number}", split, rng, same=number % 2 == 0, tail=number % 4 >= 2)
            for number in range(count)
        ]

    def _pair(self, name: str, split: Split, rng: np.random.Generator, *, same: bool, tail: bool) -> Pair:
        by_concept: dict[tuple[str, str], dict[bool, list[Term]]] = {}
        for term in self.of(split):
            by_concept.setdefault(term.concept, {True: [], False: []})[term.head].append(term)
        full = [c for c, kinds in by_concept.items() if len(kinds[True]) >= 2]
        tailed = [c for c in full if by_concept[c][False]]
        if len(full) <= SLOTS or not tailed:
            raise BadInput(f"{self.config.concepts} concepts are too few for pairs; take more")
        deciding = int(rng.integers(SLOTS))
        special = tailed[int(rng.integers(len(tailed)))] if tail else full[int(rng.integers(len(full)))]
        others = [full[int(i)] for i in rng.permutation(len(full)) if full[int(i)] != special][:SLOTS]
        rest, foil = iter(others[: SLOTS - 1]), others[SLOTS - 1]

        def some(concept: tuple[str, str], count: int, *, head: bool = True) -> list[Term]:
            terms = by_concept[concept][head]
            return [terms[int(i)] for i in rng.permutation(len(terms))[:count]]

        slots = []
        for slot in range(SLOTS):
            if slot != deciding:
                slots.append(some(next(rest), 2))
                continue
            first = some(special, 1, head=not tail)
            second = [t for t in some(special, 2) if t not in first][:1] if same else some(foil, 1)
            slots.append([*first, *second] if rng.random() < 0.5 else [*second, *first])
        return Pair(
            id=name,
            template=TEMPLATES[int(rng.integers(len(TEMPLATES)))],
            slots=tuple((first, second) for first, second in slots),
            same=same,
            deciding=deciding,
            tail=tail,
        )


def paragraph(term: Term, rng: np.random.Generator) -> str:
    """A term's explanation, with filler after it."""
    extra = [FILLER[int(i)] for i in rng.permutation(len(FILLER))[:2]]
    return " ".join([f"{term.word} : {term.meaning}", *extra])


def documents(world: PatentWorld) -> list[Passage]:
    """The corpus: a paragraph for every term."""
    rng = np.random.default_rng(derive_seed("patent documents", world.config.seed))
    return [Passage(id=term.word, title=term.word, text=paragraph(term, rng)) for term in world.terms]
