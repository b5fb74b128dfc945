"""Stages that do what is right: for finding out what a stage loses (stage-oracle mode, card 49).

What is right stands in the question: `meta["calls"]`, a list of `{"text", "tool", "arguments"}` with #1, #2 … for the
results of earlier calls; `meta["compose"]`, `meta["sinks"]` and `meta["about"]` say what becomes of the results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ken.agents.attempt import Attempt
from ken.agents.tool_stages.calling import Caller, Written, typed
from ken.agents.tool_stages.planning import Exchanges, Planner
from ken.agents.tool_stages.responding import Responder
from ken.agents.tool_stages.selection import Selection, Selector
from ken.agents.tool_stages.trace import Plan, PlannedStep, StepTrace
from ken.core import Answer, BadInput, Malformed, Question
from ken.sources.tools.tool import Tool

Compose = Callable[[str, Sequence[str], Sequence[str]], str]
"""From how results are composed, their values, and what is compared, to the answer."""


def gold_calls(question: Question) -> list[Mapping[str, Any]]:
    """The calls that a question takes. Raises `BadInput` for a question that does not say."""
    listed = question.meta.get("calls")
    calls = [call for call in listed if isinstance(call, dict)] if isinstance(listed, list) else []
    if not calls or not all({"text", "tool", "arguments"} <= call.keys() for call in calls):
        raise BadInput(
            f"the question {question.id!r} does not say which calls it takes; a gold stage needs meta['calls']"
        )
    return [*calls]


def gold_call(question: Question, asked: str) -> tuple[Mapping[str, Any], dict[str, str]] | None:
    """The gold call that a sub-question stands for, and the values in it, by #1, #2 …; None for none."""
    for call in gold_calls(question):
        parts = re.split(r"(#\d+)", str(call["text"]))
        pattern = "".join("(.+)" if part.startswith("#") else re.escape(part) for part in parts)
        if found := re.fullmatch(pattern, asked):
            return call, dict(zip((p for p in parts if p.startswith("#")), found.groups(), strict=True))
    return None


class GoldPlanner(Planner):
    """The gold plan."""

    async def plan(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Plan:
        return tuple(PlannedStep(text=str(call["text"])) for call in gold_calls(attempt.question))

    async def next(self, attempt: Attempt, question: str, done: Exchanges) -> PlannedStep | None:
        raise BadInput("the gold planner knows whole plans; use it one-step")


class GoldSelector(Selector):
    """The gold tool; what `otherwise` selects for a sub-question that is none of the gold ones."""

    def __init__(self, otherwise: Selector) -> None:
        self.otherwise = otherwise

    async def select(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Selection:
        found = gold_call(attempt.question, question)
        if found is None or found[0]["tool"] not in tools:
            return await self.otherwise.select(attempt, question, tools)
        name = str(found[0]["tool"])
        return Selection((name,), name)


class GoldCaller(Caller):
    """The gold arguments, with the values that the sub-question holds; `otherwise` for another tool or sub-question."""

    def __init__(self, otherwise: Caller) -> None:
        self.otherwise = otherwise

    async def write(self, attempt: Attempt, tool: Tool, question: str, problem: str = "") -> Written:
        found = gold_call(attempt.question, question)
        if found is None or found[0]["tool"] != tool.name:
            return await self.otherwise.write(attempt, tool, question, problem)
        call, values = found
        properties = tool.parameters["properties"]
        return {
            name: typed(values[value], properties.get(name)) if isinstance(value, str) and value in values else value
            for name, value in call["arguments"].items()
        }


class GoldResponder(Responder):
    """What the results come to, by how the question composes them; nothing where one is missing. It reads results, not
    the gold answer: what was found out wrongly stays wrong."""

    def __init__(self, compose: Compose) -> None:
        self.compose = compose

    async def respond(self, attempt: Attempt, question: str, steps: tuple[StepTrace, ...]) -> Answer | Malformed:
        answer = faithful(attempt.question, steps, self.compose)
        return Answer(text=answer, source="tools") if answer else Malformed(text="", problem="a result is missing")


def faithful(question: Question, steps: tuple[StepTrace, ...], compose: Compose) -> str:
    """The answer that follows from what the tools returned; "" where a result that it needs is missing."""
    calls = gold_calls(question)
    values = {step.planned.text: step.value for step in steps if step.problem is None}
    needed = [values.get(str(calls[int(i)]["text"])) for i in question.meta.get("sinks", [])]  # type: ignore[arg-type, union-attr]
    if any(value is None for value in needed):
        return ""
    about = [str(name) for name in question.meta.get("about") or ()]  # type: ignore[union-attr]
    return compose(str(question.meta.get("compose", "last")), [value or "" for value in needed], about)
