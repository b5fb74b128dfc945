"""Run an audit: every question through every strategy, and closed book K more times to learn what the model knows by
itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ken.agents import Strategy, load_strategy
from ken.auditing.folder import LOG, AuditSettings, claim_folder, write_settings
from ken.auditing.log import Key, LogWriter, read_log
from ken.core import Observation, Question, Sampling, Trajectory
from ken.models import Model
from ken.sources import Sources

DIRECT = "direct"
IN_FLIGHT = 256  # attempts under way at once; how many of their calls run at once is the model's business
GIVE_UP_AFTER = 20  # failures of one strategy in a row: the server or the search engine is down, not a question bad


@dataclass(frozen=True, slots=True)
class Progress:
    """Attempts finished (those of earlier runs included), of how many, and how many of them failed."""

    done: int
    total: int
    failed: int


async def run_audit(
    questions: Sequence[Question],
    model: Model,
    sources: Sources,
    out: Path,
    *,
    strategies: Sequence[Strategy],
    settings: AuditSettings,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Make the attempts that are not yet in `out`, and log them there.

    Cancelling loses at most the attempts under way; calling again goes on where it stopped, and tries failed attempts
    again once all others were made. When a strategy fails `GIVE_UP_AFTER` times without a success in between, the run
    stops: whoever has ten thousand questions wants them to wait until the server is back, not to fail one by one. The
    reason is kept in the settings of `out`, and what was not asked is then counted by `measure`.

    Raises `BadInput` when `out` holds an audit with other settings, or cannot be written.
    """
    settings = claim_folder(out, settings)
    log = LogWriter(out / LOG)
    try:
        done, failed_before = _read_status(out)
        jobs = list(_jobs(questions, strategies, settings))
        left = sorted((job for job in jobs if job.key not in done), key=lambda job: job.key in failed_before)
        settings = _found(out, settings, stopped="")
        todo = iter(left)
        finished, failed = len(jobs) - len(left), 0
        in_a_row: Counter[str] = Counter()
        workers: list[asyncio.Task[None]] = []
        over = False
        on_progress(Progress(finished, len(jobs), failed))

        async def work() -> None:
            nonlocal finished, failed, settings, over
            for job in todo:  # shared by all workers: each takes the next job when it is free
                trajectory = without_search_errors(
                    await job.strategy.run(job.question, model, sources, sampling=job.sampling, sample=job.sample)
                )
                if over:  # a cancellation that met an error inside a library was swallowed there
                    return
                log.write(trajectory)
                dropped = {*settings.dropped, *getattr(model, "dropped", ())}
                settings = _found(out, settings, dropped=tuple(sorted(dropped)))
                finished += 1
                on_progress(Progress(finished, len(jobs), failed := failed + (trajectory.error is not None)))
                in_a_row[trajectory.strategy] += 1
                if trajectory.error is None:
                    in_a_row[trajectory.strategy] = 0
                elif in_a_row[trajectory.strategy] == GIVE_UP_AFTER:
                    reason = f"{trajectory.strategy} failed {GIVE_UP_AFTER} times in a row ({trajectory.error})"
                    settings = _found(out, settings, stopped=reason)
                    over = True
                    for worker in workers:
                        worker.cancel()
                    return

        async with asyncio.TaskGroup() as group:
            workers += [group.create_task(work()) for _ in range(min(IN_FLIGHT, len(left)))]
            try:
                await asyncio.gather(*workers, return_exceptions=True)
            finally:
                over = True
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        log.close()


def without_search_errors(trajectory: Trajectory) -> Trajectory:
    """Count an attempt whose search engine failed as failed: its answer says nothing about the strategy."""
    broken = (s.note for s in trajectory.steps if isinstance(s, Observation) and s.error)
    if trajectory.error is None and (note := next(broken, None)) is not None:
        return trajectory.model_copy(update={"error": f"the search failed: {note}"})
    return trajectory


def _read_status(out: Path) -> tuple[set[Key], set[Key]]:
    """Which attempts were made, and which of them only failed."""
    attempts = read_log(out / LOG)
    failed = {key for key, t in attempts.items() if t.error is not None}
    return attempts.keys() - failed, failed


def _found(out: Path, settings: AuditSettings, **found: object) -> AuditSettings:
    """`settings` with what was found out during the run, on disk before it could be lost."""
    if all(getattr(settings, name) == value for name, value in found.items()):
        return settings
    settings = settings.model_copy(update=found)
    write_settings(out, settings)
    return settings


@dataclass(frozen=True, slots=True)
class _Job:
    question: Question
    strategy: Strategy
    sample: int | None
    sampling: Sampling

    @property
    def key(self) -> Key:
        return self.question.id, self.strategy.name, self.sample


def _jobs(questions: Iterable[Question], strategies: Sequence[Strategy], settings: AuditSettings) -> Iterator[_Job]:
    """All attempts, question by question, so that an interrupted audit is complete for the questions it has reached."""
    direct = next((s for s in strategies if s.name == DIRECT), None) or load_strategy(DIRECT)
    oracle = settings.sampling.but(temperature=settings.oracle_temperature, top_p=1.0)
    for question in questions:
        for strategy in strategies:
            yield _Job(question, strategy, None, settings.sampling)
        for sample in range(settings.samples):
            yield _Job(question, direct, sample, oracle)
