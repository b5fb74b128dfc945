"""All papers of the catalogue, and which of them have a row: a module `NN_slug.py` in this folder."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from ken.core.errors import BadInput, Unsupported
from ken.papers.paper import Entry, Paper


@cache
def entries() -> dict[str, Entry]:
    """All entries by slug, in the order of their numbers."""
    tables = tomllib.loads((files("ken.papers") / "catalogue.toml").read_text(encoding="utf-8"))
    return {slug: Entry(slug=slug, **table) for slug, table in tables.items()}


def entry(name: str) -> Entry:
    """The entry of a slug (`think-on-graph`), a name (`ToG`) or a number (`44`), in any case of letters.

    Raises `BadInput` with the nearest names for any other.
    """
    known = {key.lower(): e for e in entries().values() for key in (e.slug, e.name, str(e.number), f"{e.number:02}")}
    asked = name.strip().lower()
    if asked in known:
        return known[asked]
    words = [key for key in known if not key.isdecimal()]
    near = [key for key in words if asked and asked in key] + get_close_matches(asked, words, n=3)
    meant = ", ".join(list(dict.fromkeys(known[key].slug for key in near))[:3])
    advice = f"did you mean {meant}?" if meant else "see `ken papers` for the names"
    raise BadInput(f"there is no paper {name!r}; {advice}")


def rows() -> tuple[str, ...]:
    """The slugs that have a row, without loading any."""
    return tuple(slug for slug, e in entries().items() if find_spec(_module(e)))


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
