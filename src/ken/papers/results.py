"""What a reproduction leaves behind: one file for every finished arm of every seed, and `results/SLUG.json`.

The first are kept in `.runs` beside the second, in a folder named by the settings, so that an interrupted reproduction
goes on, and claims can be judged anew without running anything again. Files exist as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import ken
from ken.core import BadInput
from ken.core.files import write_whole
from ken.core.frozen import Frozen
from ken.papers.paper import Entry, Paper
from ken.papers.verdict import Judged

RESULTS = Path("results")


class Run(Frozen):
    """One arm on one seed: what it measured, or why it failed.

    seconds: of the arm; bench_seconds: of preparing the bench, where this arm was the first to need it.
    code: a digest of Ken's source files at that time. traceback: "" unless it failed.
    """

    seed: int
    arm: str
    metrics: dict[str, float | tuple[float, ...]] = {}
    error: str | None = None
    traceback: str = ""
    seconds: float = 0.0
    bench_seconds: float = 0.0
    code: str = ""


class ArmResult(Frozen):
    """An arm over all seeds. metrics and errors: by seed. mean, std: of the metrics that are numbers on every finished
    seed; std is the sample's (n − 1), None for a single seed. seconds: summed."""

    text: str
    metrics: dict[int, dict[str, float | tuple[float, ...]]]
    mean: dict[str, float]
    std: dict[str, float | None]
    seconds: float
    errors: dict[int, str]


class Results(Frozen):
    """`results/SLUG.json`: everything that a verdict rests on.

    versions: of Ken, Python and the packages that compute; `code` is the digest of Ken's source files, several where a
    reproduction went on after a change. machine: what it ran on. wall_seconds: what arms and benches took, summed, with
    those of earlier commands; less than that passed where they ran side by side.
    """

    slug: str
    paper: Entry
    config: dict[str, Any]
    seeds: tuple[int, ...]
    versions: dict[str, str]
    machine: dict[str, str | int | float]
    wall_seconds: float
    arms: dict[str, ArmResult]
    claims: tuple[Judged, ...]

    @property
    def failed(self) -> int:
        """How many arms failed, counted over seeds."""
        return sum(len(arm.errors) for arm in self.arms.values())


class Runs:
    """The finished runs of a paper under one config; in memory only when `out` is None.

    Raises `BadInput` when the folder cannot be made: before hours of work, not after them.
    """

    def __init__(self, out: Path | None, paper: Paper[Any, Any], config: Frozen) -> None:
        self.folder: Path | None = None
        self._held: dict[tuple[int, str], Run] = {}
        if out is not None:
            key = hashlib.blake2b(canonical(config).encode(), digest_size=6).hexdigest()
            self.folder = out / ".runs" / paper.slug / key
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)

    def find(self, seed: int, arm: str) -> Run | None:
        """The run, if it was made and did not fail."""
        if (seed, arm) not in self._held and self.folder and (path := self._path(seed, arm)).is_file():
            try:
                self._held[seed, arm] = Run.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise BadInput(f"{path} cannot be read or was edited; delete it, and its arm runs again") from error
        return self._held.get((seed, arm))

    def keep(self, run: Run) -> None:
        """Hold a run. One that failed is not found again: the next command tries it anew; why is in a .error file."""
        if self.folder:
            path = self._path(run.seed, run.arm)
            failure = path.with_suffix(".error")
            with writing(path):
                if run.error is None:
                    write_whole(path, (run.model_dump_json(indent=2) + "\n").encode())
                    failure.unlink(missing_ok=True)
                else:
                    write_whole(failure, run.traceback.encode(errors="replace"))
        if run.error is None:
            self._held[run.seed, run.arm] = run

    def _path(self, seed: int, arm: str) -> Path:
        assert self.folder
        return self.folder / f"{seed}-{arm}.json"


def canonical(config: Frozen) -> str:
    """A config as JSON that does not depend on the order of its fields."""
    return json.dumps(json.loads(config.model_dump_json()), sort_keys=True)


def read_results(slug: str, out: Path = RESULTS) -> Results | None:
    """The committed results of a paper, None when there are none. `BadInput` when the file cannot be read."""
    path = out / f"{slug}.json"
    try:
        return Results.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        problem = f"{path} cannot be read as results; restore it, or make it again with `ken reproduce {slug}`"
        raise BadInput(problem) from error


def write_results(results: Results, path: Path) -> None:
    """Write them for people and for diffs: indented, but a curve on one line. `BadInput` when that cannot be done."""
    text = _CURVE.sub(lambda curve: f"[{' '.join(curve[1].split())}]", results.model_dump_json(indent=2))
    with writing(path):
        write_whole(path, (text + "\n").encode())


_CURVE = re.compile(r'\[\n([^][{}"]*)\]')  # numbers over several lines; no string of JSON holds a line break


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or missing permission into `BadInput`."""
    try:
        yield
    except OSError as error:
        advice = "free the way and give the same command again, or choose another --out"
        raise BadInput(f"{path} cannot be written ({error.strerror or error}); {advice}") from error


def versions(codes: Mapping[str, Any] | set[str]) -> dict[str, str]:
    """Of Ken, Python and the packages whose numbers a run depends on, as far as they are installed."""
    found = {"ken": ken.__version__, "code": ", ".join(sorted(codes)), "python": platform.python_version()}
    for package in ("numpy", "torch", "transformers", "trl"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def code_digest() -> str:
    """A short hash of all Python files of Ken: what ran, also where nothing was committed."""
    hasher = hashlib.blake2b(digest_size=6)
    root = Path(ken.__file__).parent
    for path in sorted(root.rglob("*.py")):
        hasher.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def machine() -> dict[str, str | int | float]:
    """Of this process: system, processor, cores, memory in GiB and, where torch is loaded and sees one, the GPU."""
    found: dict[str, str | int | float] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
