"""`ken index …` and `ken search`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ken.core.errors import BadInput, DataError

if TYPE_CHECKING:
    from ken.core import Passage

app = typer.Typer(
    help="Make and change a search index over your documents.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the index.")]
Source = Annotated[
    Path,
    typer.Argument(metavar="SRC", help="A folder of md, txt, html and pdf files, one such file, or a jsonl corpus."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip documents that cannot be read, and say how many.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def build(  # noqa: PLR0917 (typer reads the options from the signature)
    src: Source,
    out: Folder,
    chunk_words: Annotated[
        int, typer.Option(help="Cut longer documents into passages of at most this many words.")
    ] = 200,
    overlap: Annotated[int, typer.Option(help="Words that neighbouring passages share.")] = 40,
    tokenizer: Annotated[
        str, typer.Option(help="Language for stemming; 'simple' for none; 'bigram' for scripts without spaces.")
    ] = "english",
    dense: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Also compute vectors with this sentence-transformers model (name or path)."
        ),
    ] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Index the documents of SRC into DIR. An index that is there is replaced once the new one is complete."""
    from ken.sources.search.index import Index

    bad: list[DataError] = []
    started = time.monotonic()
    with _progress() as progress:
        index = Index.build(
            src,
            out,
            chunk_words=chunk_words,
            overlap=overlap,
            tokenizer=tokenizer,
            dense=dense,
            bad=bad if skip_bad else None,
            progress=progress,
        )
    info = index.info()
    _report_skipped(bad)
    typer.echo(
        f"indexed {info.documents:,} documents ({info.passages:,} passages) in {time.monotonic() - started:.1f} s; "
        f'try: ken search "…" --index {out}'
    )


@app.command()
def add(
    index: Folder,
    src: Source,
    update: Annotated[bool, typer.Option("--update", help="Replace documents that have the same ids.")] = False,
    skip_bad: SkipBad = False,
) -> None:
    """Add the documents of SRC to the index, all or none."""
    from ken.sources.search.index import Index

    bad: list[DataError] = []
    opened = Index.open(index)
    with _progress() as progress:
        change = opened.update if update else opened.add
        count = change(src, bad=bad if skip_bad else None, progress=progress)
    _report_skipped(bad)
    typer.echo(f"{'updated or added' if update else 'added'} {count:,} documents; the index now has {len(opened):,}")


@app.command()
def remove(index: Folder, ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of documents.")]) -> None:
    """Remove documents by id, all or none."""
    from ken.sources.search.index import Index

    opened = Index.open(index)
    count = opened.remove(ids)
    typer.echo(f"removed {count:,} documents; the index now has {len(opened):,}")


@app.command()
def info(index: Folder, as_json: Json = False) -> None:
    """Say what is in the index and how it was built."""
    from ken.sources.search.index import Index

    found = Index.open(index).info()
    if as_json:
        typer.echo(found.model_dump_json())
        return
    vectors = f"{found.vectors:,} of {found.dimension} numbers by {found.model}" if found.model else "none"
    for name, value in {
        "index": found.path,
        "documents": f"{found.documents:,}",
        "passages": f"{found.passages:,} of at most {found.chunk_words} words, sharing {found.overlap}",
        "tokenizer": found.tokenizer,
        "vectors": vectors,
        "on disk": f"{found.bytes / 1e6:,.1f} MB",
    }.items():
        typer.echo(f"{name:>10}  {value}")


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to search for.")],
    index: Annotated[
        str, typer.Option(metavar="DIR|URL", help="The folder of an index, or the address of a /retrieve service.")
    ] = "",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many passages.")] = 5,
    mode: Annotated[
        str | None, typer.Option(metavar="bm25|dense|hybrid", help="Default: hybrid where there are vectors.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search an index and print the best passages."""
    import asyncio

    from ken.sources.search.retriever import open_retriever

    if not index:
        raise BadInput(
            "name the index with --index DIR (or `index = …` in ken.toml); make one with `ken index build SRC DIR`"
        )

    async def ask() -> list[Passage]:
        retriever = open_retriever(index, mode=mode)  # type: ignore[arg-type]
        try:
            return await retriever.search(query, top_k)
        finally:
            await retriever.close()

    passages = asyncio.run(ask())
    if as_json:
        typer.echo(json.dumps([passage.model_dump() for passage in passages]))  # escapes everything that is not ASCII
    elif not passages:
        typer.echo("no passage has any of these words", err=True)
    else:
        _show(passages)


def _show(passages: list[Passage]) -> None:
    """Print passages. Their text is a stranger's: neither markup nor terminal escapes in it count."""
    from rich.console import Console
    from rich.text import Text

    from ken.cli.plain import plain

    console = Console(highlight=False, soft_wrap=False)
    for rank, passage in enumerate(passages, start=1):
        score = f"  {passage.score:.4g}" if passage.score is not None else ""
        console.print(Text.assemble((f"{rank}. ", "dim"), (plain(passage.title or passage.id), "bold"), (score, "dim")))
        console.print(Text(plain(" ".join(passage.text.split()))))
        origin = f"{plain(passage.id)}  {plain(passage.source)}" if passage.source else plain(passage.id)
        console.print(Text(origin, style="dim"), soft_wrap=True)
        console.print()


@contextmanager
def _progress() -> Iterator[Any]:
    """A callback for the number of documents done, shown with documents per second where there is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} documents"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("index", total=None, rate="")
        started = shown = time.monotonic()

        def update(done: int) -> None:
            nonlocal shown
            if (now := time.monotonic()) - shown > 0.1:
                shown = now
                bar.update(task, completed=done, rate=f"{done / (now - started):,.0f}/s")

        yield update


def _report_skipped(bad: list[DataError]) -> None:
    from ken.cli.plain import plain

    if bad:
        typer.echo(f"skipped {len(bad):,} documents that cannot be read:", err=True)
        for error in bad[:5]:
            typer.echo(f"  {plain(str(error))}", err=True)
        if len(bad) > 5:
            typer.echo(f"  and {len(bad) - 5:,} more", err=True)
