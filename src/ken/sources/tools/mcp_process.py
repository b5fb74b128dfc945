"""The process of an MCP server, and the messages it exchanges over its standard input and output.

Own code rather than the SDK's `stdio_client`, which trusts the server: it keeps a line without end in memory (and
copies it with every piece that arrives), logs a traceback for every line that is no message, and lets the server write
to the user's terminal.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

MOST_BYTES = 32 * 2**20  # that a server may send for one call
MOST_STRAY = 2**20  # bytes that are no messages: banners and logs that belong on standard error
KEPT_WORDS = 2000  # bytes of what it last said on standard error
PIECE = 2**16

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has only the second
ENDS = 2.0  # seconds in which a server may end by itself once its input is closed, and then once it is told to


@dataclass(slots=True)
class Conduct:
    """What a server did so far. Whoever makes a call sets `sent` back to 0; `problem` says why it was given up."""

    sent: int = 0
    stray: int = 0
    problem: str = ""
    words: bytes = b""
    status: int | None = None

    def count(self, size: int, stray: int = 0) -> bool:
        """Whether it may go on after so many more bytes."""
        self.sent += size
        self.stray += stray
        if self.sent > MOST_BYTES:
            self.problem = f"it sent more than {MOST_BYTES // 2**20} MB"
        elif self.stray > MOST_STRAY:
            self.problem = "what it prints is no MCP; start a server that talks over its standard output"
        return not self.problem

    def account(self) -> str:
        """What is known of its end, as an addition to a sentence; "" for nothing."""
        said = " ".join(self.words.decode(errors="replace").split())[-200:]
        known = [
            self.problem,
            "" if self.status is None or self.problem else f"its exit status is {self.status}",
            f"it said: {said}" if said else "",
        ]
        return "; ".join(filter(None, known))


@asynccontextmanager
async def process_streams(command: Sequence[str], conduct: Conduct) -> AsyncIterator[TransportStreams]:
    """Start a server and talk to it; the process and all that it started are ended with the context.

    It inherits only what a program needs to run (PATH, HOME and such), not the keys in this process's environment.
    Raises `OSError` when the command cannot be started.
    """
    import anyio
    from mcp.client.stdio import get_default_environment
    from mcp.shared.message import SessionMessage

    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=get_default_environment(),
        start_new_session=True,  # a group of its own, by which its children are ended too
    )
    incoming, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, outgoing = anyio.create_memory_object_stream[SessionMessage](0)

    async def receive() -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with incoming:  # its end tells the client that the connection has ended
                async for message in _messages(process, conduct):
                    await incoming.send(SessionMessage(message))

    async def send() -> None:
        assert process.stdin is not None
        with suppress(ConnectionError, anyio.ClosedResourceError):
            async with outgoing:
                async for message in outgoing:
                    line = message.message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"
                    process.stdin.write(line.encode(errors="replace"))
                    await process.stdin.drain()

    async def hear() -> None:
        assert process.stderr is not None
        while data := await process.stderr.read(PIECE):
            conduct.words = (conduct.words + data)[-KEPT_WORDS:]
            if not conduct.count(len(data)):
                _kill(process, KILL)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work()) for work in (receive, send, hear)]
    try:
        yield read_stream, write_stream
    finally:
        await asyncio.shield(asyncio.ensure_future(_end(process, tasks, conduct)))
        for stream in (incoming, read_stream, write_stream, outgoing):
            stream.close()


async def _messages(process: asyncio.subprocess.Process, conduct: Conduct) -> AsyncIterator[Any]:
    """The messages that it writes, until it ends or has sent too much."""
    from mcp_types import jsonrpc_message_adapter

    assert process.stdout is not None
    pieces: list[bytes] = []  # of a line that has not ended
    while data := await process.stdout.read(PIECE):
        if not conduct.count(len(data)):
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole, pieces = b"".join([*pieces, line]), []
            try:
                message = jsonrpc_message_adapter.validate_json(whole, by_name=False)
            except ValueError:
                if not conduct.count(0, stray=len(whole) + 1):
                    return
                continue
            yield message
        pieces.append(rest)
        await asyncio.sleep(0)  # reading what has arrived already does not let others run


async def _end(process: asyncio.subprocess.Process, tasks: Sequence[asyncio.Task[None]], conduct: Conduct) -> None:
    """Close its input, and end it and its children if that does not."""
    assert process.stdin is not None
    process.stdin.close()
    for sent in (None, signal.SIGTERM, KILL) if not conduct.problem else (KILL,):
        if sent is not None:
            _kill(process, sent)
        try:
            status = await asyncio.wait_for(process.wait(), ENDS)
        except TimeoutError:
            continue
        conduct.status = status if sent is None else None  # else it was our doing
        break
    _kill(process, KILL)  # children that outlived it
    await asyncio.wait(tasks, timeout=0.2)  # for its last words
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    process._transport.close()  # type: ignore[attr-defined]  # a child that left the group may hold the pipes open


def _kill(process: asyncio.subprocess.Process, sent: signal.Signals) -> None:
    """Send a signal to the process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, sent)
        else:
            process.kill()
