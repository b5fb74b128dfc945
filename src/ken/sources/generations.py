"""Folders whose content is replaced as a whole, and how they survive a crash at any moment.

    DIR/MANIFEST.json     the manifest: settings, and the name of the current generation; replaced as a whole, last
    DIR/gen-1a2b3c4d/     one generation
    DIR/.lock             held while something writes

A build writes a new generation beside the old one and then points the manifest at it. Until that moment readers see the
old one; what a killed build leaves behind is removed by the next one.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import Field, ValidationError

from ken.core import BadInput, SourceError
from ken.core.files import try_lock_file, write_whole
from ken.core.frozen import Frozen

_LOCK = ".lock"


class GenerationManifest(Frozen):
    """What a manifest says of the folder's state.

    generation: None while the first build has not finished. shared: a pattern of folders beside the generations that
    several of them use.
    """

    shared: ClassVar[str] = ""

    version: int = 1
    generation: str | None = Field(default=None, pattern="^gen-[0-9a-f]{8}$")
    written_by: str = ""

    @property
    def used(self) -> frozenset[str]:
        """The names of the folders that belong to this state."""
        return frozenset({self.generation} if self.generation else ())


Manifest = TypeVar("Manifest", bound=GenerationManifest)


class Generations(Generic[Manifest]):
    """The folders of one kind: `what` they are ("index"), the manifest's file name and type, the command that builds
    one, and its arguments with {} for the folder."""

    def __init__(self, what: str, file: str, kind: type[Manifest], *, command: str, arguments: str) -> None:
        self.what, self.file, self.kind = what, file, kind
        self._build, self._arguments = command, arguments

    def read(self, folder: Path) -> Manifest:
        """The manifest of a finished folder. Raises `SourceError`, with what to do, for anything else."""
        if not folder.exists():
            raise SourceError(f"there is no {self.what} at {folder}; make one with `{self._with(folder)}`")
        manifest = self._parse(folder)
        if manifest is None:
            raise SourceError(
                f"{folder} is not a Ken {self.what} (it has no {self.file}); make one with `{self._with('DIR')}`"
            )
        if manifest.generation is None:
            raise SourceError(f"the first build of the {self.what} {folder} did not finish; run `{self._build}` again")
        if not (folder / manifest.generation).is_dir():
            raise SourceError(
                f"the {self.what} {folder} is damaged ({manifest.generation} is missing); "
                f"build it again with `{self._build}`"
            )
        return manifest

    def write(self, folder: Path, manifest: Manifest) -> None:
        """Replace the manifest as a whole: after a crash it is the old one or the new one."""
        write_whole(folder / self.file, (manifest.model_dump_json(indent=2) + "\n").encode())

    @contextmanager
    def building(self, folder: Path) -> Iterator[Path]:
        """A folder for a new generation inside `folder`, which may not exist yet; the writer lock is held meanwhile.

        The caller ends a build that went well with `write`. When it does not, everything it wrote is removed, and so is
        the folder if this build made it. Raises `BadInput` for a folder that holds something else, which is not
        touched.
        """
        made = self._claim(folder)
        with self.writing(folder):
            before = self._parse(folder)
            if before is None:
                before = self.kind()
                self.write(folder, before)  # marks the folder as ours, in case this first build is killed
            try:
                self._remove_all_but(folder, before, shared=False)  # what a killed build shared is used again
                generation = folder / f"gen-{secrets.token_hex(4)}"
                generation.mkdir()
                yield generation
            finally:
                after = self._parse(folder) or before
                self._remove_all_but(folder, after, shared=True)
                if after.generation is None:
                    for name in (self.file, _LOCK):
                        _remove(folder / name)
                    if made and not any(folder.iterdir()):
                        folder.rmdir()

    @contextmanager
    def writing(self, folder: Path) -> Iterator[None]:
        """Hold the writer lock of a folder. The system releases it when the process ends, however it ends."""
        with (folder / _LOCK).open("ab") as file:
            if not try_lock_file(file.fileno()):
                raise SourceError(f"another process is writing to the {self.what} {folder}; wait until it has finished")
            yield

    def _claim(self, folder: Path) -> bool:
        """Make the folder, or check that it is empty or one of ours. True when it was made."""
        if folder.exists():
            if not folder.is_dir():
                raise BadInput(f"{folder} is a file; name a folder for the {self.what}")
            names = {entry.name for entry in folder.iterdir()} - {_LOCK, f".{self.file}.tmp"}
            if names and self._parse(folder) is None:
                raise BadInput(f"{folder} is not empty and not a Ken {self.what}; name a new or an empty folder")
            return False
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise BadInput(f"the folder {folder} cannot be made ({error.strerror}); name another one") from error
        return True

    def _parse(self, folder: Path) -> Manifest | None:
        """The manifest, None when there is none. Raises `SourceError` for one that cannot be read."""
        path = folder / self.file
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        except ValueError as error:
            raise SourceError(
                f"{path} is damaged; remove {folder} and build the {self.what} again with `{self._build}`"
            ) from error
        if (
            isinstance(content, dict)
            and isinstance(version := content.get("version"), int)
            and version > self.kind().version
        ):
            raise SourceError(
                f"the {self.what} {folder} was written by a newer Ken (format {version}); update Ken, or build it again"
            )
        try:
            return self.kind.model_validate(content)
        except ValidationError as error:
            raise SourceError(
                f"{path} is not the manifest of a Ken {self.what}; name another folder, or remove it and build again"
            ) from error

    def _remove_all_but(self, folder: Path, manifest: Manifest, *, shared: bool) -> None:
        """Remove generations, and `shared` folders, that the manifest does not name."""
        beside = folder.glob(manifest.shared) if shared and manifest.shared else ()
        for entry in [*folder.glob("gen-*"), *beside]:
            if entry.name not in manifest.used:
                _remove(entry)

    def _with(self, folder: Path | str) -> str:
        return f"{self._build} {self._arguments.format(folder)}"


def _remove(path: Path) -> None:
    """Remove a file or folder; one still in use (Windows) is left to the next build."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
