"""Stages that go wrong on purpose, by a seed: for finding out whether a stage's measure sees it (card 49, claim 4)."""

from __future__ import annotations

import numpy as np

from ken.agents.attempt import Attempt
from ken.agents.tool_stages.calling import Caller, Written
from ken.agents.tool_stages.planning import Exchanges, Planner
from ken.agents.tool_stages.responding import Responder
from ken.agents.tool_stages.selection import Selection, Selector
from ken.agents.tool_stages.trace import Plan, PlannedStep, StepTrace
from ken.core import Answer, Malformed
from ken.core.seeding import derive_seed
from ken.sources.tools.tool import Tool


class _Fault:
    """rate: share of occasions at which the stage goes wrong; which, the seed and the occasion say."""

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed

    def drawn(self, *occasion: object) -> np.random.Generator | None:
        """A generator when it goes wrong, None when it does not."""
        rng = np.random.default_rng(derive_seed("stage fault", type(self).__name__, self.seed, *occasion))
        return rng if rng.random() < self.rate else None


class DropsStep(_Fault, Planner):
    """Leaves a sub-question out of the plan, of a share of the questions."""

    def __init__(self, planner: Planner, rate: float, *, seed: int = 0) -> None:
        super().__init__(rate, seed)
        self.planner = planner

    async def plan(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Plan | Malformed:
        plan = await self.planner.plan(attempt, question, tools)
        rng = self.drawn(question)
        if isinstance(plan, Malformed) or rng is None or not plan:
            return plan
        left_out = int(rng.integers(len(plan)))
        return tuple(step for i, step in enumerate(plan) if i != left_out)

    async def next(self, attempt: Attempt, question: str, done: Exchanges) -> PlannedStep | Malformed | None:
        step = await self.planner.next(attempt, question, done)
        return None if self.drawn(question, len(done)) is not None else step


class SwapsTool(_Fault, Selector):
    """Takes another tool than was chosen, for a share of the sub-questions."""

    def __init__(self, selector: Selector, rate: float, *, seed: int = 0) -> None:
        super().__init__(rate, seed)
        self.selector = selector

    async def select(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Selection:
        chosen = await self.selector.select(attempt, question, tools)
        others = [name for name in tools if name != chosen.tool]
        rng = self.drawn(attempt.question.id, question)
        if rng is None or not others:
            return chosen
        return Selection(chosen.candidates, others[int(rng.integers(len(others)))])


class CorruptsArgument(_Fault, Caller):
    """Reverses one argument's text, or adds one to its number, in a share of the calls."""

    def __init__(self, caller: Caller, rate: float, *, seed: int = 0) -> None:
        super().__init__(rate, seed)
        self.caller = caller

    async def write(self, attempt: Attempt, tool: Tool, question: str, problem: str = "") -> Written:
        written = await self.caller.write(attempt, tool, question, problem)
        rng = self.drawn(attempt.question.id, question)
        if isinstance(written, Malformed) or rng is None or not written:
            return written
        name = list(written)[int(rng.integers(len(written)))]
        value = written[name]
        return {**written, name: value + 1 if isinstance(value, int | float) else str(value)[::-1]}


class TruncatesResult(_Fault, Responder):
    """Shows half of every result, in a share of the questions."""

    def __init__(self, responder: Responder, rate: float, *, seed: int = 0) -> None:
        super().__init__(rate, seed)
        self.responder = responder

    async def respond(self, attempt: Attempt, question: str, steps: tuple[StepTrace, ...]) -> Answer | Malformed:
        if self.drawn(question) is not None:
            steps = tuple(
                step.model_copy(update={"shown": _half(step.shown), "value": _half(step.value)}) for step in steps
            )
        return await self.responder.respond(attempt, question, steps)


def _half(text: str) -> str:
    return text[: len(text) // 2]
