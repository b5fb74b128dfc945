"""Server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


def event(data: Any, name: str = "") -> str:
    """One event with `data` as JSON, which has no line breaks that could end it early."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=True)}\n\n"


class EventStream(StreamingResponse):
    """A reply of events, as they come: neither cached nor held back by a proxy."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], *, status_code: int = 200) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, status_code=status_code, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:  # by the end of the server: the reply ends too, instead of breaking off
            await send({"type": "http.response.body", "body": b"", "more_body": False})
