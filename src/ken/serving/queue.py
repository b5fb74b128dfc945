"""How many attempts run at once, how many wait for their turn, and who is sent away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ken.core import BadInput
from ken.core.errors import KenError

LONGEST_WAIT = 60  # seconds that a client is asked to stay away at most


class Busy(KenError):
    """All places are taken. `retry_after`: whole seconds until it is worth asking again, ≥ 1."""

    def __init__(self, problem: str, retry_after: int) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class Closing(KenError):
    """The server ends: it takes nothing new, or what has begun had its time."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; ask again when it is back")


class Queue:
    """Up to `concurrency` run, up to `waiting` more wait, first come, first served; the rest is refused at once.

    running, queued: how many there are now. Raises `BadInput` for limits that let nobody in.
    """

    def __init__(self, concurrency: int = 100, waiting: int = 400) -> None:
        if concurrency < 1 or waiting < 0:
            raise BadInput("--concurrency must be at least 1 and --queue not negative")
        self.concurrency, self.waiting = concurrency, waiting
        self.running = self.queued = 0
        self._slots = asyncio.Semaphore(concurrency)
        self._seconds = 1.0  # what an attempt takes, smoothed over the last ones
        self._closing = False
        self._clocks: set[asyncio.Timeout] = set()  # of those who run or wait; without a limit until `end`
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def closing(self) -> bool:
        """Whether nothing new is taken."""
        return self._closing

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises `Busy` when too many wait already, `Closing` after `close` and in those
        who are there at `end`."""
        if self._closing:
            raise Closing
        if self._slots.locked() and self.queued >= self.waiting:
            raise Busy(
                f"the server is busy: {self.running} questions run and {self.queued} wait; try again later",
                self.retry_after(),
            )
        try:
            async with asyncio.timeout(None) as clock:
                self._clocks.add(clock)
                try:
                    async with self._held():
                        yield
                finally:
                    self._clocks.discard(clock)
        except TimeoutError:
            if clock.expired():
                raise Closing from None
            raise

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        self._empty.clear()
        self.queued += 1
        try:
            await self._slots.acquire()
        finally:
            self.queued -= 1
            self._note_empty()
        self.running += 1
        self._empty.clear()
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.1 * (time.monotonic() - started - self._seconds)
            self.running -= 1
            self._slots.release()
            self._note_empty()

    def retry_after(self) -> int:
        """Seconds until those who wait now will have had their turn, by how long attempts took of late."""
        return min(max(1, math.ceil(self._seconds * (self.queued + 1) / self.concurrency)), LONGEST_WAIT)

    def close(self) -> None:
        """Take nothing new. What runs or waits goes on, until `end`."""
        self._closing = True

    def end(self) -> None:
        """Break off what runs or waits, with `Closing`."""
        self.close()
        for clock in self._clocks:
            clock.reschedule(0.0)

    async def drained(self) -> None:
        """Wait until nothing runs or waits."""
        await self._empty.wait()

    def _note_empty(self) -> None:
        if not self.running and not self.queued:
            self._empty.set()
