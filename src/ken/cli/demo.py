"""`ken demo`: the main job on a world whose truth is known, without a network or a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ken.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import Console

    from ken.auditing import AuditReport
    from ken.core import Question, Trajectory
    from ken.lab import FactWorld

MODEL = "lab/factworld"


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the index and the audit; what an earlier demo left there is replaced.")
    ] = Path("ken-demo"),
    questions: Annotated[int, typer.Option(min=10, help="How many held-out questions.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Closed-book samples per question.")] = 8,
    steps: Annotated[int, typer.Option(min=0, help="Of the training at the end; 0 leaves it out.")] = 90,
) -> None:
    """Index a small world, audit four strategies on a model that knows a known part of it, show three questions step by
    step, and teach the model what it knows.
    """
    from rich.console import Console

    import ken
    from ken.auditing.log import read_log
    from ken.cli.audit import progress_bar, show_report
    from ken.lab import FactWorld, render

    console = Console(highlight=False)
    _clear(out)
    world = FactWorld()
    documents = render.documents(world)
    ken.Index.build(documents, out / "index")
    console.print(
        f"FactWorld: {len(world.facts):,} facts about invented people. {MODEL} was pretrained on some of them, some "
        f"rarely, many never;"
    )
    console.print(f"{len(documents):,} documents are indexed, and a few of them lack the fact they should hold.\n")
    asked = render.questions(world, "test")[:questions]
    with progress_bar() as on_progress:
        report = ken.audit(
            asked,
            model=MODEL,
            index=out / "index",
            out=out / "audit",
            samples=samples,
            top_k=1,
            # The base model's verdicts are coin flips, slightly biased: greedily they would all fall the same way.
            sampling=ken.Sampling(temperature=1.0, max_tokens=32),
            on_progress=on_progress,
        )
    show_report(console, report)

    attempts = read_log(out / "audit" / "trajectories.jsonl").values()
    adaptive = [t for t in attempts if t.strategy == "adaptive"]
    known = _solve_rates(t for t in attempts if t.sample is not None)
    _show(console, "One it knows", adaptive, known, lambda t, rate: _says(t) and rate == 1 and _right(t))
    _show(console, "One it must search", adaptive, known, lambda t, rate: not _says(t) and rate == 0 and _right(t))
    _show(
        console,
        "One it wrongly believes it knows",
        adaptive,
        known,
        lambda t, rate: _says(t) and rate == 0 and not _right(t),
    )
    for calibration in report.calibration:
        if calibration.name == "self-consistency" and calibration.auroc is not None:
            verdict = next(s for s in report.strategies if s.strategy == "adaptive").boundaries[0].aware.f1
            console.print(
                f"\nThis model was never taught its boundary: what it says about itself is worth F1_aware "
                f"{verdict:.2f}, while its own consistency tells right answers from wrong ones with AUROC "
                f"{calibration.auroc:.2f}."
            )
    if steps:
        _teach(console, world, asked, out, samples=samples, steps=steps)
    console.print(
        f"\n{out / 'audit' / 'audit.html'}  the report with every decision and its calibration",
        soft_wrap=True,
        markup=False,
    )
    example = next((q for q in asked if known.get(q.id) == 0), asked[0])
    console.print(
        f'Try: ken ask "{example.text}" --index {out / "index"} --model {MODEL} --top-k 1 --strategy rag --trace',
        soft_wrap=True,
        markup=False,
    )


def _teach(
    console: Console, world: FactWorld, asked: Sequence[Question], out: Path, *, samples: int, steps: int
) -> None:
    """AdaSearch in small on the training facts, and what it changes on the held-out ones."""
    from importlib.util import find_spec

    import ken
    from ken.auditing.log import read_log
    from ken.cli.audit import progress_bar
    from ken.lab import render

    if not find_spec("trl"):
        console.print(
            "\nThe training is left out: it needs the extra `train` (pip install 'ken[train]').", markup=False
        )
        return
    from ken.cli.train_progress import listening
    from ken.papers.train import Listener, train_on

    training = render.questions(world, "train")
    first = max(1, steps // 4)
    console.print(
        f"\nNow it is taught, as AdaSearch does, on {len(training):,} other questions: first to answer, closed book "
        f"and by search ({first} steps); then its own answers say which of them it knows, and it is rewarded for "
        f"saying so ({steps} steps).\n"
    )
    with listening() as listener:
        trained = train_on(
            "adasearch",
            model=MODEL,
            questions=training,
            index=out / "index",
            out=out / "training",
            steps=first,
            decide_steps=steps,
            decide_lr=5e-4,
            decide_kl=0.05,
            balanced=True,
            samples=samples,
            listener=Listener(on_progress=listener.on_progress),
        )
    reports, attempts = {}, {}
    for name, model in (("before", MODEL), ("after", f"hf/{trained.model}")):
        with progress_bar() as on_progress:
            reports[name] = ken.audit(
                asked,
                model=model,
                index=out / "index",
                out=out / name,
                strategies="adaptive",
                samples=samples,
                top_k=1,
                sampling=ken.Sampling(max_tokens=32),
                on_progress=on_progress,
            )
        log = read_log(out / name / "trajectories.jsonl").values()
        attempts[name] = {t.question.id: t for t in log if t.strategy == "adaptive" and t.error is None}
    _show_difference(console, reports)
    _show_change(console, asked, attempts, _solve_rates(t for t in log if t.sample is not None))


def _show_difference(console: Console, reports: Mapping[str, AuditReport]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("adaptive, greedy", no_wrap=True)
    for heading in ("F1_aware", "EM", "searches", "wasted", "AUROC of what it says"):
        table.add_column(heading, justify="right")
    for name, report in reports.items():
        row = next(s for s in report.strategies if s.strategy == "adaptive")
        boundary = row.boundaries[0]
        stated = next((c.auroc for c in report.calibration if c.name == "verdict"), None)
        table.add_row(
            name,
            f"{boundary.aware.f1:.2f}",
            f"{row.em:.2f}",
            f"{row.cost.searches if row.cost else 0:.2f}",
            str(boundary.use.wasted),
            "–" if stated is None else f"{stated:.2f}",
        )
    console.print(table)


def _show_change(
    console: Console,
    asked: Sequence[Question],
    attempts: Mapping[str, Mapping[str, Trajectory]],
    known: Mapping[str, float],
) -> None:
    """A question on which it changed its mind, for the better if there is one."""
    from rich.text import Text

    from ken.cli.trace import show_trace

    pairs = [(attempts["before"][q.id], attempts["after"][q.id]) for q in asked if q.id in attempts["before"]]
    changed = [(old, new) for old, new in pairs if _says(old) is not _says(new)]
    better = [(o, n) for o, n in changed if _right(n) and not _right(o)]
    better += [(o, n) for o, n in changed if _says(n) is (known.get(n.question.id, 0) >= 0.5)]
    console.print()
    if not changed:
        console.print(Text("One it now decides otherwise: there is none among these questions", style="bold"))
        return
    old, new = (better or changed)[0]
    console.print(
        Text.assemble(
            ("One it now decides otherwise: ", "bold"),
            new.question.text,
            (f"  (accepted: {_golds(new.question)})", "dim"),
        )
    )
    for name, attempt in (("before", old), ("after", new)):
        console.print(name, style="dim")
        show_trace(console, attempt)


def _clear(out: Path) -> None:
    """Remove what an earlier demo left in `out`; refuse to touch anything else."""
    if out.exists():
        if not out.is_dir() or {path.name for path in out.iterdir()} - {
            "index",
            "audit",
            "before",
            "training",
            "after",
        }:
            raise BadInput(f"{out} exists and is not a demo's folder; choose another --out")
        shutil.rmtree(out)


def _solve_rates(samples: Iterable[Trajectory]) -> dict[str, float]:
    """Share of right closed-book samples per question."""
    right: dict[str, list[bool]] = {}
    for t in samples:
        right.setdefault(t.question.id, []).append(_right(t))
    return {i: sum(values) / len(values) for i, values in right.items()}


def _show(
    console: Console,
    title: str,
    attempts: list[Trajectory],
    known: dict[str, float],
    wanted: Callable[[Trajectory, float | None], bool],
) -> None:
    from rich.text import Text

    from ken.cli.trace import show_trace

    found = next((t for t in attempts if t.error is None and wanted(t, known.get(t.question.id))), None)
    console.print()
    if found is None:
        console.print(Text(f"{title}: there is none among these questions", style="bold"))
        return
    console.print(
        Text.assemble((f"{title}: ", "bold"), found.question.text, (f"  (accepted: {_golds(found.question)})", "dim"))
    )
    show_trace(console, found)


def _golds(question: Question) -> str:
    return " or ".join(question.answers)


def _says(t: Trajectory) -> bool:
    return t.decision is not None and t.decision.knows is True


def _right(t: Trajectory) -> bool:
    from ken.metrics import exact_match

    return exact_match(t.answer, t.question.answers)
