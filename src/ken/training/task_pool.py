"""Tasks that a model made up, with where they come from, and the pool of those that it agrees with itself about.

Source: KnowRL (arXiv 2510.11407; card 58): a small seed checked by people, and from round to round the tasks that
nearly all of the model's own judgements put where it meant them to be. They are the examples of the next round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from ken.core import BadInput, DataError, Question
from ken.core.answerable import answerable
from ken.core.files import write_whole
from ken.core.frozen import Frozen
from ken.training.rewards.consensus import INTENDED, consensus, majority

ENTRY = 0.875  # consensus from which a task enters: seven of eight judgements


class InventedTask(Frozen):
    """A task with its provenance.

    question: as it is put to a model; its golds are not known. written: as its author wrote it, which a lab's model
    does in two words. feasible: the kind that was asked for. reason: why it should be infeasible, "" when none was
    asked for. round: 0 for seeds. run: of introspection, within the round. shown: ids of the tasks that were its
    examples. consensus: of the judgements with which it entered the pool, 1 for seeds.
    """

    question: Question
    written: str = Field(min_length=1)
    feasible: bool
    reason: str = ""
    round: int = Field(default=0, ge=0)
    run: int = Field(default=0, ge=0)
    shown: tuple[str, ...] = ()
    consensus: float = Field(default=1.0, ge=0, le=1)

    @property
    def asked(self) -> Question:
        """The question for training: without golds, and with the kind its author intended, which rewards may use."""
        return self.question.model_copy(
            update={"answers": (), "meta": {**self.question.meta, INTENDED: self.feasible}},
        )


def task_id(text: str) -> str:
    """An id for a text that has none: equal for equal texts."""
    return f"task-{hashlib.blake2b(text.strip().encode(errors='replace'), digest_size=6).hexdigest()}"


class TaskPool:
    """Seeds, and after them what entered in each round, in order.

    Raises `BadInput` for a seed without tasks of both kinds, or with an id twice.
    """

    def __init__(self, seeds: Sequence[InventedTask], *, entry: float = ENTRY) -> None:
        kinds = {task.feasible for task in seeds}
        if len(kinds) < 2:
            lacking = "feasible" if kinds == {False} else "infeasible" if kinds else "feasible and infeasible"
            raise BadInput(
                f"the seed holds no {lacking} tasks; give some of both kinds, or all judgements collapse to one"
            )
        if not 0.5 < entry <= 1:
            raise BadInput(f"the consensus for entry is {entry}; it must be above 0.5 and at most 1")
        self.entry = entry
        self.tasks: list[InventedTask] = []
        self._ids: set[str] = set()
        for task in seeds:
            if not self._add(task):
                raise BadInput(f"the task {task.question.id!r} is in the seed twice; ids must be unique")

    @classmethod
    def from_questions(
        cls,
        seeds: Iterable[Question],
        *,
        entry: float = ENTRY,
        written: Callable[[Question], str] = lambda question: question.text,
    ) -> TaskPool:
        """A pool of questions that are marked as answerable or not (`read_answerable`). written: how an author would
        have written one, for an example to others."""
        tasks = []
        for question in seeds:
            reason = question.meta.get("reason")
            tasks.append(
                InventedTask(
                    question=question,
                    written=written(question),
                    feasible=answerable(question),
                    reason=reason if isinstance(reason, str) else "",
                )
            )
        return cls(tasks, entry=entry)

    def __len__(self) -> int:
        return len(self.tasks)

    def __contains__(self, task: InventedTask) -> bool:
        return task.question.id in self._ids

    def admit(self, tasks: Sequence[InventedTask], verdicts: Sequence[Sequence[bool | None]]) -> list[InventedTask]:
        """Let in the tasks whose judgements agree, and with their author; those that are there already stay out.

        verdicts: of each task its k judgements, None where one could not be read. Returns what entered.
        """
        entered = []
        for task, votes in zip(tasks, verdicts, strict=True):
            share = consensus(votes)
            if majority(votes) is task.feasible and share >= self.entry:
                accepted = task.model_copy(update={"consensus": share})
                if self._add(accepted):
                    entered.append(accepted)
        return entered

    def examples(
        self, feasible: bool, count: int, rng: np.random.Generator, *, seed_share: float = 0.5
    ) -> list[InventedTask]:
        """Few-shot examples of one kind, drawn without replacement: a share from the seed and the rest from what
        entered later, or from the seed when that is not enough; fewer than `count` only when there are fewer."""
        kind = [task for task in self.tasks if task.feasible is feasible]
        seeds = [task for task in kind if task.round == 0]
        grown = [task for task in kind if task.round > 0]
        from_grown = min(len(grown), count - round(seed_share * count))
        from_seed = min(len(seeds), count - from_grown)
        from_grown = min(len(grown), count - from_seed)
        drawn = [*_drawn(seeds, from_seed, rng), *_drawn(grown, from_grown, rng)]
        return [drawn[int(i)] for i in rng.permutation(len(drawn))]

    def sample(self, count: int, rng: np.random.Generator) -> list[InventedTask]:
        """Up to `count` tasks, as many of each kind as there are in equal shares."""
        feasible = [task for task in self.tasks if task.feasible]
        infeasible = [task for task in self.tasks if not task.feasible]
        fewer = min(len(feasible), len(infeasible), count // 2)
        first = min(len(feasible), max(fewer, count - min(len(infeasible), count - fewer)))
        return [*_drawn(feasible, first, rng), *_drawn(infeasible, min(len(infeasible), count - first), rng)]

    def save(self, path: str | Path) -> None:
        """One JSON line a task, whole or not at all."""
        write_whole(Path(path), "".join(f"{task.model_dump_json()}\n" for task in self.tasks).encode(errors="replace"))

    @classmethod
    def load(cls, path: str | Path, *, entry: float = ENTRY) -> TaskPool:
        """A pool as it was saved. Raises `DataError` for a line that is none, `BadInput` as the pool itself."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"the pool {path} cannot be read ({error}); check the path") from error
        tasks = []
        for number, line in enumerate(lines, start=1):
            try:
                tasks.append(InventedTask.model_validate(json.loads(line)))
            except (ValueError, ValidationError) as error:
                raise DataError(path, number, "expected a task as TaskPool.save writes it") from error
        return cls(tasks, entry=entry)

    def _add(self, task: InventedTask) -> bool:
        if task.question.id in self._ids:
            return False
        self._ids.add(task.question.id)
        self.tasks.append(task)
        return True


def _drawn(tasks: Sequence[InventedTask], count: int, rng: np.random.Generator) -> list[InventedTask]:
    return [tasks[int(i)] for i in rng.choice(len(tasks), size=min(count, len(tasks)), replace=False)]
