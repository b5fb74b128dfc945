"""What the papers' rows say of themselves, read once by a process of its own (see `ken.papers.described`)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ken.core.files import write_whole
from ken.papers.catalogue import rows
from ken.papers.described import ROWS, Described
from ken.papers.results import code_digest


def kept_at(data: Path) -> Path:
    """Where what was read is kept: its name changes with Ken's source and the rows there are."""
    key = hashlib.blake2b(" ".join((code_digest(), *rows())).encode(), digest_size=6).hexdigest()
    return data / f"rows-{key}.json"


class Rows:
    """The rows by slug, once they are read: `now` is None until then, which is some seconds after `ask`.

    data: what was read is kept there for the next server.
    """

    def __init__(self, data: Path) -> None:
        self.now: dict[str, Described] | None = None
        self.problem = ""
        self._data = data
        self._reading: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Begin to read, unless that was done before. Must be called in the server's event loop."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())

    async def known(self) -> dict[str, Described]:
        """The rows, waited for. Those that could not be read at all are none."""
        self.ask()
        assert self._reading is not None
        await asyncio.shield(self._reading)
        return self.now or {}

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading

    async def _read(self) -> None:
        kept = await asyncio.to_thread(kept_at, self._data)
        with suppress(OSError, ValidationError):
            self.now = ROWS.validate_json(await asyncio.to_thread(kept.read_bytes))
            return
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ken.papers.described"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
            raise
        try:
            self.now = ROWS.validate_json(out)
        except ValidationError:
            last = (err.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            self.problem, self.now = f"the rows of the papers cannot be loaded: {last}", {}
            return
        with suppress(OSError):  # then it is read again by the next server
            self._data.mkdir(parents=True, exist_ok=True)
            write_whole(kept, out)
