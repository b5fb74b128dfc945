"""Does a model judge rightly what it can do? KnowRL's evaluation (arXiv 2510.11407; card 58), of any model.

The folder holds settings.json, judgements.jsonl (a line per task, so that nothing is asked twice), made-up.jsonl where
the model made up tasks, and feasibility.json with the tables, which the commands print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ken
from ken.agents.background import run
from ken.auditing.asking import Asking
from ken.auditing.folder import check_keepable, claim, digest, save
from ken.core import BadInput, Question, Sampling
from ken.core.answerable import answerable, read_answerable
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.metrics import feasibility as metric
from ken.models import Model
from ken.probing.loading import load_model
from ken.training.introspection import Introspector
from ken.training.self_analysis import Analysis, SelfAnalyser, consensus_histogram, judged, make_up, type_of
from ken.training.task_pool import InventedTask, TaskPool

SETTINGS, JUDGEMENTS, MADE_UP, REPORT = "settings.json", "judgements.jsonl", "made-up.jsonl", "feasibility.json"
SAMPLING = Sampling(temperature=1.0, max_tokens=512)


class FeasibilitySettings(Frozen):
    """What was asked for; a run is resumed only under equal settings. samples: judgements of a task. made_up: tasks
    that the model was to make up, 0 for none. version: of Ken that began."""

    model: str
    samples: int
    made_up: int
    sampling: Sampling
    questions_digest: str
    questions_count: int
    version: str = ken.__version__


class Scores(Frozen):
    """Verdicts against labels: the confusion in judgements, and shares in [0, 1] (see `ken.metrics.feasibility`)."""

    n: int
    feasible_feasible: int
    feasible_infeasible: int
    infeasible_feasible: int
    infeasible_infeasible: int
    unread_feasible: int
    unread_infeasible: int
    accuracy: float
    f1_feasible: float
    f1_infeasible: float
    macro_f1: float
    says_feasible: float
    overconfident: float
    underconfident: float


class Tables(Frozen):
    """Of one set of tasks. single: of single judgements; voted: of the majority of each task's; by_type: of single
    judgements, by type of self-knowledge. consensus: shares of the tasks by how many judgements agree (`BUCKETS`).
    failed: judgements without a reply, which count as unreadable; error: the first one's."""

    tasks: int
    single: Scores
    voted: Scores
    by_type: dict[str, Scores]
    consensus: tuple[float, ...]
    failed: int
    error: str


class FeasibilityReport(Frozen):
    """given: judgements of the given tasks against their labels (extrinsic). made_up: of the model's own tasks against
    the kind that it was asked for (intrinsic), None where it made up none; its agreement with itself, not truth.
    dropped: how many of what it wrote were no use, by why."""

    settings: FeasibilitySettings
    given: Tables
    made_up: Tables | None = None
    dropped: dict[str, int] = {}

    @property
    def failed(self) -> int:
        """Judgements without a reply."""
        return self.given.failed + (self.made_up.failed if self.made_up else 0)


def audit_feasibility(
    questions: str | Path | Iterable[Question],
    *,
    model: str | Model,
    out: str | Path,
    samples: int = 8,
    made_up: int = 0,
    sampling: Sampling = SAMPLING,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **model_options: Any,
) -> FeasibilityReport:
    """Have a model judge, `samples` times each and always in a fresh context, whether it can do tasks.

    questions: a file of {question, answerable} or SelfAware's own, or `Question`s that are so marked; a `reason` in
    their metadata is for the table of types. model, model_options: as for `ken.ask`. made_up: ≥ 2 has the model make up
    about so many tasks, half of each kind, with examples from `questions`, and judge them too. sampling: of judgements
    and made-up tasks. on_progress: told of tasks judged, of how many; from another thread.

    An interrupted run goes on where it stopped when called again with the same arguments, and tries failed judgements
    again. Raises `BadInput` before anything is asked or written when the arguments cannot work, and when nothing that
    the model made up is a task; `ModelError` when it does not answer.
    """
    asked = list(read_answerable(questions) if isinstance(questions, str | Path) else questions)
    if not asked:
        raise BadInput("there are no questions to judge; give at least one")
    check_keepable(asked)
    labels = [answerable(question) for question in asked]
    if made_up < 0 or made_up == 1:
        raise BadInput(f"made_up is {made_up}; it must be 0, or at least 2, one task of each kind")
    if made_up:
        TaskPool.from_questions(asked)  # both kinds are there
    analyser = SelfAnalyser(samples=samples, sampling=sampling)
    loaded = load_model(model, **model_options) if isinstance(model, str) else model
    folder = Path(out)
    settings = FeasibilitySettings(
        model=loaded.spec,
        samples=samples,
        made_up=made_up,
        sampling=sampling,
        questions_digest=digest(asked),
        questions_count=len(asked),
    )

    async def work() -> FeasibilityReport:
        asking = None
        try:
            author, pool = _author(loaded, asked, sampling) if made_up else (None, None)
            claim(folder, settings, SETTINGS, one="judgements of feasibility", none="no judgements of feasibility")
            asking = Asking(loaded.spec, folder / JUDGEMENTS, on_progress, len(asked) + made_up)
            judge = _Judge(loaded, analyser, asking)
            types = [type_of(label, str(q.meta.get("reason") or "")) for q, label in zip(asked, labels, strict=True)]
            given = _tables(await judge.of("given", asked), labels, types)
            if author is None or pool is None:
                return FeasibilityReport(settings=settings, given=given)
            tasks, dropped = await _made_up(folder, loaded, author, pool, settings)
            asking.total = len(asked) + len(tasks)
            own = _tables(
                await judge.of("made up", [task.asked for task in tasks]),
                [task.feasible for task in tasks],
                [type_of(task.feasible, task.reason) for task in tasks],
            )
            return FeasibilityReport(settings=settings, given=given, made_up=own, dropped=dropped)
        finally:
            if asking is not None:
                asking.close()
            if loaded is not model:
                await loaded.close()

    report = run(work())
    save(folder / REPORT, report.model_dump_json(indent=2) + "\n")
    return report


@dataclass(frozen=True)
class _Judge:
    """Judges tasks in a fresh context each."""

    model: Model
    analyser: SelfAnalyser
    asking: Asking

    async def of(self, kind: str, tasks: Sequence[Question]) -> list[Analysis]:
        """One analysis per task, in order. Raises `ModelError` when the model does not answer."""

        async def judge(task: Question) -> dict[str, Any]:
            (analysis,) = await self.analyser.run(self.model, [task])
            return {"verdicts": analysis.verdicts, "errors": analysis.errors}

        found = await self.asking.each(kind, {task.id: task for task in tasks}, judge, calls=self.analyser.samples)
        return [Analysis(task, tuple(found[task.id]["verdicts"]), tuple(found[task.id]["errors"])) for task in tasks]


def _author(model: Model, asked: Sequence[Question], sampling: Sampling) -> tuple[Introspector, TaskPool]:
    """Who makes up tasks, and their examples. A model of the lab has its own format, and its world's tasks."""
    if model.spec.startswith(("hf/", "lab/")):  # in this process, so that torch is there
        from ken.models.local import LocalModel
        from ken.training.factworld_introspection import tasks_of

        world = tasks_of(model) if isinstance(model, LocalModel) else None
        if world is not None:
            return world.introspector(sampling), TaskPool.from_questions(asked, written=world.written)
    return Introspector(sampling=sampling), TaskPool.from_questions(asked)


async def _made_up(
    folder: Path, model: Model, author: Introspector, pool: TaskPool, settings: FeasibilitySettings
) -> tuple[list[InventedTask], dict[str, int]]:
    """The tasks that the model makes up, or made up before an interruption, and what was dropped."""
    path = folder / MADE_UP
    if not path.is_file():
        seed = derive_seed("made up", settings.sampling.seed or 0) % 2**31
        made = await make_up(model, author, pool, count=settings.made_up, seed=seed)
        lines = [_MadeUp(dropped=dict(made.dropped)), *(_MadeUp(task=task) for task in made.candidates)]
        save(path, "".join(line.model_dump_json() + "\n" for line in lines))
    try:
        first, *others = [_MadeUp.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read; it was edited, or is of another version: delete it") from error
    return [line.task for line in others if line.task is not None], first.dropped


class _MadeUp(Frozen):
    """A line of made-up.jsonl: what was dropped first, then a task each."""

    task: InventedTask | None = None
    dropped: dict[str, int] = {}


def _tables(analyses: Sequence[Analysis], labels: Sequence[bool], types: Sequence[str]) -> Tables:
    found = judged(analyses, labels, types)
    errors = [error for analysis in analyses for error in analysis.errors]
    return Tables(
        tasks=len(analyses),
        single=_scores(found.single),
        voted=_scores(found.voted),
        by_type={name: _scores(scores) for name, scores in found.by_type.items()},
        consensus=consensus_histogram(analyses),
        failed=len(errors),
        error=errors[0] if errors else "",
    )


def _scores(found: metric.Feasibility) -> Scores:
    return Scores(**{name: getattr(found, name) for name in Scores.model_fields})
