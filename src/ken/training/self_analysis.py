"""A model judges several times whether it can do a task, each time in a fresh context; and how well it judges.

Sources: KnowRL (arXiv 2510.11407; card 58, Self-analysis and Evaluation), self-consistency. The context in which a task
was made up gives its verdict away, so that none of it is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from ken.agents import Decide
from ken.agents.strategy import Strategy
from ken.core import BadInput, Question, Sampling
from ken.metrics.feasibility import Feasibility, feasibility, feasibility_by
from ken.models import Model
from ken.sources import Sources
from ken.training.introspection import REASONS, Introspection, Introspector
from ken.training.rewards.awareness import verdict
from ken.training.rewards.consensus import consensus, majority
from ken.training.task_pool import TaskPool

BUCKETS = (0.0, 0.625, 0.75, 0.875, 1.0)
"""Consensus from which a histogram's bucket counts; of eight judgements: a tie, five, six, seven, all."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """The judgements of one task: True feasible, False not, None unreadable or failed. errors: of those that failed."""

    question: Question
    verdicts: tuple[bool | None, ...]
    errors: tuple[str, ...] = ()

    @property
    def majority(self) -> bool | None:
        """What most say; None for a tie, and when none could be read."""
        return majority(self.verdicts)

    @property
    def consensus(self) -> float:
        """Share of all judgements that agree with the majority, in [0, 1]; 0 without one."""
        return consensus(self.verdicts)


@dataclass(frozen=True)
class SelfAnalyser:
    """Judges every task `samples` times.

    strategy: must end in a `Decision`. Raises `BadInput` for samples < 1, and for several at temperature 0, which are
    all the same.
    """

    samples: int = 8
    strategy: Strategy = field(default_factory=Decide)
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=512)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise BadInput(f"samples is {self.samples} (k); judge every task at least once")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise BadInput(f"{self.samples} judgements at temperature 0 are all the same; use a temperature near 1")

    async def run(self, model: Model, questions: Sequence[Question]) -> list[Analysis]:
        """One analysis per question, in order. A model that does not answer casts no vote."""

        async def one(question: Question) -> Analysis:
            made = await asyncio.gather(
                *(
                    self.strategy.run(question, model, Sources(), sampling=self.sampling, sample=sample)
                    for sample in range(self.samples)
                )
            )
            return Analysis(
                question,
                tuple(None if t.error is not None else verdict(t) for t in made),
                tuple(t.error for t in made if t.error is not None),
            )

        return list(await asyncio.gather(*map(one, questions)))


@dataclass(frozen=True, slots=True)
class Judged:
    """How judgements agree with labels, over a set of tasks.

    single: of every single judgement, so that n is tasks × samples. voted: of the majorities; a tie is no verdict.
    by_type: single judgements by type of self-knowledge, feasible tasks (which have none) under "feasible".
    """

    single: Feasibility
    voted: Feasibility
    by_type: dict[str, Feasibility]
    analyses: tuple[Analysis, ...]
    labels: tuple[bool, ...]


def judged(analyses: Sequence[Analysis], labels: Sequence[bool], types: Sequence[str] | None = None) -> Judged:
    """Score analyses against labels, `types` naming the type of each. Raises `ValueError` without any, or for unequal
    lengths."""
    voted = feasibility([analysis.majority for analysis in analyses], labels)
    verdicts = [v for analysis in analyses for v in analysis.verdicts]
    repeated = [label for analysis, label in zip(analyses, labels, strict=True) for _ in analysis.verdicts]
    by_type = {}
    if types is not None:
        keys = [key for analysis, key in zip(analyses, types, strict=True) for _ in analysis.verdicts]
        by_type = feasibility_by(verdicts, repeated, keys)
    return Judged(feasibility(verdicts, repeated), voted, by_type, tuple(analyses), tuple(labels))


async def extrinsic(
    model: Model, questions: Sequence[Question], labels: Sequence[bool], analyser: SelfAnalyser
) -> Judged:
    """Judgements of given questions against what is true of them. Raises `BadInput` without questions."""
    if not questions:
        raise BadInput("there are no questions to judge; give at least one")
    return judged(await analyser.run(model, questions), labels)


async def intrinsic(
    model: Model,
    introspector: Introspector,
    pool: TaskPool,
    analyser: SelfAnalyser,
    *,
    count: int = 200,
    seed: int = 0,
) -> tuple[Judged, Introspection]:
    """The model's agreement with itself: it makes up about `count` tasks, half of each kind, with all reasons in turn,
    and judges them afterwards; the label is the kind it was asked for. Examples are seeds only, so that two rounds are
    asked the same.

    Raises `BadInput` when nothing that it wrote is a task.
    """
    made = await make_up(model, introspector, pool, count=count, seed=seed)
    tasks = made.candidates
    found = await analyser.run(model, [task.asked for task in tasks])
    return judged(
        found, [task.feasible for task in tasks], [type_of(task.feasible, task.reason) for task in tasks]
    ), made


async def make_up(
    model: Model, introspector: Introspector, pool: TaskPool, *, count: int = 200, seed: int = 0
) -> Introspection:
    """The tasks of `intrinsic`, before they are judged. Raises as `intrinsic`."""
    seeds = [task for task in pool.tasks if task.round == 0]
    runs = -(-count // (2 * introspector.per_run))
    made = await introspector.run(
        model, TaskPool(seeds), wanted=count, runs=runs, max_runs=2 * runs, round=1, seed=seed
    )
    if not made.candidates:
        why = ", ".join(f"{number} {name}" for name, number in made.dropped.most_common(3))
        raise BadInput(f"none of the {len(made.written)} tasks that the model made up can be used ({why})")
    return made


def consensus_histogram(analyses: Sequence[Analysis]) -> tuple[float, ...]:
    """Shares of tasks by consensus, one for each of `BUCKETS`; they sum to 1."""
    places = [max(i for i, low in enumerate(BUCKETS) if analysis.consensus >= low) for analysis in analyses]
    return tuple(places.count(i) / max(1, len(places)) for i in range(len(BUCKETS)))


_TYPES = {reason.name: reason.type for reason in REASONS}


def type_of(feasible: bool, reason: str = "") -> str:
    """The type of self-knowledge that a task tests: of one of the eleven reasons its type, of any other its name;
    "feasible" and "infeasible" where there is none."""
    return "feasible" if feasible else _TYPES.get(reason, reason or "infeasible")
