"""What a tool is, and a box of tools that checks arguments, survives failures and counts.

A tool is a typed function with a JSON schema. Agents with tags (TAPO, arXiv 2510.07038; card 22) call it as
`<name>content</name>`; function-calling agents and the pipeline of card 49 by its schema. All end in `Toolbox.call`.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import JsonValue

from ken.core import BadInput, KenError, Passage, SourceError, Unsupported

if TYPE_CHECKING:
    from ken.sources.tools.recording import Recording

ERROR = "[ERROR]"  # how every observation about something that went wrong begins (card 22)

Arguments = Mapping[str, JsonValue]

ErrorKind = Literal[
    "unknown_tool",
    "bad_arguments",
    "not_allowed",
    "over_budget",
    "rate_limit",
    "timeout",
    "unavailable",
    "failed",
    "not_recorded",
]
"""Why a call brought nothing. A caller can mend `unknown_tool` and `bad_arguments`; `rate_limit`, `timeout` and
`unavailable` may pass by themselves; `failed` is what the tool said of what it was asked."""

PASSING: tuple[ErrorKind, ...] = ("rate_limit", "timeout", "unavailable")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gives back: `text` for the model, and `passages` when it found documents.

    ok: False when the call failed, whoever is to blame; the text then says why. down: the tool itself did not work
    (a service that is away, an interpreter that does not start): nothing the model wrote could have helped. error:
    which kind of failure it was; a tool that only says `ok=False` has "failed", or is "unavailable" when down. after:
    seconds after which it may be tried again, where that is known.
    """

    text: str
    ok: bool = True
    down: bool = False
    passages: tuple[Passage, ...] = ()
    error: ErrorKind | None = field(default=None, compare=False)
    after: float | None = field(default=None, compare=False)

    @property
    def problem(self) -> ErrorKind | None:
        """The kind of failure; None for a call that worked."""
        if self.ok:
            return None
        return self.error or ("unavailable" if self.down else "failed")


class Tool(ABC):
    """A function that a model can call.

    name: of the tool, and its tag. description: one sentence for the model. parameters: JSON schema of the arguments,
    an object; the first `required` one takes the content of a tag. budget: most calls in one attempt, None for no
    limit; who runs the attempt keeps to it. returns: JSON schema of what it gives back, if that is a JSON object; its
    `required` properties are what matters. cost: of one call, in a unit of the user's. side_effect: a call changes
    something outside, so that it needs an explicit leave (`Toolbox(allow=…)`).
    """

    name: ClassVar[str]
    description: ClassVar[str]
    parameters: ClassVar[Mapping[str, Any]]
    budget: int | None = None
    returns: Mapping[str, Any] | None = None
    cost: float = 0.0
    side_effect: bool = False

    @abstractmethod
    async def call(self, arguments: Arguments) -> ToolResult:
        """Carry out one call; the arguments fit the schema. What the model got wrong is a result, never an exception.
        Raises `SourceError` when the tool is down."""

    async def close(self) -> None:
        """Release processes and connections."""
        return

    def misfit(self, arguments: Arguments) -> str:
        """How `arguments` fail the schema; empty when they fit."""
        return misfit(arguments, self.parameters)

    def read(self, content: str) -> Arguments:
        """The arguments that the content of a tag stands for; they may still not fit."""
        return {str(self.parameters["required"][0]): content}

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as function-calling models are told of it (OpenAI's form)."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `calls` in any `seconds`. Raises `BadInput` for less than one call or no time."""

    calls: int
    seconds: float

    def __post_init__(self) -> None:
        if self.calls < 1 or not self.seconds > 0:
            raise BadInput(f"a rate of {self.calls} calls in {self.seconds} s lets nothing through; allow at least one")


@dataclass(slots=True)
class ToolCount:
    """Calls of one tool. `errors` includes `down`; `seconds` is the sum of their wall times, `cost` of what they cost;
    `kinds` counts the errors by their kind."""

    calls: int = 0
    errors: int = 0
    down: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)


class Toolbox:
    """Tools by name, with one counter each: validation, time-outs, rates, costs, leave for side effects, recordings.

    (The released TAPO code booked searches as code calls: card 22, Pitfalls; here a counter belongs to a name.)
    seconds: after which a call is given up. allow: the tools with side effects that may be called, or True for all.
    rates: most calls of a tool in a time; what is more is refused with the time to wait. most_cost: of all calls
    together. recording: of calls and results, to write or to answer from instead of calling. Raises `BadInput` when two
    tools have one name, or when `allow` or `rates` name a tool that there is not.
    """

    def __init__(
        self,
        tools: Iterable[Tool] = (),
        *,
        seconds: float = 30.0,
        allow: Iterable[str] | bool = False,
        rates: Mapping[str, Rate] | None = None,
        most_cost: float | None = None,
        recording: Recording | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self.tools:
                raise BadInput(f"two tools are called {tool.name!r}; give each its own name")
            self.tools[tool.name] = tool
        self.seconds, self.most_cost, self.recording = seconds, most_cost, recording
        self.allow = frozenset(self.tools) if allow is True else frozenset(allow or ())
        self.rates = dict(rates or {})
        if unknown := [name for name in (*self.allow, *self.rates) if name not in self.tools]:
            raise BadInput(f"there is no tool {unknown[0]!r} to allow or to limit; tools: {', '.join(self.tools)}")
        self.counts: dict[str, ToolCount] = {name: ToolCount() for name in self.tools}
        self._clock = clock
        self._recent: dict[str, deque[float]] = {name: deque() for name in self.rates}

    def __contains__(self, name: str) -> bool:
        return name in self.tools

    @property
    def cost(self) -> float:
        """What all calls have cost together."""
        return sum(count.cost for count in self.counts.values())

    async def call(self, name: str, arguments: Arguments) -> ToolResult:
        """Call the tool `name`. An unknown tool, arguments that do not fit, a tool that raises or hangs: each is a
        result that begins with `[ERROR]` and says its kind. Raises `Unsupported` only, when this machine cannot run the
        tool at all."""
        if name not in self.tools:
            known = ", ".join(self.tools) or "there are none"
            return _error("unknown_tool", f"there is no tool {name!r}; tools: {known}")
        tool = self.tools[name]
        started = time.perf_counter()
        cost = 0.0
        result = self._refusal(tool, arguments)
        if result is None and self.recording is not None and self.recording.replays:
            result = self.recording.replay(name, arguments)
        elif result is None:
            cost = tool.cost
            result = await self._called(tool, arguments)
            if self.recording is not None:
                self.recording.record(name, arguments, result)
        self.record(name, result, time.perf_counter() - started, cost=cost)
        return result

    def _refusal(self, tool: Tool, arguments: Arguments) -> ToolResult | None:
        """Why a call is not made; None when it may be."""
        if problem := tool.misfit(arguments):
            return _error("bad_arguments", problem)
        if tool.side_effect and tool.name not in self.allow:
            return _error("not_allowed", f"{tool.name} changes something outside, and has not been allowed to")
        if self.most_cost is not None and self.cost + tool.cost > self.most_cost:
            return _error(
                "over_budget", f"{tool.name} costs {tool.cost:g}, and the budget of {self.most_cost:g} is spent"
            )
        if (rate := self.rates.get(tool.name)) is not None:
            now, recent = self._clock(), self._recent[tool.name]
            while recent and now - recent[0] >= rate.seconds:
                recent.popleft()
            if len(recent) >= rate.calls:
                wait = rate.seconds - (now - recent[0])
                return _error("rate_limit", f"{tool.name} may be called again in {wait:.3g} s", after=wait)
            recent.append(now)
        return None

    async def _called(self, tool: Tool, arguments: Arguments) -> ToolResult:
        try:
            return await asyncio.wait_for(tool.call(arguments), self.seconds)
        except Unsupported:
            raise
        except TimeoutError:
            return _error("timeout", f"{tool.name} did not answer within {self.seconds:g} s", down=True)
        except KenError as error:
            return _error("unavailable", str(error), down=True)
        except Exception as error:  # a tool of somebody else's may raise anything
            return _error("unavailable", f"{tool.name} failed: {type(error).__name__}: {error}", down=True)

    def record(self, name: str, result: ToolResult, seconds: float = 0.0, *, cost: float = 0.0) -> None:
        """Count a call; also for tools that are called in another way, such as the search of a strategy."""
        count = self.counts.setdefault(name, ToolCount())
        count.calls += 1
        count.errors += not result.ok
        count.down += result.down
        count.seconds += seconds
        count.cost += cost
        if result.problem is not None:
            count.kinds[result.problem] += 1

    def check(self, *, share: float = 0.05, least: int = 20) -> None:
        """Raise `SourceError` when a tool was down in more than `share` of its calls (`least` calls or more): rewards
        would punish the model for what the machine did. For a trainer to call after each step."""
        for name, count in self.counts.items():
            if count.calls >= least and count.down > share * count.calls:
                raise SourceError(
                    f"the tool {name!r} was down in {count.down} of {count.calls} calls; repair it, then resume"
                )

    async def close(self) -> None:
        """Close all tools."""
        for tool in self.tools.values():
            await tool.close()


def _error(kind: ErrorKind, text: str, *, down: bool = False, after: float | None = None) -> ToolResult:
    return ToolResult(f"{ERROR} {text}", ok=False, down=down, error=kind, after=after)


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}


def misfit(arguments: Arguments, parameters: Mapping[str, Any]) -> str:
    """How `arguments` fail the JSON schema `parameters`; empty when they fit.

    Reads what schemas of functions use: `required`, `additionalProperties`, and of each property `type` and `enum`.
    """
    properties = parameters.get("properties", {})
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f"the argument {name!r} is missing"
    for name, value in arguments.items():
        if name not in properties:
            if parameters.get("additionalProperties", False):
                continue
            return f"there is no argument {name!r}; arguments: {', '.join(properties)}"
        wanted = properties[name].get("type")
        kinds = [wanted] if isinstance(wanted, str) else list(wanted or ())
        fits = any(
            isinstance(value, _TYPES.get(kind, (object,))) and (kind == "boolean" or not isinstance(value, bool))
            for kind in kinds
        )
        if kinds and not fits:
            return f"the argument {name!r} must be of type {' or '.join(kinds)}"
        choices = properties[name].get("enum")
        if choices is not None and value not in choices:
            return f"the argument {name!r} must be one of {', '.join(map(str, choices))}"
    return ""


def cut(text: str, limit: int) -> str:
    """At most `limit` characters of `text`: its head and its tail, with a mark where the middle was."""
    if len(text) <= limit:
        return text
    mark = f"\n… [{len(text) - limit} characters cut] …\n"
    kept = max(0, limit - len(mark))
    tail = kept // 2
    return (text[: kept - tail] + mark + text[len(text) - tail :])[:limit]
