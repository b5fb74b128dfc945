"""Sampled answers on disk, so that no model is ever asked the same thing twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ken.core import BadInput, Question

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
        self.path = Path(path)
        self._setting = json.loads(json.dumps(setting))
        self._run = hashlib.blake2b(json.dumps(setting, sort_keys=True).encode(), digest_size=12).hexdigest()
        self._announced = False
        self._answers: dict[tuple[str, str], Answers] = {}
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
            try:
                self._read()
            except BaseException:
                self._file.close()
                raise

    def __getitem__(self, question: Question) -> Answers:
        """The samples there are, in the order of their numbers; () for none."""
        return self._answers.get((question.id, question.text), ())

    def add(self, question: Question, answers: Sequence[str | None]) -> None:
        """Keep all samples of a question, those known before included."""
        if not self._announced:
            self._write({"run": self._run, "setting": self._setting})
            self._announced = True
        self._write({"run": self._run, "id": question.id, "text": question.text, "answers": list(answers)})
        self._answers[question.id, question.text] = tuple(answers)

    def close(self) -> None:
        with self._explained():
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        for line in self._file.read().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if not isinstance(record, dict) or record.get("run") != self._run:
                continue
            self._announced |= "setting" in record
            key, answers = (record.get("id"), record.get("text")), record.get("answers")
            if (
                isinstance(answers, list)
                and all(answer is None or isinstance(answer, str) for answer in answers)
                and len(answers) > len(self._answers.get(key, ()))  # type: ignore[arg-type]
            ):
                self._answers[key] = tuple(answers)  # type: ignore[index]

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        with self._explained(), _locked(self._file.fileno()):
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":  # a writer was killed in the middle of its line
                    line = b"\n" + line
            left = memoryview(line)
            while left:
                left = left[os.write(self._file.fileno(), left) :]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadInput(
                f"the cache {self.path} cannot be used ({error.strerror or error}); name a file that can be written"
            ) from error


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    """Hold the file against other processes, so that lines do not mix."""
    try:
        import fcntl
    except ImportError:  # Windows: appends of one line each are left to the system
        yield
        return
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
