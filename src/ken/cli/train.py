"""`ken train`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ken.cli import options
from ken.core.errors import BadInput, SourceError, TrainingError

if TYPE_CHECKING:
    from rich.console import Console

    from ken.papers.train import Listener, Trained

_BESIDE = {"paper", "model", "questions", "index", "out", "resume", "device", "log_to", "limit"}


def train(  # noqa: PLR0917 (typer reads the options from the signature)
    context: typer.Context,
    paper: Annotated[str | None, typer.Argument(metavar="[PAPER]", help="search-r1, adasearch or ikea.")] = None,
    model: options.Model = "",
    questions: Annotated[
        Path | None, typer.Option(help="FlashRAG, HotpotQA or MuSiQue file, with accepted answers.")
    ] = None,
    index: options.Index = "",
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The folder of the run; the model is RUN/model.")] = (
        None
    ),
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run; it knows its settings.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of reinforcement learning; of AdaSearch, of its first stage.")] = (
        None
    ),
    questions_per_step: Annotated[int | None, typer.Option(help="Questions drawn for a step.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Rollouts of a question.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps until it is reached.")] = None,
    kl: Annotated[float | None, typer.Option(help="Weight of the KL term.")] = None,
    minibatches: Annotated[int | None, typer.Option(help="Updates a step.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Rollouts of one forward pass, for memory.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Searches of a rollout at most.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="Passages per search.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most new tokens of one turn.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of rollouts.")] = None,
    algo: Annotated[str | None, typer.Option(help="Search-R1: grpo or ppo.")] = None,
    critic_lr: Annotated[float | None, typer.Option(help="Search-R1 with ppo: of the critic.")] = None,
    samples: Annotated[int | None, typer.Option(help="AdaSearch, IKEA: closed-book answers a question (K).")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="AdaSearch, IKEA: share of right ones from which it is known (tau).")
    ] = None,
    e2e: Annotated[bool | None, typer.Option("--e2e", help="AdaSearch: one stage instead of two.")] = None,
    decide_steps: Annotated[int | None, typer.Option(help="AdaSearch: steps of the second stage.")] = None,
    decide_questions: Annotated[int | None, typer.Option(help="AdaSearch: questions of a step there.")] = None,
    decide_lr: Annotated[float | None, typer.Option(help="AdaSearch: learning rate there.")] = None,
    decide_kl: Annotated[float | None, typer.Option(help="AdaSearch: weight of the KL term there.")] = None,
    verdicts: Annotated[int | None, typer.Option(help="AdaSearch: verdicts on a question there.")] = None,
    greedy_thoughts: Annotated[
        bool | None, typer.Option("--greedy-thoughts", help="AdaSearch, IKEA: sample only what follows the thought.")
    ] = None,
    replay_every: Annotated[
        int | None, typer.Option(help="AdaSearch: one closed-book group for so many verdicts; 0: none.")
    ] = None,
    balanced: Annotated[
        bool | None,
        typer.Option("--balanced", help="AdaSearch: as many known as unknown questions in the second stage."),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="IKEA: share of easy questions.")] = None,
    plus: Annotated[float | None, typer.Option(help="IKEA: bonus for a right answer without search.")] = None,
    minus: Annotated[float | None, typer.Option(help="IKEA: reward of a wrong answer after a search.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    max_failures: Annotated[int | None, typer.Option(help="Failed searches in a row that end the training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="For hf/…: sequences decoded at once.")] = None,
    vllm: Annotated[bool | None, typer.Option("--vllm", help="Rollouts by vLLM, on the GPUs that train.")] = None,
    vllm_memory: Annotated[float | None, typer.Option(help="Share of a GPU's memory that it may use.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = None,
    bf16: Annotated[bool | None, typer.Option("--bf16", help="Compute in bfloat16; weights stay float32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of rollouts, their order and labels.")] = None,
    log_to: Annotated[str | None, typer.Option(help="tensorboard or trackio, where installed.")] = None,
    device: options.Device = None,
) -> None:
    """Train a model by a paper's recipe on questions and an index of your own; RUN/model is then a model as
    hf/RUN/model.

    Options left out are the paper's, or for a model of the lab those of its small worlds; RUN/run.json holds them all.
    Ctrl-C ends the step under way and saves a checkpoint. Exit status: 0 when the model is trained, 2 when the input
    cannot be used or the training had to stop, 130 when it was interrupted.
    """
    parameters = context.params
    if resume is not None:
        if extra := [name for name in parameters if name not in {"resume", "device"} and _typed(context, name)]:
            raise BadInput(
                f"a resumed run keeps its settings, so --{extra[0].replace('_', '-')} cannot be given with --resume"
            )
        _run(resume, lambda listener: _library().resume(resume, device=device, listener=listener))
        return
    needed = {"PAPER": paper, "--model SPEC": model, "--questions FILE": questions, "--out RUN": out}
    if missing := [name for name, value in needed.items() if not value]:
        raise BadInput(f"a training needs {', '.join(missing)} (or --resume RUN alone)")
    if not index:
        raise BadInput("a training searches; name an index with --index DIR or a /retrieve service with --index URL")
    assert paper is not None
    assert questions is not None
    assert out is not None
    chosen = options.given(**{name: value for name, value in parameters.items() if name not in _BESIDE})
    library = _library()
    # What ken.toml says to all commands is for those that have such an option.
    has = library.recipe_of(paper).options.model_fields
    chosen = {name: value for name, value in chosen.items() if name in has or _typed(context, name)}
    _run(
        out,
        lambda listener: library.train_on(
            paper,
            model=model,
            questions=_questions(questions, limit),
            index=index,
            out=out,
            log_to=_tracker(log_to),
            device=device,
            listener=listener,
            **chosen,
        ),
    )


def _library() -> Any:
    """Loaded late, since it loads torch."""
    from importlib.util import find_spec

    from ken.core.errors import Unsupported

    if missing := [name for name in ("torch", "transformers", "trl", "accelerate", "datasets") if not find_spec(name)]:
        raise Unsupported(f"training needs {', '.join(missing)}; install with: pip install 'ken[train]'")
    import ken.papers.train

    return ken.papers.train


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _questions(path: Path, limit: int | None) -> list[Any]:
    from itertools import islice

    from ken.core.readers import read_questions

    return list(islice(read_questions(path), limit))


def _tracker(name: str | None) -> Any:
    if name not in {None, "tensorboard", "trackio"}:
        raise BadInput(f"there is no tracker {name!r}; choose tensorboard or trackio")
    return name


def _run(out: Path, work: Any) -> None:
    """Train, tell how it goes, and say how to go on."""
    again = f"ken train --resume {out}"
    try:
        with listening() as listener:
            trained: Trained = work(listener)
    except KeyboardInterrupt:
        typer.echo(f"ken: interrupted; what was saved is kept, go on with: {again}", err=True)
        sys.exit(130)
    except (TrainingError, SourceError) as error:
        if not (out / "run.json").is_file():  # it had not begun
            raise
        raise type(error)(f"{str(error).rstrip('.')}; when that is mended, go on with: {again}") from error
    if not _speaks():
        return
    if trained.interrupted:
        typer.echo(f"ken: interrupted; a checkpoint is saved, go on with: {again}", err=True)
        sys.exit(130)
    _finish(trained)


def _finish(trained: Trained) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for stage, log in trained.logs.items():
        if log.history:
            first, last = (_mean(entries) for entries in (log.history[:5], log.history[-5:]))
            changes = ", ".join(f"{name} {first[name]:.2f} → {last[name]:.2f}" for name in first if name in last)
            console.print(f"{stage}: {len(log.history)} steps, {changes}", markup=False, soft_wrap=True)
    console.print(f"{trained.model}  the model; its steps are in {trained.out / 'metrics.jsonl'}", soft_wrap=True)
    settings = trained.settings
    top_k = settings.options["top_k"]
    audit = f"--model hf/{trained.model} --index {settings.index} --top-k {top_k}"
    console.print(f"Try: ken audit {audit} --questions FILE --out DIR", soft_wrap=True, markup=False)


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    """What the first or the last steps were like."""
    shown = ("reward", "searches", "says_yes", "zero_variance")
    return {
        name: sum(entry[name] for entry in entries) / len(entries)
        for name in shown
        if all(name in entry for entry in entries)
    }


def _speaks() -> bool:
    """Whether this process speaks for all that train together (`accelerate launch`)."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


@contextmanager
def listening() -> Iterator[Listener]:
    """A bar with reward and searches where there is a terminal; notes and alarms as lines above it."""
    _library()
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
                for name in ("reward", "searches", "says_yes")
                if name in progress.statistics
            )
            bar.update(task, description=progress.stage, completed=progress.step, total=progress.steps, numbers=numbers)

        def say(text: str, style: str = "") -> None:
            _line(console, plain(text), style)

        yield Listener(on_progress, say, lambda alarm: say(f"ALARM {alarm}", "red"))


def _line(console: Console, text: str, style: str) -> None:
    console.print(" ".join(text.split()), style=style or None, markup=False, soft_wrap=True)
