"""`ken lab …`: worlds with known truth, and the models that live in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ken.core.errors import BadInput
from ken.core.question import Question

if TYPE_CHECKING:
    from ken.core.conversation import ConversationTurn

app = typer.Typer(
    help="Worlds with known truth, and the models that live in them.", no_args_is_help=True, rich_markup_mode=None
)

Variant = Annotated[
    str,
    typer.Option(
        help="Of factworld: plain; two-hop: with mentors; ood: with an out-of-distribution relation; or introspection. "
        "Of conflict: plain or natural."
    ),
]


@app.command()
def build(
    world: Annotated[str, typer.Argument(metavar="WORLD", help="factworld, multihop, …; a wrong name lists all.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the checkpoint; default: a cache folder named by the settings.")
    ] = None,
    variant: Variant = "plain",
    seed: Annotated[int, typer.Option(help="Of the world, the initial weights and the order of examples.")] = 0,
    threads: Annotated[int, typer.Option(min=1, envvar="OMP_NUM_THREADS", help="Processor threads.")] = 2,
) -> None:
    """Pretrain the base model of a world from its seed and check that it is fit for experiments. Minutes on two
    cores.
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ken.training.lab_bases import lab_base
    from ken.training.lab_checkpoint import build_checkpoint, built, checkpoint_folder, is_checkpoint, read_checkpoint

    torch.set_num_threads(threads)
    config = lab_base(world, variant=variant, seed=seed)
    folder = out or checkpoint_folder(config)
    if out is None and is_checkpoint(config, folder):
        typer.echo(f"{folder} was built before; use it as --model lab/{folder}")
        manifest = read_checkpoint(folder)
    else:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, loss {task.fields[loss]}, left:"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task("pretrain", total=None, loss="–")

            def on_step(step: int, steps: int, loss: float) -> None:
                bar.update(task, completed=step, total=steps, loss=f"{loss:.3f}")
                if not console.is_terminal and step * 10 // steps > (step - 1) * 10 // steps:  # a log: a line a tenth
                    console.print(f"step {step} of {steps}, loss {loss:.3f}", highlight=False)

            if out:
                manifest = build_checkpoint(config, out, on_step=on_step)
            else:
                manifest = read_checkpoint(built(config, on_step=on_step, unfit_ok=True))
        typer.echo(
            f"{folder}: {manifest.parameters:,} parameters, {manifest.tokens:,} tokens in {manifest.seconds:.0f} s"
        )
    for gate in manifest.gates:
        mark = "ok  " if gate.passed else "FAIL" if gate.gating else "    "
        wanted = f"wanted {gate.low:g} to {gate.high:g}" if gate.gating else "reported"
        typer.echo(f"  {mark} {gate.value:.3f}  {gate.name} ({wanted})")
    if manifest.failed:
        raise typer.Exit(1)


@app.command()
def write(
    world: Annotated[str, typer.Argument(metavar="WORLD", help="factworld or conversations.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    variant: Variant = "plain",
    seed: Annotated[int, typer.Option(help="Of the world; the shipped model lives in seed 0.")] = 0,
) -> None:
    """Write a world as files. Of factworld: corpus.jsonl, questions-{train,test}.jsonl, triples.tsv, statements.jsonl;
    of its variants also two-hop-questions-{train,test}.jsonl, or questions-ood.jsonl. Of conversations: corpus.jsonl
    and turns-{train,test}.jsonl.
    """
    if world not in {"factworld", "conversations"}:
        raise BadInput(f"there is no world {world!r} that can be written as files; choose factworld or conversations")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is not an empty folder; choose another")
    if world == "factworld":
        _write_factworld(out, variant, seed)
    else:
        _write_conversations(out, seed)


def _write_conversations(out: Path, seed: int) -> None:
    from ken.lab.conversations import ConversationWorld, ConversationWorldConfig

    made = ConversationWorld(ConversationWorldConfig(seed=seed))
    out.mkdir(parents=True, exist_ok=True)
    _jsonl(out / "corpus.jsonl", [{"id": p.id, "title": p.title, "text": p.text} for p in made.passages])
    for split in ("train", "test"):
        _jsonl(out / f"turns-{split}.jsonl", [_turn(turn) for turn in made.turns(split)])
    typer.echo(f"wrote {out}; try: ken index build {out / 'corpus.jsonl'} {out / 'index'} --tokenizer simple")


def _turn(turn: ConversationTurn) -> dict[str, object]:
    """As ConvSearch-R1 stores QReCC."""
    return {
        "qid": turn.id,
        "question": turn.query,
        "context": [text for exchange in turn.history for text in (exchange.query, exchange.answer)],
        "truth_rewrite": turn.rewrite,
        "truth_passages": list(turn.gold),
    }


def _write_factworld(out: Path, variant: str, seed: int) -> None:
    from ken.lab import FactWorld, render
    from ken.lab.factworld import variant_world

    made = FactWorld(variant_world(variant, seed=seed))
    out.mkdir(parents=True, exist_ok=True)
    _jsonl(out / "corpus.jsonl", [{"id": d.id, "title": d.title, "text": d.text} for d in render.documents(made)])
    for split in ("train", "test", *(["ood"] if made.ood_relations else [])):
        _jsonl(out / f"questions-{split}.jsonl", _records(render.questions(made, split)))
        if made.config.mentor:
            _jsonl(out / f"two-hop-questions-{split}.jsonl", _records(render.two_hop_questions(made, split)))
    (out / "triples.tsv").write_text("".join("\t".join(t) + "\n" for t in render.triples(made)), encoding="utf-8")
    _jsonl(
        out / "statements.jsonl", [{"text": s.text, "true": s.true, "fact": s.fact.id} for s in render.statements(made)]
    )
    typer.echo(f"wrote {out}; try: ken index build {out / 'corpus.jsonl'} {out / 'index'}")


def _records(questions: Sequence[Question]) -> list[dict[str, object]]:
    return [{"id": q.id, "question": q.text, "golden_answers": list(q.answers), "metadata": q.meta} for q in questions]


def _jsonl(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
