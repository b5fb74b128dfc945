"""Training runs as they stand on disk: found below a folder, and read while they are written.

`ken train --out RUN` leaves run.json, a folder for every stage but the last, and of the last one metrics.jsonl,
checkpoints/ and, at the end, model/ (see `ken.papers.train`); `ken.training.train.train(out=…)` the latter three. A run
is named by its path below the folder, and only names that were found are looked at.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import threading
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ken.training.checkpoints import CHECKPOINTS, METRICS
from ken.training.monitors import DEFAULTS, STARVED, Alarm, Watch

RUN, MODEL, ROUNDS = "run.json", "model", "rounds.jsonl"
DEPTH = 5  # folders below the root in which runs are looked for
MOST_FOLDERS = 5000  # that are looked into
QUIET = 120.0  # seconds without a sign of life after which a run counts as interrupted
SLOWEST = 10  # steps' worth of time that count as well, for steps that take long
LINE = 1 << 20  # bytes of a line that is still read
MOST_STATISTICS = 200

# What no run is in, and may be large.
_SKIPPED = {CHECKPOINTS, MODEL, "node_modules", "site-packages", "__pycache__", "tensorboard"}
# Files that a training touches before its first step, and between steps.
_SIGNS = (RUN, METRICS, ROUNDS, CHECKPOINTS, "answers.jsonl", "samples.jsonl", "questions.jsonl", "solve-rates.jsonl")

State = Literal["running", "finished", "interrupted"]


class MetricsFile:
    """The statistics in one file, of which only what was added is read again.

    curves: by name, (steps, values); a mapping in a line gives one curve for each of its numbers, `agreement/accuracy`.
    alarms: what the collapse monitors say of these statistics. unreadable: lines that are no statistics.
    """

    def __init__(self, path: Path, step: str = "step") -> None:
        self.path, self.step = path, step
        self._begin()

    def _begin(self) -> None:
        self.curves: dict[str, tuple[array[float], array[float]]] = {}
        self.alarms: list[Alarm] = []
        self.unreadable = 0
        self._watch = Watch((*DEFAULTS, STARVED))
        self._file, self._offset, self._skipping = 0, 0, False

    @property
    def last_step(self) -> int:
        """The number of the last step, 0 before the first."""
        return int(max((steps[-1] for steps, _ in self.curves.values() if steps), default=0))

    def read(self) -> None:
        """Read what was added. A file that was replaced or cut is read anew; one that is not there is empty."""
        try:
            with self.path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._file or about.st_size < self._offset:
                    self._begin()
                    self._file = about.st_ino
                file.seek(self._offset)
                self._read_lines(file)
        except OSError:
            self._begin()

    def _read_lines(self, file: Any) -> None:
        while block := file.read(LINE):
            end = block.rfind(b"\n") + 1
            if not end:  # a line that is being written, or one that is too long
                if len(block) < LINE:
                    return
                self._skipping = True
                end = len(block)
                self._offset += end
                continue
            lines = block[:end].split(b"\n")[:-1]
            if self._skipping:
                self._skipping, self.unreadable = False, self.unreadable + 1
                lines = lines[1:]
            for line in lines:
                self._add(line)
            self._offset += end
            file.seek(self._offset)

    def _add(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            step = float(entry[self.step])
        except (ValueError, KeyError, TypeError, RecursionError):
            self.unreadable += bool(line.strip())
            return
        if not abs(step) < 2**53:
            self.unreadable += 1
            return
        if self.curves and step <= self.last_step:  # a run that went on from an earlier checkpoint
            self._cut(step)
        numbers = dict(_numbers(entry))
        for name, value in numbers.items():
            if name != self.step and (name in self.curves or len(self.curves) < MOST_STATISTICS):
                steps, values = self.curves.setdefault(name, (array("d"), array("d")))
                steps.append(step)
                values.append(value)
        self.alarms += self._watch.see(int(step), numbers)

    def _cut(self, step: float) -> None:
        for steps, values in self.curves.values():
            place = bisect_left(steps, step)
            del steps[place:], values[place:]
        self.alarms = [alarm for alarm in self.alarms if alarm.step < step]


def _numbers(entry: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                yield f"{before}{name}"[:80], float(value)
            except OverflowError:
                continue
        elif isinstance(value, dict) and not before:
            yield from _numbers(value, f"{name}/")


@dataclass(frozen=True, slots=True)
class Stage:
    """One training of a run. name: of its folder, "" for a run of one stage."""

    name: str
    metrics: MetricsFile


@dataclass(slots=True)
class TrainingRun:
    """A run and what is known of it.

    name: its path below the root, "." for the root itself. paper, model, index, version: as run.json has them, "" where
    there is none. settings: its options. stages: in the order in which they are trained.
    """

    name: str
    path: Path
    paper: str = ""
    model: str = ""
    index: str = ""
    version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    problem: str = ""
    _files: dict[Path, MetricsFile] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)  # hold it to look at curves that may grow

    def refresh(self) -> None:
        """Read what was written since."""
        with self.lock:
            self._read_settings()
            folders = self._folders()
            self.stages = [Stage(name, self._metrics(path, step)) for name, path, step in folders]
            for stage in self.stages:
                stage.metrics.read()

    @property
    def title(self) -> str:
        """What to call it."""
        return self.name if self.name != "." else self.path.absolute().name

    @property
    def last_sign(self) -> float:
        """When something was last written, in seconds since the epoch."""
        places = [self.path, *(stage.metrics.path.parent for stage in self.stages)]
        return max((_changed(place / sign) for place in places for sign in _SIGNS), default=0.0)

    @property
    def state(self) -> State:
        """finished, once the model is there; running, while there are signs of life: something was written within
        `QUIET` seconds, or within the time of `SLOWEST` steps; else interrupted."""
        if (self.path / MODEL).is_dir():
            return "finished"
        patience = max(QUIET, SLOWEST * self.step_seconds)
        return "running" if time.time() - self.last_sign < patience else "interrupted"

    @property
    def step_seconds(self) -> float:
        """What a step takes, by the median of the last ones; 0 where that is not known."""
        for stage in reversed(self.stages):
            _, values = stage.metrics.curves.get("step_time", (None, None))
            if values:
                median = statistics.median(values[-20:])
                return median if 0 <= median < 1e9 else 0.0
        return 0.0

    @property
    def alarms(self) -> list[tuple[str, Alarm]]:
        """(stage, alarm) of the collapse monitors, in order."""
        return [(stage.name, alarm) for stage in self.stages for alarm in stage.metrics.alarms]

    @property
    def mark(self) -> str:
        """Changes when there is something new to see."""
        with self.lock:
            files = [(str(s.metrics.path), s.metrics.last_step, len(s.metrics.curves)) for s in self.stages]
            return repr((self.name, self.state, files, len(self.alarms)))

    def _read_settings(self) -> None:
        path = self.path / RUN
        if not path.is_file():
            return
        try:
            known = json.loads(path.read_bytes())
            options = known["options"]
            self.settings = {str(name): value for name, value in options.items()}
            self.paper, self.model, self.index, self.version, self.problem = (
                *(str(known.get(word, "")) for word in ("paper", "model", "index", "version")),
                "",
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.problem = f"{path} cannot be read; it was edited or is of another version"

    def _folders(self) -> list[tuple[str, Path, str]]:
        """(name, file, its step) of every stage. The folders of earlier stages are inside the run; the last stage's
        file is the run's own, and where it trains in rounds, so is what they measured."""
        inside = [f for f in _subfolders(self.path) if _is_file(f / METRICS)]
        inside.sort(key=lambda f: (_changed(f / METRICS), _natural(f.name)))  # as their last steps came
        found = [(f.name, f / METRICS, "step") for f in inside]
        if _is_file(self.path / ROUNDS):
            found.insert(0, ("rounds", self.path / ROUNDS, "round"))
        if _is_file(self.path / METRICS) or not found:
            found.append(("last stage" if found else "", self.path / METRICS, "step"))
        return found

    def _metrics(self, path: Path, step: str) -> MetricsFile:
        if path not in self._files:
            self._files[path] = MetricsFile(path, step)
        return self._files[path]


class TrainingRuns:
    """All runs below a folder. Symbolic links are not followed. The disk is looked at every `fresh` seconds at most."""

    def __init__(self, root: Path, fresh: float = 2.0) -> None:
        self.root, self._at_least, self._fresh = root, fresh, fresh
        self._known: dict[str, TrainingRun] = {}
        self._looked = -fresh
        self._lock = threading.Lock()

    def all(self) -> list[TrainingRun]:
        """The runs, what was last written to first."""
        with self._lock:
            began = time.monotonic()
            if began - self._looked >= self._fresh:
                self._known = {n: self._known.get(n) or TrainingRun(n, p) for n, p in _find(self.root)}
                for run in self._known.values():
                    run.refresh()
                self._looked = time.monotonic()
                self._fresh = max(self._at_least, 10 * (self._looked - began))  # a large disk is not asked all the time
            return sorted(self._known.values(), key=lambda run: -run.last_sign)

    def get(self, name: str) -> TrainingRun | None:
        """A run by its name, as it is now; None when there is none."""
        run = self._known.get(name) or {r.name: r for r in self.all()}.get(name)
        if run is None or not run.path.is_dir():
            return None
        run.refresh()
        return run


def _find(root: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of the runs. What is inside a run belongs to it."""
    waiting, seen = deque([(root, 0)]), 0
    while waiting and seen < MOST_FOLDERS:
        folder, depth = waiting.popleft()  # what is near the root first
        seen += 1
        if _is_file(folder / METRICS) or _is_training(folder / RUN):
            yield folder.relative_to(root).as_posix(), folder
        elif depth < DEPTH:
            waiting += [(inside, depth + 1) for inside in _subfolders(folder)]


def _is_training(path: Path) -> bool:
    """Whether it is the run.json of a training, not of an audit."""
    try:
        return _is_file(path) and "paper" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as inside:
            names = [
                entry.name
                for entry in inside
                if not entry.name.startswith(".")
                and entry.name not in _SKIPPED
                and entry.is_dir(follow_symlinks=False)
                and entry.name.isprintable()
            ]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink()
    except OSError:
        return False


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _natural(name: str) -> list[tuple[int, str]]:
    """round-2 before round-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
