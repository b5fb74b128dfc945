"""The tools that Ken has: Python in its sandbox, and algebra and units where their libraries are installed."""

from __future__ import annotations

from importlib.util import find_spec

from ken.sources.tools.python import PythonTool
from ken.sources.tools.tool import Tool


def builtin_tools() -> list[Tool]:
    """One of each. `ken[tools]` brings the libraries for all."""
    python = PythonTool()
    tools: list[Tool] = [python]
    if find_spec("sympy") is not None:
        from ken.sources.tools.algebra import AlgebraTool

        tools.append(AlgebraTool(python=PythonTool(seconds=5.0)))
    if find_spec("pint") is not None:
        from ken.sources.tools.units import UnitTool

        tools.append(UnitTool())
    return tools
