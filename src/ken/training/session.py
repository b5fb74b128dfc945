"""What surrounds any training: a folder for it, silence, and the policy given back as it was lent."""

from __future__ import annotations

import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from ken.core import BadInput
from ken.models.local import LocalModel


@contextmanager
def run_folder(out: Path | None) -> Iterator[Path]:
    """The folder `out`, made when it is not there, or without one a temporary folder. Raises `BadInput` for a file."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="ken-") as temporary:
            yield Path(temporary)
        return
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    yield out


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers prints a line per step and a bar per checkpoint; our callers show their own."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():  # TRL's default for an argument that transformers is about to rename
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def restored(policy: LocalModel) -> Iterator[None]:
    """Take TRL's replacement of `forward` off again, so that a trained model can be copied and trained once more, and a
    vLLM, whose weights are those before the last update."""
    own, writer = policy.model.__dict__.get("forward"), policy.writer
    try:
        yield
    finally:
        policy.writer = writer
        if own is None:
            policy.model.__dict__.pop("forward", None)
        else:
            policy.model.forward = own


class Interruption:
    """Ctrl-C asks for an end after the step under way, a second one is an ordinary KeyboardInterrupt. SIGTERM asks too:
    with it, clusters and `accelerate launch` announce that they will kill.

    asked: whether this process was told to end while it was `watched`.
    """

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Outside of the main thread, where signals cannot be had, nothing is watched."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        pressed = False

        def ask(number: int, _: Any) -> None:
            nonlocal pressed
            if pressed and number == signal.SIGINT:
                raise KeyboardInterrupt
            pressed = pressed or number == signal.SIGINT
            self.asked = True

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
