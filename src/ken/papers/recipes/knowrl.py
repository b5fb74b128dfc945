"""KnowRL: learn what one can do from the agreement of one's own judgements (arXiv 2510.11407; card 58)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ken.agents import Decide
from ken.agents.background import run
from ken.core import BadInput, Question, Sampling
from ken.core.answerable import read_answerable
from ken.core.seeding import derive_seed
from ken.models.local import LocalModel
from ken.papers.recipe import Learning, Recipe, Stage, Trainee
from ken.papers.work import Introspecting
from ken.training.factworld_introspection import tasks_of
from ken.training.introspection import Introspector
from ken.training.introspection_folder import RoundReport
from ken.training.introspection_rounds import RoundsConfig
from ken.training.rewards.names import named
from ken.training.self_analysis import SelfAnalyser
from ken.training.task_pool import ENTRY, TaskPool


class KnowRLOptions(Learning):
    """steps: of one round. questions_per_step: pairs of a feasible and an infeasible task. group_size: judgements of a
    task. reward: of a judgement, for agreeing with the majority; "consensus" weighs it by how many do, and with
    "majority-as-intended" the majority must agree with the author. kl: taken off the reward.
    rounds; runs, candidates: introspection runs of a round at least, and tasks to be made up. replayed: tasks of the
    pool that are trained on beside them. measured: tasks on which each round is measured. entry: consensus from which a
    task enters the pool. task_tokens: of a made-up task.
    """

    steps: int = Field(default=25, ge=1)
    questions_per_step: int = Field(default=8, ge=1)
    group_size: int = Field(default=8, ge=1)
    lr: float = Field(default=5e-7, gt=0)
    kl: float = Field(default=1e-4, ge=0)
    max_tokens: int = Field(default=1024, ge=1)
    reward: Literal["majority", "consensus", "majority-as-intended"] = "majority"
    rounds: int = Field(default=6, ge=1)
    runs: int = Field(default=12, ge=1)
    candidates: int = Field(default=60, ge=2)
    replayed: int = Field(default=200, ge=0)
    measured: int = Field(default=200, ge=2)
    entry: float = Field(default=ENTRY, gt=0.5, le=1)
    task_tokens: int = Field(default=1024, ge=1)
    greedy_thoughts: bool = False


def _stages(options: KnowRLOptions) -> tuple[Stage, ...]:
    strategy = Decide()

    def check(trainee: Trainee) -> None:
        """Raises `BadInput` for a model that makes up nothing that can be used."""
        author, pool = _author(trainee.policy, trainee.questions, options)
        made = run(author.run(trainee.policy, pool, wanted=2, runs=2, max_runs=2, seed=options.seed))
        if not made.candidates:
            why = ", ".join(f"{count} {name}" for name, count in made.dropped.most_common(3))
            raise BadInput(
                f"none of {len(made.written)} tasks that {trainee.policy.spec} made up can be used ({why}); take an "
                "instruct model, or raise task_tokens"
            )

    def introspect(trainee: Trainee) -> Introspecting:
        author, pool = _author(trainee.policy, trainee.questions, options)
        sampling = options.sampling()
        return Introspecting(
            pool,
            named(options.reward),
            options.rl(
                advantage="batch",
                kl=0.0,
                kl_in_reward=options.kl,
                sampling=sampling.but(greedy_thoughts=options.greedy_thoughts),
            ),
            RoundsConfig(
                rounds=options.rounds,
                runs=options.runs,
                candidates=options.candidates,
                replayed=options.replayed,
                measured=options.measured,
            ),
            author,
            SelfAnalyser(
                samples=options.group_size,
                strategy=strategy,
                sampling=sampling.but(seed=derive_seed("analysis", options.seed)),
            ),
            on_round=lambda report: trainee.on_note(_told(report)),
        )

    text = "make up tasks, judge them, and agree with oneself"
    return (Stage("introspection", text, (strategy,), introspect, check),)


def _author(policy: LocalModel, seeds: Sequence[Question], options: KnowRLOptions) -> tuple[Introspector, TaskPool]:
    """Who makes up tasks, and the pool of the seeds. A model of the lab has its own format, and its world's tasks."""
    sampling = Sampling(temperature=options.temperature, max_tokens=options.task_tokens)
    world = tasks_of(policy)
    if world is None:
        return Introspector(sampling=sampling), TaskPool.from_questions(seeds, entry=options.entry)
    return world.introspector(sampling), TaskPool.from_questions(seeds, entry=options.entry, written=world.written)


def _told(report: RoundReport) -> str:
    """A round in a sentence, with what its guards say."""
    agreement = report.agreement
    said = (
        f"round {report.round}: {agreement.accuracy:.0%} of its judgements agree with the kind it meant, "
        f"{agreement.says_feasible:.0%} say feasible; {report.pool:,} tasks in the pool"
    )
    if report.round:
        said += f", {report.entered:,} of {report.candidates:,} made up entered it"
    return "; ".join([said, *(f"ALARM {alarm}" for alarm in report.alarms)])


def _read(path: Path) -> Iterator[Question]:
    return read_answerable(path)


def _fit(questions: Sequence[Question], options: KnowRLOptions) -> None:
    TaskPool.from_questions(questions)


def _lab(_: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "lr": 3e-5,
        "kl": 0.05,
        "warmup_steps": 5,
        "max_tokens": 16,
        "task_tokens": 16,
        "greedy_thoughts": True,
    }


recipe = Recipe(
    "knowrl",
    KnowRLOptions,
    _lab,
    _stages,
    read=_read,
    file="seeds that say whether they are feasible: one {question, answerable} a line, or SelfAware",
    fit=_fit,
    searches=False,
    then="ken ask QUESTION --strategy direct --model hf/{model}",
)
