"""`ken graph …`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ken.cli import options
from ken.cli.plain import plain
from ken.core.errors import BadInput, DataError

if TYPE_CHECKING:
    from ken.core import Entity
    from ken.sources import KnowledgeGraph
    from ken.sources.graph.protocol import Linked, Neighbours, Relation

app = typer.Typer(help="Make a knowledge graph of triples, and look into one.", no_args_is_help=True,
                  rich_markup_mode=None)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SHOWN = 3  # neighbours a relation


@app.command()
def build(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Triples: .nt, .ttl, .nq, .trig, .n3, .rdf, .jsonld, or .tsv with a subject, a relation and an object "
            "a line; also with .gz.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the graph.")],
    profile: Annotated[
        str, typer.Option(metavar="plain|freebase|wikidata", help="How ids are shortened and what is noise.")
    ] = "plain",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what cannot be read, and say how much.")
    ] = False,
) -> None:
    """Build the triples of FILEs into a folder. A graph that is there is replaced once the new one is complete."""
    from ken.sources.graph.building import build_graph

    bad: list[DataError] = []
    started = time.monotonic()
    with _progress() as progress:
        info = build_graph(files, out, profile=profile, bad=bad if skip_bad else None, progress=progress)
    if bad:
        typer.echo(f"left out {len(bad):,} place{'s' if len(bad) > 1 else ''} that cannot be read:", err=True)
        for error in bad[:5]:
            typer.echo(f"  {plain(str(error))}", err=True)
        if len(bad) > 5:
            typer.echo(f"  and {len(bad) - 5:,} more", err=True)
    typer.echo(
        f"built {info.triples:,} triples of {info.entities:,} entities in {time.monotonic() - started:.1f} s; "
        f"try: ken graph show ENTITY --graph {out}"
    )


@app.command()
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a graph.")], as_json: Json = False
) -> None:
    """Say what is in a graph and how it was built."""
    from ken.sources.graph.building import graph_info

    found = graph_info(folder)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    for name, value in {
        "graph": found.path,
        "triples": f"{found.triples:,}",
        "entities": f"{found.entities:,}",
        "relations": f"{found.relations:,}",
        "profile": found.profile,
        "made of": ", ".join(found.sources),
        "on disk": f"{found.bytes / 1e6:,.1f} MB",
    }.items():
        typer.echo(f"{name:>9}  {plain(value)}")


@app.command()
def show(
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="A name or an id.")],
    graph: options.Graph = "",
    as_json: Json = False,
) -> None:
    """Find an entity by name and show its relations, how many neighbours each has, and some of them."""
    import asyncio

    from ken.sources.graph.opening import open_graph

    if not graph:
        raise BadInput("name the graph with --graph FILE|DIR|URL (or `graph = …` in ken.toml)")
    if not entity.strip():
        raise BadInput("the entity is empty; give a name or an id")

    async def look() -> _Seen | None:
        opened = open_graph(graph)
        try:
            return await _look(opened, entity)
        finally:
            await opened.close()

    seen = asyncio.run(look())
    if seen is None:
        raise BadInput(f"the graph {graph} has nothing called {entity!r}; try fewer words, or another name")
    if as_json:
        typer.echo(json.dumps(seen.as_json()))  # escapes everything that is not ASCII
    else:
        seen.print()


class _Seen:
    """An entity, who else may be meant, and what is around it."""

    def __init__(self, linked: list[Linked], around: list[tuple[Relation, Neighbours]]) -> None:
        self.linked, self.around = linked, around

    def as_json(self) -> dict[str, Any]:
        first, *others = self.linked
        return {
            "entity": first.entity.model_dump(),
            "how": first.how,
            "others": [one.entity.model_dump() for one in others],
            "relations": [
                {
                    "name": relation.name,
                    "direction": relation.direction,
                    "label": relation.label,
                    "total": near.total,
                    "neighbours": [one.model_dump() for one in near.entities],
                }
                for relation, near in self.around
            ],
        }

    def print(self) -> None:
        """The names are a stranger's: no markup, no terminal escapes."""
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False)
        first, *others = self.linked
        how = {"exact": "", "alias": ", by another name", "words": ", by words of its name"}[first.how]
        console.print(Text.assemble((plain(first.entity.label), "bold"), (f"  {plain(first.entity.id)}{how}", "dim")))
        if others:
            names = "; ".join(_named(one.entity) for one in others)
            console.print(Text(f"or {plain(names)}?", style="dim"))
        if not self.around:
            console.print("it has no relations")
        for relation, near in self.around:
            total = "many" if near.total is None else f"{near.total:,}"
            names = "; ".join(one.label for one in near.entities)
            more = "" if near.total == len(near.entities) else "; …"
            arrow = "→" if relation.direction == "out" else "←"
            line = (f"{total:>9} ", "dim"), f"{arrow} {plain(relation.label)}  ", (plain(names + more), "cyan")
            console.print(Text.assemble(*line))


def _named(entity: Entity) -> str:
    return entity.label if entity.label == entity.id else f"{entity.label} ({entity.id})"


async def _look(graph: KnowledgeGraph, mention: str) -> _Seen | None:
    import asyncio

    linked = list(await graph.link(mention, 4))
    if not linked:
        return None
    entity = linked[0].entity.id
    relations = await graph.relations(entity)
    near = await asyncio.gather(*(graph.neighbours(entity, one.name, one.direction, limit=_SHOWN) for one in relations))
    return _Seen(linked, list(zip(relations, near, strict=True)))


@contextmanager
def _progress() -> Iterator[Any]:
    """A callback for what is being done and how far it is, shown where there is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, Any] = {}
        shown = 0.0

        def update(what: str, done: int, total: int) -> None:
            nonlocal shown
            if what not in tasks:
                for other in tasks.values():  # what was begun before is done
                    bar.update(other, completed=1, total=1)
                tasks[what] = bar.add_task(plain(what), total=total or None)
            elif (now := time.monotonic()) - shown > 0.1 or done == total:
                shown = now
                bar.update(tasks[what], completed=done, total=total or None)

        yield update
        for task in tasks.values():
            bar.update(task, completed=1, total=1)
