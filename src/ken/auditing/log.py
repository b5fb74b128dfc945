"""The log of an audit: trajectories as they come in, one JSON line each, safe against a kill at any moment."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from ken.auditing.folder import saving
from ken.core import BadInput, DataError, Trajectory

Key = tuple[str, str, int | None]
"""What a trajectory is an attempt of: (question id, strategy, sample)."""


def key_of(trajectory: Trajectory) -> Key:
    return trajectory.question.id, trajectory.strategy, trajectory.sample


Place = tuple[int, int]
"""Where in a log a line stands: its first byte, and how many it has."""


def read_log(path: Path, *, segments: bool = False, places: dict[Key, Place] | None = None) -> dict[Key, Trajectory]:
    """The last attempt of each kind, in the order of first appearance. A torn last line (a kill while writing) is left
    out.

    segments: keep the token sequences. Only trainers need them, and they are most of the memory.
    places: filled with where each attempt stands, for `read_attempt`.
    Raises `DataError` for any other line that is not a trajectory.
    """
    attempts: dict[Key, Trajectory] = {}
    start = 0
    if not path.exists():
        return attempts
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    trajectory = Trajectory.model_validate_json(line)
                except ValidationError as error:
                    problem = (
                        f"not a trajectory ({error.errors()[0]['msg']}); the file was edited or is another version's"
                    )
                    raise DataError(path, number, problem) from error
                if not segments:
                    trajectory = trajectory.model_copy(update={"segments": ()})
                attempts[key_of(trajectory)] = trajectory
                if places is not None:
                    places[key_of(trajectory)] = (start, len(line))
                start += len(line)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    return attempts


def read_attempt(path: Path, place: Place) -> Trajectory:
    """One attempt of a log. Raises `BadInput` when it no longer stands there."""
    try:
        with path.open("rb") as file:
            file.seek(place[0])
            return Trajectory.model_validate_json(file.read(place[1]))
    except (OSError, ValidationError) as error:
        raise BadInput(f"{path} has changed; open it again") from error


class LogWriter:
    """Appends trajectories; one writer a file at a time. Each line is handed to the operating system at once, so that a
    kill loses at most the line being written; what is left of such a line is removed when the file is opened.

    Raises `BadInput` when another process is writing to the file, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with saving(path):
            self._file = path.open("ab", buffering=0)
            try:
                if not _lock(self._file.fileno()):
                    raise BadInput(f"another audit is writing to {path.parent}; wait for it, or choose another --out")
                self._cut_torn_line()
            except BaseException:
                self._file.close()
                raise

    def write(self, trajectory: Trajectory) -> None:
        line = memoryview(trajectory.model_dump_json().encode() + b"\n")
        with saving(self._path):
            while line:
                line = line[self._file.write(line) :]

    def close(self) -> None:
        with saving(self._path):
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def _cut_torn_line(self) -> None:
        """Remove what stands after the last newline, so that the next line does not continue a torn one."""
        with self._path.open("rb") as file:
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


def _lock(handle: int) -> bool:
    """Take the file for this process until it is closed, however that comes about; False when another has it."""
    try:
        import fcntl
    except ImportError:  # Windows: that no two audits share a folder is left to the user
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
