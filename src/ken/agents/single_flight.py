"""Of several coroutines that want the same thing at the same time, one makes it and the others wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class SingleFlight:
    """When the one that makes a thing fails, it alone hears of it, and another that waits tries itself."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Event] = {}

    async def get(self, key: str, find: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        """What `find` finds, else what `make` makes; `make` must leave it where `find` looks."""
        here = (asyncio.get_running_loop(), key)
        while True:
            if (found := find()) is not None:
                return found
            if (other := self._under_way.get(here)) is None:
                break
            await other.wait()
        done = self._under_way[here] = asyncio.Event()
        try:
            return await make()
        finally:
            del self._under_way[here]
            done.set()
