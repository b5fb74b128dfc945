"""Send the statistics of every step to a dashboard: TensorBoard or trackio. `metrics.jsonl` is written without them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ken.core import Unsupported

Tracker = Literal["tensorboard", "trackio"]
Log = Callable[[int, Mapping[str, float]], None]


def check_tracker(name: Tracker) -> None:
    """Raises `Unsupported` when its package is not installed."""
    if find_spec(name) is None:
        raise Unsupported(f"{name} is not installed; install it with: pip install {name}")


@contextmanager
def tracker(name: Tracker | None, *, folder: Path, run: str, settings: Mapping[str, Any]) -> Iterator[Log]:
    """A function of step and statistics. TensorBoard writes to `folder`/tensorboard, trackio to its own home under the
    project "ken". A resumed run goes on in the same curve. None gives a function that does nothing.
    """
    if name is None:
        yield lambda step, statistics: None
        return
    check_tracker(name)
    opened = _TensorBoard(folder / "tensorboard") if name == "tensorboard" else _Trackio(run, settings)
    try:
        yield opened.log
    finally:
        opened.close()


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def log(self, step: int, statistics: Mapping[str, float]) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an interrupted run had logged beyond its checkpoint is not shown twice.
            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        for statistic, value in statistics.items():
            self.writer.add_scalar(statistic, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class _Trackio:
    def __init__(self, run: str, settings: Mapping[str, Any]) -> None:
        import trackio

        self.trackio = trackio
        with redirect_stdout(sys.stderr):  # it talks, and stdout may be somebody's JSON
            trackio.init(project="ken", name=run, config=dict(settings), resume="allow")

    def log(self, step: int, statistics: Mapping[str, float]) -> None:
        self.trackio.log(dict(statistics), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.trackio.finish()
