"""The folder in which a server keeps what people make with it: for one server at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ken.core import BadInput
from ken.core.files import try_lock_file

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Have the folder, which is made if there is none, for this process alone. The system lets it go when the process
    ends, however it ends.

    Raises `BadInput` when another server has it, or when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise BadInput(
            f"--data {folder} cannot be written ({error.strerror or error}); give a folder that can"
        ) from error
    with file:
        if not try_lock_file(file.fileno()):
            raise BadInput(f"{folder} is used by another ken serve; give another --data")
        yield
