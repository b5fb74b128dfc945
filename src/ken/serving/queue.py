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
    """The server finishes what it has begun and takes nothing new."""


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
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def closing(self) -> bool:
        """Whether nothing new is taken."""
        return self._closing

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises `Busy` when too many wait already, `Closing` after `close`."""
        if self._closing:
            raise Closing("the server is shutting down; ask again when it is back")
        if self._slots.locked() and self.queued >= self.waiting:
            raise Busy(
                f"the server is busy: {self.running} questions run and {self.queued} wait; try again later",
                self.retry_after(),
            )
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
        """Take nothing new. What runs or waits goes on."""
        self._closing = True

    async def drained(self) -> None:
        """Wait until nothing runs or waits."""
        await self._empty.wait()

    def _note_empty(self) -> None:
        if not self.running and not self.queued:
            self._empty.set()
