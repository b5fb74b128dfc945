"""What a tool is, and a box of tools that checks arguments, survives failures and counts.

A tool is a typed function with a JSON schema. Agents with tags (TAPO, arXiv 2510.07038; card 22) call it as
`<name>content</name>`; function-calling agents by its schema. Both end in `Toolbox.call`.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import JsonValue

from ken.core import BadInput, KenError, Passage, SourceError, Unsupported

ERROR = "[ERROR]"  # how every observation about something that went wrong begins (card 22)

Arguments = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gives back: `text` for the model, and `passages` when it found documents.

    ok: False when the call failed, whoever is to blame; the text then says why. down: the tool itself did not work
    (a service that is away, an interpreter that does not start): nothing the model wrote could have helped.
    """

    text: str
    ok: bool = True
    down: bool = False
    passages: tuple[Passage, ...] = ()


class Tool(ABC):
    """A function that a model can call.

    name: of the tool, and its tag. description: one sentence for the model. parameters: JSON schema of the arguments,
    an object; the first `required` one takes the content of a tag. budget: most calls in one attempt, None for no
    limit; who runs the attempt keeps to it.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    parameters: ClassVar[Mapping[str, Any]]
    budget: int | None = None

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


@dataclass(slots=True)
class ToolCount:
    """Calls of one tool. `errors` includes `down`; `seconds` is the sum of their wall times."""

    calls: int = 0
    errors: int = 0
    down: int = 0
    seconds: float = 0.0


class Toolbox:
    """Tools by name, with one counter each.

    (The released TAPO code booked searches as code calls: card 22, Pitfalls; here a counter belongs to a name.)
    seconds: after which a call is given up. Raises `BadInput` when two tools have one name.
    """

    def __init__(self, tools: Iterable[Tool] = (), *, seconds: float = 30.0) -> None:
        self.tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self.tools:
                raise BadInput(f"two tools are called {tool.name!r}; give each its own name")
            self.tools[tool.name] = tool
        self.seconds = seconds
        self.counts: dict[str, ToolCount] = {name: ToolCount() for name in self.tools}

    def __contains__(self, name: str) -> bool:
        return name in self.tools

    async def call(self, name: str, arguments: Arguments) -> ToolResult:
        """Call the tool `name`. An unknown tool, arguments that do not fit, a tool that raises or hangs: each is a
        result that begins with `[ERROR]`. Raises `Unsupported` only, when this machine cannot run the tool at all."""
        if name not in self.tools:
            known = ", ".join(self.tools) or "there are none"
            return ToolResult(f"{ERROR} there is no tool {name!r}; tools: {known}", ok=False)
        tool = self.tools[name]
        started = time.perf_counter()
        if problem := tool.misfit(arguments):
            result = ToolResult(f"{ERROR} {problem}", ok=False)
        else:
            try:
                result = await asyncio.wait_for(tool.call(arguments), self.seconds)
            except Unsupported:
                raise
            except TimeoutError:
                result = ToolResult(f"{ERROR} {name} did not answer within {self.seconds:g} s", ok=False, down=True)
            except KenError as error:
                result = ToolResult(f"{ERROR} {error}", ok=False, down=True)
            except Exception as error:  # a tool of somebody else's may raise anything
                result = ToolResult(f"{ERROR} {name} failed: {type(error).__name__}: {error}", ok=False, down=True)
        self.record(name, result, time.perf_counter() - started)
        return result

    def record(self, name: str, result: ToolResult, seconds: float = 0.0) -> None:
        """Count a call; also for tools that are called in another way, such as the search of a strategy."""
        count = self.counts.setdefault(name, ToolCount())
        count.calls += 1
        count.errors += not result.ok
        count.down += result.down
        count.seconds += seconds

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
