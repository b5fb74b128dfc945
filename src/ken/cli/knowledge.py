"""`ken audit knowledge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ken.auditing.knowledge import KnowledgeReport
    from ken.metrics import Interval


def knowledge(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of an audit of self-questioning.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Tell what a model lacked from what it had but did not use: which errors its own answers repair, and which only
    documents do.

    No model is called. The audit needs the strategies self-questioning, self-questioning-raw and
    self-questioning-search (and -questions, -placebo, -cot if wanted) on questions with accepted answers, or on pairs
    of texts (a csv file with text_a, text_b, label).
    """
    from rich.console import Console

    from ken.auditing.knowledge import measure_knowledge

    report = measure_knowledge(out)
    if as_json:
        typer.echo(json.dumps(report.model_dump(mode="json"), indent=2))
    else:
        show(Console(highlight=False), report)


def show(console: Console, report: KnowledgeReport) -> None:
    """The errors under each condition, and the shares."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"{report.questions} questions that every variant attempted", style="bold"))
    for note in report.notes:
        console.print(Text(note, style="yellow"))
    pairs = any(condition.pairs for condition in report.conditions)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("variant", no_wrap=True)
    for heading in ("errors", *(("misjudged", "missed", "balanced") if pairs else ()), "words of the prompt"):
        table.add_column(heading, justify="right")
    for c in report.conditions:
        of_pairs = [c.pairs.misjudge, c.pairs.miss, c.pairs.balanced_accuracy] if c.pairs else []
        numbers = ["–" if number is None else f"{number:.3f}" for number in (c.error, *of_pairs)]
        table.add_row(c.mode, *numbers, f"{c.words:.0f}")
    console.print(table)
    for name, meaning in _SHARES.items():
        share: Interval | None = getattr(report.shares, name)
        if share is not None:
            console.print(Text(f"{name} {share.estimate:.2f} [{share.low:.2f}, {share.high:.2f}]  {meaning}"))


_SHARES = {
    "unused": "of the repaired errors the model's own answers repair: known, and not used",
    "missing": "only documents repair: not known",
    "cue": "the questions alone repair",
}
