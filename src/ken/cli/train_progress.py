"""What `ken train` shows: how it goes, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ken.papers.train import Listener, Trained


def library() -> Any:
    """Loaded late, since it loads torch."""
    from importlib.util import find_spec

    from ken.core.errors import Unsupported

    if missing := [name for name in ("torch", "transformers", "trl", "accelerate", "datasets") if not find_spec(name)]:
        raise Unsupported(f"training needs {', '.join(missing)}; install with: pip install 'ken[train]'")
    import ken.papers.train

    return ken.papers.train


@contextmanager
def listening() -> Iterator[Listener]:
    """A bar with reward and searches where there is a terminal; notes and alarms as lines above it."""
    library()
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ken.cli.plain import plain
    from ken.papers.train import Listener

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, numbers="")

        def on_progress(progress: Any) -> None:
            if bar.tasks[task].description != progress.stage:
                bar.reset(task)
            numbers = ", ".join(
                f"{name} {progress.statistics[name]:.2f}"
                for name in ("reward", "searches", "says_yes", "loss")
                if name in progress.statistics
            )
            bar.update(task, description=progress.stage, completed=progress.step, total=progress.steps, numbers=numbers)

        def say(text: str, style: str = "") -> None:
            _line(console, plain(text), style)

        yield Listener(on_progress, say, lambda alarm: say(f"ALARM {alarm}", "red"))


def _line(console: Console, text: str, style: str) -> None:
    console.print(" ".join(text.split()), style=style or None, markup=False, soft_wrap=True)


def finish(trained: Trained) -> None:
    """Where the model is, how the statistics of each stage went, what is to be known of it, and what to do next."""
    from rich.console import Console

    from ken.cli.plain import plain
    from ken.papers.recipes import recipe_of

    console = Console(highlight=False)
    for stage, log in trained.logs.items():
        if log.history:
            first, last = (_mean(entries) for entries in (log.history[:5], log.history[-5:]))
            changes = ", ".join(f"{name} {first[name]:.2f} → {last[name]:.2f}" for name in first if name in last)
            console.print(f"{stage}: {len(log.history)} steps, {changes}", markup=False, soft_wrap=True)
        for note in log.notes:
            _line(console, plain(f"{stage}: {note}"), "yellow")
    console.print(f"{trained.model}  the model; how it went is in {_course(trained.out)}", soft_wrap=True)
    settings = trained.settings
    then = recipe_of(settings.paper).next_command(settings.index)
    shown = then.format_map({**settings.options, "model": trained.model, "index": settings.index})
    console.print(f"Try: {shown}", soft_wrap=True, markup=False)


def _course(out: Path) -> Path:
    """The file with the statistics of the last stage: of its steps, or where it has rounds, of these."""
    rounds = out / "rounds.jsonl"
    return rounds if rounds.is_file() else out / "metrics.jsonl"


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    """What the first or the last steps were like."""
    shown = ("reward", "searches", "says_yes", "zero_variance", "loss")
    return {
        name: sum(entry[name] for entry in entries) / len(entries)
        for name in shown
        if all(name in entry for entry in entries)
    }
