"""HTTP for MCP servers elsewhere: a reply that is too long is cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2

from ken.sources.tools.mcp_process import Conduct

CONNECT_SECONDS = 10.0
READ_SECONDS = 300.0  # a server may hold a stream open; calls have limits of their own


def bounded_client(conduct: Conduct) -> httpx2.AsyncClient:
    """A client whose replies are counted in `conduct`, and fail when they are more than a server may send."""
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    return httpx2.AsyncClient(transport=_Counted(conduct), timeout=timeout)


class _Counted(httpx2.AsyncHTTPTransport):
    def __init__(self, conduct: Conduct) -> None:
        super().__init__()
        self._conduct = conduct

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        response.stream = _CountedStream(response.stream, self._conduct)
        return response


class _CountedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, conduct: Conduct) -> None:
        self._stream, self._conduct = stream, conduct

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            if not self._conduct.count(len(data)):
                raise httpx2.ReadError(self._conduct.problem)
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
