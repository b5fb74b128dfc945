"""Stage 1, planning: which sub-questions a question takes (card 49, Method)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ken.agents.attempt import Attempt
from ken.agents.protocol import escape
from ken.agents.tool_stages.calling import asked_for, typed
from ken.agents.tool_stages.grammar import NEXT, PLAN, REVERSE, history, read_next, read_steps, read_value
from ken.agents.tool_stages.selection import Selector
from ken.agents.tool_stages.trace import Plan, PlannedStep, order_of
from ken.core import BadInput, Malformed
from ken.sources.tools.tool import Tool

Exchanges = Sequence[tuple[str, str]]


class Planner(ABC):
    """Splits a question. `plan` does so at once (one-step), `next` one sub-question at a time, with what came back so
    far (iterative). Both raise `ModelError`; what cannot be read is a `Malformed`."""

    @abstractmethod
    async def plan(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Plan | Malformed:
        """All sub-questions."""

    @abstractmethod
    async def next(self, attempt: Attempt, question: str, done: Exchanges) -> PlannedStep | Malformed | None:
        """The next sub-question; None when nothing more is needed."""


class WholeQuestion(Planner):
    """No planning: the question is the one step."""

    async def plan(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Plan:
        return (PlannedStep(text=question.replace("#", "no. ")),)

    async def next(self, attempt: Attempt, question: str, done: Exchanges) -> PlannedStep | None:
        return None if done else PlannedStep(text=question)


class ModelPlanner(Planner):
    """The model splits the question, as its instruction shows it (few-shot) or as it was trained to.

    repairs: how often a plan that cannot be read or carried out is asked for again, with what was wrong.
    Raises `BadInput` for repairs < 0.
    """

    def __init__(self, *, repairs: int = 1) -> None:
        if repairs < 0:
            raise BadInput(f"repairs is {repairs}; a plan cannot be repaired less than never")
        self.repairs = repairs

    async def plan(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Plan | Malformed:
        text, left = escape(question), self.repairs
        while True:
            written = (await attempt.aside(PLAN, text, stop=("</plan>",))).text
            steps = read_steps(written)
            if isinstance(steps, Malformed):
                problem = steps
            else:
                plan = tuple(PlannedStep(text=step) for step in steps)
                if order_of(plan) is not None:
                    return plan
                problem = Malformed(text=written, problem=CYCLIC)
            if not left:
                return problem
            left -= 1
            attempt.steps.append(problem)
            text = f"{escape(question)}\n{escape(written)}\n[ERROR] {problem.problem}; write the plan again"

    async def next(self, attempt: Attempt, question: str, done: Exchanges) -> PlannedStep | Malformed | None:
        text, left = history(question, done), self.repairs
        while True:
            written = (await attempt.aside(NEXT, text, stop=("</step>", "<done/>"))).text
            step = read_next(written)
            if not isinstance(step, Malformed):
                return None if step is None else PlannedStep(text=step)
            if not left:
                return step
            left -= 1
            attempt.steps.append(step)
            text = f"{history(question, done)}\n[ERROR] {step.problem}; write one of them"


CYCLIC = "sub-questions that wait for each other, or for one that there is not"


class ReverseChain(Planner):
    """From the last tool backwards (Reverse Chain, Zhang et al. 2023; card 49, Stage 3): choose the tool that answers
    the question, then fill its parameters, each with a value from the question or by another tool, and so on.

    depth: of calls within calls. In the iterative paradigm it makes one step of the question, as it has no history.
    """

    def __init__(self, selector: Selector, *, depth: int = 4) -> None:
        if depth < 1:
            raise BadInput(f"depth is {depth}; a chain has at least one call")
        self.selector, self.depth = selector, depth

    async def plan(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Plan | Malformed:
        steps: list[PlannedStep] = []
        problem = await self._add(attempt, question, tools, steps, self.depth)
        return problem or tuple(steps)

    async def next(self, attempt: Attempt, question: str, done: Exchanges) -> PlannedStep | Malformed | None:
        return None if done else PlannedStep(text=question)

    async def _add(
        self, attempt: Attempt, question: str, tools: dict[str, Tool], steps: list[PlannedStep], depth: int
    ) -> Malformed | None:
        """Add the call that answers `question`, after those that it needs."""
        chosen = await self.selector.select(attempt, question, tools)
        if chosen.tool is None:
            steps.append(PlannedStep(text=question))
            return None
        tool, arguments = tools[chosen.tool], {}
        properties = tool.parameters.get("properties") or {}
        for name in tool.parameters.get("required") or ():
            written = (await attempt.aside(REVERSE, asked_for(tool, name, question), stop=("</value>", "</step>"))).text
            asked = read_steps(written)
            if "<value>" in written or isinstance(asked, Malformed) or depth == 1:
                value = read_value(written)
                if isinstance(value, Malformed):
                    return value
                arguments[name] = typed(value, properties.get(name))
                continue
            if (problem := await self._add(attempt, asked[0], tools, steps, depth - 1)) is not None:
                return problem
            arguments[name] = f"#{len(steps)}"
        steps.append(PlannedStep(text=question, tool=tool.name, arguments=arguments))
        return None
