"""Requests to services that may be slow, busy or down: tried again with growing pauses, never for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import httpx

from ken.core import SourceError

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 60.0  # seconds, whatever a server asks for
MOST_BYTES = 64_000_000  # of a reply


class NoAnswer(SourceError):
    """A service did not answer after all attempts; the message says what it did."""


class Patient:
    """Posts requests to one service. Use it on one event loop at a time.

    timeout: seconds for one request, from its beginning to the end of its reply. retries: further attempts after a
        timeout, a dropped connection, or an answer of 408, 425, 429 or 5xx, after `backoff`·2^i seconds with jitter,
        or what the server asks for (Retry-After).
    concurrency: most requests at once; without it as many as come.
    client: makes the client of an event loop; for tests, and for proxies or certificates of one's own.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        retries: int,
        backoff: float,
        concurrency: int | None = None,
        client: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        self.url = url
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        self._make = client or (lambda: httpx.AsyncClient(timeout=timeout, follow_redirects=False))
        self._concurrency = concurrency
        self._free: asyncio.Semaphore | nullcontext[None] = nullcontext()
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def post(self, **request: Any) -> httpx.Response:
        """The reply to a POST of `request` (json=, data=, headers= of httpx), read whole, whatever its status but those
        that are tried again.

        Raises `NoAnswer` after the last attempt, or for a reply of more than `MOST_BYTES`; `httpx.InvalidURL` or
        `httpx.UnsupportedProtocol` for an address that is none.
        """
        problem, wanted = "", 0.0
        for attempt in range(self._retries + 1):
            if attempt:
                pause = self._backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                await asyncio.sleep(max(pause, wanted))
                wanted = 0.0
            try:
                client = self._http()
                async with self._free, asyncio.timeout(self._timeout):
                    response = await self._once(client, request)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise
            except TimeoutError:
                problem = f"Timeout: no reply within {self._timeout:g} s"
                continue
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
                continue
            if response.status_code not in _RETRIED:
                return response
            problem = f"it answered {response.status_code}"
            wanted = _asked_for(response.headers)
        raise NoAnswer(f"did not answer after {self._retries + 1} attempts ({problem})")

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _once(self, client: httpx.AsyncClient, request: Mapping[str, Any]) -> httpx.Response:
        async with client.stream("POST", self.url, **request) as response:
            parts, size = [], 0
            async for part in response.aiter_bytes():
                parts.append(part)
                if (size := size + len(part)) > MOST_BYTES:
                    raise NoAnswer(f"sent a reply of more than {MOST_BYTES // 1_000_000} MB")
            headers = {k: v for k, v in response.headers.items() if k not in ("content-encoding", "content-length")}
            return httpx.Response(response.status_code, headers=headers, content=b"".join(parts))

    def _http(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = self._make(), loop
            self._free = asyncio.Semaphore(self._concurrency) if self._concurrency else nullcontext()
        return self._client


def _asked_for(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("retry-after", "0")), 0.0), _LONGEST_PAUSE)
    except ValueError:  # a date: the pause is ours then
        return 0.0
