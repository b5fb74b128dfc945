"""`ken audit reading`."""

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

    from ken.auditing.reading_report import ReadingReport
    from ken.core import Passage, Question

_OPTIONAL = ("base_url", "api_key", "concurrency", "timeout")


@options.with_model_options
def reading(  # noqa: PLR0917 (typer reads the options from the signature)
    documents: Annotated[
        Path | None, typer.Option(metavar="DIR|FILE", help="Long documents: a folder of md, txt, html and pdf, or one.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Questions about them, in LaRA's format; without, they are written."),
    ] = None,
    lara: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A copy of LaRA's repository, instead of documents and questions."),
    ] = None,
    lengths: Annotated[str, typer.Option(help="Of LaRA's contexts, separated by commas.")] = "32k,128k",
    model: options.Model = "",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder for reading.json.")] = None,
    modes: Annotated[str, typer.Option(help="lc (whole documents), rag (chunks), or both.")] = "lc,rag",
    writer: Annotated[
        str, typer.Option(metavar="SPEC", help="This model writes the questions; default: the one that is asked.")
    ] = "",
    per_task: Annotated[int, typer.Option(min=1, help="Questions to be written of each of the four tasks.")] = 40,
    chunks: Annotated[
        str, typer.Option(help="How many chunks are retrieved; several, with commas, make a sweep.")
    ] = "5",
    chunk_words: Annotated[str, typer.Option(help="Words of a chunk; several make a sweep.")] = "450",
    overlap: Annotated[int, typer.Option(min=0, help="Words that two chunks share.")] = 75,
    dense: Annotated[
        str, typer.Option(metavar="MODEL", help="Retrieve by vectors of this sentence-transformers model too.")
    ] = "",
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the chunks, found by vectors.")] = 0.5,
    reranker: Annotated[str, typer.Option(metavar="MODEL", help="A cross-encoder that orders what was found.")] = "",
    judge: Annotated[
        str, typer.Option(metavar="SPEC", help="This model says which answers are right, beside the rule.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what it would cost.")] = False,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = 1024,
    seed: options.Seed = 0,
    **model_options: Any,
) -> None:
    """Measure whether a model should read long documents whole or in retrieved chunks, and say which (LaRA's
    benchmark).

    On your documents, with questions that a model writes about them, or on LaRA's own data. An interrupted run goes on
    when the same command is given again. Exit status: 0 when every question was answered, 1 when some calls failed, 2
    when the input cannot be used or the model does not answer, 130 when it was interrupted.
    """
    if (documents is None) == (lara is None) or out is None or not model:
        raise BadInput(
            "this needs --documents DIR (or --lara DIR), --model SPEC and --out DIR (each may stand in ken.toml)"
        )
    from rich.console import Console

    from ken.auditing.reading import REPORT, ROUTING, audit_reading
    from ken.auditing.reading import estimate as estimated
    from ken.core.long_documents import read_long_questions
    from ken.models import load_model
    from ken.sources.search.documents import read_documents

    own = {name: value for name, value in model_options.items() if name in _OPTIONAL or model.startswith("hf/")}
    loaded = load_model(model, **model_options)
    if lara is not None:
        asked, texts = _of_lara(lara, lengths)
    else:
        assert documents is not None
        texts = {document.id: document for document in read_documents(documents)}
        written = questions or out.with_name(f"{out.name}-questions.jsonl")
        if questions is None and not written.is_file():
            _write(list(texts.values()), load_model(writer, **own) if writer else loaded, written, per_task, seed)
        asked = list(read_long_questions(written))
    asked = list(islice(asked, limit))
    kinds = [m.strip() for m in modes.split(",") if m.strip()]
    numbers, sizes = _numbers("--chunks", chunks), _numbers("--chunk-words", chunk_words)
    cost = estimated(asked, texts, model=loaded, modes=kinds, chunks=numbers, chunk_words=sizes)  # type: ignore[arg-type]
    about = "" if cost.exact else "about "
    typer.echo(
        f"{len(asked)} questions, {cost.calls} calls, {about}{cost.tokens:,} tokens of prompts; "
        f"{cost.truncated} answers will see a document without its middle",
        err=True,
    )
    if estimate:
        return
    with resumable("what was answered"), counting("answers") as on_progress:
        report = audit_reading(
            asked,
            texts,
            model=loaded,
            out=out,
            modes=kinds,  # type: ignore[arg-type]
            chunks=numbers,
            chunk_words=sizes,
            overlap=overlap,
            dense=dense or None,
            share=share,
            reranker=reranker or None,
            judge=judge or None,
            judge_options=own,
            sampling=options.sampling(temperature, max_tokens, seed),
            on_progress=on_progress,
        )
    console = Console(highlight=False)
    show(console, report)
    console.print(f"\n{out / REPORT}  the numbers", soft_wrap=True, markup=False)
    if report.gaps:
        console.print(f"{out / ROUTING}  for `ken ask --strategy router:…`", soft_wrap=True, markup=False)
    exit_if_failed(report.failed, "calls", report.error)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise BadInput(f"{option} is {text!r}; give whole numbers separated by commas") from error


def _of_lara(root: Path, lengths: str) -> tuple[list[Question], dict[str, Passage]]:
    from ken.cli.plain import plain
    from ken.core import Passage
    from ken.core.long_documents import lara_document, lara_questions

    missing: list[str] = []
    asked = lara_questions(root, tuple(n.strip() for n in lengths.split(",") if n.strip()), missing)
    if missing:
        typer.echo(f"left out, since the files are not there: {plain(', '.join(missing))}", err=True)
    if not asked:
        raise BadInput(f"{root} holds no questions about contexts of {lengths}; LaRA has 32k and 128k")
    texts: dict[str, Passage] = {}
    for question in asked:
        m = question.meta
        key = f"{m['length']}/{m['type']}/{m['file']}"
        if key not in texts:
            path = lara_document(root, question)
            texts[key] = Passage(id=key, text=path.read_text(encoding="utf-8", errors="replace"), source=str(path))
    return asked, texts


def _write(documents: list[Passage], writer: Any, path: Path, per_task: int, seed: int) -> None:
    from ken.auditing.reading import written_questions

    typer.echo(f"writing questions into {path}; look them over", err=True)
    with counting("documents") as on_progress:
        lines = written_questions(documents, writer, path, per_task=per_task, seed=seed, on_progress=on_progress)
    for line in lines:
        typer.echo(line, err=True)


def show(console: Console, report: ReadingReport) -> None:
    """The matrix, the gaps with what they advise, the position profile, and who should choose."""
    from rich.text import Text

    from ken.cli.plain import plain
    from ken.core.long_documents import TASKS

    judge = f"judged by {report.judge}" if report.judge else "judged by rule"
    console.print(Text(plain(f"{report.model}: {report.questions} questions, {judge}; accuracy"), style="bold"))
    table = _table("length", "shown", "loc", "reas", "comp", "hallu", "overall", "95%")
    for s in report.scores:
        tasks = (f"{s.tasks[t]:.3f}" if t in s.tasks else "–" for t in TASKS)
        shown = "whole" if s.variant.mode == "lc" else f"{s.variant.chunks} × {s.variant.words} words"
        interval = f"{s.overall.low:.3f} to {s.overall.high:.3f}"
        table.add_row(plain(s.length), shown, *tasks, f"{s.overall.estimate:.3f}", interval)
    console.print(table)
    if report.gaps:
        console.print(Text("\nWhole less retrieved", style="bold"))
        table = _table("length", "task", "gap", "95%", "questions", "read it")
        for row in report.gaps:
            interval = f"{row.gap.low:+.3f} to {row.gap.high:+.3f}"
            advice = {"lc": "whole", "rag": "in chunks"}.get(row.advice, row.advice)
            table.add_row(plain(row.length), row.task, f"{row.gap.estimate:+.3f}", interval, str(row.questions), advice)
        console.print(table)
    if report.routers:
        console.print(Text("\nWho chooses, on documents that no routing was learnt from", style="bold"))
        table = _table("", "accuracy", "read whole", "tokens a question")
        for one in report.routers:
            table.add_row(one.chooser, f"{one.accuracy:.3f}", f"{one.whole:.3f}", f"{one.tokens:,.0f}")
        console.print(table)
    for length, modes in report.profile.items():
        told = "; ".join(
            f"{'whole' if mode == 'lc' else 'chunks'} " + " ".join(f"{value:.2f}" for value in parts.values())
            for mode, parts in modes.items()
        )
        if told:
            console.print(Text(plain(f"\nLocation by part at {length}: {told}")))
    notes = [f"{report.truncated:.1%} of whole documents lost their middle ({report.left_out:.1%} of their text)."]
    notes += [f"{report.empty} answers are missing and count as wrong."] if report.empty else []
    notes += [f"Cohen's kappa of the two judges: {report.kappa:.3f}."] if report.kappa is not None else []
    notes += [f"{report.unreadable} verdicts could not be read and count as wrong."] if report.unreadable else []
    for mode, share in report.refused.items():
        name = "whole" if mode == "lc" else "in chunks"
        used = f"{report.tokens[mode]:,.0f} tokens and {report.seconds[mode]:.1f} s a question"
        notes.append(f"Read {name}: {used}, {share:.1%} of what has an answer was refused.")
    console.print(Text("\n" + " ".join(notes)))


def _table(*headings: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        words = number == 0 or heading in {"shown", "task", "read it"}
        table.add_column(heading, justify="left" if words else "right")
    return table
