"""A command in a process of its own, with a log that can be watched while it grows: one at a time.

A job ends with the server, however that ends: its standard input is a pipe whose other end the server holds, and when
that closes, it ends itself.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from ken.core import BadInput

LINES = 2000  # of a log that are kept, the last ones
WIDTH = 2000  # characters of a line
OUTPUT = 8 << 20  # bytes of standard output that are kept
GRACE = 5.0  # seconds after an interrupt, before a job is killed

State = Literal["running", "finished", "failed", "cancelled"]

# In the job's own process: whoever holds the other end of its standard input is gone, and so is this, with all that it
# has started.
_LEASH = """
import os, signal, threading

def follow():
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=follow, daemon=True).start()
from ken.cli import main
main()
"""


class Busy(BadInput):
    """Another job is under way."""


@dataclass(eq=False)
class Job:
    """One run of `ken` with `arguments`.

    name: what it is about, for whoever looks for it; id: of this run alone. lines: the end of its standard error, and
    `dropped` how many came before. output: its standard output. code: its exit status, negative for a signal.
    """

    name: str
    arguments: tuple[str, ...]
    grace: float = GRACE
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    state: State = "running"
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    dropped: int = 0
    output: bytes = b""
    code: int | None = None
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _cancelled: bool = False
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _process: asyncio.subprocess.Process | None = None
    _watching: asyncio.Task[None] | None = None

    @property
    def command(self) -> str:
        """What a person would type."""
        return " ".join(("ken", *self.arguments))

    @property
    def cancelling(self) -> bool:
        """Whether it was told to end and has not yet."""
        return self._cancelled and self.state == "running"

    @property
    def elapsed(self) -> float:
        """Seconds since it began, or that it took."""
        return self.seconds if self.state != "running" else time.monotonic() - self._started

    async def start(self) -> None:
        """Start the process. Raises `OSError` when the system has none to give."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the working directory is no place for modules
            "-c",
            _LEASH,
            *self.arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            start_new_session=True,
        )
        self._watching = asyncio.create_task(self._watch(self._process))

    async def cancel(self) -> None:
        """Interrupt it as Ctrl-C does, kill it when it does not end in time, and return when it has ended."""
        if self._process is None or self._watching is None:
            return
        if self.state == "running":
            self._cancelled = True
            await self._tell()
            self._signal(signal.SIGINT)
            await asyncio.wait([self._watching], timeout=self.grace)
            self._signal(signal.SIGKILL)
        await asyncio.shield(self._watching)

    async def events(self, after: int = 0) -> AsyncIterator[tuple[int, str] | State]:
        """The lines from number `after` on, as (number, line), each when it comes; and the state once it has ended."""
        place = after

        def told() -> bool:
            return self.state != "running" or self.dropped + len(self.lines) > place

        while True:
            async with self._changed:
                await self._changed.wait_for(told)
                place = max(place, self.dropped)
                new = list(self.lines)[place - self.dropped :]
                ended = self.state
            for line in new:
                yield place, line
                place += 1
            if ended != "running":
                yield ended
                return

    def _signal(self, number: int) -> None:
        """To the process and all that it has started; they share a session, which is its own."""
        if self._process is not None and self.state == "running":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        reading = asyncio.gather(self._read_log(process.stderr), self._read_output(process.stdout))
        code = await process.wait()
        with suppress(ProcessLookupError, PermissionError):  # what it has left behind holds the pipes open
            os.killpg(process.pid, signal.SIGKILL)
        await reading
        process.stdin.close()
        with suppress(OSError):
            await process.stdin.wait_closed()
        self.code, self.seconds = code, time.monotonic() - self._started
        self.state = "cancelled" if self._cancelled else "finished" if code == 0 else "failed"
        await self._tell()

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # characters may be cut between two reads
        rest = ""
        while data := await stream.read(1 << 16):
            *whole, rest = re.split(r"\r?\n|\r", rest + decoder.decode(data))
            rest = rest[:WIDTH]  # a line without an end must not fill the memory
            await self._log(whole)
        if rest:
            await self._log([rest])

    async def _log(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.dropped += len(self.lines) == LINES
            self.lines.append(line[:WIDTH])
        if lines:
            await self._tell()

    async def _read_output(self, stream: asyncio.StreamReader) -> None:
        pieces, size = [], 0
        while data := await stream.read(1 << 16):
            if size < OUTPUT:
                pieces.append(data[: OUTPUT - size])
                size += len(pieces[-1])
        self.output = b"".join(pieces)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Jobs:
    """The jobs of a server: at most one under way, and the last of every name."""

    def __init__(self) -> None:
        self._last: dict[str, Job] = {}
        self._starting = asyncio.Lock()

    @property
    def running(self) -> Job | None:
        """The job under way."""
        return next((job for job in self._last.values() if job.state == "running"), None)

    def last(self, name: str) -> Job | None:
        """The last job of a name, under way or ended."""
        return self._last.get(name)

    async def start(self, name: str, *arguments: str) -> Job:
        """Start `ken ARGUMENTS…`. Raises `Busy` while another job runs, `BadInput` when no process can be had."""
        async with self._starting:
            if (other := self.running) is not None:
                raise Busy(f"`{other.command}` is under way, and one runs at a time; wait until it ends, or cancel it")
            job = Job(name, arguments)
            try:
                await job.start()
            except OSError as error:
                raise BadInput(f"the process cannot be started ({error.strerror or error}); try again later") from error
            self._last[name] = job
            return job

    async def close(self) -> None:
        """End the job under way."""
        if (job := self.running) is not None:
            await job.cancel()
