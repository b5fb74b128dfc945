"""The attempts of a sampling on disk, so that one that is interrupted goes on where it was and asks nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ken.core import Question, Trajectory
from ken.training.json_lines import JsonLines


@dataclass(frozen=True, slots=True)
class Kept:
    """The attempts at one question, in order, and what the sampler made of each ("" where it did not say)."""

    attempts: tuple[Trajectory, ...]
    outcomes: tuple[str, ...]


class KeptAttempts:
    """The attempts of one sampling by question, in an append-only file: for one model, strategy and setting.

    Log-probabilities are not kept: what is learnt by imitation does not need them, and they are most of the text. Use
    it as a context manager. Raises `BadInput` when the file cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self._lines = JsonLines(path)
        self._kept: dict[tuple[str, str], Kept] = {}
        for record in self._lines.records():
            try:
                attempts = tuple(Trajectory.model_validate(attempt) for attempt in record["attempts"])
                self._kept[record["id"], record["text"]] = Kept(attempts, tuple(record["outcomes"]))
            except (KeyError, TypeError, ValueError):  # not ours, or of another version: it is sampled again
                continue

    def __getitem__(self, question: Question) -> Kept | None:
        """What is known of a question, None for nothing."""
        return self._kept.get((question.id, question.text))

    def add(self, question: Question, attempts: Sequence[Trajectory], outcomes: Sequence[str] = ()) -> None:
        """Keep all attempts at a question."""
        self._kept[question.id, question.text] = Kept(tuple(attempts), tuple(outcomes))
        records = [_record(attempt) for attempt in attempts]
        self._lines.add({"id": question.id, "text": question.text, "attempts": records, "outcomes": list(outcomes)})

    def __enter__(self) -> KeptAttempts:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()


def _record(attempt: Trajectory) -> dict[str, Any]:
    segments = tuple(segment.model_copy(update={"logprobs": None}) for segment in attempt.segments)
    return attempt.model_copy(update={"segments": segments}).model_dump(mode="json")
