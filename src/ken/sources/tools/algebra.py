"""Algebra as a tool: sympy, in the sandbox of the Python tool, since sympy evaluates what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

from ken.core import Unsupported
from ken.sources.tools.python import PythonTool
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult

LONGEST = 500  # characters of an expression

_READ = """
from sympy import *
from sympy.parsing.sympy_parser import (
    convert_xor, implicit_multiplication_application, parse_expr, standard_transformations)
RULES = standard_transformations + (convert_xor, implicit_multiplication_application)
def read(text):
    sides = [parse_expr(side, transformations=RULES) for side in text.replace("==", "=").split("=")]
    return Eq(*sides) if len(sides) == 2 else sides[0]
def zero(thing):
    return thing.lhs - thing.rhs if isinstance(thing, Eq) else thing
expression = read({expression!r})
other = read({other!r}) if {other!r} else None
names = sorted(expression.free_symbols, key=str)
variable = Symbol({variable!r}) if {variable!r} else (names[0] if names else Symbol("x"))
"""

_DO = {
    "simplify": "simplify(expression)",
    "expand": "expand(expression)",
    "factor": "factor(expression)",
    "evaluate": "N(expression, 15)",
    "solve": "solve(zero(expression), variable)",
    "differentiate": "diff(expression, variable)",
    "integrate": "integrate(expression, variable)",
    "limit": "limit(expression, variable, other if other is not None else 0)",
    "equal": "simplify(zero(expression) - zero(other)) == 0",
}


class AlgebraTool(Tool):
    """The tool `algebra`: simplify, solve, differentiate … an expression such as `x^2 - 4 = 0` or `2x + 1`.

    python: the sandbox that it runs in. Raises `Unsupported` when sympy is not installed.
    """

    name: ClassVar[str] = "algebra"
    description: ClassVar[str] = (
        "Work with a mathematical expression or equation exactly, by a computer algebra system."
    )
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {
            "operation": {"type": "string", "enum": [*_DO]},
            "expression": {"type": "string", "description": "such as x^2 - 4 = 0"},
            "variable": {"type": "string", "description": "to solve for, differentiate by … (default: the first)"},
            "other": {"type": "string", "description": "the expression to compare with, or the point of a limit"},
        },
        "required": ["operation", "expression"],
        "additionalProperties": False,
    }

    def __init__(self, *, python: PythonTool | None = None, budget: int | None = None) -> None:
        if find_spec("sympy") is None:
            raise Unsupported("the algebra tool needs sympy; run `pip install 'ken[tools]'`")
        self.python, self.budget = python or PythonTool(seconds=5.0), budget

    async def call(self, arguments: Arguments) -> ToolResult:
        given = {name: str(arguments.get(name) or "") for name in ("expression", "other", "variable")}
        if too_long := [name for name, text in given.items() if len(text) > LONGEST]:
            return ToolResult(f"{ERROR} the {too_long[0]} is longer than {LONGEST} characters", ok=False)
        operation = str(arguments["operation"])
        if operation == "equal" and not given["other"]:
            return ToolResult(f"{ERROR} to compare, give the other expression as `other`", ok=False)
        result = await self.python.call({"code": f"{_READ.format(**given)}\nprint({_DO[operation]})"})
        if result.ok or result.down:
            return result
        problem = result.text.rpartition(ERROR)[2].partition(" (line")[0]  # lines of our code, not of theirs
        return ToolResult(f"{ERROR} {' '.join(problem.split())}", ok=False)

    async def close(self) -> None:
        await self.python.close()
