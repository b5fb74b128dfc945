"""Reader of questions that are marked as answerable or not, one JSON object a line, an array, or SelfAware's own file.

SelfAware (Yin et al. 2023, arXiv 2305.18153) is one object, `{"example": [{question_id, question, answer, answerable,
source}]}`. Seeds of introspection (KnowRL, arXiv 2510.11407) have the same form and may say `feasible` instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ken.core.errors import BadInput, DataError
from ken.core.question import Question
from ken.core.readers import Record, _identifier, _kind, _parsed, _Problem, _records, _Reporting, _take

ANSWERABLE = "answerable"  # the key of `question.meta`
_NAMES = (ANSWERABLE, "feasible")


def read_answerable(path: str | Path, *, bad: list[DataError] | None = None) -> Iterator[Question]:
    """Yield the questions of a file, in order; `meta["answerable"]` is True or False, and `meta["source"]` is kept.

    A question without an id is given its place as `line-N`. Raises `BadInput` for a missing or empty file, `DataError`
    for a broken record (no question, a mark that is neither true nor false, an id used twice) unless `bad` is given.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    count, broken = 0, len(bad or ())
    for line, record in _examples(path, bad):
        count += 1
        with _Reporting(path, line, bad):
            question = _question(record, line)
            if question.id in seen:
                raise _Problem(f"the id {question.id!r} was used before, on line {seen[question.id]}; ids are unique")
            seen[question.id] = line
            yield question
    if not count and len(bad or ()) == broken:
        raise BadInput(f"{path} holds no questions; expected records with the keys 'question' and 'answerable'")


def answerable(question: Question) -> bool:
    """Whether a question is marked as answerable. Raises `BadInput` when it is not marked."""
    mark = question.meta.get(ANSWERABLE)
    if not isinstance(mark, bool):
        raise BadInput(
            f"question {question.id!r} does not say whether it can be answered; put true or false under "
            f"{ANSWERABLE!r} in its metadata, or read it with read_answerable"
        )
    return mark


def _examples(path: Path, bad: list[DataError] | None) -> Iterator[tuple[int, Record]]:
    """Records with their line, or in SelfAware's file with their place in the list, which counts from 1."""
    whole = _self_aware(path)
    if whole is None:
        yield from _records(path, bad)
        return
    for number, record in enumerate(whole, start=1):
        with _Reporting(path, number, bad):
            if not isinstance(record, dict):
                raise _Problem(f"entry {number}: expected a JSON object, found {_kind(record)}")
            yield number, record


def _self_aware(path: Path) -> list[Any] | None:
    """The list under "example" when the file is one object that has it, else None; `_records` reports what is wrong."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            if not file.read(4096).lstrip().startswith("{"):
                return None
        whole = _parsed(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    found = whole.get("example") if isinstance(whole, dict) else None
    return found if isinstance(found, list) else None


def _question(record: Record, line: int) -> Question:
    text = _take(record, "question", str)
    key = next((name for name in _NAMES if name in record), ANSWERABLE)
    mark = record.get(key)
    if not isinstance(mark, bool):
        found = _kind(mark) if key in record else f"the keys {json.dumps(sorted(record)[:8])}"
        raise _Problem(f"expected {key!r} to be true or false, found {found}")
    answers = record.get("answer")
    golds = answers if isinstance(answers, list) else [answers]
    if not all(isinstance(gold, str | int | float | None) for gold in golds):
        raise _Problem("expected 'answer' to be a list of strings, or null")
    given = record.get("question_id")
    identifier = str(given) if isinstance(given, str | int) and given != "" else _identifier(record)
    return Question(
        id=identifier or f"line-{line}",
        text=text,
        answers=tuple(dict.fromkeys(str(gold) for gold in golds if gold is not None and str(gold).strip())),
        meta={ANSWERABLE: mark, **{name: record[name] for name in ("source", "reason") if name in record}},
    )
