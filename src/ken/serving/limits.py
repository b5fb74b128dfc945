"""How much a client may send, and how slowly: bytes at once, requests a minute."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from ken.core import BadInput

MEBIBYTE = 1024 * 1024
REMEMBERED = 10_000  # clients; who has not been seen for longest is forgotten first


class RateLimit:
    """A token bucket for every client: `rate` requests a minute, which may come all at once.

    Raises `BadInput` for a rate that is not above 0.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not (rate > 0 and math.isfinite(rate)):
            raise BadInput(f"--rate is {rate:g}; give the requests a minute that one client may make")
        self._each, self._most = rate / 60.0, max(1.0, rate)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> int:
        """0 when the client may go on, and one of its tokens is spent; else the whole seconds until it may."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - then) * self._each)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1.0 - tokens) / self._each))


class TooLarge(HTTPException):
    """A body of more than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"the request is larger than {most:,} bytes; send less at once")


class TooLate(HTTPException):
    """A body of which too little came in `seconds`."""

    def __init__(self, seconds: float) -> None:
        said = f"the request did not arrive within {seconds:g} s; send it faster, or less at once"
        super().__init__(408, said, {"Connection": "close"})


def limited(receive: Receive, most: int, seconds: float) -> Receive:
    """`receive` that raises `TooLarge` when a body turns out to be so, whether or not it announced its length, and
    `TooLate` when it does not arrive in `seconds`; of a large one, when every further MiB takes longer than that."""
    got, whole, started = 0, False, time.monotonic()

    async def counted() -> Message:
        nonlocal got, whole
        if whole:  # after the body comes the end of the connection, whenever that is
            return await receive()
        try:
            async with asyncio.timeout(started + seconds * (1 + got // MEBIBYTE) - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise TooLate(seconds) from None
        got += len(message.get("body", b""))
        if got > most:
            raise TooLarge(most)
        whole = not message.get("more_body", False)
        return message

    return counted
