"""Small models compute faster on one thread than on several: their kernels are shorter than the wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_lock = Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch computes on one thread; afterwards on as many as before.

    torch counts threads per thread that asks, but a thread that asks for the first time takes the count that was set
    last, by whomever. So all who are inside at once go back to what the first of them found.
    """
    global _inside, _before  # noqa: PLW0603  # of the process, like torch's own count
    with _lock:
        if not _inside:
            _before = torch.get_num_threads()
        _inside += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_before)
