"""The log of an audit: trajectories as they come in, one JSON line each, safe against a kill at any moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from ken.core import DataError, Trajectory

Key = tuple[str, str, int | None]
"""What a trajectory is an attempt of: (question id, strategy, sample)."""


def key_of(trajectory: Trajectory) -> Key:
    return trajectory.question.id, trajectory.strategy, trajectory.sample


def read_log(path: Path) -> dict[Key, Trajectory]:
    """The last attempt of each kind, in the order of first appearance. A torn last line (a kill while writing) is left
    out.

    Raises `DataError` for any other line that is not a trajectory.
    """
    attempts: dict[Key, Trajectory] = {}
    if not path.exists():
        return attempts
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                trajectory = Trajectory.model_validate_json(line)
            except ValidationError as error:
                problem = f"not a trajectory ({error.errors()[0]['msg']}); the file was edited or is another version's"
                raise DataError(path, number, problem) from error
            attempts[key_of(trajectory)] = trajectory
    return attempts


class LogWriter:
    """Appends trajectories. Each line is handed to the operating system at once, so that a kill loses at most the line
    being written.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab")
        self._cut_torn_line(path)

    def write(self, trajectory: Trajectory) -> None:
        self._file.write(trajectory.model_dump_json().encode("utf-8", "replace") + b"\n")
        self._file.flush()

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def _cut_torn_line(self, path: Path) -> None:
        """Remove what stands after the last newline, so that the next line does not continue a torn one."""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
        if end < size:
            self._file.truncate(end)
