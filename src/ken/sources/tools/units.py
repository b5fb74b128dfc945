"""Units as a tool: conversions by pint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar

from ken.core import BadInput, Unsupported
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult

LONGEST = 60  # characters of a unit

# What pint reads is bounded before it reads it: no calls, no large numbers, no powers of powers.
_UNIT = re.compile(r"(?=.*[^\W\d]|[%])[\w°µ%Ω *\u00b7/^-]+")
_ASKED = re.compile(
    r"(?P<amount>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(?P<unit>\S.{0,60}?)\s+(?:to|in)\s+(?P<to>\S.{0,60})"
)
_TOO_MUCH = re.compile(r"\d{3}|(\*\*|\^)[^*/]*(\*\*|\^)|__")


@cache
def registry() -> Any:
    """All units that pint knows; loaded once, when first needed (a third of a second)."""
    from pint import UnitRegistry

    return UnitRegistry(autoconvert_offset_to_baseunit=True)


class UnitTool(Tool):
    """The tool `convert`: an amount from one unit to another, such as 60 mile / hour to meter / second; temperatures,
    too. digits: significant ones of the result.

    Raises `Unsupported` when pint is not installed.
    """

    name: ClassVar[str] = "convert"
    description: ClassVar[str] = "Convert an amount from one unit of measurement to another."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {
            "amount": {"type": "number"},
            "unit": {"type": "string", "description": "such as mile / hour"},
            "to": {"type": "string", "description": "the unit wanted, such as m/s"},
        },
        "required": ["amount", "unit", "to"],
        "additionalProperties": False,
    }

    def __init__(self, *, digits: int = 10, budget: int | None = None) -> None:
        if find_spec("pint") is None:
            raise Unsupported("the unit tool needs pint; run `pip install 'ken[tools]'`")
        self.digits, self.budget = digits, budget

    def read(self, content: str) -> Arguments:
        """Of a tag: an amount, its unit, and behind "to" or "in" the unit wanted, such as 72 km/h to m/s."""
        found = _ASKED.fullmatch(content.strip())
        if found is None:
            return {"content": content}
        return {"amount": float(found["amount"]), "unit": found["unit"].strip(), "to": found["to"].strip()}

    async def call(self, arguments: Arguments) -> ToolResult:
        unit, to = str(arguments["unit"]).strip(), str(arguments["to"]).strip()
        try:
            value = self.converted(float(str(arguments["amount"])), unit, to)
        except BadInput as error:
            return ToolResult(f"{ERROR} {error}", ok=False)
        return ToolResult(f"{value:.{self.digits}g} {to}")

    def converted(self, amount: float, unit: str, to: str) -> float:
        """The amount in the unit `to`. Raises `BadInput` for what is no unit, and for units that do not fit."""
        for name in (unit, to):
            self.known(name)
        try:
            return float(registry().Quantity(amount, unit).to(to).magnitude)
        except Exception as error:  # pint has a dozen kinds, and its tokenizer others
            raise BadInput(" ".join(str(error).split())[:200]) from error

    def known(self, name: str) -> None:
        """Raise `BadInput` unless pint knows the unit."""
        if len(name) > LONGEST or not _UNIT.fullmatch(name) or _TOO_MUCH.search(name):
            raise BadInput(f"{name[:LONGEST]!r} is no unit")
        try:
            registry().Unit(name)
        except Exception as error:
            raise BadInput(" ".join(str(error).split())[:200]) from error
