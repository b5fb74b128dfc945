"""Files that people upload: their names checked, and built into an index in a process of its own.

    DATA/indexes/NAME/files/…    what was uploaded
    DATA/indexes/NAME/index/     the index
    DATA/indexes/NAME/building   there until the index is finished; a folder that still has it is a leftover

Documents are read by parsers that a hostile file can make run for hours or fill the memory (a pdf of a kilobyte may
unpack to gigabytes). So they are read in a child process with limits (`building`); when it meets one, the upload
ends with a sentence, and the server does not notice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ken.core import BadInput, KenError, SourceError
from ken.core.frozen import Frozen
from ken.serving.latest import Latest
from ken.serving.service import Service

SUFFIXES = (".md", ".txt", ".html", ".htm", ".pdf", ".jsonl")
MAX_FILES = 1000
MAX_NAME = 120  # characters

WALL_SECONDS = 1800  # of a build

MARKER = "building"  # beside what is uploaded: nothing without it is ever removed, since it may be all that is left

_NAME = re.compile(r"[^\W_][\w.-]{0,63}")


class BuildState(Frozen):
    """How far a new index is. documents: read so far, of `total` (None: not yet counted). skipped: files and lines that
    cannot be read, and were left out. message: why it failed."""

    stage: Literal["building", "done", "failed"] = "building"
    documents: int = 0
    total: int | None = None
    passages: int = 0
    skipped: tuple[str, ...] = ()
    message: str = ""


class Uploads:
    """The indexes made of uploads, offered by `service` as soon as they are finished; those of earlier runs too."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.folder = service.data / "indexes"
        self.builds: dict[str, Build] = {}
        for place in sorted(self.folder.glob("*")) if self.folder.is_dir() else ():
            if (problem := _problem(place)) is None:
                self._finish(place.name, place)
            elif (place / MARKER).exists():
                shutil.rmtree(place, ignore_errors=True)
            else:
                logging.getLogger(__name__).warning("%s is kept, but not offered as an index: %s", place, problem)

    async def receive(self, request: Request) -> Build:
        """Take the files of a multipart form (fields `name`, `files`, and `skip` to leave out what cannot be read), and
        begin to build. Raises `BadInput`; nothing is kept then."""
        async with UploadForm(request) as form:
            name = index_name(str(form.get("name") or ""))
            files = [part for part in form.getlist("files") if isinstance(part, UploadFile) and part.filename]
            names = _file_names([str(part.filename) for part in files])
            place = self._claim(name)
            try:
                for part, file in zip(files, names, strict=True):
                    await asyncio.to_thread(_save, part, place / "files" / file)
            except BaseException as error:
                shutil.rmtree(place, ignore_errors=True)
                if isinstance(error, OSError):
                    raise BadInput(f"the files could not be kept ({error.strerror or error}); nothing was") from error
                raise
            skip = bool(form.get("skip"))
        build = Build(name, place, skip, lambda: self._finish(name, place))
        self.builds[name] = build
        return build

    async def close(self) -> None:
        """End what is being built."""
        for build in self.builds.values():
            await build.cancel()

    def _claim(self, name: str) -> Path:
        if name in self.service.indexes:
            raise BadInput(f"there is an index {name!r} already; choose another name")
        place = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            place.mkdir()
            (place / MARKER).touch()
            (place / "files").mkdir()
        except FileExistsError as error:
            raise BadInput(f"the name {name!r} is taken; choose another name") from error
        except OSError as error:
            raise BadInput(f"{place} cannot be made ({error.strerror or error})") from error
        return place

    def _finish(self, name: str, place: Path) -> None:
        (place / MARKER).unlink(missing_ok=True)
        self.service.indexes.setdefault(name, place / "index")


class Build:
    """An index on its way. Goes on when nobody listens."""

    def __init__(self, name: str, place: Path, skip: bool, finish: Callable[[], None]) -> None:
        self.name, self.place = name, place
        self._state = Latest(BuildState())
        self._finish = finish
        self._work = asyncio.create_task(self._run(skip))

    async def states(self) -> AsyncIterator[BuildState]:
        """The state now, and whenever it has changed, until it is final."""
        async for state in self._state.follow(lambda s: s.stage != "building", pause=0.1):
            yield state

    async def cancel(self) -> None:
        """Stop and leave nothing; an index that is finished stays."""
        self._work.cancel()
        await asyncio.wait([self._work])

    def _tell(self, **changes: Any) -> None:
        self._state.value = BuildState.model_validate({**self._state.value.model_dump(), **changes})

    async def _run(self, skip: bool) -> None:
        try:
            last = await self._in_child(skip)
            self._finish()
            self._tell(stage="done", **last)
        except asyncio.CancelledError:
            shutil.rmtree(self.place, ignore_errors=True)
            self._tell(stage="failed", message="cancelled; nothing was kept")
        except Exception as error:
            shutil.rmtree(self.place, ignore_errors=True)
            said = str(error) if isinstance(error, KenError) else f"the index could not be built ({error})"
            self._tell(stage="failed", message=said)

    async def _in_child(self, skip: bool) -> dict[str, Any]:
        """Have the child build; what it said last. Raises `BadInput` with its sentence, or why it ended without one."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ken.serving.building", str(self.place), "skip" if skip else "strict"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=1 << 20,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(WALL_SECONDS):
                async for line in process.stdout:
                    told = json.loads(line)
                    if "problem" in told:
                        raise BadInput(told["problem"])
                    if told.get("done"):
                        return {key: told[key] for key in ("documents", "passages", "skipped")}
                    self._tell(**told)
                await process.wait()
        except TimeoutError as error:
            raise BadInput(f"reading the files took more than {WALL_SECONDS // 60} minutes; upload fewer") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        raise BadInput(
            "reading the files took more memory or time than one upload may have; one of them may be damaged, or "
            "unpack to far more than its size: upload fewer, or find it by uploading halves"
        )


class UploadForm:
    """The multipart form of a request; its temporary files are removed at the end. How large it may be is the door's
    business (`ken.serving.access`).

    Raises `BadInput` for a form that is broken.
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    async def __aenter__(self) -> Any:
        if not self._request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise BadInput("expected a form of type multipart/form-data")
        try:
            return await self._request.form(max_files=MAX_FILES, max_fields=50, max_part_size=1 << 20)
        except HTTPException as error:
            if error.status_code != 400:  # too large, as the door has it
                raise
            raise BadInput(f"the upload cannot be read ({str(error.detail).rstrip('.')})") from error

    async def __aexit__(self, *_: object) -> None:
        await self._request.close()


def index_name(text: str) -> str:
    """A name that is safe as a folder's and in an address. Raises `BadInput`."""
    name = text.strip()
    if not _NAME.fullmatch(name) or len(name.encode()) > 200:
        raise BadInput(
            f"{name[:80]!r} cannot be a name; it is made of 1 to 64 letters, digits, dots, dashes and underscores, and "
            "begins with a letter or digit"
        )
    return name


def file_name(text: str) -> str:
    """An uploaded file's name, if it is nothing but a name. Raises `BadInput` for a path, hidden files and the like."""
    if text != Path(text).name or text != PureWindowsPath(text).name:
        raise BadInput(f"the file name {text[:80]!r} is a path; upload files, not folders")
    plain = text.isprintable() and text == text.strip() and not text.startswith(".")
    if not plain or len(text) > MAX_NAME or len(text.encode(errors="replace")) > 250:
        raise BadInput(f"the file name {text[:80]!r} cannot be used; rename the file")
    return text


def _file_names(given: Sequence[str]) -> list[str]:
    if not given:
        raise BadInput(f"no files were uploaded; choose files ending in {', '.join(SUFFIXES)}")
    names = [file_name(name) for name in given]
    for name in names:
        if Path(name).suffix.lower() not in SUFFIXES:
            raise BadInput(f"{name!r} is of no kind that can be read; upload files ending in {', '.join(SUFFIXES)}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"two of the files are called {twice!r}; rename one")
    return names


def _save(part: UploadFile, path: Path) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(part.file, file, 1 << 20)


def _problem(place: Path) -> str | None:
    """Why there is no index to offer in a folder of ours; None when there is one."""
    from ken.sources.search.storage import read_manifest

    try:
        read_manifest(place / "index")
    except SourceError as error:
        return str(error)
    return None
