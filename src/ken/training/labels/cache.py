"""Sampled answers on disk, so that no model is ever asked the same thing twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ken.core import Question
from ken.training.json_lines import JsonLines

Answers = tuple[str | None, ...]  # None: a sample without an answer


class AnswerCache:
    """The answers sampled with one setting (model, strategy, sampling), in an append-only file of JSON lines that any
    number of settings and processes share.

    A line holds all samples so far of one question; of several lines the longest counts. A kill loses at most the line
    being written; a line that cannot be read is passed over, for its question is then simply sampled again. Not the
    golds, nor what counts as right, are kept: both may change without asking the model again.

    Raises `BadInput` when the file cannot be read or written.
    """

    def __init__(self, path: str | Path, setting: Mapping[str, Any]) -> None:
        self._setting = json.loads(json.dumps(setting))
        self._run = hashlib.blake2b(json.dumps(setting, sort_keys=True).encode(), digest_size=12).hexdigest()
        self._announced = False
        self._answers: dict[tuple[str, str], Answers] = {}
        self._lines = JsonLines(path)
        self._read()

    def __getitem__(self, question: Question) -> Answers:
        """The samples there are, in the order of their numbers; () for none."""
        return self._answers.get((question.id, question.text), ())

    def add(self, question: Question, answers: Sequence[str | None]) -> None:
        """Keep all samples of a question, those known before included."""
        if not self._announced:
            self._lines.add({"run": self._run, "setting": self._setting})
            self._announced = True
        self._lines.add({"run": self._run, "id": question.id, "text": question.text, "answers": list(answers)})
        self._answers[question.id, question.text] = tuple(answers)

    def close(self) -> None:
        self._lines.close()

    def _read(self) -> None:
        for record in self._lines.records():
            if record.get("run") != self._run:
                continue
            self._announced |= "setting" in record
            key, answers = (record.get("id"), record.get("text")), record.get("answers")
            if (
                isinstance(answers, list)
                and all(answer is None or isinstance(answer, str) for answer in answers)
                and len(answers) > len(self._answers.get(key, ()))  # type: ignore[arg-type]
            ):
                self._answers[key] = tuple(answers)  # type: ignore[index]
