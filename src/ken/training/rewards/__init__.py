"""What an attempt earns: pure functions of trajectories, one mechanism a file; nothing a model writes can make them
raise.

`named` gives a reward by the name that the command line uses.
"""

from ken.training.rewards.names import REWARDS, named

__all__ = ["REWARDS", "named"]
