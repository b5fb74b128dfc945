"""Arithmetic in this process: a calculator with the interface of the Python tool, for worlds that need no more.

It reads an expression, it does not run code: the text is parsed, and only numbers and + - * / // % are worked out, each
with a bound on its size. About 10 µs a call, where a sandboxed process takes 50 ms.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ken.core import BadInput
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult

LONGEST = 200  # characters; also bounds the depth of what is parsed
LARGEST = 10**30

_ALLOWED = re.compile(r"[0-9+\-*/%(). \n]+")
_PRINT = re.compile(r"\s*print\s*\((.*)\)\s*", re.DOTALL)
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(expression: str) -> int | float:
    """The value of an expression of numbers, + - * / // % and parentheses, as Python has it.

    >>> evaluate("(123 - 23) * 7 // 3")
    233

    Raises `BadInput` for anything else, a division by zero, more than 200 characters, or a value beyond 10^30.
    """
    if len(expression) > LONGEST:
        raise BadInput(f"the expression is longer than {LONGEST} characters")
    if not _ALLOWED.fullmatch(expression):
        raise BadInput("only numbers, + - * / // % and parentheses can be worked out")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput("the expression cannot be read") from error
    return _value(tree.body)


def _value(node: ast.AST) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as number):
            value = number
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            value = _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _value(left), _value(right)
            try:
                value = _BINARY[type(op)](a, b)
            except ZeroDivisionError:
                raise BadInput("division by zero") from None
        case _:
            raise BadInput("only numbers, + - * / // % and parentheses can be worked out")
    if not abs(value) <= LARGEST:
        raise BadInput("the value is too large")
    return value


class Arithmetic(Tool):
    """The tool `code` for arithmetic alone: an expression, bare or in `print(…)`; the observation is its value."""

    name: ClassVar[str] = "code"
    description: ClassVar[str] = "Work out an arithmetic expression."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "for example print(12 * 34)"}},
        "required": ["code"],
        "additionalProperties": False,
    }

    def __init__(self, *, budget: int | None = None) -> None:
        self.budget = budget

    async def call(self, arguments: Arguments) -> ToolResult:
        code = str(arguments["code"])
        printed = _PRINT.fullmatch(code)
        try:
            value = evaluate(printed[1] if printed else code)
        except BadInput as error:
            return ToolResult(f"{ERROR} {error}", ok=False)
        return ToolResult(str(value) if isinstance(value, int) else f"{value:.12g}")
