"""Run an audit: every question through every strategy, and closed book K more times to learn what the model knows by
itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

import ken
from ken.agents import Strategy, load_strategy
from ken.auditing.log import Key, LogWriter, read_log
from ken.core import BadInput, Question, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.models import Model
from ken.sources import Sources

DIRECT = "direct"
IN_FLIGHT = 256  # attempts under way at once; how many of their calls run at once is the model's business


class AuditSettings(Frozen):
    """What an audit was asked to do, written to `run.json` before the first question. A run is resumed only under equal
    settings.

    strategies: in the order of the report; closed book is always among them, as the oracle of what the model knows.
    samples: closed-book samples per question, drawn at `oracle_temperature`; 0 leaves only the greedy oracle.
    threshold: share of right samples from which a question counts as one the model can answer alone.
    questions_digest: of all questions, so that a changed file is noticed.
    """

    model: str
    strategies: tuple[str, ...]
    index: str = ""
    top_k: int = 3
    samples: int = 8
    threshold: float = 0.5
    sampling: Sampling = Sampling()
    oracle_temperature: float = 1.0
    questions_digest: str = ""
    questions_count: int = 0
    version: str = ken.__version__


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
) -> list[Trajectory]:
    """Run what is not yet in `out/trajectories.jsonl` and return all attempts, failed ones included.

    Cancelling loses at most the attempts under way; calling again goes on where it stopped, and tries failed attempts
    again. Raises `BadInput` when `out` holds an audit with other settings.
    """
    claim_folder(out, settings)
    path = out / "trajectories.jsonl"
    attempts = {key: t for key, t in read_log(path).items() if t.error is None}
    jobs = list(_jobs(questions, strategies, settings))
    wanted = {job.key for job in jobs}
    attempts = {key: t for key, t in attempts.items() if key in wanted}
    todo = iter([job for job in jobs if job.key not in attempts])
    failed = 0
    on_progress(Progress(len(attempts), len(jobs), failed))
    log = LogWriter(path)

    async def work() -> None:
        nonlocal failed
        for job in todo:  # shared by all workers: each takes the next job when it is free
            trajectory = await job.strategy.run(job.question, model, sources, sampling=job.sampling, sample=job.sample)
            log.write(trajectory)
            attempts[job.key] = trajectory
            failed += trajectory.error is not None
            on_progress(Progress(len(attempts), len(jobs), failed))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT, len(jobs) - len(attempts))):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        log.close()
    return [attempts[job.key] for job in jobs]


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


def digest(questions: Iterable[Question]) -> str:
    """A short hash of ids, texts and golds."""
    hasher = hashlib.blake2b(digest_size=8)
    for question in questions:
        hasher.update(json.dumps([question.id, question.text, question.answers]).encode())
    return hasher.hexdigest()


def claim_folder(out: Path, settings: AuditSettings) -> None:
    """Make `out` the folder of this audit, or check that it already is."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder for the audit with --out")
    path = out / "run.json"
    if path.exists():
        before = read_settings(out)
        changed = [
            f"{name} was {getattr(before, name)!r} and is {getattr(settings, name)!r}"
            for name in AuditSettings.model_fields
            if name != "version" and getattr(before, name) != getattr(settings, name)
        ]
        if changed:
            raise BadInput(
                f"{out} holds an audit with other settings ({'; '.join(changed)}); choose another --out, or delete it"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty and holds no audit; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, settings.model_dump_json(indent=2) + "\n")


def read_settings(out: Path) -> AuditSettings:
    """The settings of the audit in `out`. Raises `BadInput` when there is none or it cannot be read."""
    path = out / "run.json"
    if not path.is_file():
        raise BadInput(f"{out} holds no audit (there is no run.json); name the --out folder of `ken audit`")
    try:
        return AuditSettings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadInput(
            f"{path} cannot be read ({error.errors()[0]['msg']}); it was edited or is of another version"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
