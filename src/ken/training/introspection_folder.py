"""What rounds of introspection leave on disk, so that they go on where they were interrupted."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ken.core.files import write_whole
from ken.metrics.feasibility import Feasibility
from ken.models.local import LocalModel
from ken.training.checkpoints import CHECKPOINTS, METRICS
from ken.training.json_lines import JsonLines
from ken.training.monitors import Alarm
from ken.training.rewards.consensus import majority_rewards, within_bounds
from ken.training.self_analysis import Analysis, consensus_histogram
from ken.training.task_pool import InventedTask, TaskPool

MODEL, REPORTS, TASKS = "model", "rounds.jsonl", "tasks.json"


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round was like; round 0 is the untrained model and has only what is measured of the model.

    pool: tasks in the pool after the round; candidates: made up and not filtered out; entered: of these into the pool;
    dropped: by why. histogram: of the candidates' consensus (`BUCKETS`); unreadable: share of judgements.
    says_feasible: share of judgements of candidates. agreement: intrinsic, single judgements; by_type the same by type
    of self-knowledge. distinct_1, distinct_2, self_bleu: of all that was written in the round. reward: mean over the
    updates. alarms: of the guards.
    """

    round: int
    pool: int
    agreement: Feasibility
    by_type: dict[str, Feasibility]
    distinct_1: float
    distinct_2: float
    self_bleu: float
    candidates: int = 0
    entered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    histogram: tuple[float, ...] = ()
    unreadable: float = 0.0
    says_feasible: float = math.nan
    reward: float = math.nan
    alarms: tuple[Alarm, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedTasks:
    """The tasks that were made up in a round, k judgements of each, and how many others were dropped, by why."""

    tasks: tuple[InventedTask, ...]
    verdicts: tuple[tuple[bool | None, ...], ...]
    dropped: dict[str, int]

    def within(self, bounds: tuple[float, float] | None) -> list[InventedTask]:
        """The tasks whose mean majority reward is within `bounds`; all of them for None."""
        if bounds is None:
            return list(self.tasks)
        low, high = bounds
        pairs = zip(self.tasks, self.verdicts, strict=True)
        return [task for task, votes in pairs if within_bounds(majority_rewards(votes), low=low, high=high)]

    def statistics(self, pool: TaskPool) -> dict[str, Any]:
        """The fields of a `RoundReport` that tell of them, once they were admitted to `pool`."""
        votes = [vote for of_task in self.verdicts for vote in of_task]
        read = [vote for vote in votes if vote is not None]
        asked = [task.question for task in self.tasks]
        analyses = [Analysis(question, votes) for question, votes in zip(asked, self.verdicts, strict=True)]
        return {
            "candidates": len(self.tasks),
            "entered": sum(task in pool for task in self.tasks),
            "dropped": self.dropped,
            "histogram": consensus_histogram(analyses),
            "unreadable": 1 - len(read) / len(votes),
            "says_feasible": sum(read) / len(read) if read else math.nan,
        }


_REPORT, _JUDGED = TypeAdapter(RoundReport), TypeAdapter(JudgedTasks)


class RoundsFolder:
    """rounds.jsonl, a report a line; round-N/ with tasks.json (made-up tasks and their judgements), and metrics,
    checkpoints and model of its training; and at the end model/, which is that of the last round.

    A round is trained once its model is there. Models and checkpoints of earlier rounds are deleted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, number: int) -> Path:
        """The folder of a round."""
        return self.root / f"round-{number}"

    def last_done(self, rounds: int) -> int:
        """The last round whose training has ended; 0 for none."""
        return max((n for n in range(1, rounds + 1) if (self.of(n) / MODEL).is_dir()), default=0)

    def restore(self, policy: LocalModel, number: int) -> None:
        """Give `policy` the weights that a round left."""
        trained = type(policy.model).from_pretrained(self.of(number) / MODEL, dtype=policy.model.dtype)
        policy.model.load_state_dict(trained.state_dict())
        policy.forget()

    def reports(self) -> list[RoundReport]:
        """Of the rounds that have been reported on, in order."""
        if not (self.root / REPORTS).is_file():
            return []
        lines = JsonLines(self.root / REPORTS)
        try:
            return [_REPORT.validate_python(record) for record in lines.records()]
        finally:
            lines.close()

    def report(self, report: RoundReport) -> None:
        """Write a report down."""
        if _speaks():
            lines = JsonLines(self.root / REPORTS)
            try:
                lines.add(_REPORT.dump_python(report, mode="json"))
            finally:
                lines.close()

    def judged(self, number: int) -> JudgedTasks | None:
        """The made-up tasks of a round, None when they are still to be made."""
        path = self.of(number) / TASKS
        return _JUDGED.validate_json(path.read_bytes()) if path.is_file() else None

    def keep(self, number: int, judged: JudgedTasks) -> None:
        """Write down the made-up tasks of a round."""
        if _speaks():
            self.of(number).mkdir(parents=True, exist_ok=True)
            write_whole(self.of(number) / TASKS, _JUDGED.dump_json(judged, indent=1))

    def rewards(self, number: int) -> list[float]:
        """The rewards of the steps of a round."""
        path = self.of(number) / METRICS
        return [json.loads(line)["reward"] for line in path.read_text().splitlines()] if path.is_file() else []

    def forget_before(self, number: int) -> None:
        """Delete what earlier rounds left and no later one needs."""
        if _speaks():
            for earlier in range(1, number):
                shutil.rmtree(self.of(earlier) / CHECKPOINTS, ignore_errors=True)
                shutil.rmtree(self.of(earlier) / MODEL, ignore_errors=True)

    def finish(self, rounds: int) -> None:
        """The model of the last round is the model."""
        if _speaks():
            (self.of(rounds) / MODEL).rename(self.root / MODEL)
            shutil.rmtree(self.of(rounds) / CHECKPOINTS, ignore_errors=True)


def _speaks() -> bool:
    """Whether this process writes for all that train together."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
