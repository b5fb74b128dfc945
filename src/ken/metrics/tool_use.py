"""How tools were used: calls by tool, needed or not, from recorded trajectories alone.

One counter per tool (the released statistics of TAPO booked searches as code calls: card 22, Pitfalls).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ken.core import BadInput, Malformed, Search, ToolCall, Trajectory
from ken.metrics.statistics import mean

SEARCH = "search"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Means over `n` attempts.

    calls: of each tool that was called at all. turns: model calls. invalid: malformed outputs. needless: calls of tools
    that the question does not need, and missed: share of attempts that left a needed tool out; both over the `judged`
    attempts only, whose questions say what they need (`meta["tools"]`), and nan when there are none.
    """

    n: int
    calls: Mapping[str, float]
    turns: float
    invalid: float
    judged: int
    needless: float
    missed: float

    @property
    def total(self) -> float:
        """Calls of all tools."""
        return sum(self.calls.values())


def called(trajectory: Trajectory) -> Counter[str]:
    """How often each tool was called; searches count as the tool "search"."""
    calls: Counter[str] = Counter()
    for step in trajectory.steps:
        if isinstance(step, Search):
            calls[SEARCH] += 1
        elif isinstance(step, ToolCall):
            calls[step.name] += 1
    return calls


def tool_use(trajectories: Sequence[Trajectory]) -> ToolUse:
    """The use of tools over `trajectories`, one attempt each. Raises `BadInput` when there are none."""
    if not trajectories:
        raise BadInput("there are no trajectories to measure; attempt some questions first")
    counts = [called(trajectory) for trajectory in trajectories]
    needs = [_needed(trajectory) for trajectory in trajectories]
    judged = [(count, need) for count, need in zip(counts, needs, strict=True) if need is not None]
    n = len(trajectories)
    return ToolUse(
        n=n,
        calls={tool: sum(count[tool] for count in counts) / n for tool in sorted({t for c in counts for t in c})},
        turns=sum(t.usage.model_calls for t in trajectories) / n,
        invalid=sum(isinstance(step, Malformed) for t in trajectories for step in t.steps) / n,
        judged=len(judged),
        needless=mean(sum(calls for tool, calls in count.items() if tool not in need) for count, need in judged),
        missed=mean(not need <= set(count) for count, need in judged),
    )


def tool_use_by(trajectories: Sequence[Trajectory], key: Callable[[Trajectory], str]) -> dict[str, ToolUse]:
    """`tool_use` of each group of trajectories, for example by `lambda t: str(t.question.meta["source"])`."""
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault(key(trajectory), []).append(trajectory)
    return {name: tool_use(groups[name]) for name in sorted(groups)}


def _needed(trajectory: Trajectory) -> set[str] | None:
    tools = trajectory.question.meta.get("tools")
    return {str(tool) for tool in tools} if isinstance(tools, list) else None
