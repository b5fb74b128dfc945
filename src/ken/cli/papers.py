"""`ken papers` and `ken reproduce`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from ken.cli import options
from ken.core.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from ken.papers import Paper
    from ken.papers.paper import Entry
    from ken.papers.reproduce import Progress
    from ken.papers.results import Results
    from ken.papers.verdict import Judged

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]

_COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


class Papers(typer.core.TyperGroup):
    """`ken papers SLUG` beside the commands that a group has: what is no command is a paper."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command of `args`, or that which shows a paper, with all of them."""
        if (command := self.get_command(ctx, args[0])) is not None and not command.hidden:
            return super().resolve_command(ctx, args)
        return args[0], self.get_command(ctx, "show"), args


app = typer.Typer(
    cls=Papers,
    help="List the papers and which of them run; with SLUG, show its summary, arms, claims and last verdicts.",
    invoke_without_command=True,
    subcommand_metavar="[SLUG | COMMAND [ARGS]...]",
    rich_markup_mode=None,
)


@app.callback()
def papers(context: typer.Context, as_json: AsJson = False) -> None:
    """List the papers and which of them run; with SLUG, show its summary, arms, claims and last verdicts.

    Verdicts are read from results/SLUG.json in the working directory, papers of your own from papers.toml there.
    """
    context.obj = as_json
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("show", hidden=True)
def show(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="A paper of the list, or its number.")],
    as_json: AsJson = False,
) -> None:
    """Show a paper's summary, arms, claims and last verdicts."""
    _show(slug, as_json or context.obj)


def reproduce(  # noqa: PLR0917 (typer reads the options from the signature)
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="A paper that runs; see `ken papers`.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="How many (default 3; for --smoke 1).")] = None,
    seed_base: Annotated[
        int, typer.Option(min=0, help="The first seed: another than 0 checks on seeds that nobody tuned on.")
    ] = 0,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same code on a tiny budget; no verdicts, and no files without --out.")
    ] = False,
    arms: Annotated[
        str | None, typer.Option(help="Only these, separated by commas; `all` for the optional ones too.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a setting of the paper; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for SLUG.json (default: results).")] = None,
    ray: options.Ray = None,
    as_json: AsJson = False,
) -> None:
    """Run all arms of a paper on the same base and data, several seeds, and judge its claims.

    An interrupted reproduction goes on where it stopped when the same command is given again. Exit status: 0 when every
    arm has run, whatever the verdicts; 1 when an arm failed, 2 when the input cannot be used, 130 when it was
    interrupted.
    """
    from rich.console import Console

    from ken.papers.catalogue import load_paper
    from ken.papers.changes import parse_changes
    from ken.papers.reproduce import choose_arms, results_path
    from ken.papers.reproduce import reproduce as run

    paper = load_paper(slug)
    chosen = None if arms is None else [name.strip() for name in arms.split(",") if name.strip()]
    settings = parse_changes(changes or [])
    with _progress(paper, show_traceback=smoke and out is None) as on_progress:
        try:
            results = run(
                paper,
                seeds=seeds or (1 if smoke else 3),
                seed_base=seed_base,
                smoke=smoke,
                arms=chosen,
                settings=settings,
                out=out,
                ray=ray,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            kept = "finished arms are kept: give the same command again to go on"
            told = "nothing is kept of a smoke run" if smoke and out is None else kept
            typer.echo(f"ken: interrupted; {told}", err=True)
            sys.exit(130)
    if as_json:
        _print_json(json.loads(results.model_dump_json()))
    else:
        console = Console(highlight=False)
        show_results(console, paper, results)
        arms_run = choose_arms(paper, chosen)
        path = results_path(paper, arms_run, seed_base=seed_base, smoke=smoke, settings=settings, out=out)
        if path is not None:
            console.print(f"{path}  every number", soft_wrap=True, markup=False)
    if results.failed:
        for name, arm in results.arms.items():
            for seed, error in arm.errors.items():
                typer.echo(f"ken: arm {name} failed on seed {seed}: {error}", err=True)
        raise typer.Exit(1)


def _list(as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ken.papers.catalogue import entries, rows

    running = rows()
    listed = [(entry, *_state(entry, running)) for entry in entries().values()]
    if as_json:
        _print_json([entry.model_dump() | {"state": state, "verdicts": counts} for entry, state, counts in listed])
        return
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("no.", justify="right", no_wrap=True)
    cells = [
        (e.name, e.inside, e.outside, e.signal, "\n".join(f"{n} {word}" for word, n in counts.items()) or state)
        for e, state, counts in listed
    ]
    for place, heading in enumerate(("name", "inside", "outside", "signal", "state")):
        longest = max(len(word) for row in cells for word in row[place].split())
        # As wide as its longest word where it is short anyway, so that the three in the middle can share the rest.
        table.add_column(heading, width=longest if heading in ("name", "state") else None)
    for (entry, state, _), row in zip(listed, cells, strict=True):
        table.add_row(str(entry.number), *row, style="dim" if state == "planned" else None)
    Console(highlight=False).print(table)


def _state(entry: Entry, running: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """planned, runs, or verdicts with how many there are of each."""
    from ken.papers.standing import standing

    stands = standing(entry.slug, running)
    if stands.problem:
        raise BadInput(stands.problem)
    return stands.state, stands.verdicts


def _show(slug: str, as_json: bool) -> None:
    from rich.console import Console

    from ken.papers.catalogue import entry, load_paper, rows
    from ken.papers.results import read_results

    found = entry(slug)
    running = rows()
    if found.slug not in running:
        if as_json:
            _print_json(found.model_dump() | {"state": "planned", "composed": "", "arms": [], "claims": []})
        else:
            _show_entry(Console(highlight=False), found)
            typer.echo("\nplanned: it cannot be run yet")
        return
    paper, results = load_paper(found.slug), read_results(found.slug)
    if as_json:
        _print_json(
            found.model_dump()
            | {
                "state": _state(found, running)[0],
                "composed": _one_line(paper.summary),
                "arms": [{"name": arm.name, "text": arm.text, "optional": arm.optional} for arm in paper.arms],
                "claims": [_claim_fields(claim) for claim in paper.claims],
                "config": paper.full.model_dump(mode="json"),
                "results": json.loads(results.model_dump_json()) if results else None,
            }
        )
        return
    console = Console(highlight=False)
    _show_entry(console, found)
    console.print(f"\n{_one_line(paper.summary)}", markup=False)
    console.print("\narms", style="bold")
    _grid(console, [(arm.name, arm.text + (" (optional)" if arm.optional else "")) for arm in paper.arms])
    console.print("\nclaims", style="bold")
    if results is None:
        _grid(console, [(claim.kind, f"≥ {claim.margin:g}", claim.text) for claim in paper.claims])
        console.print(f"\nNot checked here yet; run: ken reproduce {paper.slug}", markup=False)
    else:
        _show_claims(console, results.claims)
        console.print(f"\n{_provenance(results)}", markup=False, style="dim")


def _claim_fields(claim: Any) -> dict[str, Any]:
    return {"text": claim.text, "kind": claim.kind, "margin": claim.margin, "note": claim.note}


def _show_entry(console: Console, entry: Entry) -> None:
    console.print(f"{entry.number:02} {entry.name}", style="bold", markup=False)
    console.print(f"{entry.title} (arXiv {entry.arxiv}, {entry.year})", markup=False)
    by = [entry.date, entry.authors and f"{entry.authors} author{'s'[: entry.authors > 1]}", entry.organisation]
    if about := ", ".join(part for part in by if part):
        console.print(about, markup=False, style="dim")
    if entry.summary:
        console.print(f"\n{entry.summary}\n", markup=False)
    fields = [(word, getattr(entry, word)) for word in ("inside", "outside", "signal", "code")]
    _grid(console, [(word, text) for word, text in fields if text])


def show_results(console: Console, paper: Paper[Any, Any], results: Results) -> None:
    """The table of the arms, and a verdict per claim."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"{paper.entry.name}: {_seeds(results)}, mean ± standard deviation", style="bold"))
    columns = paper.columns or tuple(dict.fromkeys(name for arm in results.arms.values() for name in arm.mean))
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for name, arm in results.arms.items():
        cells = [_spread(arm.mean.get(column), arm.std.get(column)) for column in columns]
        table.add_row(name, *cells, style="red" if arm.errors else None)
    console.print(table)
    console.print()
    _show_claims(console, results.claims)
    console.print(f"\n{_provenance(results)}", markup=False, style="dim")


def _show_claims(console: Console, claims: tuple[Judged, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("verdict", "kind"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "95% interval", "wanted"):
        table.add_column(heading, justify="right")
    table.add_column("claim")
    for claim in claims:
        low_high = f"{claim.interval[0]:.3f} to {claim.interval[1]:.3f}" if claim.interval else "–"
        table.add_row(
            Text(claim.verdict or "not judged", style=_COLOURS.get(claim.verdict or "", "dim")),
            claim.kind,
            "–" if claim.value is None else f"{claim.value:.3f}",
            low_high,
            f"≥ {claim.margin:g}",
            Text.assemble(claim.text, (f" ({claim.note})" if claim.note else "", "dim")),
        )
    console.print(table)


def _provenance(results: Results) -> str:
    words = [f"{results.wall_seconds / 60:.1f} min", str(results.machine.get("processor", ""))]
    words += [f"{name} {results.versions[name]}" for name in ("ken", "torch", "trl") if name in results.versions]
    return ", ".join(words)


def _seeds(results: Results) -> str:
    first, last = results.seeds[0], results.seeds[-1]
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _spread(mean: float | None, std: float | None) -> str:
    """Breaks before the ±, where a table is too narrow for one line."""
    return "–" if mean is None else f"{mean:.3f}" if std is None else f"{mean:.3f} ±{std:.3f}"


def _grid(console: Console, rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(Text("  " + row[0], no_wrap=True), *map(Text, row[1:]))
    console.print(table)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def _progress(paper: Paper[Any, Any], *, show_traceback: bool) -> Iterator[Callable[[Progress], None]]:
    """A callback for `reproduce`: a line for every arm that ends and, where there is a terminal, a bar below them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def update(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, description=progress.now)
            if (run := progress.ended) is not None:
                bench = f" and {run.bench_seconds:.0f} s for the bench" if run.bench_seconds >= 1 else ""
                how = f"FAILED: {run.error}" if run.error else f"{run.seconds:.0f} s{bench}"
                console.print(f"{paper.slug} seed {run.seed} {run.arm}: {how}", markup=False, soft_wrap=True)
                if run.error and show_traceback:
                    console.print(run.traceback, markup=False, soft_wrap=True)
            elif not progress.now and progress.done and progress.done < progress.total:
                console.print(f"{progress.done} of {progress.total} runs were made before", markup=False)

        yield update
