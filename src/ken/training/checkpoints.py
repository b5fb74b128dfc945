"""What a training leaves on disk: checkpoints that count once they are whole, and the statistics of every step."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ken.core import TrainingError
from ken.core.files import write_whole

CHECKPOINTS = "checkpoints"
STATE = "ken-state.json"  # written last: a checkpoint without it is not whole
METRICS = "metrics.jsonl"


def declare_whole(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Add the last file of a checkpoint, which holds what the trainer itself does not keep, as JSON."""
    write_whole(checkpoint / STATE, json.dumps(state).encode())


def last_whole(checkpoints: Path) -> Path | None:
    """The latest checkpoint that is whole, None when there is none."""
    whole = [path for path in checkpoints.glob("checkpoint-*") if (path / STATE).is_file()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """How many updates had been made."""
    return int(checkpoint.name.rpartition("-")[2])


def add_statistics(folder: Path, statistics: Mapping[str, float]) -> None:
    """Append the statistics of a step, `statistics["step"]` being its number, to the metrics in `folder`."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(statistics) + "\n")


def cut_back(folder: Path, done: int) -> list[dict[str, float]]:
    """Cut the metrics in `folder` back to step `done`; what is left, in order. 0 removes them."""
    metrics = folder / METRICS
    if not done:
        metrics.unlink(missing_ok=True)
    if not metrics.is_file():
        return []
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last line of a killed run
            continue
        if entry["step"] <= done:
            kept.append(entry)
    write_whole(metrics, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
    return kept


def emergency(trainer: Any, checkpoints: Path, *, step: int, complete: Callable[[Path], None]) -> str:
    """Save the last good step, unless it is there already; says where. complete: adds what TRL does not know of to a
    checkpoint and declares it whole."""
    updates = trainer.state.global_step
    checkpoint = checkpoints / f"checkpoint-{updates}"
    if updates and not (checkpoint / STATE).is_file():
        trainer.model.zero_grad(set_to_none=True)
        trainer._save_checkpoint(trainer.model, None)
        complete(checkpoint)
    return f"step {step} is saved in {checkpoint}" if updates else "before the first step was done"


@contextmanager
def disk_full_explained(checkpoints: Path) -> Iterator[None]:
    """Turn a full disk into `TrainingError`, after removing the checkpoint that could not be finished."""
    try:
        yield
    except Exception as error:
        if not _disk_full(error):
            raise
        for path in checkpoints.glob("checkpoint-*"):
            if not (path / STATE).is_file():
                shutil.rmtree(path, ignore_errors=True)
        kept = last_whole(checkpoints)
        what = f"the checkpoint {kept.name} is whole" if kept else "there is no earlier checkpoint"
        raise TrainingError(f"the disk is full; {what}; free space and resume") from error


def _disk_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}) or (
        "No space left on device" in str(error) or "os error 28" in str(error)
    )
