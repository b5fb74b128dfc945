"""What is trained on: tasks, the groups of rollouts that attempt them, and what these earn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ken.agents.strategy import Strategy
from ken.core import BadInput, Question, Sampling, Trajectory
from ken.core.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Task:
    """A question and the strategy that attempts it, several times over: one group of rollouts.

    kind: how statistics name such tasks ("inside", "search", "decide"). sampling: instead of the trainer's own. known:
    for tasks in which the policy decides whether it needs help, whether it does not; None where nobody measured it.
    """

    question: Question
    strategy: Strategy
    kind: str = "rollout"
    sampling: Sampling | None = None
    known: bool | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one task. They share the task and differ in seed; that, and not the question's text, makes them
    a group (Search-R1's authors once mixed this up: card 00, Pitfalls)."""

    task: Task
    trajectories: tuple[Trajectory, ...]


Score = float | Sequence[float]
"""What a rollout earns: one number for the outcome, or one for each of its policy segments, in order (turn rewards)."""

Reward = Callable[[Sequence[Group]], Sequence[Sequence[Score]]]
"""From all groups of one step to their scores, in the same order: a reward may look at its neighbours, as consensus
(KnowRL), fewest-calls (OTC) and labels computed on the fly (AdaSearch-E2E) do."""


def each(score: Callable[[Trajectory], Score]) -> Reward:
    """A reward that looks at one trajectory at a time."""
    return lambda groups: [[score(trajectory) for trajectory in group.trajectories] for group in groups]


def within(score: Callable[[Group], Sequence[Score]]) -> Reward:
    """A reward that looks at one group at a time."""
    return lambda groups: [score(group) for group in groups]


def by_kind(rewards: Mapping[str, Reward]) -> Reward:
    """Another reward for every kind of task. Raises `BadInput` for a kind that has none."""

    def score(groups: Sequence[Group]) -> Sequence[Sequence[Score]]:
        if missing := sorted({g.task.kind for g in groups} - rewards.keys()):
            raise BadInput(f"no reward is given for tasks of kind {missing[0]!r}; there are {', '.join(rewards)}")
        scores: dict[int, Sequence[Score]] = {}
        for kind, reward in rewards.items():
            places = [i for i, group in enumerate(groups) if group.task.kind == kind]
            scores.update(zip(places, reward([groups[i] for i in places]), strict=True))
        return [scores[i] for i in range(len(groups))]

    return score


Unit = tuple[Task, ...]  # tasks that are always drawn together, such as one question in several modes


@runtime_checkable
class Tasks(Protocol):
    """Which tasks come next: a shuffled list, or a curriculum that learns from what it observes.

    Everything that `draw` depends on must be in its arguments or in `state`, so that a resumed run draws the same.
    Derive from it: then what a stream has no use for can be left out.
    """

    def draw(self, step: int, count: int, *, refill: int = 0) -> Sequence[Unit]:
        """`count` units for this step; `refill` numbers the further draws of one step (dynamic sampling)."""

    def observe(self, step: int, groups: Sequence[Group], scores: Sequence[Sequence[Score]]) -> None:
        """Told of every group that was rolled out, before any is dropped."""

    def state(self) -> dict[str, Any]:
        """What it has learnt, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""

    def report(self) -> Mapping[str, float]:
        """Of the step observed last, what belongs into its statistics; there it is named `tasks/…`."""
        return {}

    def notes(self) -> Sequence[str]:
        """What a person should know so far, such as a level that was reached; in order, and after `restore` too."""
        return ()

    def finish(self) -> None:
        """Told when the training is done (not when it is interrupted); may warn."""
        return


class Shuffled(Tasks):
    """Units in random order, each once an epoch; an epoch's order depends on seed and epoch only.

    Refills are drawn at random, so that they do not eat into the epoch. Raises `BadInput` without units.
    """

    def __init__(self, units: Sequence[Task | Unit], *, seed: int = 0) -> None:
        if not units:
            raise BadInput("there are no questions to train on; give at least one")
        self.units: list[Unit] = [(unit,) if isinstance(unit, Task) else tuple(unit) for unit in units]
        self.seed = seed

    def draw(self, step: int, count: int, *, refill: int = 0) -> Sequence[Unit]:
        size = len(self.units)
        if refill:
            rng = np.random.default_rng(derive_seed("refill", self.seed, step, refill))
            return [self.units[int(i)] for i in rng.integers(size, size=count)]
        places = range(step * count, (step + 1) * count)
        orders = {epoch: self._order(epoch) for epoch in {place // size for place in places}}
        return [self.units[int(orders[place // size][place % size])] for place in places]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed("epoch", self.seed, epoch)).permutation(len(self.units))

    def observe(self, step: int, groups: Sequence[Group], scores: Sequence[Sequence[Score]]) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
