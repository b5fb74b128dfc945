"""The words of a replay: records that a paper's authors released, scored again without any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from ken.core import BadInput
from ken.core.frozen import Frozen
from ken.papers.catalogue import entry

Cell = str | int | float | None
"""None where a number is not defined or not known (a score without golds)."""


class Table(Frozen):
    """One table of a replay. rows: a cell for each column; whole numbers are counts, others are measured values."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Replayed(Frozen):
    """What a replay found. notes: sentences that a reader of the tables must know."""

    slug: str
    files: tuple[str, ...]
    gold: str | None = None
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replay:
    """How the records of a paper are scored again; the value `replay` of a module in `ken.papers.replays`, whose name
    is the paper's slug with _ for -.

    records: what the files hold, and where they come from, in one sentence.
    golds: the same of the file of accepted answers; "" for records that hold them.
    tables: from the paths of the records (at least one) and of the golds, if given, to what was found. It raises
        `BadInput` (of it `DataError`) for a file that is not of the kind that `records` says.
    """

    slug: str
    records: str
    golds: str
    tables: Callable[[Sequence[Path], Path | None], tuple[Sequence[Table], Sequence[str]]]


def replay(paper: str, paths: Sequence[Path], *, gold: Path | None = None) -> Replayed:
    """Score the records in `paths` again; `gold` holds the accepted answers where the records do not.

    Raises `BadInput` for a paper without records to replay, or a file that is not there, and says where it comes from;
    `DataError` for one that does not hold such records.
    """
    found = replay_of(paper)
    if not paths:
        raise BadInput(f"no file of records was given. {found.records}")
    paths = [file for path in paths for file in _files(path, found.records)]
    if gold is not None and not found.golds:
        raise BadInput(f"the records of {found.slug} hold their accepted answers; leave --gold out")
    if gold is not None:
        _check(gold, found.golds)
    tables, notes = found.tables(paths, gold)
    return Replayed(
        slug=found.slug,
        files=tuple(map(str, paths)),
        gold=None if gold is None else str(gold),
        tables=tuple(tables),
        notes=tuple(notes),
    )


def replays() -> tuple[str, ...]:
    """The slugs of the papers whose records can be replayed, without loading any."""
    import ken.papers.replays as folder

    return tuple(sorted(module.name.replace("_", "-") for module in iter_modules(folder.__path__)))


def replay_of(paper: str) -> Replay:
    """The replay of a paper, by slug, name or number. Raises `BadInput` for one that has none."""
    found = entry(paper)
    if found.slug not in (known := replays()):
        raise BadInput(f"{found.name} has no released records to replay; those that have some: {', '.join(known)}")
    module = import_module(f"ken.papers.replays.{found.slug.replace('-', '_')}")
    said: Replay = module.replay
    return said


def _files(path: Path, comes_from: str) -> list[Path]:
    """The file, or those of a folder and of the folders in it."""
    if not path.is_dir():
        _check(path, comes_from)
        return [path]
    files = sorted(file for file in path.rglob("*.json*") if file.suffix in {".json", ".jsonl"})
    if not files:
        raise BadInput(f"the folder {path} holds no records. {comes_from}")
    return files


def _check(path: Path, comes_from: str) -> None:
    if not path.is_file():
        raise BadInput(f"there is no file {path}. {comes_from}")
