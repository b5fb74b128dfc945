"""A Python function as a tool: its name, docstring and type hints are the schema, by pydantic."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from ken.core import BadInput
from ken.sources.tools.tool import Arguments, Tool, ToolResult


class FunctionTool(Tool):
    """`function` as a tool. Its parameters become the JSON schema, its docstring's first paragraph the description,
    its return type `returns`; what it gives back is text, or written as JSON. A coroutine is awaited, other functions
    run in a thread (one that hangs is given up, but goes on there until it ends).

    Arguments must have the types of the schema: "3" is no integer. name, description: instead of the function's own.

    >>> def double(n: int) -> int:
    ...     "Twice a number."
    ...     return 2 * n
    >>> FunctionTool(double).parameters["properties"]
    {'n': {'type': 'integer'}}

    Raises `BadInput` for a function with parameters that have no type (or one that cannot be found), or that cannot be
    given by name.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        cost: float = 0.0,
        side_effect: bool = False,
        budget: int | None = None,
    ) -> None:
        self.function = function
        self.name = name or function.__name__  # type: ignore[misc]
        about = (inspect.getdoc(function) or "").partition("\n\n")[0]
        self.description = description or " ".join(about.split())  # type: ignore[misc]
        self.cost, self.side_effect, self.budget = cost, side_effect, budget
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise BadInput(
                f"a type of {self.name} cannot be found ({error}); define it outside of functions"
            ) from error
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise BadInput(
                    f"{self.name} takes {parameter}, which cannot be given by name; give it named parameters"
                )
            if parameter.name not in hints:
                raise BadInput(f"the parameter {parameter.name!r} of {self.name} has no type; annotate it")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
        self._model = create_model(f"{self.name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
        self.parameters = _untitled(self._model.model_json_schema())  # type: ignore[misc]
        self.parameters.setdefault("properties", {})  # type: ignore[attr-defined]
        self._returned = TypeAdapter(hints.get("return", Any))
        given_back = _untitled(self._returned.json_schema()) if "return" in hints else {}
        self.returns = given_back if given_back.get("type") == "object" and given_back.get("required") else None

    def misfit(self, arguments: Arguments) -> str:
        try:
            self._read(arguments)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return f"the argument {where!r} does not fit: {first['msg'].lower()}"
        except (TypeError, ValueError) as error:
            return f"the arguments are no JSON ({error})"
        return ""

    async def call(self, arguments: Arguments) -> ToolResult:
        read = self._read(arguments)
        given = {name: getattr(read, name) for name in type(read).model_fields}
        if inspect.iscoroutinefunction(self.function):
            result = await self.function(**given)
        else:
            result = await asyncio.to_thread(self.function, **given)
        if isinstance(result, ToolResult):
            return result
        return ToolResult(result if isinstance(result, str) else self._returned.dump_json(result).decode())

    def _read(self, arguments: Arguments) -> Any:
        # Through JSON, where strict means: of the JSON type that the schema names; dates and such are strings there.
        return self._model.model_validate_json(json.dumps(dict(arguments)), strict=True)


def _untitled(schema: Any) -> Any:
    """The schema without the titles that pydantic makes of names."""
    if isinstance(schema, Mapping):
        return {
            key: {name: _untitled(of) for name, of in value.items()} if key == "properties" else _untitled(value)
            for key, value in schema.items()
            if key != "title" or not isinstance(value, str)
        }
    return [_untitled(item) for item in schema] if isinstance(schema, list) else schema
