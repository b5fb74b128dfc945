"""Stage 3, calling: from a sub-question and a tool's schema to arguments that fit (card 49, Method)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from ken.agents.attempt import Attempt
from ken.agents.protocol import escape
from ken.agents.tool_stages.grammar import CALL, FILL, listing, read_arguments, read_value, signature
from ken.core import Malformed
from ken.sources.tools.tool import Tool

Written = dict[str, Any] | Malformed


class Caller(ABC):
    """Writes the arguments of a call. Raises `ModelError`."""

    @abstractmethod
    async def write(self, attempt: Attempt, tool: Tool, question: str, problem: str = "") -> Written:
        """The arguments with which `tool` answers `question`. problem: what was written before and what was wrong with
        it, as the model is to read it; "" the first time."""


class FreeCaller(Caller):
    """The model writes the JSON object, as it likes; what does not fit goes back to it with the error."""

    async def write(self, attempt: Attempt, tool: Tool, question: str, problem: str = "") -> Written:
        text = listing(question, [tool]) + (f"\n{problem}" if problem else "")
        return read_arguments((await attempt.aside(CALL, text, stop=("</arguments>",))).text)


class SchemaCaller(Caller):
    """The schema writes the JSON object, and the model only the values: one question a parameter, asked at once, each
    reply turned into the parameter's type. The object is always one, with the right names; a value may still not fit.

    (Constrained decoding as any chat model can do it, an endpoint's too.)
    """

    async def write(self, attempt: Attempt, tool: Tool, question: str, problem: str = "") -> Written:
        properties = tool.parameters.get("properties") or {}
        required = tool.parameters.get("required") or ()
        arguments: dict[str, Any] = {}
        for name, schema in properties.items():
            text = asked_for(tool, name, question) + (f"\n{problem}" if problem else "")
            value = read_value((await attempt.aside(FILL, text, stop=("</value>",))).text)
            if isinstance(value, Malformed):
                return value
            if value or name in required:
                arguments[name] = typed(value, schema)
        return arguments


def asked_for(tool: Tool, name: str, question: str) -> str:
    """What a model reads that is to say the value of one parameter."""
    return f"{signature(tool)}\nParameter: {escape(name)}\nQuestion: {escape(question)}"


def typed(value: str, schema: object) -> Any:
    """A value that was written as text, in the type of its schema as far as it can be read so; a choice that differs in
    case or spaces is the choice.

    >>> typed("12", {"type": "integer"}), typed("Euros", {"enum": ["euros", "yen"]})
    (12, 'euros')
    """
    if not isinstance(schema, Mapping):
        return value
    choices = schema.get("enum")
    if isinstance(choices, list):
        same = [c for c in choices if str(c).strip().lower() == value.strip().lower()]
        return same[0] if same else value
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if "string" in kinds or not kinds:
        return value
    try:
        read = json.loads(value.strip().replace(",", "") if {"integer", "number"} & set(kinds) else value)
        json.dumps(read, allow_nan=False)
    except (ValueError, RecursionError):
        lowered = value.strip().lower()
        return (
            {"true": True, "yes": True, "false": False, "no": False}.get(lowered, value)
            if "boolean" in kinds
            else value
        )
    return int(read) if "integer" in kinds and isinstance(read, float) and read.is_integer() else read


def repair_text(arguments: Mapping[str, Any] | str, problem: str) -> str:
    """What the model reads about its last try."""
    said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"<arguments> {escape(said)} </arguments>\n<response> {problem} </response>"
