"""A chat-completions server on loopback that misbehaves to order.

    with FaultyServer(lambda number, payload: Status(429) if number == 0 else Answer("Paris")) as server:
        model = EndpointModel("any", base_url=server.base_url)

The plan is asked once per request, with the number of the request (from 0, in order of arrival) and its JSON; it
returns an action. The server speaks raw HTTP, because a web framework would not let us break the protocol.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Answer:
    """A proper completion. Without `text`, the last message comes back. Streamed word by word when that was asked for.

    choices: how many (by default `n`). together: hold the reply until so many requests are in flight at once. message,
    choice, usage: fields to add or replace; `usage` None leaves it out.
    """

    text: str | None = None
    choices: int | None = None
    finish_reason: str = "stop"
    logprobs: list[tuple[str, float]] | None = None
    message: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 3})
    together: int = 0


@dataclass(frozen=True)
class Stream:
    """A reply of server-sent events: a chunk for each of `pieces` and then, without a finish reason, `then`:

    "end" of the stream, "drop" the connection, "hang" for ever, "drip" comments for ever, or these bytes and the end.
    """

    pieces: tuple[str, ...] = ()
    then: Literal["end", "drop", "hang", "drip"] | bytes = "end"


@dataclass(frozen=True)
class Status:
    """A reply with this status. A mapping as `body` is sent as JSON."""

    code: int
    body: str | Mapping[str, Any] = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Body:
    """Status 200 with these bytes."""

    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Drop:
    """Announce a reply, send `sent` of its bytes, and close the connection."""

    sent: int = 0


@dataclass(frozen=True)
class Hang:
    """Never reply."""


@dataclass(frozen=True)
class Drip:
    """Send one byte of white space after another, for ever: each read succeeds, the reply never ends."""

    seconds: float = 0.02


Action = Answer | Stream | Status | Body | Drop | Hang | Drip

HTML = Body(b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "text/html")
GARBAGE = Body(b"\x00\xff\xfe not a completion")
TRUNCATED = Body(b'{"choices": [{"index": 0, "message": {"role": "assistant", "conte')
NO_CHOICES = Body(b'{"choices": []}')
NULL_CONTENT = Body(b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}}]}')
ERROR_200 = Body(b'{"error": {"message": "upstream overloaded", "code": 502}}')


@dataclass(frozen=True)
class Request:
    """One request, as it arrived."""

    number: int
    payload: dict[str, Any]
    headers: Mapping[str, str]
    connection: int

    @property
    def last(self) -> str:
        """The content of the last message."""
        return str(self.payload["messages"][-1]["content"])


class FaultyServer:
    """See the module. All counters may be read at any time from any thread.

    requests: all that arrived. in_flight, most_in_flight: requests being answered now, and at most.
    disconnects: clients that went away before their reply was complete. connections: how many were opened.
    """

    def __init__(self, plan: Callable[[int, dict[str, Any]], Action] = lambda number, payload: Answer()) -> None:
        self.plan = plan
        self.requests: list[Request] = []
        self.in_flight = self.most_in_flight = self.disconnects = self.connections = 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "the faulty server did not stop"

    def wait_until(self, happened: Callable[[], bool], seconds: float = 10.0) -> bool:
        """Block until the counters satisfy `happened`; False if that takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(happened, timeout=seconds)

    # --- inside the thread of the server -----------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._stop = asyncio.Event()
        self._crowd = asyncio.Condition()
        self._clients: set[asyncio.Task[None]] = set()
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, sock=self._socket, backlog=1024)
        await self._stop.wait()
        server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        self.connections += 1
        connection = self.connections
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                # Asked each time: `_exchange` may swallow the cancellation that comes with the stop.
                while not self._stop.is_set() and await self._exchange(reader, writer, connection):
                    pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        """Read one request and act on it; True if the connection stays open for the next."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if request_line != "POST /v1/chat/completions HTTP/1.1":
            await self._send(writer, _http(404, b'{"error": {"message": "no such address"}}'))
            return True
        request = Request(len(self.requests), json.loads(body), headers, connection)
        await self._count(request)
        action = asyncio.ensure_future(self._act(request, writer))
        # A client that waits for its reply sends nothing: a read ends when it leaves.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({action, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not action.done():
                with self._changed:
                    self.disconnects += 1
                return False
            return action.result()
        finally:
            for future in (action, gone):
                future.cancel()
                with suppress(asyncio.CancelledError, ConnectionError):
                    await future
            with self._changed:
                self.in_flight -= 1
                self._changed.notify_all()

    async def _count(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self._changed.notify_all()
        async with self._crowd:
            self._crowd.notify_all()

    async def _act(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        action = self.plan(request.number, request.payload)
        match action:
            case Answer():
                async with self._crowd:
                    await self._crowd.wait_for(lambda: self.most_in_flight >= action.together)
                completion = _completion(action, request)
                if not request.payload.get("stream"):
                    await self._send(writer, _http(200, json.dumps(completion).encode()))
                    return True
                await self._send(writer, EVENTS)
                for chunk in [*_chunks(action, completion, request), b"data: [DONE]\n\n"]:
                    await self._send(writer, _part(chunk))
                await self._send(writer, _part(b""))
            case Stream(pieces, then):
                await self._send(writer, EVENTS)
                for piece in pieces:
                    await self._send(writer, _part(_event(choices=[{"index": 0, "delta": {"content": piece}}])))
                if then == "drop":
                    return False
                if then == "hang":
                    await asyncio.Event().wait()
                while then == "drip":
                    await self._send(writer, _part(b": still there\n\n"))
                    await asyncio.sleep(0.02)
                if isinstance(then, bytes):
                    await self._send(writer, _part(then))
                await self._send(writer, _part(b""))
            case Status(code, body, headers):
                content = body if isinstance(body, str) else json.dumps(body)
                await self._send(writer, _http(code, content.encode(), headers=headers))
            case Body(body, content_type):
                await self._send(writer, _http(200, body, content_type))
            case Drop(sent):
                reply = _http(200, json.dumps(_completion(Answer("lost"), request)).encode())
                await self._send(writer, reply[:sent])
                return False
            case Hang():
                await asyncio.Event().wait()
            case Drip(seconds):
                await self._send(
                    writer, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
                )
                while True:
                    await self._send(writer, b" ")
                    await asyncio.sleep(seconds)
        return True

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()


def refused_url() -> str:
    """The base URL of a port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def _http(
    status: int, body: bytes, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _part(data: bytes) -> bytes:
    """A chunk of a body of unknown length; an empty one ends it (RFC 9112, section 7.1)."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"object": "chat.completion.chunk", **fields}).encode() + b"\n\n"


def _chunks(answer: Answer, completion: dict[str, Any], request: Request) -> list[bytes]:
    """A completion in chunks: the role, the text word by word, the reason why it ends, and the usage if wanted."""
    chunks: list[bytes] = []
    for choice in completion["choices"]:
        index, message = choice["index"], dict(choice["message"])
        words = re.findall(r"\s*\S+|\s+$", message.pop("content") or "")
        logprobs = list((choice["logprobs"] or {}).get("content", ()))
        chunks.append(_event(choices=[{"index": index, "delta": {**message, "content": ""}}]))
        for place in range(max(len(words), len(logprobs))):
            delta = {"content": words[place]} if place < len(words) else {}
            of_word = {"content": logprobs[place : place + 1]} if logprobs else None
            chunks.append(_event(choices=[{"index": index, "delta": delta, "logprobs": of_word}]))
        ended = {key: value for key, value in choice.items() if key not in {"index", "message", "logprobs"}}
        chunks.append(_event(choices=[{"index": index, "delta": {}, **ended}]))
    if answer.usage is not None and (request.payload.get("stream_options") or {}).get("include_usage"):
        chunks.append(_event(choices=[], usage=answer.usage))
    return chunks


def _completion(answer: Answer, request: Request) -> dict[str, Any]:
    text = request.last if answer.text is None else answer.text
    count = request.payload.get("n", 1) if answer.choices is None else answer.choices
    logprobs = answer.logprobs and {"content": [{"token": token, "logprob": value} for token, value in answer.logprobs]}
    choices = [
        {
            "index": index,
            "finish_reason": answer.finish_reason,
            "logprobs": logprobs,
            **answer.choice,
            "message": {"role": "assistant", "content": text, **answer.message},
        }
        for index in range(count)
    ]
    completion = {
        "id": f"c{request.number}",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": choices,
    }
    return completion if answer.usage is None else {**completion, "usage": answer.usage}
