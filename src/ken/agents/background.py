"""Run coroutines from ordinary code, at a prompt, in a script or in a notebook.

One event loop lives in a background thread for the whole process: a notebook's own running loop is not in the way, and
models and HTTP connections stay usable from one call to the next, since the loop they belong to never closes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`. Ctrl-C cancels it, waits until it has cleaned up, and is raised again."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except KeyboardInterrupt:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        future.cancel()
        done.wait(timeout=10)
        raise


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ken", daemon=True).start()
    return loop
