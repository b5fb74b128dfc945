"""`ken papers add`: what is new in the catalogue, and who hears of it."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def add(  # noqa: PLR0917 (typer reads the options from the signature)
    arxiv: Annotated[str, typer.Argument(metavar="ARXIV_ID", help="Such as 2503.09516, or the address of its page.")],
    name: Annotated[str, typer.Option(help="What it is called for short (default: from its title).")] = "",
    inside: Annotated[str, typer.Option(help="What the model holds.")] = "",
    outside: Annotated[str, typer.Option(help="What it gets from elsewhere.")] = "",
    signal: Annotated[str, typer.Option(help="What it learns from.")] = "",
    summary: Annotated[str, typer.Option(help="Two or three sentences of your own.")] = "",
    code: Annotated[str, typer.Option(metavar="URL", help="Their repository (default: one that arXiv names).")] = "",
    api: Annotated[str, typer.Option(metavar="URL", help="Another address of arXiv's API, such as a mirror.")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for arXiv to answer.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Add a paper to your own catalogue, papers.toml in the working directory, with what arXiv says about it."""
    from datetime import date

    from pydantic import ValidationError

    from ken.core.errors import BadInput
    from ken.papers.arxiv import API, arxiv_id, as_entry, look_up
    from ken.papers.catalogue import OWN, add_own, entries

    wanted = arxiv_id(arxiv)
    if there := next((e for e in entries().values() if e.arxiv == wanted), None):  # without asking anybody
        raise BadInput(f"{there.name} ({wanted}) is in the catalogue already; see `ken papers {there.slug}`")
    found = look_up(wanted, api=api or API, timeout=timeout)
    words = {"inside": inside, "outside": outside, "signal": signal, "code": code, "summary": summary, "name": name}
    try:
        entry = as_entry(found, known=entries().values(), listed=date.today().isoformat(), **words)
    except ValidationError as error:
        raise BadInput(f"--{error.errors()[0]['loc'][0]} cannot be used: {error.errors()[0]['msg']}") from error
    entry = add_own(entry)
    if as_json:
        typer.echo(entry.model_dump_json(indent=2))
    else:
        typer.echo(f"{entry.number} {entry.name}: {entry.title} ({entry.date})")
        typer.echo(f"added to {OWN}; see `ken papers {entry.slug}`")
