"""The four-stage workflow of tool learning: planning, selection, calling, response (arXiv 2405.17935; card 49).

One-step: all sub-questions are planned and given their tools before the first call, and the plan stays as it is.
Iterative: after each call the planner sees what came back, errors too, and asks the next sub-question. Every stage is
an object that can be exchanged (`ken.agents.tool_stages`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from ken.agents.adaptive import decide
from ken.agents.attempt import Attempt
from ken.agents.direct import Direct
from ken.agents.strategy import Strategy
from ken.agents.tool_stages.calling import Caller, FreeCaller, repair_text, typed
from ken.agents.tool_stages.planning import CYCLIC, ModelPlanner, Planner
from ken.agents.tool_stages.responding import Integrate, Responder, exchanges
from ken.agents.tool_stages.selection import Chooser, Selection, Selector
from ken.agents.tool_stages.trace import (
    CallTrace,
    PipelineTrace,
    Plan,
    PlannedStep,
    StepTrace,
    Trouble,
    order_of,
    resolved,
)
from ken.agents.tool_stages.trimming import trimmed, value_of
from ken.core import Answer, BadInput, Malformed, Observation, Search, SourceError, Step, Thought, ToolCall, Usage
from ken.sources.tools.builtin import builtin_tools
from ken.sources.tools.retrieval import Bm25Tools
from ken.sources.tools.search_tool import SearchTool
from ken.sources.tools.tool import ERROR, PASSING, Tool, Toolbox, ToolResult

SEARCH = SearchTool.name


class ToolStages(Strategy):
    """Plan, choose, call, respond; one-step.

    tools: what may be called, in a `Toolbox` or as they are; by default those that Ken has (`builtin_tools`). Where
    there is an index, searching it is one more. problems: why others are missing, noted in every attempt.
    gate: ask first whether any tool is needed; without, every question is planned.
    planner, selector, caller, responder: the stages; by default the model plays each, and chooses among `k` tools.
    repairs: how often the arguments of a call are written again, with the error; retries: how often the same call is
    sent again when its tool is away for the moment; patience: seconds that are waited for a tool that says when.
    max_steps: sub-questions of an attempt; max_calls: calls, tries included; most_tokens: of the model, read and
    written, after which nothing more is planned or called. characters: shown of a result, head and tail.

    Raises `BadInput` for what cannot be.
    """

    name = "tool-stages"
    iterative = False

    def __init__(
        self,
        tools: Iterable[Tool] | Toolbox | None = None,
        *,
        gate: bool = True,
        planner: Planner | None = None,
        selector: Selector | None = None,
        caller: Caller | None = None,
        responder: Responder | None = None,
        k: int = 5,
        repairs: int = 2,
        retries: int = 1,
        patience: float = 5.0,
        max_steps: int = 8,
        max_calls: int = 24,
        most_tokens: int | None = None,
        characters: int = 2000,
        problems: Sequence[str] = (),
    ) -> None:
        self.tools = tools if isinstance(tools, Toolbox) else Toolbox(builtin_tools() if tools is None else tools)
        if min(repairs, retries) < 0 or min(max_steps, max_calls, characters) < 1:
            raise BadInput(
                f"repairs {repairs}, retries {retries}, max_steps {max_steps}, max_calls {max_calls} and characters "
                f"{characters} cannot all be; the first two are at least 0, the others at least 1"
            )
        self.gate, self.planner = gate, planner or ModelPlanner()
        if selector is None:
            documents = {tool.name: f"{tool.name}: {tool.description}" for tool in self.tools.tools.values()}
            selector = Chooser(Bm25Tools(documents) if len(documents) > k else None, k=k)
        self.selector, self.caller, self.responder = selector, caller or FreeCaller(), responder or Integrate()
        self.repairs, self.retries, self.patience = repairs, retries, patience
        self.max_steps, self.max_calls, self.most_tokens = max_steps, max_calls, most_tokens
        self.characters, self.problems = characters, tuple(problems)

    async def solve(self, attempt: Attempt) -> None:
        await self.traced(attempt)

    async def traced(self, attempt: Attempt) -> PipelineTrace:
        """`solve`, and what happened in each stage."""
        attempt.steps.extend(Observation(note=problem, error=True) for problem in self.problems)
        knows: bool | None = None
        if self.gate:
            knows = (await decide(attempt)).knows
            if knows:
                await Direct().solve(attempt)
                return PipelineTrace(knows=True, answer=_last_answer(attempt))
        run = _Run(self, attempt)
        await (self._iterative(run) if self.iterative else self._one_step(run))
        steps = tuple(run.done)
        answer = await self.responder.respond(attempt, attempt.question.text, steps)
        attempt.steps.append(answer)
        said = answer.text if isinstance(answer, Answer) else None
        return PipelineTrace(knows=knows, steps=steps, answer=said, rounds=run.rounds, plan_problem=run.plan_problem)

    async def _one_step(self, run: _Run) -> None:
        attempt = run.attempt
        run.rounds = 1
        plan = await self.planner.plan(attempt, attempt.question.text, run.tools)
        if isinstance(plan, Malformed):
            run.plan_problem = "cyclic_plan" if plan.problem == CYCLIC else "malformed"
            attempt.steps += [plan, Observation(note=f"{ERROR} {plan.problem}")]
            return
        plan = plan[: self.max_steps]
        attempt.steps.append(Thought(text=" ".join(f"{i}. {step.text}" for i, step in enumerate(plan, start=1))))
        order = order_of(plan)
        if order is None:  # of a planner of somebody else's, or of a plan cut off
            run.plan_problem = "cyclic_plan"
            attempt.steps.append(Observation(note=f"{ERROR} {CYCLIC}"))
            return
        selections = await asyncio.gather(*(run.select(step) for step in plan))
        made: dict[int, StepTrace] = {}
        for ready in order:
            finished = await asyncio.gather(*(run.carry_out(plan[i], selections[i], i) for i in ready))
            for i, (trace, steps) in zip(ready, finished, strict=True):
                made[i] = trace
                attempt.steps.extend(steps)
        run.done = [made[i] for i in range(len(plan))]

    async def _iterative(self, run: _Run) -> None:
        attempt = run.attempt
        for _ in range(self.max_steps):
            if (spent := run.spent()) is not None:
                attempt.steps.append(Observation(note=f"{ERROR} {spent}"))
                return
            run.rounds += 1
            step = await self.planner.next(attempt, attempt.question.text, exchanges(tuple(run.done)))
            if step is None:
                return
            if isinstance(step, Malformed):
                run.plan_problem = "malformed"
                attempt.steps += [step, Observation(note=f"{ERROR} {step.problem}")]
                return
            attempt.steps.append(Thought(text=step.text))
            trace, steps = await run.carry_out(step, await run.select(step), len(run.done))
            attempt.steps.extend(steps)
            run.done.append(trace)


class ToolStagesIterative(ToolStages):
    """The same, iterative: after each call the planner sees what came back and asks the next sub-question."""

    name = "tool-stages-iterative"
    iterative = True


@dataclass
class _Run:
    """One attempt under way: what may be called, what has been done, what is left of the budgets."""

    strategy: ToolStages
    attempt: Attempt
    done: list[StepTrace] = field(default_factory=list)
    rounds: int = 0
    calls: int = 0
    plan_problem: Trouble | None = None
    values: dict[int, str] = field(default_factory=dict)
    tools: dict[str, Tool] = field(init=False)

    def __post_init__(self) -> None:
        self.tools = dict(self.strategy.tools.tools)
        sources = self.attempt.sources
        if sources.search is not None and SEARCH not in self.tools:
            self.tools[SEARCH] = SearchTool(sources.search, top_k=sources.top_k)
        if not self.tools:
            raise BadInput("there is no tool to use; give some, or an index to search")

    def spent(self) -> str | None:
        """Which budget is used up."""
        if self.calls >= self.strategy.max_calls:
            return f"the budget of {self.strategy.max_calls} calls is spent"
        if (most := self.strategy.most_tokens) is not None:
            usage = self.attempt.trajectory().usage
            if usage.prompt_tokens + usage.completion_tokens >= most:
                return f"the budget of {most} tokens is spent"
        return None

    async def select(self, step: PlannedStep) -> Selection:
        if step.tool is not None and step.tool in self.tools:
            return Selection((step.tool,), step.tool)
        return await self.strategy.selector.select(self.attempt, step.text, self.tools)

    async def carry_out(self, step: PlannedStep, selection: Selection, number: int) -> tuple[StepTrace, list[Step]]:
        """A sub-question by its tool: what became of it, and the steps for the record."""
        strategy, noted, calls = self.strategy, list[Step](), list[CallTrace]()
        asked = str(resolved(step.text, self.values))

        def ends(problem: Trouble | None, shown: str, value: str = "") -> tuple[StepTrace, list[Step]]:
            if problem is not None and not calls:
                noted.append(Observation(note=shown))
            trace = StepTrace(
                planned=step,
                asked=asked,
                candidates=selection.candidates,
                tool=selection.tool,
                calls=tuple(calls),
                shown=shown,
                value=value,
                problem=problem,
            )
            return trace, noted

        if missing := [need for need in step.needs if need not in self.values and not strategy.iterative]:
            return ends("unresolved", f"{ERROR} needs #{missing[0] + 1}, which failed")
        if selection.tool is None:
            return ends("malformed" if selection.problem else "no_tool", f"{ERROR} no tool fits: {asked}")
        tool = self.tools[selection.tool]
        repairs, retries, problem = strategy.repairs, strategy.retries, ""
        written: dict[str, Any] | Malformed | None = None
        while True:
            if (spent := self.spent()) is not None:
                return ends("over_budget", f"{ERROR} {spent}")
            if written is None:
                written = self._planned(step, tool) or await strategy.caller.write(self.attempt, tool, asked, problem)
            if isinstance(written, Malformed):
                noted.append(written)
                calls.append(CallTrace(tool=tool.name, text=written.problem, problem="malformed"))
                last, mendable = f"{ERROR} {written.problem}", True
            else:
                self.calls += 1
                result, steps = await self._call(tool, written)
                noted.extend(steps)
                calls.append(CallTrace(tool=tool.name, arguments=written, text=result.text, problem=result.problem))
                if result.ok:
                    shown = trimmed(result.text, tool.returns, strategy.characters)
                    self.values[number] = value_of(result.text, tool.returns)
                    return ends(None, shown, self.values[number])
                last, kind = trimmed(result.text, None, strategy.characters), result.problem
                if kind in PASSING and retries and (result.after is None or result.after <= strategy.patience):
                    retries -= 1
                    await asyncio.sleep(result.after or 0)
                    continue
                mendable = kind in {"bad_arguments", "failed"}
            if not mendable or not repairs:
                return ends(calls[-1].problem, last)
            repairs -= 1
            problem = repair_text(written.text if isinstance(written, Malformed) else written, last)
            step, written = step.model_copy(update={"arguments": None}), None

    def _planned(self, step: PlannedStep, tool: Tool) -> dict[str, Any] | None:
        """The arguments that the planner gave, with results in them."""
        if step.arguments is None or step.tool != tool.name:
            return None
        properties = tool.parameters.get("properties") or {}
        given: dict[str, Any] = {}
        for name, value in step.arguments.items():
            filled = resolved(value, self.values)
            given[name] = typed(filled, properties.get(name)) if filled != value else value
        return given

    async def _call(self, tool: Tool, arguments: dict[str, JsonValue]) -> tuple[ToolResult, list[Step]]:
        if isinstance(tool, SearchTool) and tool.name not in self.strategy.tools:
            return await self._search(tool, arguments)
        result = await self.strategy.tools.call(tool.name, arguments)
        # An error is the environment's failure; what a call got wrong is only an observation.
        return result, [ToolCall(name=tool.name, arguments=arguments), Observation(note=result.text, error=result.down)]

    async def _search(self, tool: SearchTool, arguments: dict[str, JsonValue]) -> tuple[ToolResult, list[Step]]:
        """A search of the attempt's own index: its passages belong into the record."""
        if misfit := tool.misfit(arguments):
            text = f"{ERROR} {misfit}"
            call = ToolCall(name=tool.name, arguments=arguments)
            return ToolResult(text, ok=False, error="bad_arguments"), [call, Observation(note=text)]
        self.attempt.count(Usage(search_calls=1))
        search = Search(query=str(arguments["query"]))
        try:
            result = await tool.call(arguments)
        except SourceError as error:
            result = ToolResult(f"{ERROR} {error}", ok=False, down=True, error="unavailable")
            return result, [search, Observation(note=str(error), error=True)]
        return result, [search, Observation(passages=result.passages)]


def _last_answer(attempt: Attempt) -> str | None:
    return next((step.text for step in reversed(attempt.steps) if isinstance(step, Answer)), None)


__all__ = ["Plan", "ToolStages", "ToolStagesIterative"]
