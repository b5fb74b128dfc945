"""A bonus for calling tools, whatever comes of it: what TAPO warns of, as a control (arXiv 2510.07038; card 22, Arms).

Rewarding the call and not its use is how excessive calling is learnt.
"""

from __future__ import annotations

from itertools import pairwise

from ken.core import Observation, Search, ToolCall, Trajectory
from ken.sources.tools.tool import ERROR


def valid_calls(trajectory: Trajectory) -> int:
    """Calls that were carried out and gave a result: searches that did not fail, code that ran to its end."""
    return sum(
        isinstance(call, Search | ToolCall)
        and isinstance(seen, Observation)
        and not seen.error
        and f"{ERROR} " not in seen.note
        for call, seen in pairwise(trajectory.steps)
    )


def tool_bonus(trajectory: Trajectory, *, each: float = 0.2, most: int = 3) -> float:
    """`each` for every valid call, of at most `most` calls; in [0, each · most]."""
    return each * min(valid_calls(trajectory), most)
