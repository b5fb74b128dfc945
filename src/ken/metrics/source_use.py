"""Where to look, when there are several places: what each question needed, and what a strategy chose.

The decision table of AdaSearch (arXiv 2512.16883) has two columns, "it can answer" and "it cannot". With several
sources outside, the second falls apart into one column a source.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ken.core import Origin, Trajectory

NEEDS = ("inside", "search", "graph", "tools", "several", "none")
"""What a question needs: nothing outside; exactly one source; one of several that do; or none that was tried does."""

CHOICES = ("inside", "search", "graph", "tools", "unreadable")


def needed_source(suffices: Collection[Origin]) -> str:
    """What a question needs (one of `NEEDS`), when these sources suffice for a right answer, each alone.

    >>> needed_source({"search", "graph"}), needed_source({"inside", "search"}), needed_source({"graph"})
    ('several', 'inside', 'graph')
    """
    if "inside" in suffices:
        return "inside"
    outside = set(suffices)
    if len(outside) > 1:
        return "several"
    return next(iter(outside), "none")


def chosen_source(trajectory: Trajectory) -> str:
    """Where an attempt looked first (one of `CHOICES`): what its decision says, where it says it; else the source that
    it consulted first, "inside" when none."""
    decision = trajectory.decision
    if decision is not None:
        if decision.source is not None:
            return decision.source
        if decision.knows is None:
            return "unreadable"
        if decision.knows:
            return "inside"
    return trajectory.consulted[0] if trajectory.consulted else "inside"


@dataclass(frozen=True, slots=True)
class SourceTable:
    """Questions by what was chosen and what was needed: `table[choice][need]`, choices of `CHOICES`, needs of `NEEDS`.

    fitting: questions for which the choice suffices. possible: those for which any source does.
    """

    table: dict[str, dict[str, int]]
    fitting: int
    possible: int

    @property
    def fit(self) -> float | None:
        """Share of the choices that suffice, where any does; None when none does anywhere."""
        return self.fitting / self.possible if self.possible else None


def source_table(choices: Sequence[str], suffices: Sequence[Collection[Origin]]) -> SourceTable:
    """Cross choices with needs; entry i of both belongs to question i. Raises `ValueError` for unequal lengths or a
    choice that there is not."""
    if len(choices) != len(suffices):
        raise ValueError(f"{len(choices)} choices but {len(suffices)} sets of sources; pass one of each per question")
    if unknown := set(choices) - set(CHOICES):
        raise ValueError(f"there is no choice {unknown.pop()!r}; there are {', '.join(CHOICES)}")
    table = {choice: dict.fromkeys(NEEDS, 0) for choice in CHOICES}
    for choice, enough in zip(choices, suffices, strict=True):
        table[choice][needed_source(enough)] += 1
    return SourceTable(
        table=table,
        fitting=sum(choice in enough for choice, enough in zip(choices, suffices, strict=True)),
        possible=sum(bool(enough) for enough in suffices),
    )
