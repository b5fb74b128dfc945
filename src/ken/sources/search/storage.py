"""How an index lies on disk, and how it survives a crash at any moment.

    DIR/ken-index.json    the manifest: settings, and the name of the current generation; replaced as a whole, last
    DIR/gen-1a2b3c4d/     one generation: a tantivy index, which commits atomically by itself
    DIR/vectors-5e6f7a8b/ dense vectors of one model, if any (see `vectors`); shared by generations
    DIR/.lock             held while something writes

A build writes a new generation beside the old one and then points the manifest at it. Until that moment readers see the
old index; what a killed build leaves behind is removed by the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from ken.core import BadInput, SourceError
from ken.core.files import write_whole
from ken.core.frozen import Frozen

MANIFEST = "ken-index.json"
_LOCK = ".lock"


class Dense(Frozen):
    """The sentence-transformers model behind the vectors: its name or path, and the length of a vector."""

    model: str
    dimension: int = Field(ge=1)

    @property
    def folder(self) -> str:
        """The name of the folder with its vectors: another model, another folder."""
        return f"vectors-{hashlib.blake2b(f'{self.model} {self.dimension}'.encode(), digest_size=4).hexdigest()}"


class Manifest(Frozen):
    """What `ken-index.json` says.

    generation: None while the first build has not finished.
    source: the file that most documents came from, so that it is not written with each.
    """

    format: str = Field(default="ken-index", pattern="^ken-index$")
    version: int = 1
    generation: str | None = Field(default=None, pattern="^gen-[0-9a-f]{8}$")
    source: str = ""
    tokenizer: str = "english"
    chunk_words: int = Field(default=200, ge=1)
    overlap: int = Field(default=40, ge=0)
    dense: Dense | None = None
    written_by: str = ""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished index. Raises `SourceError`, with what to do, for anything else."""
    if not folder.exists():
        raise SourceError(f"there is no index at {folder}; make one with `ken index build SRC {folder}`")
    manifest = _parse_manifest(folder)
    if manifest is None:
        raise SourceError(
            f"{folder} is not a Ken index (it has no {MANIFEST}); make one with `ken index build SRC DIR`"
        )
    if manifest.generation is None:
        raise SourceError(f"the first build of the index {folder} did not finish; run `ken index build` again")
    if not (folder / manifest.generation).is_dir():
        raise SourceError(
            f"the index {folder} is damaged ({manifest.generation} is missing); build it again with `ken index build`"
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest as a whole: after a crash it is the old one or the new one."""
    write_whole(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder for a new generation inside the index `folder`, which may not exist yet; the writer lock is held
    meanwhile.

    The caller ends a build that went well with `write_manifest`. When it does not, everything it wrote is removed, and
    so is the index folder if this build made it. Raises `BadInput` for a folder that holds something else, which is not
    touched.
    """
    made = _claim(folder)
    with writing(folder):
        before = _parse_manifest(folder)
        if before is None:
            before = Manifest()
            write_manifest(folder, before)  # marks the folder as ours, in case this first build is killed
        try:
            _remove_all_but(folder, before, vectors=False)  # vectors of a build that was killed are used again
            generation = folder / f"gen-{secrets.token_hex(4)}"
            generation.mkdir()
            yield generation
        finally:
            after = _parse_manifest(folder) or before
            _remove_all_but(folder, after, vectors=True)
            if after.generation is None:
                for name in (MANIFEST, _LOCK):
                    _remove(folder / name)
                if made and not any(folder.iterdir()):
                    folder.rmdir()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the writer lock of an index. The system releases it when the process ends, however it ends."""
    with (folder / _LOCK).open("ab") as file:
        if not _lock(file.fileno()):
            raise SourceError(f"another process is writing to the index {folder}; wait until it has finished")
        yield


def _claim(folder: Path) -> bool:
    """Make the folder, or check that it is empty or a Ken index. True when it was made."""
    if folder.exists():
        if not folder.is_dir():
            raise BadInput(f"{folder} is a file; name a folder for the index")
        names = {entry.name for entry in folder.iterdir()} - {_LOCK, f".{MANIFEST}.tmp"}
        if names and _parse_manifest(folder) is None:
            raise BadInput(f"{folder} is not empty and not a Ken index; name a new or an empty folder")
        return False
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"the folder {folder} cannot be made ({error.strerror}); name another one") from error
    return True


def _parse_manifest(folder: Path) -> Manifest | None:
    """The manifest, None when there is none. Raises `SourceError` for one that cannot be read."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise SourceError(
            f"{path} is damaged; remove {folder} and build the index again with `ken index build`"
        ) from error
    if (
        isinstance(content, dict)
        and isinstance(version := content.get("version"), int)
        and version > Manifest().version
    ):
        raise SourceError(
            f"the index {folder} was written by a newer Ken (format {version}); update Ken, or build it again"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise SourceError(
            f"{path} is not the manifest of a Ken index; name another folder, or remove it and build again"
        ) from error


def _remove_all_but(folder: Path, manifest: Manifest, *, vectors: bool) -> None:
    """Remove generations, and `vectors` folders, that the manifest does not name."""
    kept = {manifest.generation, manifest.dense.folder if manifest.dense else None}
    for entry in [*folder.glob("gen-*"), *(folder.glob("vectors-*") if vectors else ())]:
        if entry.name not in kept:
            _remove(entry)


def _remove(path: Path) -> None:
    """Remove a file or folder; one still in use (Windows) is left to the next build."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
