"""Failures on purpose: a tool that is away now and then, by a seed (card 49, ToolServer)."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from ken.core import BadInput
from ken.core.seeding import derive_seed
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult
from ken.sources.tools.wrapped import WrappedTool

UNAVAILABLE = "the service did not answer; try again"


class Flaky(WrappedTool):
    """`tool`, of whose calls a share fails as a service does that is away for a moment.

    rate: in [0, 1]. Whether a call fails depends on the seed, the tool, its arguments and how often they were sent
    before, not on the order of calls; so the same call, sent again, has another chance. Raises `BadInput` for another
    rate.
    """

    def __init__(self, tool: Tool, rate: float, *, seed: int = 0) -> None:
        super().__init__(tool)
        if not 0 <= rate <= 1:
            raise BadInput(f"the rate of failures is {rate}; it must lie in [0, 1]")
        self.rate, self.seed = rate, seed
        self._sent: Counter[str] = Counter()

    async def call(self, arguments: Arguments) -> ToolResult:
        key = json.dumps(arguments, sort_keys=True)
        draw = np.random.default_rng(derive_seed("flaky", self.seed, self.name, key, self._sent[key])).random()
        self._sent[key] += 1
        if draw < self.rate:
            return ToolResult(f"{ERROR} {UNAVAILABLE}", ok=False, down=True, error="unavailable")
        return await self.tool.call(arguments)
