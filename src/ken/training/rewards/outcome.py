"""Is the answer right? Rewards in [0, 1] for the last answer of an attempt; 0 without one and after an error.

Source: Search-R1 (arXiv 2503.09516), v0.1 and v0.2. Each raises `BadInput` when the question has no golds.
"""

from __future__ import annotations

from ken.core import Trajectory
from ken.metrics import exact_match, substring_match, token_f1
from ken.training.rewards.completion import golds


def exact(trajectory: Trajectory) -> float:
    """1 if the answer is an exact match (EM), else 0."""
    accepted = golds(trajectory)
    return float(trajectory.error is None and exact_match(trajectory.answer, accepted))


def substring(trajectory: Trajectory) -> float:
    """1 if a gold is a substring of the answer (SubEM), else 0."""
    accepted = golds(trajectory)
    return float(trajectory.error is None and substring_match(trajectory.answer, accepted))


def f1(trajectory: Trajectory) -> float:
    """Token F1 of the answer, in [0, 1]."""
    accepted = golds(trajectory)
    return token_f1(trajectory.answer, accepted) if trajectory.error is None else 0.0
