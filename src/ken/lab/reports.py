"""A world of generated reports: long documents whose every fact, and every gap, is known (card 51, Miniature claim
check, part B).

A report has parts; each part states some attributes with a value (an amount, a year, a name), and between these stand
sentences that mention an attribute without saying anything of it, and sentences of noise. So a search finds the words
of a question in places that do not answer it, as it does in real documents. Every attribute is stated at most once in a
report, and some are not in it at all: questions about those have no answer.

No two attributes share a value (see `ReportsWorld.values`), as in the multi-hop world: within these budgets a tiny
model learns to read by what can be an answer, and hardly by the word that stands before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ken.core import BadInput, Passage
from ken.core.explained import Explained
from ken.core.long_documents import TASKS, Task
from ken.core.seeding import derive_seed
from ken.lab.conversations import NOISE
from ken.lab.names import invented_names

Length = Literal["short", "long"]
LENGTHS: tuple[Length, ...] = ("short", "long")

_AMOUNTS = (
    "revenue costs staff debt stock grants rent fines orders tariffs wages exports imports reserves losses profits"
)
_YEARS = "audit charter merger licence lease patent opening refit listing strike treaty relaunch"
_PEOPLE = "director auditor lawyer banker landlord architect engineer secretary chairman treasurer steward clerk"
AMOUNTS, YEARS, PEOPLE = tuple(_AMOUNTS.split()), tuple(_YEARS.split()), tuple(_PEOPLE.split())
ATTRIBUTES = (*AMOUNTS, *YEARS, *PEOPLE)

STATED = (
    "The board noted {key} {value} in this period.",
    "By the end of term {key} {value} was on record.",
    "Its books give {key} {value} without further remark.",
)
MENTIONED = (
    "Members asked again about {key} at some length.",
    "The outlook for {key} remains under discussion.",
)
NOT_STATED = "not stated"


class ReportsConfig(Explained):
    """Sizes; the defaults come to about 250 and 900 tokens, as on the card.

    parts: of a report. short_facts, long_facts: attributes that a part states. short_mentions, long_mentions: sentences
    of a part that only mention an attribute. short_noise, long_noise: its sentences of noise. values: of each
    attribute. companies: that reports are about.
    """

    called = "a world of reports"

    parts: int = Field(default=5, ge=2)
    short_facts: int = Field(default=3, ge=2)
    long_facts: int = Field(default=6, ge=2)
    short_mentions: int = Field(default=1, ge=0)
    long_mentions: int = Field(default=8, ge=0)
    short_noise: int = Field(default=1, ge=0)
    long_noise: int = Field(default=6, ge=0)
    values: int = Field(default=6, ge=2)
    companies: int = Field(default=20, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> ReportsConfig:
        if self.parts * max(self.short_facts, self.long_facts) >= len(ATTRIBUTES):
            raise BadInput(
                f"{self.parts} parts cannot state {max(self.short_facts, self.long_facts)} of {len(ATTRIBUTES)} "
                "attributes each and leave some out; lower parts or facts"
            )
        return self

    def facts(self, length: Length) -> int:
        return self.short_facts if length == "short" else self.long_facts


@dataclass(frozen=True, slots=True)
class Stated:
    """An attribute that a report states, and in which part (from 0)."""

    key: str
    value: str
    part: int


@dataclass(frozen=True)
class Report:
    """A report: its parts as text, what they state, and which attributes it does not even mention."""

    name: str
    title: str
    length: Length
    parts: tuple[str, ...]
    stated: tuple[Stated, ...]

    @property
    def passage(self) -> Passage:
        """The whole report as one document."""
        return Passage(id=self.name, title=self.title, text="\n\n".join(self.parts))

    @cached_property
    def values(self) -> dict[str, str]:
        """What it states, by attribute."""
        return {fact.key: fact.value for fact in self.stated}

    @cached_property
    def silent_on(self) -> tuple[str, ...]:
        """The attributes that it does not mention."""
        return tuple(key for key in ATTRIBUTES if key not in self.values)

    def amounts(self, part: int | None = None) -> list[Stated]:
        """What can be calculated with, of one part or of all."""
        return [f for f in self.stated if f.key in AMOUNTS and part in {None, f.part}]


class ReportsWorld:
    """Reports and questions about them, all fixed by the config and its seed."""

    def __init__(self, config: ReportsConfig | None = None) -> None:
        self.config = config or ReportsConfig()
        c, rng = self.config, np.random.default_rng(derive_seed("reports names", self.config.seed))
        names = tuple(islice(invented_names(rng), c.companies + c.values * len(PEOPLE)))
        self.companies, people = names[: c.companies], names[c.companies :]
        numbers = tuple(str(10 + i) for i in range(c.values * len(AMOUNTS)))
        years = tuple(str(1925 + i) for i in range(c.values * len(YEARS)))
        kinds = ((AMOUNTS, numbers), (YEARS, years), (PEOPLE, people))
        # Dealt out in turn, so that the values of each attribute lie over the whole range: which is larger cannot be
        # told from the attributes.
        self.values = {key: pool[i :: len(keys)] for keys, pool in kinds for i, key in enumerate(keys)}
        """What each attribute can be."""

    def report(self, name: str, length: Length, rng: np.random.Generator, *, facts: int | None = None) -> Report:
        """A report with random content. facts: attributes a part states, else the config's."""
        c = self.config
        each = facts or c.facts(length)
        mentions, noise = (c.short_mentions, c.short_noise) if length == "short" else (c.long_mentions, c.long_noise)
        keys = [ATTRIBUTES[int(i)] for i in rng.permutation(len(ATTRIBUTES))[: each * c.parts]]
        # Two amounts at least in every part, so that each has something to calculate with.
        amounts, others = [k for k in keys if k in AMOUNTS], [k for k in keys if k not in AMOUNTS]
        while len(amounts) < 2 * c.parts:
            free = [k for k in AMOUNTS if k not in amounts]
            amounts.append(free[int(rng.integers(len(free)))])
            others.pop()
        rest = [*amounts[2 * c.parts :], *others]
        rest = [rest[int(i)] for i in rng.permutation(len(rest))]
        shares = [[*amounts[2 * p : 2 * p + 2], *rest[p :: c.parts]] for p in range(c.parts)]
        known = [key for share in shares for key in share]
        stated, parts = [], []
        for part, share in enumerate(shares):
            told = [Stated(key, self._value(key, rng), part) for key in share]
            stated += told
            sentences = [_pick(STATED, rng).format(key=f.key, value=f.value) for f in told]
            sentences += [_pick(MENTIONED, rng).format(key=_pick(known, rng)) for _ in range(mentions)]
            sentences += [self._noise(rng) for _ in range(noise)]
            parts.append(" ".join([f"Part {part + 1}.", *(sentences[int(i)] for i in rng.permutation(len(sentences)))]))
        return Report(name, _pick(self.companies, rng), length, tuple(parts), tuple(stated))

    def reports(
        self, length: Length, count: int, split: Literal["test", "dev"] = "test", *, draw: int = 0
    ) -> list[Report]:
        """`count` reports of a split, the same every time; another `draw` gives others."""
        rng = np.random.default_rng(derive_seed("reports", self.config.seed, length, split, draw))
        return [self.report(f"{split}-{length}-{i}", length, rng) for i in range(count)]

    def _value(self, key: str, rng: np.random.Generator) -> str:
        return _pick(self.values[key], rng)

    def _noise(self, rng: np.random.Generator) -> str:
        words = [NOISE[int(i)] for i in rng.choice(len(NOISE), size=7, replace=False)]
        return f"{' '.join(words)}."


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


# --- questions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a report: what must be looked up (attributes, in order) and where (parts, from 0; empty where
    nothing is to be found). missing: those of the attributes that are not stated where one looks."""

    task: Task
    text: str
    answer: str
    keys: tuple[str, ...]
    parts: tuple[int, ...]
    missing: tuple[str, ...] = ()


def locate(fact: Stated) -> Asked:
    """One fact, stated in one place."""
    return Asked("location", f"What was the {fact.key}?", fact.value, (fact.key,), (fact.part,))


def calculate(one: Stated, other: Stated, *, total: bool) -> Asked:
    """The sum of two amounts of one part, or their difference."""
    a, b = int(one.value), int(other.value)
    text = f"What was the {'sum of' if total else 'difference between'} {one.key} and {other.key}?"
    return Asked("reasoning", text, str(a + b if total else abs(a - b)), (one.key, other.key), (one.part,))


def compare(one: Stated, other: Stated) -> Asked:
    """Which of two different amounts of different parts is larger."""
    larger = one if int(one.value) > int(other.value) else other
    text = f"Which was larger, {one.key} or {other.key}?"
    return Asked("comparison", text, larger.key, (one.key, other.key), tuple(sorted((one.part, other.part))))


def miss(key: str) -> Asked:
    """What a report does not mention."""
    return Asked("hallucination", f"What was the {key}?", NOT_STATED, (key,), (), (key,))


def exercises(report: Report, count: int, rng: np.random.Generator, seen: str | None = None) -> Iterator[Asked]:
    """Up to `count` questions to learn reading from, the tasks in turn. seen: the text that is shown instead of the
    whole report (chunks of it): what it does not state has no answer.

    No attribute is asked for twice, so that every value has to be found in the text: where an earlier answer holds it,
    a model learns to copy that and never to read.
    """
    visible = {f.key for f in report.stated if seen is None or f" {f.key} {f.value} " in f"{seen} "}
    told = [report.stated[int(i)] for i in rng.permutation(len(report.stated))]
    facts = [f for f in told if f.key in visible]
    unseen = [f for f in told if f.key not in visible and f.key in AMOUNTS]
    silent = [report.silent_on[int(i)] for i in rng.permutation(len(report.silent_on))] + [f.key for f in unseen]

    def pair() -> list[Stated]:
        """Two amounts; in one case of eight one of them is out of sight, where there is such a one."""
        shown = [f for f in facts if f.key in AMOUNTS][:2]
        if unseen and shown and rng.random() < 0.125:
            shown[int(rng.integers(len(shown)))] = unseen[0]
        for fact in shown if len(shown) == 2 else []:
            (facts if fact in facts else unseen).remove(fact)
        return shown

    turn = int(rng.integers(len(TASKS)))
    for number in range(count):
        task = TASKS[(turn + number) % len(TASKS)]
        if task == "hallucination" and silent:
            yield miss(silent.pop(0))
        elif task == "location" and facts:
            yield locate(facts.pop())
        elif task in {"reasoning", "comparison"} and len(both := pair()) == 2:
            one, other = both if rng.random() < 0.5 else both[::-1]
            if task == "comparison" and one.value == other.value:
                continue
            asked = (
                calculate(one, other, total=bool(rng.random() < 0.5)) if task == "reasoning" else compare(one, other)
            )
            missing = tuple(key for key in asked.keys if key not in visible)
            yield Asked("hallucination", asked.text, NOT_STATED, asked.keys, (), missing) if missing else asked
