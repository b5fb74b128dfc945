"""The words of a reproduction: a paper, its arms, its claims."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from ken.core.frozen import Frozen

Metric = float | Sequence[float]
"""A number, or a curve; nan where it is undefined (a rate of nothing)."""

Metrics = Mapping[str, Metric]
"""What an arm measured, by name."""

Arms = Mapping[str, Mapping[str, Any]]
"""What the arms of one seed measured, by the arm's name: `arms["ikea"]["em"]`. The claims know which are curves."""

Kind = Literal["hard", "soft"]

ARXIV_ID = r"^(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})$"
"""An arXiv identifier without version: of 2007 and later, or of the years before (`hep-th/9901001`)."""

_DATE = r"^(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))?$"

Config = TypeVar("Config", bound=Frozen)
Bench = TypeVar("Bench")


class Entry(Frozen):
    """A paper's line in the catalogue.

    number: on the page that the catalogue follows; 0 is the baseline that others need. arxiv: the identifier.
    year: of the first version. date: of the paper as its page has it, YYYY-MM-DD. authors: how many; None where the
    page names an organisation instead, or nobody. organisation: "" unless the page names one.
    code: the address of the authors' repository, "" if there is none. listed: when the paper came into the catalogue.
    inside, outside: what the model holds, and what it gets from elsewhere; signal: what it learns from.
    summary: two or three sentences of our own: what is inside, what outside, and what was found.

    The slug becomes a file's name and the address a link, so that neither takes anything else.
    """

    number: int = Field(ge=0)
    slug: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    name: str
    title: str
    arxiv: str = Field(pattern=ARXIV_ID)
    year: int
    date: str = Field(default="", pattern=_DATE)
    authors: int | None = Field(default=None, ge=1)
    organisation: str = ""
    code: str = Field(default="", pattern=r"^(https?://[^\s\"'<>]+)?$")
    listed: str = Field(default="", pattern=_DATE)
    inside: str
    outside: str
    signal: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Arm(Generic[Bench]):
    """The method or one of its baselines: from the bench that all arms of a seed share to what it measured.

    name: lower case, as typed after `--arms`; text: what it is, in half a sentence.
    run: must leave the bench as it found it, since arms run in any order, in other processes, and again after an
        interruption. Python's, numpy's and torch's generators are seeded before it by paper, seed and arm.
    optional: runs only when it is named, or with `--arms all` (sweeps, ablations beyond the card).
    """

    name: str
    text: str
    run: Callable[[Bench], Metrics]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the paper with its inequality: `measure` ≥ `margin`. One inequality a claim: "A, and B" is two.

    kind: "hard" claims decide whether the paper was reproduced; "soft" ones are reported.
    measure: from what the arms of one seed measured to the number that must reach the margin. For "at most", measure
        what is left: `lambda arms: 0.5 * arms["search-r1"]["unneeded"] - arms["adasearch"]["unneeded"]`, margin 0.
    note: what a reader of the verdict must know, such as a margin that was changed after a result was seen.
    """

    text: str
    kind: Kind
    margin: float
    measure: Callable[[Arms], float]
    note: str = ""


def gap(metric: str, better: str, worse: str, factor: float = 1.0) -> Callable[[Arms], float]:
    """The commonest `measure`: how much more of `metric` one arm has than `factor` times another."""
    return lambda arms: arms[better][metric] - factor * arms[worse][metric]


@dataclass(frozen=True, kw_only=True)
class Paper(Generic[Config, Bench]):
    """A row of the catalogue that runs.

    summary: a paragraph on what is composed here, and how it differs from the paper's own scale.
    full, smoke: the settings of the claim check, and of a run in seconds that shows that the code works.
    prepare: (config, seed) to the bench; what it costs is paid once a seed. A base model that all seeds share belongs
        in a cache that the row names by its settings.
    columns: the metrics of the printed table; () prints all that are numbers.
    Raises `ValueError` for arms that share a name or cannot be named on a command line.
    """

    entry: Entry
    summary: str
    full: Config
    smoke: Config
    prepare: Callable[[Config, int], Bench]
    arms: tuple[Arm[Bench], ...]
    claims: tuple[Claim, ...]
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{self.slug} needs arms with different names, and has {names}")
        if wrong := [name for name in names if not re.fullmatch(r"[a-z0-9][a-z0-9.+_-]*", name) or name == "all"]:
            raise ValueError(f"{self.slug} names an arm {wrong[0]!r}; use lower-case letters, digits and . + _ -")

    @property
    def slug(self) -> str:
        return self.entry.slug
