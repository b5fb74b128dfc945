"""Rewards by name, for the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ken.core import BadInput, Trajectory
from ken.training.rewards.awareness import OwnSolveRate, aware, decided
from ken.training.rewards.consensus import agree, agree_as_intended, agree_weighted
from ken.training.rewards.format import structured
from ken.training.rewards.outcome import exact, f1, substring
from ken.training.rewards.ranking import mrr, ndcg, rank_incentive, recall, rewriting
from ken.training.rewards.search_cost import ikea, otc_group, otc_ppo, search_penalty
from ken.training.rewards.steps import stepwise
from ken.training.rewards.tools import tool_use
from ken.training.rollouts import Reward, each, within


def _rank_measure(measure: Callable[[int | None, int], float]) -> Callable[..., float]:
    def score(trajectory: Trajectory, *, k: int = 10, penalty: float = -0.1) -> float:
        return rewriting(trajectory, measure=lambda rank: measure(rank, k), penalty=penalty)

    return score


def _rank_incentive(trajectory: Trajectory, *, penalty: float = -0.1) -> float:
    return rewriting(trajectory, measure=rank_incentive, penalty=penalty)


# What each name scores (one trajectory, one group, or all groups), and how. Keyword arguments are its options.
REWARDS: Mapping[str, tuple[Callable[[Any], Reward] | None, Callable[..., Any]]] = {
    "exact": (each, exact),
    "substring": (each, substring),
    "f1": (each, f1),
    "structured": (each, structured),
    "search-penalty": (each, search_penalty),
    "ikea": (each, ikea),
    "otc-ppo": (each, otc_ppo),
    "otc-grpo": (within, otc_group),
    "aware": (each, aware),
    "verdict": (each, decided),
    "own-solve-rate": (None, OwnSolveRate),
    "majority": (within, agree),
    "consensus": (within, agree_weighted),
    "majority-as-intended": (within, agree_as_intended),
    "stepwise": (each, stepwise),
    "rank-incentive": (each, _rank_incentive),
    "ndcg": (each, _rank_measure(ndcg)),
    "mrr": (each, _rank_measure(mrr)),
    "recall": (each, _rank_measure(recall)),
    "tool-use": (each, tool_use),
}


def named(name: str, **options: Any) -> Reward:
    """The reward called `name`, with its options: `named("ikea", plus=0.6)`.

    name: a key of `REWARDS`. options: the keyword arguments of the function behind it.

    Raises `BadInput` for an unknown name or option, saying which there are.
    """
    if name not in REWARDS:
        raise BadInput(f"there is no reward {name!r}; choose from {', '.join(REWARDS)}")
    lift, score = REWARDS[name]
    # a reward of all groups is made by its options; the others take what they score before them
    known = list(inspect.signature(score).parameters)[0 if lift is None else 1 :]
    if unknown := [option for option in options if option not in known]:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise BadInput(f"the reward {name!r} has no option {unknown[0]!r}; {there}")
    if lift is None:
        reward: Reward = score(**options)
        return reward
    return lift(partial(score, **options))
