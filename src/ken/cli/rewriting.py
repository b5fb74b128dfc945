"""`ken audit rewriting`."""

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

    from ken.auditing.rewriting import RewritingReport
    from ken.metrics import Interval


@options.with_model_options
def rewriting(  # noqa: PLR0917 (typer reads the options from the signature)
    conversations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Conversations with gold passages: TopiOCQA or QReCC.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The gold passages of TopiOCQA, where it keeps them apart.")
    ] = None,
    index: options.Index = "",
    model: options.Model = "",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder for rewriting.json.")] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="bm25|dense|hybrid", help="Default: hybrid where there are vectors.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rewrites of every turn; more than one need a temperature.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many turns.")] = None,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = 1024,
    seed: options.Seed = 0,
    **model_options: Any,
) -> None:
    """Measure how well a model rewrites the queries of conversations: where a search with its rewrites puts the gold
    passages, beside the query as it was asked, all that was said, and a person's rewrite where the file has one.

    Nothing is trained (ConvSearch-R1's evaluation). An interrupted run goes on when the same command is given again.
    Exit status: 0 when every turn was rewritten, 1 when some failed, 2 when the input cannot be used or model or search
    engine do not answer, 130 when it was interrupted.
    """
    if conversations is None or out is None or not model or not index:
        raise BadInput(
            "judging rewrites needs --conversations FILE, --index DIR|URL, --model SPEC and --out DIR (each may stand "
            "in ken.toml)"
        )
    from rich.console import Console

    from ken.auditing.rewriting import REPORT, audit_rewriting
    from ken.core.conversation import read_turns

    with resumable("what was rewritten"), counting("turns and searches") as on_progress:
        report = audit_rewriting(
            list(islice(read_turns(conversations, gold=gold), limit)),
            model=model,
            index=index,
            out=out,
            mode=mode,  # type: ignore[arg-type]
            samples=samples,
            sampling=options.sampling(temperature, max_tokens, seed),
            on_progress=on_progress,
            **model_options,
        )
    console = Console(highlight=False)
    show(console, report)
    console.print(f"\n{out / REPORT}  the numbers", soft_wrap=True, markup=False)
    exit_if_failed(report.failed, "turns", report.error)


def show(console: Console, report: RewritingReport) -> None:
    """Scores of every kind of query, over all turns and by depth, and what became of the rewrites."""
    from rich.table import Table
    from rich.text import Text

    from ken.cli.plain import plain

    settings = report.settings
    drawn = "greedy" if not settings.sampling.temperature else f"temperature {settings.sampling.temperature:g}"
    many = "one rewrite" if settings.samples == 1 else f"{settings.samples} rewrites"
    title = f"{settings.model}: {report.turns:,} turns, {many} each, {drawn}"
    console.print(Text(plain(title), style="bold"))
    for note in notes(report):
        console.print(Text(plain(note), style="yellow"))
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("query", no_wrap=True)
    for heading in ("turns", "MRR", "NDCG@3", "R@5", "R@10", "R@20", "R@100", "MRR against raw"):
        table.add_column(heading, justify="right")
    for query in report.queries:
        s = query.whole.scores
        numbers = (s.mrr, s.ndcg_3, s.r_5, s.r_10, s.r_20, s.r_100)
        gain = _gain(query.whole.gain)
        table.add_row(query.kind, f"{query.whole.turns:,}", *(f"{number:.3f}" for number in numbers), gain)
    console.print(table)

    depths = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("depth", "turns", *(query.kind for query in report.queries), "rewrite against raw"):
        depths.add_column(heading, justify="right", no_wrap=True)
    raw, rewrite = report.of("raw"), report.of("rewrite")
    for depth, scored in raw.by_depth.items() if raw else ():
        of = [query.by_depth.get(depth) for query in report.queries]
        mine = rewrite.by_depth.get(depth) if rewrite else None
        cells = ("–" if found is None else f"{found.scores.mrr:.3f}" for found in of)
        depths.add_row(str(depth), f"{scored.turns:,}", *cells, _gain(mine.gain if mine else {}))
    console.print("\nMRR by depth in the conversation", style="bold")
    console.print(depths)
    if report.rewrites:
        words = ", ".join(f"{query.words:.0f} {query.kind}" for query in report.queries)
        console.print(
            f"\nOf {report.rewrites:,} rewrites {report.malformed:,} broke the form; {report.without:,} held none, so "
            f"that the query\nitself was searched. Words in a query: {words}.",
            markup=False,
        )


def notes(report: RewritingReport) -> list[str]:
    """What a reader must know to read the numbers."""
    from ken.auditing.rewriting import MAX_WORDS
    from ken.sources.search.ranks import left_out_note

    cut = ", ".join(f"{query.cut:,} {query.kind}" for query in report.queries if query.cut)
    found = [
        left_out_note(report.left_out, report.turns),
        f"Queries that were cut to {MAX_WORDS} words: {cut}." if cut else "",
        f"{report.failed:,} turns have no rewrite, because the model did not answer; the row `rewrite` is without them."
        if report.failed
        else "",
    ]
    return [note for note in found if note]


def _gain(gain: dict[str, Interval]) -> str:
    if not gain:
        return ""
    mrr = gain["mrr"]
    return f"{mrr.estimate:+.3f} [{mrr.low:+.3f}, {mrr.high:+.3f}]"
