"""What happens during a call of an MCP tool, as progress notifications."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.mcpserver import Context

from ken.agents.watch import Watch
from ken.core import Decision, GraphQuery, Observation, Search, Step, ToolCall

Tell = Callable[[str], None]


@asynccontextmanager
async def reporting(context: Context[None, Any], total: int | None = None) -> AsyncIterator[Tell]:
    """What is told becomes progress notifications, for clients that asked for them. total: how often, if known."""
    told: asyncio.Queue[str | None] = asyncio.Queue()

    async def report() -> None:
        number = 0
        while (message := await told.get()) is not None:
            number += 1
            await context.report_progress(number, total, message)

    reporter = asyncio.create_task(report())
    try:
        yield told.put_nowait
        told.put_nowait(None)
        await reporter
    finally:
        reporter.cancel()


class Steps(Watch):
    """Tells every step."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def noted(self, step: Step) -> None:
        self._tell(_in_words(step))


def _in_words(step: Step) -> str:
    match step:
        case Search(query=query):
            return f"searches for {query}"
        case Decision(knows=knows):
            return {True: "the model knows", False: "the model does not know", None: "no decision"}[knows]
        case Observation(passages=passages, triples=triples, error=error):
            return "the search failed" if error else _found(len(passages), len(triples))
        case GraphQuery(entity=entity):
            return f"asks the graph about {entity.label}"
        case ToolCall(name=name):
            return f"calls {name}"
        case _:
            return step.kind


def _found(passages: int, triples: int) -> str:
    if triples:
        return f"{triples} triples found"
    return f"{passages} passages found" if passages else "a note"
