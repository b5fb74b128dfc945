"""Run the arms of a paper on several seeds, and judge its claims."""

from __future__ import annotations

import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ken.core import BadInput, KenError
from ken.core.frozen import Frozen
from ken.core.scatter import RETRIES, Lost, scatter
from ken.core.seeding import derive_seed
from ken.metrics.statistics import over_seeds
from ken.papers.changes import changed, mark
from ken.papers.paper import Arm, Paper
from ken.papers.results import (
    RESULTS,
    ArmResult,
    Results,
    Run,
    Runs,
    canonical,
    code_digest,
    machine,
    versions,
    write_results,
)
from ken.papers.verdict import judge

ALL = "all"
THREADS = 2  # the small models of the lab gain nothing from more


@dataclass(frozen=True, slots=True)
class Progress:
    """Arms finished (those of earlier commands included), of how many; the run that has just ended, if any, and what is
    under way now, "" when nothing is."""

    done: int
    total: int
    ended: Run | None = None
    now: str = ""


def reproduce(
    paper: Paper[Any, Any],
    *,
    seeds: int = 3,
    seed_base: int = 0,
    smoke: bool = False,
    arms: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    out: Path | None = None,
    ray: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Results:
    """Run `arms` on the seeds seed_base … seed_base + seeds − 1, judge the claims, and write both down.

    smoke: the paper's tiny settings, and no verdicts. arms: names, or "all" for the optional ones too; default: all
    that are not optional, and beside them those of which all seeds were run before. settings: those of the paper that
    are to differ, by name (see `changed`). out: the folder for SLUG.json. By default it is `results`, where other seeds
    than 0, 1, …, a choice of arms and other settings get names of their own (see `results_path`), and for a smoke run
    none: nothing is written.
    ray: address of a Ray cluster, or "local": arms × seeds become its tasks (see `ken.core.scatter`), and measure the
    same.

    Torch uses `THREADS` threads, or as many as OMP_NUM_THREADS says, since sums depend on how they are split.
    An interrupted reproduction goes on with the arms that are left, when called again; a KeyboardInterrupt loses the
    arm under way. An arm that fails is reported in the results, the others go on, and the next call tries it again.
    Raises `BadInput` before anything is run when the arguments cannot work.
    """
    if seeds < 1 or seed_base < 0:
        raise BadInput(f"seeds is {seeds} and seed_base {seed_base}; they must be at least 1 and 0")
    chosen = choose_arms(paper, arms)
    numbers = range(seed_base, seed_base + seeds)
    config = changed(paper.smoke if smoke else paper.full, settings or {})
    path = results_path(paper, chosen, seed_base=seed_base, smoke=smoke, settings=settings, out=out)

    runs = Runs(path.parent if path else None, paper, config)
    found = {(seed, arm.name): runs.find(seed, arm.name) for seed in numbers for arm in chosen}
    left = [(seed, arm) for seed in numbers for arm in chosen if found[seed, arm.name] is None]
    done = len(found) - len(left)
    on_progress(Progress(done, len(found)))
    with closing(_make(paper, config, left, ray)) as events:
        for event in events:
            if isinstance(event, str):
                on_progress(Progress(done, len(found), now=event))
                continue
            runs.keep(event)
            found[event.seed, event.arm] = event
            done += 1
            on_progress(Progress(done, len(found), ended=event))

    if arms is None:  # what was measured of the optional arms stays in the file
        measured = {a.name: [runs.find(s, a.name) for s in numbers] for a in paper.arms if a.optional}
        found |= {(r.seed, r.arm): r for kept in measured.values() if all(kept) for r in kept if r is not None}
        chosen = [arm for arm in paper.arms if not arm.optional or all(measured[arm.name])]
    made = [run for run in found.values() if run is not None]
    results = summarise(paper, config, numbers, chosen, made, verdicts=not smoke)
    if path is not None:
        write_results(results, path)
    return results


def choose_arms(paper: Paper[Any, Any], names: Sequence[str] | None) -> list[Arm[Any]]:
    """The arms that `names` mean, in the paper's order. Raises `BadInput` for a name that it does not have."""
    if names is None:
        return [arm for arm in paper.arms if not arm.optional]
    known = [arm.name for arm in paper.arms]
    if unknown := [name for name in names if name not in (*known, ALL)]:
        raise BadInput(f"{paper.slug} has no arm {unknown[0]!r}; its arms are {', '.join(known)}")
    if not names:
        raise BadInput(f"no arm is named; the arms of {paper.slug} are {', '.join(known)}")
    return [arm for arm in paper.arms if arm.name in names or ALL in names]


def results_path(
    paper: Paper[Any, Any],
    arms: Iterable[Arm[Any]],
    *,
    seed_base: int = 0,
    smoke: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> Path | None:
    """Where the results go. `results/SLUG.json`, which is committed, is written by complete reproductions from seed 0
    only; fresh seeds, a choice of arms and changed settings are told by the name. In a folder that the user names it is
    always SLUG.json.
    """
    if out is not None or smoke:
        return out and out / f"{paper.slug}.json"
    names = {arm.name for arm in arms}
    complete = all(arm.optional or arm.name in names for arm in paper.arms)
    marks = [f"seeds-{seed_base}"] if seed_base else []
    marks += [] if complete else ["some-arms"]
    marks += [f"set-{mark(settings)}"] if settings else []
    return RESULTS / ".".join([paper.slug, *marks, "json"])


def _make(
    paper: Paper[Any, Any], config: Frozen, left: Sequence[tuple[int, Arm[Any]]], ray: str | None
) -> Generator[Run | str, None, None]:
    """The runs that are left, as they end, and between them what is under way."""
    threads = int(os.environ.get("OMP_NUM_THREADS", THREADS))
    if ray is not None and left:
        yield f"{len(left)} arms on the cluster"
        light = replace(paper, claims=())  # whose functions need not travel
        tasks = [_Task(light, config, seed, arm, threads) for seed, arm in left]
        for ended in scatter(_run_task, tasks, address=ray, cores=threads):
            yield _lost(ended) if isinstance(ended, Lost) else ended
        return
    for seed in dict.fromkeys(seed for seed, _ in left):
        bench = SeedBench(paper, config, seed, threads)  # and the last seed's is let go
        for arm in (arm for s, arm in left if s == seed):
            yield f"{arm.name}, seed {seed}"
            yield bench.run(arm)


@dataclass(frozen=True, slots=True)
class _Task:
    paper: Paper[Any, Any]
    config: Frozen
    seed: int
    arm: Arm[Any]
    threads: int


def _run_task(task: _Task) -> Run:
    """In a worker of the cluster, which keeps the bench for the next arm of the same seed."""
    key = (task.paper.slug, canonical(task.config), task.seed)
    if key not in _BENCHES:
        _BENCHES.clear()
        _BENCHES[key] = SeedBench(task.paper, task.config, task.seed, task.threads)
    return _BENCHES[key].run(task.arm)


_BENCHES: dict[tuple[str, str, int], SeedBench] = {}


def _lost(lost: Lost[_Task]) -> Run:
    error = f"its worker was lost {RETRIES + 1} times; look for the reason on its machine, often memory"
    return Run(seed=lost.item.seed, arm=lost.item.arm.name, error=error, traceback=lost.reason, code=code_digest())


class SeedBench:
    """The bench of one seed, prepared when the first arm asks for it, and once."""

    def __init__(self, paper: Paper[Any, Any], config: Frozen, seed: int, threads: int = THREADS) -> None:
        self.paper, self.config, self.seed, self.threads = paper, config, seed, threads
        self._bench: Any = None
        self._prepared = False

    def run(self, arm: Arm[Any]) -> Run:
        """Run an arm. What it raises becomes the run's error, except a KeyboardInterrupt."""
        start = ready = time.perf_counter()
        try:
            fix_threads(self.threads)
            if not self._prepared:
                seed_generators(self.paper.slug, self.seed)
                self._bench = self.paper.prepare(self.config, self.seed)
                self._prepared = True
                ready = time.perf_counter()
            fix_threads(self.threads)  # again, should the bench have loaded torch
            seed_generators(self.paper.slug, self.seed, arm.name)
            metrics = {name: _number(arm, name, value) for name, value in arm.run(self._bench).items()}
            error, trace = None, ""
        except Exception as problem:
            metrics, error, trace = {}, _sentence(problem, prepared=self._prepared), traceback.format_exc()
        return Run(
            seed=self.seed,
            arm=arm.name,
            metrics=metrics,
            error=error,
            traceback=trace,
            seconds=round(time.perf_counter() - ready, 3),
            bench_seconds=round(ready - start, 3),
            code=code_digest(),
        )


def seed_generators(*parts: object) -> None:
    """Seed Python's, numpy's and (where it is loaded) torch's global generators by what is to be drawn, so that an arm
    measures the same whichever arms ran before it in this process."""
    import numpy as np

    seed = derive_seed("reproduce", *parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def fix_threads(count: int) -> None:
    """Let torch use `count` threads in this process, whether it is loaded already or not."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)


def _number(arm: Arm[Any], name: str, value: Any) -> float | tuple[float, ...]:
    plain = value.tolist() if hasattr(value, "tolist") else value  # numpy's and torch's own kinds of numbers
    try:
        return tuple(map(float, plain)) if isinstance(plain, list | tuple) else float(plain)
    except (TypeError, ValueError):
        raise TypeError(f"arm {arm.name} measured {name} = {value!r}; a metric is a number or a list") from None


def _sentence(problem: Exception, *, prepared: bool) -> str:
    text = " ".join(str(problem).split())
    said = text if text and isinstance(problem, KenError) else f"{type(problem).__name__}: {text}".rstrip(": ")
    return said if prepared else f"preparing the bench failed: {said}"


def summarise(
    paper: Paper[Any, Any],
    config: Frozen,
    seeds: Sequence[int],
    arms: Iterable[Arm[Any]],
    runs: Sequence[Run],
    *,
    verdicts: bool = True,
) -> Results:
    """The results that `runs` amount to; without `verdicts` the claims are only measured."""
    measured = {seed: {run.arm: run.metrics for run in runs if run.seed == seed and not run.error} for seed in seeds}
    names = [arm.name for arm in paper.arms]
    judged = [judge(claim, measured, arms=names) for claim in paper.claims]
    if not verdicts:
        judged = [one.model_copy(update={"verdict": None, "interval": None}) for one in judged]
    return Results(
        slug=paper.slug,
        paper=paper.entry,
        config=config.model_dump(mode="json"),
        seeds=tuple(seeds),
        versions=versions({run.code for run in runs}),
        machine=machine(),
        wall_seconds=round(sum(run.seconds + run.bench_seconds for run in runs), 1),
        arms={arm.name: _over_seeds(arm, [run for run in runs if run.arm == arm.name]) for arm in arms},
        claims=tuple(judged),
    )


def _over_seeds(arm: Arm[Any], runs: Sequence[Run]) -> ArmResult:
    finished = [run for run in runs if run.error is None]
    names = finished[0].metrics if finished else {}
    values = {name: [run.metrics.get(name) for run in finished] for name in names}
    spreads = {name: over_seeds(numbers) for name, v in values.items() if len(numbers := _numbers(v)) == len(finished)}
    return ArmResult(
        text=arm.text,
        metrics={run.seed: run.metrics for run in finished},
        mean={name: spread.mean for name, spread in spreads.items()},
        std={name: spread.std for name, spread in spreads.items()},
        seconds=round(sum(run.seconds for run in runs), 1),
        errors={run.seed: run.error for run in runs if run.error is not None},
    )


def _numbers(values: Iterable[object]) -> list[float]:
    """Those that are finite numbers, and no curves."""
    return [value for value in values if isinstance(value, float) and math.isfinite(value)]
