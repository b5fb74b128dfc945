"""Right, but with few searches: rewards that make a search cost something."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ken.core import BadInput, Trajectory
from ken.training.rewards.completion import written
from ken.training.rewards.outcome import exact
from ken.training.rollouts import Group

_BRACKETED = tuple(
    form for tag in ("think", "search", "answer") for form in (f"({tag}", f"{tag})", f"[{tag}", f"{tag}]")
)


def search_penalty(trajectory: Trajectory, *, cost: float = 0.2) -> float:
    """EM − cost · number of searches: naive shaping, a baseline of AdaSearch (arXiv 2512.16883; card 01, Baselines).

    0 after an error. Raises `BadInput` for a negative cost, or without golds.
    """
    if cost < 0:
        raise BadInput(f"a search cannot cost {cost}; give a cost of at least 0")
    return exact(trajectory) - cost * len(trajectory.searches) if trajectory.error is None else 0.0


def ikea(trajectory: Trajectory, *, plus: float = 0.6, minus: float = 0.05, most: int = 3) -> float:
    """The knowledge-boundary reward of IKEA (arXiv 2505.07596; card 42, Reward). With n searches:

    | | reward |
    |---|---|
    | broken format | −1 |
    | right | 1 + plus · max(0, 1 − n / most): 1.6, 1.4, 1.2, 1 for n = 0, 1, 2, ≥ 3 |
    | wrong, n ≥ 1 | minus |
    | wrong, n = 0 | 0 |

    n counts the `<search>` tags that the policy wrote, as the authors do. 0 after an error. Raises `BadInput` for
    most < 1, or without golds.
    """
    if most < 1:
        raise BadInput(f"most is {most}; the reward needs a budget of at least one search")
    right = exact(trajectory)
    if trajectory.error is not None:
        return 0.0
    if broken(trajectory):
        return -1.0
    searches = written(trajectory).count("<search>")
    if right:
        return 1.0 + plus * max(0.0, 1.0 - searches / most)
    return minus if searches else 0.0


def broken(trajectory: Trajectory) -> bool:
    """IKEA's format rule: an output was invalid, there is no `<think>` or no `</think>`, or a tag was written in
    brackets, such as "(search" or "answer]". Only what the policy wrote is looked at: a document may say "[search".
    """
    text = written(trajectory)
    return (
        trajectory.malformed > 0
        or "<think>" not in text
        or "</think>" not in text
        or any(form in text for form in _BRACKETED)
    )


def otc_ppo(trajectory: Trajectory, *, smoothing: float = 4.0, scale: float = 1.0) -> float:
    """scale · cos(mπ / (2m + smoothing)) · EM with m searches: the PPO form of OTC (arXiv 2504.14870; card 01).

    A right answer earns `scale` without a search and ever less with more, more slowly the larger the smoothing (the
    default is the search loop's budget). 0 after an error. Raises `BadInput` for smoothing ≤ 0, or without golds.
    """
    _check(smoothing)
    return scale * _fewer(len(trajectory.searches), smoothing) * exact(trajectory)


def otc_group(group: Group, *, smoothing: float = 4.0, scale: float = 1.0) -> Sequence[float]:
    """scale · r · EM for every rollout: the GRPO form of OTC (arXiv 2504.14870; card 01).

    n is the fewest searches of a right rollout of the group, m those of the rollout:
    r = 1 if m = n = 0; cos(mπ / (2m + smoothing)) if n = 0 < m; else sin(fπ / 2n) with f = 2nm / (m + n), which is 1
    at m = n. Raises `BadInput` for smoothing ≤ 0, or without golds.
    """
    _check(smoothing)
    right = [exact(trajectory) for trajectory in group.trajectories]
    calls = [len(trajectory.searches) for trajectory in group.trajectories]
    fewest = min((m for m, ok in zip(calls, right, strict=True) if ok), default=0)
    return [
        scale * ok * (_fewer(m, smoothing) if fewest == 0 else math.sin(math.pi * m / (m + fewest)))  # f / 2n = m/(m+n)
        for m, ok in zip(calls, right, strict=True)
    ]


def _check(smoothing: float) -> None:
    if smoothing <= 0:
        raise BadInput(f"smoothing is {smoothing}; it must be above 0")


def _fewer(searches: int, smoothing: float) -> float:
    return math.cos(searches * math.pi / (2 * searches + smoothing))
