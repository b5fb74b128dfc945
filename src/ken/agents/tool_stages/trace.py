"""What happened in each stage of the tool pipeline: for metrics by stage, and for reports of what went wrong."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

from pydantic import JsonValue

from ken.core.frozen import Frozen
from ken.sources.tools.tool import ErrorKind

Trouble = ErrorKind | Literal["malformed", "no_tool", "unresolved", "cyclic_plan"]
"""Why a sub-question was not answered: a failed call, a reply that could not be read, no tool chosen, a result that it
needs and that is missing, a plan whose sub-questions wait for each other."""

_REFERENCE = re.compile(r"#(\d+)")


class PlannedStep(Frozen):
    """A sub-question, with #1, #2 … for results of other steps. A planner that works backwards from the tools also says
    which tool answers it with which arguments."""

    text: str
    tool: str | None = None
    arguments: dict[str, JsonValue] | None = None

    @property
    def needs(self) -> tuple[int, ...]:
        """The steps (from 0) whose results it needs."""
        texts = [self.text, *(v for v in (self.arguments or {}).values() if isinstance(v, str))]
        return tuple(dict.fromkeys(int(number) - 1 for text in texts for number in _REFERENCE.findall(text)))


Plan = tuple[PlannedStep, ...]


class CallTrace(Frozen):
    """One try at calling a tool. problem: None when it worked."""

    tool: str
    arguments: dict[str, JsonValue] = {}
    text: str = ""
    problem: Trouble | None = None


class StepTrace(Frozen):
    """A sub-question through the stages. asked: with values in place of #1, #2 …; candidates: the tools that the
    chooser was shown, best first; shown: what of the result was shown; value: what stands for it elsewhere."""

    planned: PlannedStep
    asked: str = ""
    candidates: tuple[str, ...] = ()
    tool: str | None = None
    calls: tuple[CallTrace, ...] = ()
    shown: str = ""
    value: str = ""
    problem: Trouble | None = None

    @property
    def arguments(self) -> dict[str, JsonValue] | None:
        """Of the last try."""
        return dict(self.calls[-1].arguments) if self.calls else None

    @property
    def repaired(self) -> bool:
        """Whether a try failed and a later one worked."""
        return len(self.calls) > 1 and self.problem is None


class PipelineTrace(Frozen):
    """An attempt through all stages. knows: what the gate said, None without one. steps: in the order in which they
    were planned. rounds: how often the planner was asked."""

    knows: bool | None = None
    steps: tuple[StepTrace, ...] = ()
    answer: str | None = None
    rounds: int = 0
    plan_problem: Trouble | None = None

    @property
    def calls(self) -> int:
        """Calls of tools, tries included."""
        return sum(len(step.calls) for step in self.steps)

    def report(self) -> dict[str, int]:
        """How often each kind of trouble was met, for the user."""
        met = Counter[str](step.problem for step in self.steps if step.problem and not step.calls)
        met.update(call.problem for step in self.steps for call in step.calls if call.problem)
        if self.plan_problem:
            met[self.plan_problem] += 1
        return dict(met)


def sinks(steps: tuple[StepTrace, ...]) -> tuple[StepTrace, ...]:
    """The steps with a result that no later step needs: what the answer is made of."""
    done = [step for step in steps if step.problem is None]
    return tuple(
        step
        for i, step in enumerate(done)
        if not any(
            steps.index(step) in after.planned.needs or _names(after.asked, step.value) for after in done[i + 1 :]
        )
    )


def _names(text: str, value: str) -> bool:
    return bool(value) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def resolved(value: Any, values: dict[int, str]) -> Any:
    """A text with results in place of #1, #2 …, as far as they are known; other values as they are."""
    if not isinstance(value, str):
        return value
    return _REFERENCE.sub(lambda found: values.get(int(found[1]) - 1, found[0]), value)


def order_of(plan: Plan) -> list[list[int]] | None:
    """The steps in rounds: those of one round need only results of earlier ones. None when steps wait for each other,
    for themselves, or for a step that there is not."""
    if any(need < 0 or need >= len(plan) for step in plan for need in step.needs):
        return None
    left, done, rounds = set(range(len(plan))), set[int](), list[list[int]]()
    while left:
        ready = sorted(i for i in left if done.issuperset(plan[i].needs))
        if not ready:
            return None
        rounds.append(ready)
        done.update(ready)
        left.difference_update(ready)
    return rounds
