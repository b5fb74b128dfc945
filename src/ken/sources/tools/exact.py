"""Exact algebra in this process: the interface of the Python tool, for worlds that need no more.

It reads an expression, it does not run code (`ken.metrics.expressions`): about 50 µs a call, where sympy in a sandboxed
process takes half a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ken.core import BadInput
from ken.metrics.expressions import read_expression
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult


class ExactAlgebra(Tool):
    """The tool `code` for numbers, polynomials and their quotients, and comparisons of them, of sets, tuples and lists
    by ==; the observation is the value, expanded, or True or False."""

    name: ClassVar[str] = "code"
    description: ClassVar[str] = "Work out an expression exactly, such as (2(x+3))-(2x+6), or compare with ==."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "for example (2(x+3))-(2x+6)"}},
        "required": ["code"],
        "additionalProperties": False,
    }

    async def call(self, arguments: Arguments) -> ToolResult:
        try:
            return ToolResult(str(read_expression(str(arguments["code"]))))
        except BadInput as error:
            return ToolResult(f"{ERROR} {error}", ok=False)
