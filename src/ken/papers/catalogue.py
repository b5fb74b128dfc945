"""All papers of the catalogue, and which of them have a row: a module `NN_slug.py` in this folder.

Ken ships the papers of one page; a user's own (`ken papers add`) stand in papers.toml in the working directory.
"""

from __future__ import annotations

import errno
import json
import os
import tomllib
import unicodedata
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ken.core.errors import BadInput, Unsupported
from ken.core.files import lock_file
from ken.papers.paper import Entry, Paper

OWN = Path("papers.toml")
"""A user's own papers, in the format of the shipped catalogue."""

LISTED = "2026-04-15"
"""The day of the page that the shipped catalogue follows."""


def entries() -> dict[str, Entry]:
    """All entries by slug: those that Ken ships in the order of their numbers, then the user's own.

    Raises `BadInput` when the user's file cannot be read.
    """
    return shipped() | own_entries()


@cache
def shipped() -> dict[str, Entry]:
    """The entries that come with Ken."""
    tables = tomllib.loads((files("ken.papers") / "catalogue.toml").read_text(encoding="utf-8"))
    return {slug: Entry(slug=slug, **({"listed": LISTED} | table)) for slug, table in tables.items()}


def own_entries(path: Path = OWN) -> dict[str, Entry]:
    """The user's own entries, {} when there is no file. A paper that Ken has come to ship is left out.

    Raises `BadInput` when the file cannot be read.
    """
    try:
        found = path.stat()
    except OSError:
        return {}
    known = {e.arxiv for e in shipped().values()}
    read = _read_own(path.resolve(), found.st_mtime_ns, found.st_size)
    return {slug: e for slug, e in read.items() if slug not in shipped() and e.arxiv not in known}


@lru_cache(maxsize=8)
def _read_own(path: Path, changed: int, size: int) -> dict[str, Entry]:
    """Read once for every state of the file."""
    slug = ""
    read = {}
    try:
        for slug, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            seen = {name: clean(value) if isinstance(value, str) else value for name, value in table.items()}
            read[slug] = Entry.model_validate({"slug": slug, **seen})
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check its permissions, or move it away") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not TOML ({error}); mend it, or move it away") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BadInput(f"{path} [{slug}]: {where}: {problem['msg']}; mend it, or remove that table") from error
    except AttributeError as error:
        raise BadInput(f"{path}: {slug} is no table; a paper looks like [slug] with a title and so on") from error
    return read


def add_own(entry: Entry, path: Path = OWN) -> Entry:
    """Append an entry to the user's own, whose file may be edited by hand: comments and order stay.

    Two may be added at once: the later one then gets the next number. A kill leaves the file as it was or with the
    whole entry. Returns the entry as it stands there.

    Raises `BadInput` when the file cannot be read or written, or has the paper or its slug already.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            lock_file(handle)
            there = own_entries(path).values()
            for e in there:
                if entry.arxiv == e.arxiv:
                    raise BadInput(f"{e.name} ({e.arxiv}) is in {path} already; see `ken papers {e.slug}`")
                if entry.slug == e.slug:
                    raise BadInput(f"{path} has another paper called {e.slug}; give this one another --name")
            if entry.number in (numbers := {e.number for e in there}):
                entry = entry.model_copy(update={"number": max(numbers) + 1})
            _append(handle, _table(entry))
        finally:
            os.close(handle)
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); nothing was added") from error
    return entry


def clean(text: str) -> str:
    """`text` on one line, without characters that are not seen: controls, and those that reverse what follows."""
    return " ".join(
        "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf", "Cs")).split()
    )


def _append(handle: int, table: str) -> None:
    """Write a table behind a blank line, as a whole or not at all."""
    size = os.fstat(handle).st_size
    apart = "" if not size else "\n" if os.pread(handle, 1, size - 1) == b"\n" else "\n\n"
    text = (apart + table).encode()
    try:
        if os.write(handle, text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise


def _table(entry: Entry) -> str:
    """An entry in TOML. What is empty is left out, but for the three words that every entry has."""
    words = entry.model_dump(exclude={"slug"})
    kept = {n: v for n, v in words.items() if v not in ("", None) or n in ("inside", "outside", "signal")}
    return f"[{entry.slug}]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in kept.items())


def _toml(value: str | int) -> str:
    """A value as TOML writes it: its strings are JSON's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def entry(name: str) -> Entry:
    """The entry of a slug (`think-on-graph`), a name (`ToG`) or a number (`44`), in any case of letters.

    Raises `BadInput` with the nearest names for any other.
    """
    asked = name.strip().lower()
    for among in (shipped, entries):  # what Ken ships is found whatever a user's file looks like
        known = {key.lower(): e for e in among().values() for key in (e.slug, e.name, str(e.number), f"{e.number:02}")}
        if asked in known:
            return known[asked]
    words = [key for key in known if not key.isdecimal()]
    near = [key for key in words if asked and asked in key] + get_close_matches(asked, words, n=3)
    meant = ", ".join(list(dict.fromkeys(known[key].slug for key in near))[:3])
    advice = f"did you mean {meant}?" if meant else "see `ken papers` for the names"
    raise BadInput(f"there is no paper {name!r}; {advice}")


def rows() -> tuple[str, ...]:
    """The slugs that have a row, without loading any."""
    return tuple(slug for slug, e in shipped().items() if find_spec(_module(e)))


def load_paper(slug: str) -> Paper[Any, Any]:
    """The row of a paper, by slug or number.

    Raises `BadInput` when there is no such paper or it has no row yet, `Unsupported` when a package that it needs is
    not installed.
    """
    wanted = entry(slug)
    if wanted.slug not in (running := rows()):
        names = ", ".join(running) or "none yet"
        raise BadInput(f"{wanted.name} ({wanted.slug}) is planned and cannot be run yet; those that run: {names}")
    try:
        row = import_module(_module(wanted))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ken":
            raise
        raise Unsupported(f"{wanted.slug} needs {error.name}; install with: pip install 'ken[train]'") from error
    paper: Paper[Any, Any] = row.paper
    return paper


def _module(e: Entry) -> str:
    return f"ken.papers.{e.number:02}_{e.slug.replace('-', '_')}"
