"""Judgements that agree with one another: rewards without any outside label.

Source: KnowRL (arXiv 2510.11407; card 58, Self-analysis and reward), with the majority vote of SeRL. Verdicts are True
(feasible, knows), False, or None when they could not be read; None never earns anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from ken.core import BadInput
from ken.training.labels.majority import majority as vote
from ken.training.rewards.awareness import verdict
from ken.training.rollouts import Group

INTENDED = "feasible"  # the key of `question.meta`: which kind of task its author meant to write


def majority(verdicts: Sequence[bool | None]) -> bool | None:
    """The verdict given most often; None for a tie, without verdicts, and when none could be read."""
    return vote(verdicts).winner if verdicts else None


def consensus(verdicts: Sequence[bool | None]) -> float:
    """Share of all verdicts, unreadable ones included, that agree with the majority, in [0, 1]; 0 without one."""
    return vote(verdicts).share if verdicts else 0.0


def majority_rewards(verdicts: Sequence[bool | None]) -> list[float]:
    """1 for agreeing with the majority, else 0; all 0 for a tie."""
    return [float(agrees) for agrees in vote(verdicts).agrees] if verdicts else []


def consensus_rewards(verdicts: Sequence[bool | None]) -> list[float]:
    """The consensus for agreeing with the majority, else 0: a close vote pays less."""
    share = consensus(verdicts)
    return [share * agrees for agrees in majority_rewards(verdicts)]


def intended_rewards(verdicts: Sequence[bool | None], intended: bool) -> list[float]:
    """1 for agreeing with a majority that is also what the author of the task intended, else 0."""
    return majority_rewards(verdicts) if majority(verdicts) is intended else [0.0] * len(verdicts)


def agree(group: Group) -> list[float]:
    """`majority_rewards` of a group's verdicts. Raises `BadInput` for a group of one."""
    return majority_rewards(_verdicts(group))


def agree_weighted(group: Group) -> list[float]:
    """`consensus_rewards` of a group's verdicts. Raises `BadInput` for a group of one."""
    return consensus_rewards(_verdicts(group))


def agree_as_intended(group: Group) -> list[float]:
    """`intended_rewards` of a group's verdicts. Raises `BadInput` for a group of one, or a task of unknown intent."""
    intended = group.task.question.meta.get(INTENDED)
    if not isinstance(intended, bool):
        raise BadInput(
            f"task {group.task.question.id!r} does not say which kind it was meant to be; put true or false under "
            f"{INTENDED!r} in its metadata, or reward the majority alone"
        )
    return intended_rewards(_verdicts(group), intended)


def within_bounds(rewards: Sequence[float], *, low: float = 0.2, high: float = 0.8) -> bool:
    """Whether a group's mean reward lies in [low, high]: SeRL drops the others as too hard or too easy.

    Binary verdicts always agree at least half the time, so that `low` then only drops ties and unreadable ones.
    Raises `BadInput` for bounds that are not 0 ≤ low ≤ high ≤ 1, or without rewards.
    """
    if not 0 <= low <= high <= 1:
        raise BadInput(f"the bounds of difficulty are {low} and {high}; they must be in order and lie in [0, 1]")
    if not rewards:
        raise BadInput("a group without rollouts has no difficulty; roll out at least one")
    return low <= sum(rewards) / len(rewards) <= high


def _verdicts(group: Group) -> list[bool | None]:
    if len(group.trajectories) < 2:
        raise BadInput(
            "a single judgement always agrees with itself; use a group size of at least 2 (the paper's is 8)"
        )
    return [None if trajectory.error is not None else verdict(trajectory) for trajectory in group.trajectories]
