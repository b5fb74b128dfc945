"""Run an application on an address until interrupted."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn

from ken.core import BadInput
from ken.serving.logs import JsonLines, Log
from ken.serving.queue import Queue

KEEP_ALIVE = 75  # seconds; longer than clients and proxies keep a connection, so that they never write to a closed one
LAST_SECONDS = 2  # for questions that are broken off, and then for connections that stay open: event streams of pages


def listen(
    app: Any,
    *,
    host: str,
    port: int,
    what: str = "Ken",
    path: str = "/",
    note: str = "",
    queue: Queue | None = None,
    grace: float = 30.0,
    log: Log | None = None,
) -> None:
    """Serve `app`. Prints the address once it accepts connections, also when `port` is 0, and `note` after it.

    queue: when the server is asked to end, it takes nothing new and what is in the queue has `grace` seconds to finish,
        or until ctrl-c is pressed once more; the rest is broken off with `Closing`.
    log: where uvicorn's warnings go, as JSON; None: as text to standard error.

    Raises `BadInput` for a port in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"cannot listen on {host} port {port} ({error.strerror or error}); choose another with --port"
            ) from error
        listener.listen(1024)
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # of all of this machine's, one to open
        shown = f"[{reachable}]" if ":" in reachable else reachable
        print(f"serving {what} at http://{shown}:{listener.getsockname()[1]}{path} (ctrl-c ends)", flush=True)
        if note:
            print(note, flush=True)
        options: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": KEEP_ALIVE}
        if log is not None:
            logger = logging.getLogger("uvicorn")
            logger.handlers, logger.propagate = [JsonLines(log)], False
            options["log_config"] = None
        if queue is not None:
            options["timeout_graceful_shutdown"] = LAST_SECONDS
        gc.collect()
        gc.freeze()  # what is loaded stays: no search for garbage goes through it while somebody waits
        _Server(uvicorn.Config(app, **options), queue, grace).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that goes on answering while its queue empties, and takes nothing new meanwhile."""

    def __init__(self, config: uvicorn.Config, queue: Queue | None, grace: float) -> None:
        super().__init__(config)
        self._queue, self._grace = queue, grace

    async def shutdown(self, sockets: Sequence[socket.socket] | None = None) -> None:
        if self._queue is not None:
            self._queue.close()
            drained = asyncio.ensure_future(self._queue.drained())
            forced = asyncio.ensure_future(self._forced())
            await asyncio.wait({drained, forced}, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
            forced.cancel()
            self._queue.end()
            await asyncio.wait({drained}, timeout=LAST_SECONDS)
            drained.cancel()
            self.force_exit = False  # those who are told that it ends must still hear it
        await super().shutdown(list(sockets) if sockets is not None else None)

    async def _forced(self) -> None:
        """Until ctrl-c is pressed once more."""
        while not self.force_exit:  # noqa: ASYNC110 (uvicorn sets a flag, in a signal handler)
            await asyncio.sleep(0.05)
