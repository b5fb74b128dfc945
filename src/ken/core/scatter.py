"""Independent work on the machines of a Ray cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any, Generic, TypeVar

from ken.core.errors import BadInput, Unsupported

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"
RETRIES = 3  # of an item whose worker was lost: by a failing machine, or killed for its memory
_IN_FLIGHT = 4  # items a core that wait on the cluster: millions of items need not be in memory at once


@dataclass(frozen=True, slots=True)
class Lost(Generic[Item]):
    """An item whose worker was lost every time, and what Ray says about it."""

    item: Item
    reason: str


def scatter(
    function: Callable[[Item], Result], items: Iterable[Item], *, address: str, cores: int = 1
) -> Generator[Result | Lost[Item], None, None]:
    """`function` of every item, each in a task of its own, in the order in which they end.

    function, items and results travel by pickle; the machines must have the same Ken, and see the same files where
    items name any. address: HOST:PORT of a running cluster's head (`auto`: the one that this machine is part of), or
    "local" for one on this machine, which ends with the iteration. A Ray that this process has joined is used as it is.
    cores: that a task uses; it is also given a GPU where the cluster has any. The cores must be of one machine: at most
    those of the largest are asked for.

    A task whose worker is lost is run again, `RETRIES` times at most, and then yields `Lost`. What `function` raises is
    raised here and ends the iteration; ending it early, also by an exception in the loop, stops what is under way.
    Raises `Unsupported` when Ray is not installed, `BadInput` when no cluster answers or one cannot load the work.
    """
    if find_spec("ray") is None:
        raise Unsupported("running on a cluster needs Ray; install with: pip install 'ken[ray]'")
    ray: Any = import_module("ray")
    with _joined(ray, address):
        largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        asked = max(1, min(cores, int(largest)))
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        task = ray.remote(num_cpus=asked, num_gpus=gpus, max_retries=RETRIES)(function)
        room = max(64, int(_IN_FLIGHT * ray.cluster_resources().get("CPU", 1)))
        waiting = iter(items)
        pending: dict[Any, Item] = {task.remote(item): item for item in islice(waiting, room)}
        try:
            while pending:
                (ended, *_), _ = ray.wait([*pending], num_returns=1)
                item = pending.pop(ended)
                pending.update((task.remote(more), more) for more in islice(waiting, 1))
                try:
                    result = ray.get(ended)
                except ray.exceptions.RayTaskError as error:
                    said = str(error.cause)
                    if isinstance(error.cause, ray.exceptions.RayError) or "failed to import on the worker" in said:
                        reason = said.strip().splitlines()[-1]
                        raise BadInput(
                            f"a machine of the cluster has not the same Ken as this one ({reason})"
                        ) from error
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    yield Lost(item, " ".join(str(error).split()) or type(error).__name__)
                else:
                    yield result
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


@contextmanager
def _joined(ray: Any, address: str) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the user wants it
    own = {"include_dashboard": False} if address == LOCAL else {}
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()  # where nobody listens, Ray waits minutes
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        advice = "start one with `ray start --head`, or use `local`"
        raise BadInput(f"no Ray cluster answers at {address!r} ({' '.join(str(error).split())}); {advice}") from error
    try:
        yield
    finally:
        ray.shutdown()
