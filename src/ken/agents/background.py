"""Run coroutines from ordinary code, at a prompt, in a script or in a notebook.

One event loop lives in a background thread for the whole process: a notebook's own running loop is not in the way, and
models and HTTP connections stay usable from one call to the next, since the loop they belong to never closes.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar, cast

from ken.core import BadInput

T = TypeVar("T")

CLEANUP_SECONDS = 10


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`. Ctrl-C cancels it, waits until it has cleaned up, and is raised again.

    Raises `BadInput` when called by a coroutine that itself runs here: it would wait for itself.
    """
    loop = _background.loop()
    if _background.is_current():
        coroutine.close()
        raise BadInput("this is already running inside Ken; await the coroutine instead (`await ken.ask_async(...)`)")
    interrupted, ended = threading.Event(), threading.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def whole() -> T:
        try:
            tasks.append(cast("asyncio.Task[Any]", asyncio.current_task()))
            if interrupted.is_set():
                coroutine.close()
                raise asyncio.CancelledError
            return await coroutine
        finally:
            ended.set()

    try:
        return asyncio.run_coroutine_threadsafe(whole(), loop).result()
    except KeyboardInterrupt:
        interrupted.set()
        for task in tasks:
            loop.call_soon_threadsafe(task.cancel)
            ended.wait(CLEANUP_SECONDS)
        raise


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order. When one fails the others are cancelled, and what it raised is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


class _Background:
    """The loop and its thread, made when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="ken", daemon=True)
                self._thread.start()
            return self._loop

    def is_current(self) -> bool:
        return self._thread is threading.current_thread()


_background = _Background()
if hasattr(os, "register_at_fork"):  # threads do not survive a fork: the child starts its own
    os.register_at_fork(after_in_child=_background.__init__)  # type: ignore[misc]
