"""Work that takes long: a bar that counts it, and how it ends when it is interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def counting(what: str) -> Iterator[Callable[..., None]]:
    """A callback for what is done, of how many, a remark, and what is counted now if not `what`, such as "attempts";
    drawn as a bar with the time that is left where there is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}{task.fields[remark]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, remark="")

        def update(done: int, total: int, remark: str = "", now: str = what) -> None:
            bar.update(task, completed=done, total=total, remark=remark, description=now)

        yield update


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Ends the command with status 130 when it is interrupted, and says what is `kept`: "what was answered"."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"ken: interrupted; {kept} is kept: give the same command again to go on", err=True)
        sys.exit(130)


def exit_if_failed(failed: int, what: str, error: str) -> None:
    """Ends the command with status 1 when some `what` failed, the first of them with `error`."""
    from ken.cli.plain import plain

    if failed:
        problem = " ".join(plain(error).split())
        typer.echo(f"\nken: {failed} {what} failed ({problem}); the same command tries them again", err=True)
        raise typer.Exit(1)
