"""`ken verify`."""

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

    from ken.auditing.verification import VerifyReport, VerifyScores


@options.with_model_options
def verify(  # noqa: PLR0917 (typer reads the options from the signature)
    file: Annotated[
        Path | None,
        typer.Argument(
            help="One {question, answer, response} a line, or VerifyBench's fields; gold_ans, question_type if known."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder for verification.json.")] = None,
    model: options.Model = "",
    by: Annotated[
        str | None,
        typer.Option(
            help="tools (code and unit conversion), think or label, by the model; rule, numeric or exact, without one."
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Judgements of every item; most of them count.")] = 1,
    max_turns: Annotated[int, typer.Option(min=1, help="Of the model, in one judgement with tools.")] = 5,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="0 is greedy. Default: 0 for one judgement, 0.6 for several.")
    ] = None,
    max_tokens: options.MaxTokens = 4096,
    seed: options.Seed = 0,
    **model_options: Any,
) -> None:
    """Check answers against references, with a model that may compute, or by rules; and how well that goes.

    Each response is judged Correct or Incorrect (CoSineVerifier's loop); where labels are known, accuracy and recall
    are printed by type. An interrupted run goes on when the same command is given again. Exit status: 0 when every
    judgement was made, 1 when some failed, 2 when the input cannot be used or the model does not answer, 130 when it
    was interrupted.
    """
    if file is None or out is None:
        raise BadInput(
            "verifying needs FILE and --out DIR, and --model SPEC or --by rule (options may stand in ken.toml)"
        )
    from rich.console import Console

    from ken.agents.verifiers import SAMPLING
    from ken.auditing.verification import read_items, verify_file

    method = by or ("tools" if model else "rule")
    warm = (SAMPLING.temperature if k > 1 else 0.0) if temperature is None else temperature
    with resumable("what was judged"), counting("items") as on_progress:
        report = verify_file(
            list(islice(read_items(file), limit)),
            model=model,
            method=method,
            out=out,
            votes=k,
            max_turns=max_turns,
            sampling=options.sampling(warm, max_tokens, seed).but(top_p=SAMPLING.top_p if warm else 1.0),
            on_progress=on_progress,
            **model_options,
        )
    console = Console(highlight=False)
    show(console, report)
    console.print(f"\n{out / 'verification.json'}  the numbers", soft_wrap=True, markup=False)
    exit_if_failed(report.failed, "judgements", report.error)


def show(console: Console, report: VerifyReport) -> None:
    """Accuracy and recall, overall and by type, and what a judgement cost."""
    from rich.table import Table
    from rich.text import Text

    from ken.cli.plain import plain

    settings = report.settings
    times = f", judged {settings.votes} times each" if settings.votes > 1 else ""
    who = f"{settings.model} by {settings.method}" if settings.model else f"by {settings.method}"
    console.print(Text(plain(f"{who}: {report.items} items{times}"), style="bold"))
    if report.all is None:
        console.print("No labels are known, so nothing can be said of how right this is.")
    else:
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("type")
        for heading in ("items", "accuracy", "majority", "recall", "false +", "false -"):
            table.add_column(heading, justify="right")
        rows = {"all": report.all, **(report.by_type if len(report.by_type) > 1 else {})}
        for name, scores in rows.items():
            table.add_row(plain(name), *_row(scores))
        console.print(table)
    cost = f"{report.tokens:.1f} tokens and {report.calls:.2f} tool calls a judgement; " if settings.model else ""
    unread = f"; {report.unread:.1%} of the judgements held no label" if report.unread else ""
    console.print(f"{cost}{report.correct:.1%} called correct{unread}")


def _row(scores: VerifyScores) -> tuple[str, ...]:
    numbers = (scores.accuracy, scores.voted, scores.recall, scores.false_positives, scores.false_negatives)
    return (str(scores.n), *("-" if number is None else f"{number:.3f}" for number in numbers))
