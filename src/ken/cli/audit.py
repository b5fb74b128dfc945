"""`ken audit` and `ken audit rescore`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ken.cli import options
from ken.cli.progress import counting, resumable
from ken.core.errors import BadInput, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from ken.auditing import AuditReport, Progress
    from ken.auditing.report import SourceNeeds

app = typer.Typer(
    help="Measure what a model knows, when it searches, and which searches were needed.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
@options.with_model_options
def audit(  # noqa: PLR0917 (typer reads the options from the signature)
    context: typer.Context,
    questions: Annotated[
        Path | None, typer.Option(help="FlashRAG, HotpotQA or MuSiQue file, or a .txt with one question a line.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder for trajectories.jsonl, audit.json and audit.html.")
    ] = None,
    index: options.Index = "",
    model: options.Model = "",
    strategies: Annotated[
        str, typer.Option(help="Separated by commas; see `ken ask --help`.")
    ] = "direct,rag,search,adaptive",
    samples: Annotated[
        int, typer.Option(min=0, help="Closed-book samples per question that tell what the model knows.")
    ] = 8,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of right samples from which it knows.")
    ] = 0.5,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    top_k: options.TopK = 3,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip broken lines of the questions, and say how many.")
    ] = False,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = 512,
    seed: options.Seed = 0,
    judge: Annotated[
        str,
        typer.Option(metavar="SPEC", help="This model says of answers that equal no gold whether they are right."),
    ] = "",
    judge_base_url: Annotated[str | None, typer.Option(help="For openai/…; default: as for the model.")] = None,
    judge_api_key: Annotated[
        str | None, typer.Option(help="For openai/… at --judge-base-url; default: $OPENAI_API_KEY.")
    ] = None,
    ray: options.Ray = None,
    graph: options.Graph = "",
    **model_options: Any,
) -> None:
    """Measure what a model knows, when it searches, and which searches were needed, wasted, missed or harmful.

    An interrupted audit goes on where it stopped when the same command is given again. Exit status: 0 when every
    question was attempted, 1 when some attempts failed, were not made (they are listed) or not judged, 2 when the input
    cannot be used, 130 when it was interrupted.
    """
    if context.invoked_subcommand is not None:
        return
    if questions is None or out is None or not model:
        raise BadInput("an audit needs --questions FILE, --model SPEC and --out DIR (each may stand in ken.toml)")

    import ken
    from ken.cli.plain import plain
    from ken.core.readers import read_questions

    bad: list[DataError] = []
    asked = list(read_questions(questions, bad=bad if skip_bad else None))[:limit]
    if bad:
        typer.echo(f"skipped {len(bad):,} broken lines, the first: {plain(str(bad[0]))}", err=True)
    with resumable("what was answered"), progress_bar() as on_progress:
        report = ken.audit(
            asked,
            model=model,
            out=out,
            index=index or None,
            strategies=strategies,
            samples=samples,
            threshold=threshold,
            top_k=top_k,
            sampling=options.sampling(temperature, max_tokens, seed),
            judge=judge or None,
            judge_options=_of_judge(judge, judge_base_url, judge_api_key, model_options),
            ray=ray,
            graph=graph or None,
            on_progress=on_progress,
            **model_options,
        )
    finish(report, out)


def _of_judge(judge: str, base_url: str | None, api_key: str | None, of_model: dict[str, Any]) -> dict[str, Any]:
    """The options of the judge. At the model's address it has the model's; a key is never sent to another address."""
    if not judge.startswith("openai/"):
        if base_url or api_key:
            raise BadInput("--judge-base-url and --judge-api-key are for a judge of the form openai/NAME")
        return {name: of_model[name] for name in ("device",) if name in of_model and judge.startswith("hf/")}
    names = ("concurrency", "timeout", *(("base_url", "api_key") if base_url is None else ()))
    return {name: of_model[name] for name in names if name in of_model} | options.given(
        base_url=base_url, api_key=api_key
    )


@app.command()
def rescore(out: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of an audit.")]) -> None:
    """Measure an audit again from its trajectories, without calling a model; exit status as for `ken audit`."""
    import ken

    finish(ken.rescore(out), out)


def finish(report: AuditReport, out: Path) -> None:
    """Print the table, the failures and where the files are; exit with status 1 when attempts failed or are missing."""
    from rich.console import Console

    from ken.cli.plain import plain

    console = Console(highlight=False)
    show_report(console, report)
    console.print(
        f"\n{out / 'audit.html'}  the report   {out / 'audit.json'}  the numbers", soft_wrap=True, markup=False
    )
    if report.failures:
        typer.echo(f"\nken: {report.failed} attempts failed; `ken audit` as before tries them again:", err=True)
        for identifier, strategy, error in report.failures[:10]:
            typer.echo(f"  {plain(identifier)} ({strategy}): {' '.join(plain(error).split())}", err=True)
        if report.failed > 10:
            typer.echo(f"  and {report.failed - 10} more, all in {out / 'audit.json'}", err=True)
    if report.unjudged:
        typer.echo(f"\nken: {report.unjudged} answers were not judged; `ken audit` as before asks again", err=True)
    if report.failures or report.unasked or report.unjudged:
        raise typer.Exit(1)


def show_report(console: Console, report: AuditReport) -> None:
    """The table of an audit."""
    from rich.table import Table
    from rich.text import Text

    from ken.cli.plain import plain

    known = "" if report.known is None else f", of which the model can answer {report.known:.0%} alone"
    console.print(Text(plain(f"{report.settings.model}: {report.questions} questions{known}"), style="bold"))
    for note in report.notes:
        console.print(Text(plain(note), style="yellow"))
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    for heading in (
        "EM",
        "F1",
        "lookups" if report.other_sources else "searches",
        "F1_aware",
        "needed",
        "wasted",
        "missed",
        "harmful",
        "saved",
        "tokens",
    ):
        table.add_column(heading, justify="right")
    for s in report.strategies:
        boundary = s.boundaries[0] if s.boundaries else None
        uses = [
            str(getattr(boundary.use, name)) if boundary else "–"
            for name in ("needed", "wasted", "missed", "harmful", "saved")
        ]
        table.add_row(
            s.strategy,
            _number(s.em),
            _number(s.f1),
            _number(s.cost.lookups if s.cost else None, 2),
            _number(boundary.aware.f1 if boundary else None),
            *uses,
            _number(s.cost.prompt_tokens + s.cost.completion_tokens if s.cost else None, 0),
        )
    console.print(table)
    if best := [t.strategy for t in sorted(report.tradeoffs, key=lambda t: t.tokens) if t.best]:
        console.print(Text(plain(f"most accurate for their tokens: {', '.join(best)}"), style="dim"))
    if report.sources is not None:
        _show_sources(console, report.sources)
    if report.settings.judge:
        _show_judged(console, report)


def _show_sources(console: Console, sources: SourceNeeds) -> None:
    """What the questions needed, and how well each strategy chose."""
    from rich.table import Table
    from rich.text import Text

    from ken.cli.plain import plain

    console.print(Text("\nchose first, against what the question needed", style="bold"))
    needs = [need for need, count in sources.needed.items() if count]
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    table.add_column("chose", no_wrap=True)
    for heading in needs:
        table.add_column(heading, justify="right")
    for name, found in sources.strategies.items():
        for choice, row in found.table.items():
            if any(row.values()):
                table.add_row(plain(name), choice, *(str(row[need]) for need in needs))
    console.print(table)


def _show_judged(console: Console, report: AuditReport) -> None:
    """Accuracy by the judge, beside what exact match says."""
    from rich.table import Table
    from rich.text import Text

    from ken.cli.plain import plain

    console.print(Text(plain(f"\njudged by {report.settings.judge}"), style="bold"))
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    for heading in ("EM", "judged", "95% interval", "over direct", "unread", "missing"):
        table.add_column(heading, justify="right")
    for s in report.strategies:
        j = s.judged
        if j is None:
            table.add_row(s.strategy, _number(s.em), *"–––––")
            continue
        interval = f"[{j.interval.low:.3f}, {j.interval.high:.3f}]" if j.interval else "–"
        gain = f"{j.gain.estimate:+.3f} [{j.gain.low:+.3f}, {j.gain.high:+.3f}]" if j.gain else ""
        table.add_row(
            s.strategy, _number(s.em), _number(j.accuracy), interval, gain, str(j.unreadable), str(j.unjudged)
        )
    console.print(table)


def _number(value: float | None, places: int = 3) -> str:
    return "–" if value is None else f"{value:.{places}f}"


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """A callback for `ken.audit`, drawn as a bar."""
    with counting("attempts") as count:
        yield lambda p: count(p.done, p.total, f", {p.failed} failed" if p.failed else "", p.what)
