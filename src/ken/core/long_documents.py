"""LaRA's files (Alibaba-NLP/LaRA; card 51): long documents, questions about them, and what models answered.

    ROOT/datasets/32k/book/A Christmas Carol.txt      a document: its length, its type, its file
    ROOT/datasets/query/32k_book_location.jsonl       questions: length, type and task
    ROOT/evaluation/prediction/MODEL/full_preds_MODEL_32k_book_location.jsonl     answers; `rag_preds_…` by retrieval

A record of questions has type, level (the task), length, file, context_order (the part of the document it was made
from, or "full") or comp_parts (two of them), question and answer; one of answers has prediction and ground_truth
instead. `context_order` is where the generator looked, not the place of the answer. Some released records name their
type otherwise than their file does ("novelette_fake"); the file's name counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ken.core.errors import BadInput, DataError
from ken.core.frozen import Frozen
from ken.core.question import Question
from ken.core.readers import read_records

Task = Literal["location", "reasoning", "comparison", "hallucination"]
Mode = Literal["lc", "rag"]
TASKS: tuple[Task, ...] = ("location", "reasoning", "comparison", "hallucination")
MODES: tuple[Mode, ...] = ("lc", "rag")

_TASKS: dict[str, Task] = {
    "location": "location",
    "reasoning": "reasoning",
    "comp": "comparison",
    "comparison": "comparison",
    "hallu": "hallucination",
    "hallucination": "hallucination",
}
_LARA_TASKS = {"comparison": "comp", "hallucination": "hallu"}
_MODES: dict[str, Mode] = {"full": "lc", "rag": "rag"}
LARA_MODES = {mode: name for name, mode in _MODES.items()}
_PREDICTIONS = re.compile(r"(full|rag)_preds_(.+)_([^_]+)_([^_]+)_([^_]+)\.jsonl")
_QUERIES = re.compile(r"([^_]+)_([^_]+)_([^_]+)\.jsonl")
COMES_FROM = "It is LaRA's repository as it is released: git clone https://github.com/Alibaba-NLP/LaRA"


class Prediction(Frozen):
    """One answer, as LaRA writes it down, beside what Ken knows of it.

    prediction: None where the model gave none (LaRA: false), which counts as wrong. left_out: share of the document
    that the window had no room for. tokens: of prompt and reply; seconds: of the call. error: why there is no answer.
    """

    model: str
    mode: Mode
    length: str
    kind: str
    task: Task
    file: str
    question: str
    gold: str
    prediction: str | None
    context_order: int | Literal["full"] | None = None
    comp_parts: tuple[int, ...] = ()
    left_out: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def asked(self) -> str:
        """What tells its question from others, the same in both modes."""
        return question_id(self.length, self.kind, self.task, self.file, self.question)

    def record(self) -> dict[str, Any]:
        """The JSON object of LaRA's file, with what Ken adds at its end."""
        place = {"comp_parts": list(self.comp_parts)} if self.comp_parts else {"context_order": self.context_order}
        return {
            "type": self.kind,
            "level": _LARA_TASKS.get(self.task, self.task),
            "file": self.file,
            **place,
            "question": self.question,
            "prediction": False if self.prediction is None else self.prediction,
            "ground_truth": self.gold,
            "length": self.length,
            "left_out": round(self.left_out, 4),
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }


def question_id(length: str, kind: str, task: str, file: str, text: str) -> str:
    """A short id that depends on what is asked and about what."""
    key = "\x1f".join((length, kind, task, file, " ".join(text.split())))
    return f"{length}-{kind}-{task}-{hashlib.blake2b(key.encode(errors='replace'), digest_size=6).hexdigest()}"


def task_of(level: str) -> Task:
    """A task by LaRA's name or ours. Raises `BadInput`."""
    if level not in _TASKS:
        raise BadInput(f"there is no task {level!r}; choose from {', '.join(sorted(set(_TASKS.values())))}")
    return _TASKS[level]


def predictions_name(model: str, mode: Mode, length: str, kind: str, task: str) -> str:
    """The name of LaRA's file for these answers."""
    return f"{LARA_MODES[mode]}_preds_{model}_{length}_{kind}_{_LARA_TASKS.get(task, task)}.jsonl"


def read_predictions(path: Path) -> Iterator[Prediction]:
    """The answers in one of LaRA's files of predictions, whose name says model, mode, length, type and task; in LaRA's
    folder of predictions, the folder says the model (the files of one released model are named after another).

    Raises `BadInput` for a file of another name, `DataError` for a line that is no such record.
    """
    match = _PREDICTIONS.fullmatch(path.name)
    if match is None or match[5] not in _TASKS:
        raise BadInput(
            f"{path.name} is no file of LaRA's predictions; those are called full_preds_MODEL_LENGTH_TYPE_TASK.jsonl "
            "or rag_preds_…"
        )
    mode, model, length, kind, task = match.groups()
    if path.parent.parent.name in {"prediction", "predictions"}:
        model = path.parent.name
    for line, record in read_records(path):
        said = record.get("prediction")
        yield Prediction(
            model=model,
            mode=_MODES[mode],
            length=length,
            kind=kind,
            task=_TASKS[task],
            file=_text(record, "file", path, line),
            question=_text(record, "question", path, line),
            gold=_text(record, "ground_truth", path, line),
            prediction=said if isinstance(said, str) else None,
            **_place(record),
            **{name: record[name] for name in ("left_out", "tokens", "seconds", "error") if name in record},
        )


def read_long_questions(path: Path) -> Iterator[Question]:
    """The questions in one of LaRA's files, or in one of the same records under another name. `meta` has type, level,
    length, file, and context_order or comp_parts.

    Raises `BadInput` for a missing file, `DataError` for a line that is no such record.
    """
    match = _QUERIES.fullmatch(path.name)
    named = (match[1], match[2], match[3]) if match and match[3] in _TASKS else None
    for line, record in read_records(path):
        length, kind, level = named or (
            str(record.get("length") or "any"),
            str(record.get("type") or "document"),
            _text(record, "level", path, line),
        )
        if level not in _TASKS:
            raise DataError(path, line, f"the level is {level!r}; expected one of {', '.join(_TASKS)}")
        file, text = _text(record, "file", path, line), _text(record, "question", path, line)
        task = _TASKS[level]
        yield Question(
            id=question_id(length, kind, task, file, text),
            text=text,
            answers=(_text(record, "answer", path, line),),
            meta={"type": kind, "level": task, "length": length, "file": file, **_meta(record)},
        )


def question_record(question: Question) -> dict[str, Any]:
    """The record of LaRA's files of questions that `read_long_questions` reads."""
    meta = dict(question.meta)
    task = str(meta.pop("level"))
    head = {"type": meta.pop("type"), "level": _LARA_TASKS.get(task, task), "length": meta.pop("length")}
    return {**head, **meta, "question": question.text, "answer": question.answers[0]}


def lara_questions(root: Path, lengths: tuple[str, ...], bad: list[str] | None = None) -> list[Question]:
    """All questions of these lengths in a copy of LaRA's repository, repetitions left out. bad: collects the names of
    files that are not there, which otherwise raise `BadInput`."""
    folder = root / "datasets" / "query"
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}. {COMES_FROM}")
    found: dict[str, Question] = {}
    for length in lengths:
        for kind in ("book", "financial", "paper"):
            for level in ("location", "reasoning", "comp", "hallu"):
                path = folder / f"{length}_{kind}_{level}.jsonl"
                if not path.is_file():
                    if bad is None:
                        raise BadInput(f"there is no file {path}. {COMES_FROM}")
                    bad.append(path.name)
                    continue
                for question in read_long_questions(path):
                    found.setdefault(question.id, question)
    return list(found.values())


def lara_document(root: Path, question: Question) -> Path:
    """Where the document of one of LaRA's questions lies. Raises `BadInput` when it is not there."""
    m = question.meta
    path = root / "datasets" / str(m["length"]) / str(m["type"]) / str(m["file"])
    if not path.is_file():
        raise BadInput(f"there is no document {path}. {COMES_FROM}")
    return path


def _place(record: dict[str, Any]) -> dict[str, Any]:
    order, parts = record.get("context_order"), record.get("comp_parts")
    return {
        "context_order": order if isinstance(order, int) or order == "full" else None,
        "comp_parts": tuple(p for p in parts if isinstance(p, int)) if isinstance(parts, list) else (),
    }


def _meta(record: dict[str, Any]) -> dict[str, Any]:
    place = _place(record)
    if place["comp_parts"]:
        return {"comp_parts": list(place["comp_parts"])}
    return {} if place["context_order"] is None else {"context_order": place["context_order"]}


def _text(record: dict[str, Any], key: str, path: Path, line: int) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(path, line, f"expected {key!r} to be text; found {json.dumps(value)[:60]}")
    return value
