"""Run an audit: every question through every strategy, and closed book K more times to learn what the model knows by
itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
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
    """Attempts finished (those of earlier runs included), of how many, and how many of them failed; when they are done,
    the same of verdicts, if there is a judge. what: "attempts" or "verdicts"."""

    done: int
    total: int
    failed: int
    what: str = "attempts"


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
    with closing(Ledger(questions, out, strategies=strategies, settings=settings, on_progress=on_progress)) as ledger:
        await attempt_all(ledger.left, model, sources, lambda t: ledger.keep(t, getattr(model, "dropped", ())))


async def attempt_all(jobs: Sequence[Job], model: Model, sources: Sources, keep: Callable[[Trajectory], bool]) -> None:
    """Make the attempts, many at once, and give each to `keep`, in the order in which they end, until it says no."""
    todo = iter(jobs)
    workers: list[asyncio.Task[None]] = []
    over = False

    async def work() -> None:
        nonlocal over
        for job in todo:  # shared by all workers: each takes the next job when it is free
            trajectory = without_search_errors(
                await job.strategy.run(job.question, model, sources, sampling=job.sampling, sample=job.sample)
            )
            if over:  # a cancellation that met an error inside a library was swallowed there
                return
            if not keep(trajectory):
                over = True
                for worker in workers:
                    worker.cancel()
                return

    try:
        async with asyncio.TaskGroup() as group:
            workers += [group.create_task(work()) for _ in range(min(IN_FLIGHT, len(jobs)))]
            try:
                await asyncio.gather(*workers, return_exceptions=True)
            finally:
                over = True
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


class Streaks:
    """How often each strategy has failed in a row."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()

    def give_up(self, trajectory: Trajectory) -> bool:
        """Whether this failure is one too many."""
        if trajectory.error is None:
            self._failures[trajectory.strategy] = 0
            return False
        self._failures[trajectory.strategy] += 1
        return self._failures[trajectory.strategy] == GIVE_UP_AFTER


class Ledger:
    """The folder of an audit while it is being filled: `left` to do, in the order to do it; `keep` what was done.

    One at a time for a folder. Raises `BadInput` when it holds an audit with other settings, or cannot be written.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        out: Path,
        *,
        strategies: Sequence[Strategy],
        settings: AuditSettings,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._out, self._on_progress = out, on_progress
        self._settings = claim_folder(out, settings)
        self._log = LogWriter(out / LOG)
        try:
            done, failed_before = _read_status(out)
            jobs = list(jobs_of(questions, strategies, self._settings))
            self.left = sorted((job for job in jobs if job.key not in done), key=lambda job: job.key in failed_before)
            self._found(stopped="")
            self._total, self._finished, self._failed = len(jobs), len(jobs) - len(self.left), 0
            self._streaks = Streaks()
            on_progress(Progress(self._finished, self._total, 0))
        except BaseException:
            self._log.close()
            raise

    def keep(self, trajectory: Trajectory, dropped: Iterable[str] = ()) -> bool:
        """Log an attempt; False when the audit should stop, whose reason is then in the settings. dropped: the sampling
        parameters that the server has refused."""
        self._log.write(trajectory)
        self._found(dropped=tuple(sorted({*self._settings.dropped, *dropped})))
        self._finished += 1
        self._failed += trajectory.error is not None
        self._on_progress(Progress(self._finished, self._total, self._failed))
        if not self._streaks.give_up(trajectory):
            return True
        self.stop(f"{trajectory.strategy} failed {GIVE_UP_AFTER} times in a row ({trajectory.error})")
        return False

    def stop(self, reason: str) -> None:
        """Say in the settings why attempts will be missing."""
        self._found(stopped=reason)

    def close(self) -> None:
        self._log.close()

    def _found(self, **found: object) -> None:
        """Put what was found out during the run into the settings, on disk before it could be lost."""
        if any(getattr(self._settings, name) != value for name, value in found.items()):
            self._settings = self._settings.model_copy(update=found)
            write_settings(self._out, self._settings)


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


@dataclass(frozen=True, slots=True)
class Job:
    """An attempt to be made; `sample` numbers the closed-book ones."""

    question: Question
    strategy: Strategy
    sample: int | None
    sampling: Sampling

    @property
    def key(self) -> Key:
        return self.question.id, self.strategy.name, self.sample


def jobs_of(questions: Iterable[Question], strategies: Sequence[Strategy], settings: AuditSettings) -> Iterator[Job]:
    """All attempts, question by question, so that an interrupted audit is complete for the questions it has reached."""
    direct = next((s for s in strategies if s.name == DIRECT), None) or load_strategy(DIRECT)
    oracle = settings.sampling.but(temperature=settings.oracle_temperature, top_p=1.0)
    for question in questions:
        for strategy in strategies:
            yield Job(question, strategy, None, settings.sampling)
        for sample in range(settings.samples):
            yield Job(question, direct, sample, oracle)
