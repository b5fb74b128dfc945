"""An append-only file of JSON lines that any number of processes share, for what must not be paid for twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ken.core import BadInput


class JsonLines:
    """One record a line. A kill loses at most the line being written; a line that cannot be read is passed over.

    Raises `BadInput` when the file cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)

    def records(self) -> Iterator[dict[str, Any]]:
        """The objects that are in the file, in order."""
        with self._explained():
            self._file.seek(0)
            lines = self._file.read().splitlines()
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if isinstance(record, dict):
                yield record

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        line = json.dumps(record).encode() + b"\n"
        with self._explained(), _locked(self._file.fileno()):
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":  # a writer was killed in the middle of its line
                    line = b"\n" + line
            left = memoryview(line)
            while left:
                left = left[os.write(self._file.fileno(), left) :]

    def close(self) -> None:
        """Make what was added durable."""
        with self._explained():
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadInput(
                f"the cache {self.path} cannot be used ({error.strerror or error}); name a file that can be written"
            ) from error


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    """Hold the file against other processes, so that lines do not mix."""
    try:
        import fcntl
    except ImportError:  # Windows: appends of one line each are left to the system
        yield
        return
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
