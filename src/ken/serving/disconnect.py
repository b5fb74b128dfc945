"""Work that ends when the client that waits for it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class Gone(Exception):
    """The client left before its reply."""


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. When the client leaves first, `work` is cancelled and `Gone` raised. The body of the
    request must have been read."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        await ended(task)
        left.cancel()


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task that still runs, and wait until it has cleaned up."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen: what it raised is of no use to anybody now


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
