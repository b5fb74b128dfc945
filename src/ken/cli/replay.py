"""`ken replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ken.papers.replay import Cell, Replayed


def replay(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="A paper whose authors released records of their runs.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="The records, as the authors released them.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The accepted answers, where the records do not hold them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Score the records that a paper's authors released again: no model is asked, and nothing is written.

    Without PATH it says which files it takes and where they come from.
    """
    from ken.papers.replay import replay as run

    found = run(slug, paths or [], gold=gold)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    from rich.console import Console

    show(Console(highlight=False), found)


def show(console: Console, found: Replayed) -> None:
    """The tables one below the other, then the notes. What files hold is data: control characters are made visible."""
    from rich import table as rich_table
    from rich.text import Text

    from ken.cli.plain import plain

    for place, one in enumerate(found.tables):
        console.print(Text(("\n" if place else "") + plain(one.title), style="bold"))
        table = rich_table.Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for column, heading in enumerate(one.columns):
            words = any(isinstance(row[column], str) for row in one.rows)
            table.add_column(Text(plain(heading)), justify="left" if words else "right")
        for row in one.rows:
            table.add_row(*(Text(plain(_shown(cell))) for cell in row))
        console.print(table)
    for note in found.notes:
        console.print(Text("\n" + plain(note)))


def _shown(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
