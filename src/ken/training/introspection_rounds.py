"""Rounds of introspection: make up tasks, judge them, be rewarded for agreeing with oneself, go on from there.

Source: KnowRL (arXiv 2510.11407; card 58, Loop). Nothing here knows what is true of a task: the seed is all that comes
from outside. Another reward than consensus makes a control of it (random, oracle labels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from ken.agents.background import run
from ken.agents.strategy import Strategy
from ken.core import BadInput, KenError, TrainingError
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.metrics.diversity import distinct_n, self_bleu
from ken.models.local import LocalModel
from ken.training.introspection import Introspection, Introspector
from ken.training.introspection_folder import JudgedTasks, RoundReport, RoundsFolder
from ken.training.monitors import Alarm, Monitor, Watch
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Reward, Task, Unit
from ken.training.self_analysis import SelfAnalyser, intrinsic
from ken.training.task_pool import InventedTask, TaskPool
from ken.training.train import TrainingLog, train

GUARDS: tuple[Monitor, ...] = (
    Monitor(
        "one_verdict",
        "nearly all tasks are judged alike; balance the kinds, raise kl, or lower lr",
        high=0.9,
        patience=1,
    ),
    Monitor(
        "diversity_kept",
        "what is made up is less than half as varied as in the first round; raise the temperature, or filter more",
        low=0.5,
        patience=1,
    ),
)
"""Collapse of the judge and of the author (card 58, checklist). They warn; `stopping(GUARDS)` ends the training."""


def stopping(monitors: Sequence[Monitor]) -> tuple[Monitor, ...]:
    """The same monitors, but they stop the training."""
    return tuple(
        Monitor(m.statistic, m.problem, low=m.low, high=m.high, patience=m.patience, action="stop") for m in monitors
    )


class RoundsConfig(Frozen):
    """rounds; candidates: tasks to be made up in each, in at least `runs` introspection runs; replayed: at most so many
    tasks of the pool that are trained on beside them; measured: tasks of the intrinsic evaluation after each round.

    difficulty_bounds: tasks on which the mean majority reward leaves these bounds are not trained on (SeRL); off by
    default, since binary verdicts agree at least half the time.
    """

    rounds: int = Field(default=6, ge=1)
    runs: int = Field(default=12, ge=1)
    candidates: int = Field(default=60, ge=2)
    replayed: int = Field(default=200, ge=0)
    measured: int = Field(default=400, ge=2)
    difficulty_bounds: tuple[float, float] | None = None


def train_on_introspection(
    policy: LocalModel,
    pool: TaskPool,
    reward: Reward,
    rl: RLConfig,
    *,
    config: RoundsConfig | None = None,
    introspector: Introspector | None = None,
    analyser: SelfAnalyser | None = None,
    strategy: Strategy | None = None,
    guards: Sequence[Monitor] = GUARDS,
    out: Path | None = None,
    on_round: Callable[[RoundReport], None] = lambda report: None,
    on_step: Callable[[int, int, Mapping[str, float]], None] = lambda round, step, statistics: None,
    on_alarm: Callable[[Alarm], None] = lambda alarm: None,
) -> list[RoundReport]:
    """Train `policy` in place, let `pool` grow, and report on every round, from round 0, before any training.

    reward: of the judgements of a task, such as `within(agree)`. rl: of one round; `units` counts pairs of a task of
    each kind, which keeps the kinds in balance. analyser: judges candidates for the pool, and all tasks when it is
    measured; strategy: judges in training (default: the analyser's).

    out: the folder of `RoundsFolder`, in which what is there already is gone on with: reports, made-up tasks with their
    judgements, and the training of a round; at the end it holds `model/`. None writes nothing. A training that was
    interrupted ends without a report of its round. on_step: told of round, step in it, and the step's statistics;
    on_alarm: of what is wrong in a step.

    A task enters the pool by what the policy that made it up says of it, before it is trained on it. Raises `BadInput`
    when the model makes up nothing usable, `TrainingError` when it no longer does, or when a guard stops the training.
    """
    settings, author = config or RoundsConfig(), introspector or Introspector()
    judge = analyser or SelfAnalyser()
    how = strategy or judge.strategy
    watch = Watch(guards)
    folder = RoundsFolder(out) if out is not None else None
    reports = folder.reports() if folder else []
    done = folder.last_done(settings.rounds) if folder else 0
    if folder and done:
        folder.restore(policy, done)

    def measured(number: int, reward_of_round: float, judged: JudgedTasks | None) -> RoundReport:
        try:
            same = derive_seed("intrinsic", rl.seed) % 2**31  # the same draws in every round: what differs is the model
            agreement, made = run(intrinsic(policy, author, pool, judge, count=settings.measured, seed=same))
        except BadInput as error:
            if not number:
                raise
            raise TrainingError(f"after round {number} {error}; raise kl, or lower lr") from error
        report = RoundReport(
            round=number,
            pool=len(pool),
            agreement=agreement.single,
            by_type=agreement.by_type,
            distinct_1=distinct_n(made.written, 1),
            distinct_2=distinct_n(made.written, 2),
            self_bleu=self_bleu(made.written),
            reward=reward_of_round,
        )
        return report if judged is None else replace(report, **judged.statistics(pool))

    def told(report: RoundReport) -> None:
        reports.append(report)
        if folder:
            folder.report(report)
        on_round(report)

    if not reports:
        told(measured(0, math.nan, None))
    for number in range(1, settings.rounds + 1):
        seed = derive_seed("round", rl.seed, number) % 2**31
        judged = folder.judged(number) if folder else None
        if judged is None:
            made = run(
                author.run(policy, pool, wanted=settings.candidates, runs=settings.runs, round=number, seed=seed)
            )
            if not made.candidates:
                raise _nothing_usable(number, made)
            analyses = run(judge.run(policy, [task.asked for task in made.candidates]))
            judged = JudgedTasks(tuple(made.candidates), tuple(one.verdicts for one in analyses), dict(made.dropped))
            if folder:
                folder.keep(number, judged)
        rewards: list[float] = folder.rewards(number) if folder else []
        log: TrainingLog | None = None
        if number > done:
            rng = np.random.default_rng(seed)
            chosen = [*judged.within(settings.difficulty_bounds), *pool.sample(settings.replayed, rng)]
            log = train(
                policy,
                balanced_units(chosen, how, rng),
                reward,
                rl.model_copy(update={"seed": seed}),
                out=folder.of(number) if folder else None,
                resume=folder is not None,
                on_step=partial(on_step, number),
                on_alarm=on_alarm,
            )
            if folder and log.interrupted:
                return reports
            rewards = log.curve("reward")
        pool.admit(judged.tasks, judged.verdicts)
        if len(reports) > number:
            continue
        report = measured(number, float(np.mean(rewards)) if rewards else math.nan, judged)
        yes = report.agreement.says_feasible
        kept = report.distinct_2 / reports[0].distinct_2 if reports[0].distinct_2 else math.nan
        alarms = watch.see(number, {"one_verdict": max(yes, 1 - yes), "diversity_kept": kept})
        told(replace(report, alarms=tuple(alarms)))
        if stopped := [alarm for alarm in alarms if alarm.monitor.action == "stop"]:
            raise TrainingError(f"introspection was stopped in round {number}: {stopped[0].monitor.problem}")
        if folder:
            folder.forget_before(number)
        if log is not None and log.interrupted:
            return reports
    if folder:
        folder.finish(settings.rounds)
    return reports


def _nothing_usable(number: int, made: Introspection) -> KenError:
    why = ", ".join(f"{count} {name}" for name, count in made.dropped.most_common(3))
    found = f"nothing that the model made up in round {number} can be used ({why})"
    if number == 1:
        return BadInput(f"{found}; look at what it writes, or loosen the filters")
    return TrainingError(f"{found}; it has lost the format, so raise kl or lower lr")


def balanced_units(tasks: Sequence[InventedTask], strategy: Strategy, rng: np.random.Generator) -> list[Unit]:
    """Pairs of a feasible and an infeasible task, every task at least once; the fewer kind comes again. Judgements of
    one kind alone would all be driven to one verdict. Raises `BadInput` when a kind is missing."""
    kinds = [[task for task in tasks if task.feasible is feasible] for feasible in (True, False)]
    if not all(kinds):
        raise BadInput("there are tasks of one kind only to train on; widen the difficulty bounds, or replay the pool")
    longest = max(map(len, kinds))
    columns = [[kind[int(i)] for i in _cycled(len(kind), longest, rng)] for kind in kinds]
    return [tuple(Task(task.asked, strategy, "analyse") for task in pair) for pair in zip(*columns, strict=True)]


def _cycled(size: int, count: int, rng: np.random.Generator) -> list[int]:
    places: list[int] = []
    while len(places) < count:
        places += [int(i) for i in rng.permutation(size)]
    return places[:count]
