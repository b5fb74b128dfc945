"""A value that changes, and whoever follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Whoever follows gets the value as it is, and then the newest whenever it has changed; what came in between may be
    missed. For one event loop."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        self._value = value
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, last: Callable[[T], bool], *, pause: float = 0.0) -> AsyncIterator[T]:
        """The values until one is `last`, that one included; `pause` seconds between them at least."""
        while True:
            value, changed = self._value, self._changed
            yield value
            if last(value):
                return
            await changed.wait()
            await asyncio.sleep(pause)
