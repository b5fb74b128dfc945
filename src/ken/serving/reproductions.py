"""The finished arms of reproductions, which `ken reproduce` keeps in `results/.runs/SLUG/SETTINGS/SEED-ARM.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ken.papers.results import Run

_FOLDER = re.compile(r"[0-9a-f]{12}")  # named by a digest of the settings
_FILE = re.compile(r"(\d+)-([a-z0-9][a-z0-9.+_-]*)\.(json|error)")


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The arms that a paper has finished under one choice of settings.

    done, failed: (seed, arm). changed: when the last one was written, in seconds since the epoch.
    """

    slug: str
    settings: str
    folder: Path
    done: tuple[tuple[int, str], ...]
    failed: tuple[tuple[int, str], ...]
    changed: float

    @property
    def seeds(self) -> list[int]:
        """Those of which any arm is done or failed."""
        return sorted({seed for seed, _ in (*self.done, *self.failed)})

    @property
    def arms(self) -> list[str]:
        """The names of its arms."""
        return sorted({arm for _, arm in (*self.done, *self.failed)})

    def runs(self) -> Iterator[Run]:
        """What was measured; a file that cannot be read is left out."""
        for seed, arm in self.done:
            try:
                yield Run.model_validate_json((self.folder / f"{seed}-{arm}.json").read_bytes())
            except (OSError, ValidationError):
                continue

    def failure(self, seed: int, arm: str) -> str:
        """Why an arm failed: the last line of its traceback."""
        try:
            lines = (self.folder / f"{seed}-{arm}.error").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), "no reason was kept")[:500]


def find_reproductions(results: Path) -> list[Reproduction]:
    """All of them below a folder of results, the last one first."""
    found = []
    for slug in _folders(results / ".runs"):
        for folder in _folders(slug):
            if _FOLDER.fullmatch(folder.name):
                found.append(_read(slug.name, folder))
    return sorted((one for one in found if one.done or one.failed), key=lambda one: -one.changed)


def _read(slug: str, folder: Path) -> Reproduction:
    done: list[tuple[int, str]] = []
    failed: list[tuple[int, str]] = []
    changed = 0.0
    try:
        files = [file for file in folder.iterdir() if file.is_file() and not file.is_symlink()]
        for file in files:
            if match := _FILE.fullmatch(file.name):
                (done if match[3] == "json" else failed).append((int(match[1]), match[2]))
                changed = max(changed, file.stat().st_mtime)
    except OSError:
        pass
    return Reproduction(slug, folder.name, folder, tuple(sorted(done)), tuple(sorted(failed)), changed)


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(f for f in path.iterdir() if f.is_dir() and not f.is_symlink())
    except OSError:
        return []
