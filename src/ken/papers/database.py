"""A small database of one file: SQLite, opened by each thread for each use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ken.core.errors import SourceError

WAIT_SECONDS = 60.0  # for others who write


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes at once unless within a `transaction`. Raises `SourceError` for a file that is broken or
    that others keep."""
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as db:
            yield db
    except sqlite3.Error as error:
        raise SourceError(f"{path} cannot be used ({error}); check it and its folder") from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Within, all is written or nothing, and nobody else writes."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
