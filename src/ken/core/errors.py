"""Errors that say what to do.

Every error a user can cause or meet is a `KenError` whose message is one sentence (or two) with the remedy in it. The
command line prints that message and exits with status 2; a traceback therefore always means a defect in Ken itself.
"""

from __future__ import annotations

from pathlib import Path


class KenError(Exception):
    """Base of all errors that Ken raises on purpose."""


class BadInput(KenError):
    """An argument, option or file cannot be used as given."""


class DataError(BadInput):
    """A data file has a line that cannot be read. `path` and `line` (1-based) say where."""

    def __init__(self, path: str | Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}")
        self.path = Path(path)
        self.line = line


class ModelError(KenError):
    """A model could not be loaded or did not answer, after the retries that were allowed."""


SHORTEN = "shorten the question"


class PromptTooLong(ModelError):
    """A prompt that a model cannot take. `problem` is the message without what to do about it, which depends on what
    was in the prompt; the last of it is always `SHORTEN`."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; use fewer passages, or {SHORTEN}")
        self.problem = problem


class SourceError(KenError):
    """A source (index, retriever) is missing, broken or did not answer."""


class Unsupported(KenError):
    """This model or source cannot do what was asked; the message says what to do instead."""


class TrainingError(KenError):
    """Training had to stop (a loss that is not a number, a collapse, a full disk); the message says what was kept."""
