"""Is an answer the same as the reference? The rules of `ken.metrics.equivalence` with what they lack: units by pint,
and a computer algebra system in a sandbox (card 28, Tools).

Model text reaches sympy only in the sandboxed process, which has a time limit; where either library is missing, or the
sandbox cannot say, text is compared.
"""

from __future__ import annotations

import asyncio
import math
from importlib.util import find_spec

from ken.core import BadInput, Unsupported
from ken.metrics.equivalence import Comparison, Tolerance, as_text, compare, near, plain_math, tolerance_for
from ken.metrics.expressions import LONGEST
from ken.sources.tools.algebra import AlgebraTool
from ken.sources.tools.python import PythonTool
from ken.sources.tools.tool import ToolResult
from ken.sources.tools.units import UnitTool


class Equivalence:
    """Compares answers with references; safe to be asked many at once.

    tolerance: of numbers. units, algebra: whether to use pint and sympy; by default where they are installed. seconds:
    for one call of sympy. Asked twice, it answers from memory.

    Raises `Unsupported` when told to use what is not installed.
    """

    def __init__(
        self,
        *,
        tolerance: Tolerance = Tolerance(),  # noqa: B008
        units: bool | None = None,
        algebra: bool | None = None,
        seconds: float = 5.0,
    ) -> None:
        self.tolerance = tolerance
        self._units = UnitTool() if (find_spec("pint") is not None if units is None else units) else None
        with_algebra = find_spec("sympy") is not None if algebra is None else algebra
        self._algebra = AlgebraTool(python=PythonTool(seconds=seconds)) if with_algebra else None
        self._known: dict[tuple[str, str, str], Comparison] = {}

    async def compare(self, answer: str, reference: str, question: str = "") -> Comparison:
        """How the answer compares with the reference. Raises `BadInput` without a reference."""
        key = (answer, reference, question)
        if key not in self._known:
            self._known[key] = await self._compared(answer, reference, question)
        return self._known[key]

    async def _compared(self, answer: str, reference: str, question: str) -> Comparison:
        convert = self._converted if self._units is not None else None
        found = compare(answer, reference, question, tolerance=self.tolerance, convert=convert)
        if found.decided:
            return found
        found_by_algebra = await self._by_algebra(plain_math(answer), plain_math(reference))
        return found_by_algebra or as_text(answer, reference)

    def _converted(self, amount: float, unit: str, to: str) -> float | None:
        assert self._units is not None
        try:
            self._units.known(unit)
            self._units.known(to)
        except BadInput:
            return None
        try:
            return self._units.converted(amount, unit, to)
        except BadInput:
            return math.nan

    async def _by_algebra(self, answer: str, reference: str) -> Comparison | None:
        """By sympy: exactly, else as numbers; None when it cannot say."""
        if self._algebra is None or max(len(answer), len(reference)) > LONGEST:
            return None
        asked = {"operation": "equal", "expression": answer, "other": reference}
        result = await self._asked(asked)
        if not result.ok:
            return None
        if result.text.strip() == "True":
            return Comparison(1.0, "sympy")
        sides = await asyncio.gather(
            *(self._asked({"operation": "evaluate", "expression": side}) for side in (answer, reference))
        )
        try:
            said, gold = (float(side.text) for side in sides)
        except ValueError:
            return Comparison(0.0, "sympy")
        return Comparison(near(said, gold, tolerance_for(reference, self.tolerance)), "sympy, as numbers")

    async def _asked(self, arguments: dict[str, str]) -> ToolResult:
        assert self._algebra is not None
        if self._algebra.misfit(arguments):
            return ToolResult("", ok=False)
        try:
            return await self._algebra.call(arguments)
        except Unsupported:  # this system cannot contain it, so it is not run
            return ToolResult("", ok=False)

    async def close(self) -> None:
        """End the sandbox."""
        if self._algebra is not None:
            await self._algebra.close()
