"""An audit on the machines of a Ray cluster: shards of its attempts become tasks, this process keeps the log."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ken.agents import Strategy
from ken.agents.ask import open_sources
from ken.agents.background import run
from ken.auditing.folder import AuditSettings
from ken.auditing.run import Job, Ledger, Progress, Streaks, attempt_all
from ken.core import Question, Trajectory
from ken.core.scatter import RETRIES, Lost, scatter
from ken.models import Model
from ken.probing.loading import load_model
from ken.sources import Sources

SHARD = 128  # attempts a task; those of a lost worker are made again


@dataclass(frozen=True)
class Recipe:
    """How a worker makes what it asks: `model` is a spec, `index` and `graph` a path that it can see, a URL, or
    None."""

    model: str
    options: Mapping[str, Any]
    index: str | None
    top_k: int
    graph: str | None


def run_audit_on_cluster(
    questions: Sequence[Question],
    recipe: Recipe,
    out: Path,
    *,
    strategies: Sequence[Strategy],
    settings: AuditSettings,
    address: str,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """As `run_audit`, with the attempts made on the cluster at `address` (see `ken.core.scatter`).

    Every worker loads the model and opens the index once. An interruption loses the shards under way. Attempts whose
    workers were lost again and again are missing from the log, and the settings say so.
    """
    with closing(Ledger(questions, out, strategies=strategies, settings=settings, on_progress=on_progress)) as ledger:
        if not ledger.left:
            return
        lost = 0
        cores = int(os.environ.get("OMP_NUM_THREADS", "1"))
        with closing(scatter(_attempt, _shards(recipe, ledger.left), address=address, cores=cores)) as ended:
            for shard in ended:
                if isinstance(shard, Lost):
                    lost += len(shard.item.jobs)
                    ledger.stop(f"the workers of {lost} attempts were lost {RETRIES + 1} times ({shard.reason})")
                elif not all(ledger.keep(trajectory, shard.dropped) for trajectory in shard.trajectories):
                    return


@dataclass(frozen=True)
class _Shard:
    recipe: Recipe
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class _Attempted:
    trajectories: list[Trajectory]
    dropped: tuple[str, ...]


def _shards(recipe: Recipe, jobs: Sequence[Job]) -> Iterator[_Shard]:
    for start in range(0, len(jobs), SHARD):
        yield _Shard(recipe, tuple(jobs[start : start + SHARD]))


def _attempt(shard: _Shard) -> _Attempted:
    """In a worker: the attempts of a shard, or as many as it took to see that nobody answers."""
    key = repr(shard.recipe)
    if key not in _OPEN:
        _OPEN[key] = (
            load_model(shard.recipe.model, **shard.recipe.options),
            open_sources(shard.recipe.index, shard.recipe.top_k, shard.recipe.graph),
        )
    model, sources = _OPEN[key]
    made: list[Trajectory] = []
    streaks = Streaks()

    def keep(trajectory: Trajectory) -> bool:
        made.append(trajectory)
        return not streaks.give_up(trajectory)

    run(attempt_all(shard.jobs, model, sources, keep))
    return _Attempted(made, tuple(getattr(model, "dropped", ())))


_OPEN: dict[str, tuple[Model, Sources]] = {}
