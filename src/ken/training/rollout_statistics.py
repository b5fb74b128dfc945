"""What the rollouts of one step were like, as numbers for the log and the monitors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ken.core import Malformed, Trajectory
from ken.metrics.decision import f1_aware
from ken.training.rollouts import Group, Score


def total(score: Score) -> float:
    """The score of a whole rollout: the sum of its turn rewards."""
    return float(score) if isinstance(score, int | float) else float(sum(score))


def rollout_statistics(groups: Sequence[Group], scores: Sequence[Sequence[Score]], max_tokens: int) -> dict[str, float]:
    """Means over all rollouts, and the main ones again for every kind of task (`reward/search`).

    reward, reward_std; zero_variance: share of groups whose rollouts score alike; searches: per rollout; format: share
    without a malformed output; unfinished: share without an answer or verdict; failed: share ended by an error;
    search_failures: share of searches that failed; truncated: share with a turn cut at `max_tokens`; tokens: written by
    the model; one_decision: share of the commoner verdict, of an explicit decision if there is one, otherwise whether
    to search at all (only for tasks that may search); f1_aware: F1 of these verdicts against what is known, over the
    tasks of which it is (`ken.metrics.f1_aware`; those that cannot be read count as "must search").
    """
    result: dict[str, float] = {}
    kinds = sorted({group.task.kind for group in groups})
    for kind in [None, *kinds] if len(kinds) > 1 else [None]:
        chosen = [i for i, group in enumerate(groups) if kind in {None, group.task.kind}]
        trajectories = [t for i in chosen for t in groups[i].trajectories]
        rewards = [[total(s) for s in scores[i]] for i in chosen]
        name = f"/{kind}" if kind else ""
        flat = np.concatenate([np.asarray(r, dtype=float) for r in rewards])
        result[f"reward{name}"] = float(flat.mean())
        result[f"reward_std{name}"] = float(flat.std())
        result[f"zero_variance{name}"] = float(np.mean([np.ptp(r) == 0 for r in rewards]))
        result[f"searches{name}"] = _mean(len(t.searches) for t in trajectories)
        result[f"tokens{name}"] = _mean(sum(_lengths(t)) for t in trajectories)
        result[f"format{name}"] = _mean(not any(isinstance(s, Malformed) for s in t.steps) for t in trajectories)
    everyone = [t for group in groups for t in group.trajectories]
    result["unfinished"] = _mean(t.answer is None and t.decision is None for t in everyone)
    result["failed"] = _mean(t.error is not None for t in everyone)
    result["truncated"] = _mean(any(n >= max_tokens for n in _lengths(t)) for t in everyone)
    searches = sum(len(t.searches) for t in everyone)
    if searches:
        errors = sum(result.error for t in everyone for result in t.search_results)
        result["search_failures"] = errors / searches
    verdicts = [d for group in groups for t in group.trajectories if (d := _decided(group, t)) is not None]
    if verdicts:
        yes = float(np.mean(verdicts))
        result["says_yes"] = yes
        result["one_decision"] = max(yes, 1 - yes)
    measured = [
        (_decided(group, t), group.task.known)
        for group in groups
        if group.task.known is not None
        for t in group.trajectories
    ]
    if measured:
        decisions, known = zip(*measured, strict=True)
        result["f1_aware"] = f1_aware(decisions, known).f1
    return result


def _decided(group: Group, trajectory: Trajectory) -> bool | None:
    """The verdict that the model itself suffices: said, or shown by not searching where it could; None where there was
    none to make."""
    if trajectory.decision is not None:
        return trajectory.decision.knows
    return not trajectory.searches if group.task.strategy.needs_search else None


def _lengths(trajectory: Trajectory) -> list[int]:
    return [len(s.token_ids or ()) for s in trajectory.segments if s.role == "policy"]


def _mean(values: Iterable[float]) -> float:
    items = list(values)
    return sum(items) / len(items) if items else 0.0
