"""`ken audit feasibility`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ken.cli import options
from ken.cli.progress import counting, exit_if_failed, resumable
from ken.core.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from ken.auditing.feasibility import FeasibilityReport, Tables


@options.with_model_options
def feasibility(  # noqa: PLR0917 (typer reads the options from the signature)
    questions: Annotated[
        Path | None, typer.Option(help="One {question, answerable} a line, or SelfAware's file; a reason may be given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder for feasibility.json.")] = None,
    model: options.Model = "",
    samples: Annotated[int, typer.Option(min=1, help="Judgements of every task.")] = 8,
    made_up: Annotated[
        int, typer.Option(min=0, help="The model makes up so many tasks too, half of each kind; 0: none.")
    ] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    temperature: options.Temperature = 1.0,
    max_tokens: options.MaxTokens = 512,
    seed: options.Seed = 0,
    **model_options: Any,
) -> None:
    """Measure whether a model judges rightly what it can do: verdicts on tasks that are known to be feasible or not.

    Nothing is trained (KnowRL's evaluation). An interrupted run goes on when the same command is given again. Exit
    status: 0 when every judgement was made, 1 when some failed, 2 when the input cannot be used or the model does not
    answer, 130 when it was interrupted.
    """
    if questions is None or out is None or not model:
        raise BadInput(
            "judging feasibility needs --questions FILE, --model SPEC and --out DIR (each may stand in ken.toml)"
        )
    from rich.console import Console

    from ken.auditing.feasibility import audit_feasibility
    from ken.core.answerable import read_answerable

    with resumable("what was judged"), counting("tasks") as on_progress:
        report = audit_feasibility(
            list(islice(read_answerable(questions), limit)),
            model=model,
            out=out,
            samples=samples,
            made_up=made_up,
            sampling=options.sampling(temperature, max_tokens, seed),
            on_progress=on_progress,
            **model_options,
        )
    console = Console(highlight=False)
    show(console, report)
    console.print(f"\n{out / 'feasibility.json'}  the numbers", soft_wrap=True, markup=False)
    first = report.given.error or (report.made_up.error if report.made_up else "")
    exit_if_failed(report.failed, "judgements", first)


def show(console: Console, report: FeasibilityReport) -> None:
    """The confusion of verdicts and labels, and the types, of given and of made-up tasks."""
    from rich.text import Text

    from ken.cli.plain import plain

    settings = report.settings
    title = f"{settings.model}: {report.given.tasks} given tasks, judged {settings.samples} times each"
    console.print(Text(plain(title), style="bold"))
    _show(console, report.given)
    if report.made_up is not None:
        text = f"\n{report.made_up.tasks} tasks of its own, against the kind that it was asked for (no truth)"
        console.print(Text(text, style="bold"))
        _show(console, report.made_up)


def _show(console: Console, tables: Tables) -> None:
    from rich.table import Table

    from ken.cli.plain import plain

    s = tables.single
    confusion = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    confusion.add_column("label", no_wrap=True)
    for heading in ("judged feasible", "judged infeasible", "unreadable"):
        confusion.add_column(heading, justify="right")
    confusion.add_row("feasible", *map(str, (s.feasible_feasible, s.feasible_infeasible, s.unread_feasible)))
    confusion.add_row("infeasible", *map(str, (s.infeasible_feasible, s.infeasible_infeasible, s.unread_infeasible)))
    console.print(confusion)
    scores = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    scores.add_column("", no_wrap=True)
    for heading in ("accuracy", "macro F1", "F1 infeasible", "overconfident", "underconfident"):
        scores.add_column(heading, justify="right")
    for name, found in (("single", tables.single), ("majority", tables.voted)):
        numbers = (found.accuracy, found.macro_f1, found.f1_infeasible, found.overconfident, found.underconfident)
        scores.add_row(name, *(f"{number:.3f}" for number in numbers))
    console.print(scores)
    types = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    types.add_column("type")
    for heading in ("judgements", "right", "says feasible", "unreadable"):
        types.add_column(heading, justify="right")
    for name, found in tables.by_type.items():
        unread = found.unread_feasible + found.unread_infeasible
        types.add_row(plain(name), str(found.n), f"{found.accuracy:.3f}", f"{found.says_feasible:.3f}", str(unread))
    console.print(types)
