"""A reward that says nothing: the control for what training does by itself."""

from __future__ import annotations

from ken.core import Trajectory
from ken.core.seeding import derive_seed


def by_chance(trajectory: Trajectory, *, share: float = 0.5) -> float:
    """1 with probability `share`, else 0, whatever the attempt did; the same attempt always earns the same."""
    drawn = derive_seed("by chance", trajectory.sampling.seed, trajectory.question.id, trajectory.sample)
    return float(drawn < share * 2**63)
