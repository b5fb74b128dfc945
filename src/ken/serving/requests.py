"""Every request gets an id, is timed, counted and logged."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ken.serving.logs import Log

GONE = 499  # what nginx calls a client that left before its reply
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Requests:
    """ASGI middleware around all others.

    Handlers put what they want in the line of their request into `request.state.log`, and what only stands there when
    texts are wanted into `request.state.log_texts`. `counted(route, method, status, seconds)` is told of every request.
    """

    def __init__(self, app: ASGIApp, counted: Callable[[str, str, int, float], None], log: Log | None) -> None:
        self.app, self._counted, self._log = app, counted, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        identifier = f"req_{uuid.uuid4().hex}"
        state = scope.setdefault("state", {})
        fields: dict[str, Any] = {}
        texts: dict[str, Any] = {}
        state["log"], state["log_texts"] = fields, texts
        state["id"] = identifier
        status, complete = 0, False

        async def told(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = identifier
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, told)
        except Exception:  # a defect: it is answered outside of here, and logged with its traceback
            status, complete = 500, True
            raise
        finally:
            seconds = time.perf_counter() - started
            if not complete:
                status = GONE
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = _route(scope)
            self._counted(route, method, status, seconds)
            if self._log is not None:
                line: dict[str, Any] = {"id": identifier, "method": method, "route": route, "status": status}
                line |= {"seconds": round(seconds, 4), "client": state.get("client")}
                self._log.write("request", line | fields, texts)


def _route(scope: Scope) -> str:
    """The template of the route that answered, or "other"."""
    route = scope.get("route")
    found = getattr(route, "path", None)
    if isinstance(found, str) and found:
        return found
    return "/static" if scope["path"].startswith("/static/") else "other"
