"""A stream of tasks that goes from reading to real retrieval and asks what is neither too easy nor too hard.

Source: Wiki-R1 (arXiv 2603.05256). The data curriculum (`GapScheduler` over a gap table) and the sampling curriculum
(`Sampler` over accuracies that `propagate` spreads) can each be left out, which are the paper's ablations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ken.core import BadInput, Passage, Trajectory
from ken.core.seeding import derive_seed
from ken.training.curricula.gap import AtGapLevel, GapLevel, gap_table
from ken.training.curricula.propagation import ObservationGraph, Propagation, propagate
from ken.training.curricula.sampling import Bools, Floats, GaussianAccuracySampler, Sampler
from ken.training.curricula.schedule import GapScheduler
from ken.training.rollouts import Group, Score, Task, Tasks, Unit

Outcome = Callable[[Trajectory, Score], float]
"""How right an attempt was, in [0, 1], given what it earned."""


def reward_as_outcome(trajectory: Trajectory, score: Score) -> float:
    """The reward itself, where it is one number in [0, 1]. Raises `BadInput` for any other."""
    if isinstance(score, Sequence) or not 0 <= score <= 1:
        raise BadInput(f"a reward of {score} is no accuracy; give the curriculum an outcome of its own, such as EM")
    return float(score)


class Curriculum(Tasks):
    """Draws units of tasks, observes what came of them, and adapts.

    units: as for `Shuffled`; a unit's accuracy is the mean outcome of all its rollouts.
    scheduler: which gap level is trained; None leaves searches as they are. Needs `golds` (of `gold_passages`) for
        every question of a task whose strategy searches. table: its G + 1 levels, by default `gap_table(G)`.
    sampler: which units are drawn. graph: spreads observations to units not tried, node i being unit i; None leaves
        these at `prior`. alpha, max_iterations, eps: of `propagate`.
    outcome: from trajectory and score to an accuracy in [0, 1]; by default the score itself.

    Observations count for the current level only: they are forgotten when it rises. Attempts that ended with an error
    are no observations. Everything a draw depends on is seed, step, refill and `state`.

    Raises `BadInput` when there are no units, a question is in two of them, a gold passage is missing (with the
    question's id), or table or graph do not fit.
    """

    def __init__(
        self,
        units: Sequence[Task | Unit],
        *,
        golds: Mapping[str, Sequence[Passage]] | None = None,
        scheduler: GapScheduler | None = None,
        table: Sequence[GapLevel] | None = None,
        sampler: Sampler | None = None,
        graph: ObservationGraph | None = None,
        outcome: Outcome = reward_as_outcome,
        alpha: float = 0.8,
        max_iterations: int = 10,
        eps: float = 1e-4,
        prior: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not units:
            raise BadInput("there are no questions to train on; give at least one")
        self.units: list[Unit] = [(unit,) if isinstance(unit, Task) else tuple(unit) for unit in units]
        self.golds = golds or {}
        self.scheduler = scheduler
        self.table = tuple(table or (gap_table(scheduler.levels) if scheduler else ()))
        self.sampler = sampler or GaussianAccuracySampler()
        self.graph, self.outcome, self.seed = graph, outcome, seed
        self._spread = {"alpha": alpha, "max_iterations": max_iterations, "eps": eps, "prior": prior}
        self._prior = prior
        self._places = self._by_question()
        self._check()
        self._sum = np.zeros(len(self.units))
        self._count = np.zeros(len(self.units), dtype=np.int64)
        self._propagation: Propagation | None = None
        self._drawn: tuple[int, dict[int, list[int]]] = (-1, {})  # of the latest step: refill → units
        self._latest: dict[str, float] = {}  # what the step observed last was like, before a rise forgets it

    # --- the stream

    def draw(self, step: int, count: int, *, refill: int = 0) -> Sequence[Unit]:
        """`count` different units at the current level; a refill avoids those that its step has already drawn, while
        there are enough others. Raises `BadInput` when `count` exceeds the number of units.
        """
        if not 1 <= count <= len(self.units):
            raise BadInput(f"{count} of {len(self.units)} questions are to be drawn at once; draw fewer, at least one")
        before = {r: units for r, units in self._drawn[1].items() if r < refill} if self._drawn[0] == step else {}
        taken = {unit for units in before.values() for unit in units}
        left = np.array([i for i in range(len(self.units)) if i not in taken], dtype=np.intp)
        if left.size < count:
            left = np.arange(len(self.units))
        rng = np.random.default_rng(derive_seed("curriculum", self.seed, step, refill))
        chosen = [int(i) for i in left[self.sampler(self.estimates[left], self.observed[left], count, rng)]]
        self._drawn = (step, {**before, refill: chosen})
        return [self._at_level(self.units[i], derive_seed(self.seed, step, refill)) for i in chosen]

    def observe(self, step: int, groups: Sequence[Group], scores: Sequence[Sequence[Score]]) -> None:
        """Learn from every group of a step, also from those that training drops for their equal rewards."""
        outcomes: dict[int, list[float]] = {}
        for group, earned in zip(groups, scores, strict=True):
            place = self._places.get(group.task.question.id)
            if place is None:
                raise BadInput(
                    f"the question {group.task.question.id!r} is not in this curriculum; observe its own only"
                )
            outcomes.setdefault(place, []).extend(
                self.outcome(trajectory, score)
                for trajectory, score in zip(group.trajectories, earned, strict=True)
                if trajectory.error is None
            )
        accuracies = {place: math.fsum(values) / len(values) for place, values in outcomes.items() if values}
        if not all(0 <= value <= 1 for value in accuracies.values()):
            raise BadInput(
                "an outcome lies outside [0, 1]; give the curriculum an outcome that is an accuracy, such as EM"
            )
        self._propagation = None
        for place, accuracy in accuracies.items():
            self._sum[place] += accuracy
            self._count[place] += 1
        self._latest = self._measured(accuracies.values())
        if self.scheduler is not None and self.scheduler.observe(step, accuracies.values()):
            self._sum[:], self._count[:] = 0, 0

    def state(self) -> dict[str, Any]:
        observed = {self._name(int(i)): [float(self._sum[i]), int(self._count[i])] for i in np.flatnonzero(self._count)}
        step, refills = self._drawn
        return {
            "scheduler": self.scheduler.state() if self.scheduler else None,
            "observed": observed,
            "drawn": {"step": step, "refills": [[r, [self._name(i) for i in units]] for r, units in refills.items()]},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises `BadInput` when the state is that of other questions, or of one with (or without) gap levels."""
        drawn = state["drawn"]
        names = {*state["observed"], *(name for _, units in drawn["refills"] for name in units)}
        if unknown := sorted(names - self._places.keys()):
            raise BadInput(
                f"the saved curriculum knows the question {unknown[0]!r}, this one does not; resume with the same ones"
            )
        if (state["scheduler"] is None) != (self.scheduler is None):
            raise BadInput(
                "only one of the saved curriculum and this one has gap levels; resume with the same settings"
            )
        if self.scheduler is not None:
            self.scheduler.restore(state["scheduler"])
        self._sum[:], self._count[:] = 0, 0
        for name, (total, count) in state["observed"].items():
            self._sum[self._places[name]], self._count[self._places[name]] = total, count
        self._drawn = drawn["step"], {int(r): [self._places[name] for name in units] for r, units in drawn["refills"]}
        self._propagation = None

    def finish(self) -> None:
        """To be called when training ends: warns with `StuckCurriculum` when the last gap level was never reached."""
        if self.scheduler is not None:
            self.scheduler.finish()

    # --- what it believes

    @property
    def level(self) -> GapLevel | None:
        """The gap level that is trained now, or None without a scheduler."""
        return self.table[self.scheduler.level] if self.scheduler else None

    @property
    def observed(self) -> Bools:
        """Which units were tried at this level, (units,)."""
        return self._count > 0

    @property
    def propagation(self) -> Propagation | None:
        """The latest estimate over the graph, with its report of convergence; None without a graph."""
        if self._propagation is None and self.graph is not None:
            self._propagation = propagate(self.graph, self._means(), self.observed, **self._spread)  # type: ignore[arg-type]
        return self._propagation

    @property
    def estimates(self) -> Floats:
        """Estimated accuracy of every unit at this level, (units,), in [0, 1]."""
        return self._means() if (spread := self.propagation) is None else spread.estimates

    def report(self) -> dict[str, float]:
        """Numbers for the statistics of the step observed last.

        gap_level: that it was trained at, with gap_passages (k) and gap_gold (γ, 0 or 1) of the table. accuracy: mean
        of its units. level_accuracy: of all units tried so far at that level, so that the last step of a level has the
        level's. What it led to: next_level; window_accuracy, missing while the window is empty, as after a rise;
        observed_share and mean_estimate, of all units at the next level; how the propagation converged.
        """
        numbers = {**self._latest, "observed_share": float(self.observed.mean())}
        numbers["mean_estimate"] = float(self.estimates.mean())
        if self.scheduler is not None:
            numbers["next_level"] = float(self.scheduler.level)
            if self.scheduler.accuracy is not None:
                numbers["window_accuracy"] = self.scheduler.accuracy
        if self.propagation is not None:
            numbers["propagation_iterations"] = float(self.propagation.iterations)
            numbers["propagation_change"] = self.propagation.change
        return numbers

    def notes(self) -> list[str]:
        """A sentence for every level that was reached, with the step (from 1) that led there."""
        if self.scheduler is None:
            return []
        return [
            f"step {change.step + 1}: gap level {change.level} of {self.scheduler.levels} from now on, since the last "
            f"{self.scheduler.window} accuracies are {change.accuracy:.2f} on average"
            for change in self.scheduler.changes
        ]

    def _measured(self, accuracies: Collection[float]) -> dict[str, float]:
        """What `report` says of a step, before the scheduler sees its accuracies; {} when nothing was observed."""
        if not accuracies:
            return {}
        numbers = {
            "accuracy": math.fsum(accuracies) / len(accuracies),
            "level_accuracy": float(self._sum.sum() / self._count.sum()),
        }
        if (level := self.level) is not None and self.scheduler is not None:
            numbers["gap_level"] = float(self.scheduler.level)
            numbers["gap_passages"], numbers["gap_gold"] = float(level.keep), float(level.gold)
        return numbers

    def _means(self) -> Floats:
        return np.where(self.observed, self._sum / np.maximum(self._count, 1), self._prior)

    def _at_level(self, unit: Unit, seed: int) -> Unit:
        level = self.level
        if level is None:
            return unit
        return tuple(
            replace(task, strategy=AtGapLevel(task.strategy, self.golds, level, seed=seed))
            if task.strategy.needs_search
            else task
            for task in unit
        )

    def _name(self, place: int) -> str:
        return self.units[place][0].question.id

    def _by_question(self) -> dict[str, int]:
        places: dict[str, int] = {}
        for place, unit in enumerate(self.units):
            if not unit:
                raise BadInput(f"unit {place} has no tasks; leave it out")
            for name in {task.question.id for task in unit}:
                if name in places:
                    raise BadInput(f"the question {name!r} is given twice; put all its tasks into one unit")
                places[name] = place
        return places

    def _check(self) -> None:
        n = len(self.units)
        if self.graph is not None and len(self.graph) != n:
            raise BadInput(f"the graph has {len(self.graph)} nodes for {n} questions; build it from one text of each")
        if self.scheduler is None:
            if self.table:
                raise BadInput("a gap table is given without a scheduler; give both or neither")
            return
        if len(self.table) != self.scheduler.levels + 1:
            raise BadInput(
                f"the table has {len(self.table)} levels, the scheduler {self.scheduler.levels + 1}; let them agree"
            )
        forced = any(level.gold for level in self.table)
        for task in (task for unit in self.units for task in unit):
            if forced and task.strategy.needs_search and not self.golds.get(task.question.id):
                raise BadInput(
                    f"the question {task.question.id!r} has no gold passage; leave it out or add its passage"
                )
