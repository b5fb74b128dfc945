"""What the rows of the catalogue say of themselves, as text that can be read without loading them.

A row imports what it composes, torch and TRL among it: seconds, and hundreds of megabytes that a server need not hold.
`python -m ken.papers.described` loads all rows and prints one JSON object, slug → `Described`.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from ken.core.errors import KenError
from ken.core.frozen import Frozen
from ken.papers.catalogue import load_paper, rows
from ken.papers.paper import Kind


class DescribedArm(Frozen):
    """An arm, without what it does."""

    name: str
    text: str
    optional: bool


class DescribedClaim(Frozen):
    """A claim, without how it is measured."""

    text: str
    kind: Kind
    margin: float
    note: str


class Described(Frozen):
    """A row. columns: the metrics of its table, () for all; problem: why it cannot be loaded, "" when it can."""

    summary: str = ""
    columns: tuple[str, ...] = ()
    arms: tuple[DescribedArm, ...] = ()
    claims: tuple[DescribedClaim, ...] = ()
    problem: str = ""


ROWS = TypeAdapter(dict[str, Described])


def describe(slug: str) -> Described:
    """Load a row and write down what it says. One that cannot be loaded has a problem, and hides no other."""
    try:
        paper = load_paper(slug)
    except KenError as error:
        return Described(problem=str(error))
    except Exception as error:  # a mistake in the row, whatever it is
        return Described(problem=f"the row of {slug} cannot be loaded ({type(error).__name__}: {error})")
    return Described(
        summary=" ".join(paper.summary.split()),
        columns=paper.columns,
        arms=tuple(DescribedArm(name=a.name, text=a.text, optional=a.optional) for a in paper.arms),
        claims=tuple(DescribedClaim(text=c.text, kind=c.kind, margin=c.margin, note=c.note) for c in paper.claims),
    )


if __name__ == "__main__":
    print(ROWS.dump_json({slug: describe(slug) for slug in rows()}).decode())
