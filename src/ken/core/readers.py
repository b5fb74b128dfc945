"""Readers for the field's question files and corpora, as they are.

Questions: FlashRAG / Search-R1 jsonl (`id, question, golden_answers, metadata`), TAPO's (`question, golds, source`),
multiple choice as CommonsenseQA, OpenBookQA (`question: {stem, choices}, answerKey`, or as the hub has them) and MedQA
(`question, options, answer_idx`) write it, or with a list of `choices`: the candidates stand in `meta["choices"]`;
HotpotQA (a json array of objects with `_id, question, answer, context, supporting_facts`), MuSiQue jsonl (`id,
question, answer, answer_aliases, paragraphs`), pairs of texts (`text_a, text_b, label`), and plain text, one question a
line; what is jsonl may be csv with a line of names. Corpora: jsonl `{"id", "contents"}`
(FlashRAG / Search-R1; a quoted first line is the title) or `{"id", "title", "text"}`, and the contexts inside HotpotQA
and MuSiQue question files.

The kind of a record is told from its keys, so one function reads each. A line that cannot be read raises `DataError`
with file, line and what was expected; pass a list as `bad` to collect such errors there and go on.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ken.core.errors import BadInput, DataError
from ken.core.pairs import DIFFERENT, SAME, pair_question
from ken.core.question import Question
from ken.core.steps import Passage

Record = dict[str, Any]


def read_questions(path: str | Path, *, bad: list[DataError] | None = None) -> Iterator[Question]:
    """Yield the questions of a file, in order.

    Ids must be unique; a record without one is given its line number as `line-N`. Answers that are null or blank are
    dropped: such a question has no known answer. Raises `BadInput` for a missing or empty file, `DataError` for a
    broken line unless `bad` is given.
    """
    seen: dict[str, int] = {}
    count, broken = 0, len(bad or ())
    for line, record in _records(Path(path), bad):
        count += 1
        with _Reporting(Path(path), line, bad):
            question = _question(record, line)
            if question.id in seen:
                raise _Problem(
                    f"the id {question.id!r} was used before, on line {seen[question.id]}; ids must be unique"
                )
            seen[question.id] = line
            yield question
    if not count and len(bad or ()) == broken:
        raise BadInput(
            f"{path} holds no questions; expected jsonl with at least the key 'question', or a .txt with one a line"
        )


def read_corpus(path: str | Path, *, bad: list[DataError] | None = None) -> Iterator[Passage]:
    """Yield the documents of a corpus file as one passage each, in order; `source` is the file.

    Duplicate ids are left to the index. Raises `BadInput` for a missing file, `DataError` for a broken line unless
    `bad` is given.
    """
    contexts: set[str] = set()
    for line, record in _records(Path(path), bad):
        with _Reporting(Path(path), line, bad):
            if "paragraphs" in record or "context" in record:  # a question file whose contexts are the corpus
                for passage in _contexts(record):
                    if passage.id not in contexts:
                        contexts.add(passage.id)
                        yield passage.model_copy(update={"source": str(path)})
            else:
                yield _document(record, str(path))


def read_records(path: str | Path) -> Iterator[tuple[int, Record]]:
    """Yield (line, object) of a file of jsonl, for formats of which there is a reader elsewhere. Raises `BadInput` for
    a missing file, `DataError` for a line that is no JSON object."""
    yield from _records(Path(path), None)


# --- records ---------------------------------------------------------------------------------------------------------


def _records(path: Path, bad: list[DataError] | None) -> Iterator[tuple[int, Record]]:
    """Yield (line number, record) of a jsonl, json-array or text file."""
    try:
        if path.is_dir():
            raise BadInput(f"{path} is a folder; name a file in it")
        with path.open("rb") as file:
            head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except FileNotFoundError as error:
        raise BadInput(f"there is no file {path}; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path} cannot be read ({reason}); check the path and its permissions") from error
    plain = path.suffix == ".txt"
    if path.suffix == ".csv":
        yield from _rows(path, bad)
    elif head.startswith(b"[") and not plain:
        yield from _array(path, bad)
    else:
        yield from _lines(path, bad, plain=plain)


def _lines(path: Path, bad: list[DataError] | None, *, plain: bool) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            stripped = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
            if not stripped:
                continue
            with _Reporting(path, number, bad):
                try:
                    text = stripped.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _Problem(_not_utf8(error)) from error
                if plain:
                    yield number, {"question": text}
                    continue
                try:
                    record = _parsed(text)
                except (ValueError, RecursionError) as error:
                    raise _Problem(f"not JSON ({error}); expected one object a line") from error
                if not isinstance(record, dict):
                    raise _Problem(f"expected a JSON object, found {_kind(record)}")
                yield number, record


def _rows(path: Path, bad: list[DataError] | None) -> Iterator[tuple[int, Record]]:
    """A csv file with a line of names; a record is reported by the line on which it ends."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            for row in rows:
                with _Reporting(path, rows.line_num, bad):
                    if None in row or None in row.values():
                        raise _Problem(f"expected {len(rows.fieldnames or ())} fields, as the first line names")
                    yield rows.line_num, dict(row)
    except UnicodeDecodeError as error:
        raise DataError(path, 1, _not_utf8(error)) from error
    except csv.Error as error:
        raise DataError(path, rows.line_num, f"not csv ({error})") from error


def _array(path: Path, bad: list[DataError] | None) -> Iterator[tuple[int, Record]]:
    """A json array; a record is reported by its 1-based position, since its line is not known after parsing."""
    try:
        records = _parsed(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(path, 1, _not_utf8(error)) from error
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg}, column {error.colno}); expected an array of objects"
        raise DataError(path, error.lineno, problem) from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, 1, f"not JSON ({error}); expected an array of objects") from error
    for number, record in enumerate(records, start=1):
        with _Reporting(path, number, bad):
            if not isinstance(record, dict):
                raise _Problem(f"entry {number}: expected a JSON object, found {_kind(record)}")
            yield number, record


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte {error.start}); convert the file, for example with iconv"


def _parsed(text: str) -> Any:
    """Strict JSON: what Python's parser lets pass but no JSON line could hold again raises `ValueError`."""
    value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a \\u escape is half of a surrogate pair") from error
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is not a finite number")
    return float(number)


# --- one record ------------------------------------------------------------------------------------------------------


def _question(record: Record, line: int) -> Question:
    if "text_a" in record:
        return _pair(record, line)
    identifier = _identifier(record) or f"line-{line}"
    if (options := _options(record)) is not None:
        return _multiple_choice(record, options, identifier)
    text = _take(record, "question", str)
    if "paragraphs" in record:
        paragraphs = _take(record, "paragraphs", list)
        answers = [record.get("answer"), *_list(record, "answer_aliases")]  # the test split has neither
        if record.get("answerable") is False:
            answers = []
        supporting = [_paragraph(p).id for p in paragraphs if isinstance(p, dict) and p.get("is_supporting")]
        meta: Record = {"supporting_ids": supporting}
        if "question_decomposition" in record:
            meta["decomposition"] = record["question_decomposition"]
    elif "context" in record and "_id" in record:
        answers = [record.get("answer")]  # the test split has none
        facts = _list(record, "supporting_facts")
        if not all(isinstance(fact, list) and fact for fact in facts):
            raise _Problem("expected each entry of 'supporting_facts' to be [title, sentence number]")
        titles = dict.fromkeys(str(fact[0]) for fact in facts)
        meta = {"supporting_ids": list(titles), **{k: record[k] for k in ("type", "level") if k in record}}
    else:
        names = ("golden_answers", "golds", "answers", "answer")
        found: Any = next((record[name] for name in names if name in record), None)
        answers = found if isinstance(found, list) else [found]
        meta = record.get("metadata") or {}
        if isinstance(meta, dict) and record.get("source") is not None:
            meta = {"source": record["source"], **meta}  # TAPO scores by it (card 22)
    if not all(isinstance(a, str | int | float | None) for a in answers):
        raise _Problem("expected the answers to be a list of strings")
    golds = [str(a) for a in answers if a is not None and str(a).strip()]  # null or blank: the answer is not known
    if not isinstance(meta, dict):
        raise _Problem(f"expected 'metadata' to be an object, found {_kind(meta)}")
    return Question(id=identifier, text=text, answers=tuple(dict.fromkeys(golds)), meta=meta)


def _pair(record: Record, line: int) -> Question:
    label = str(record.get("label", "")).strip().lower()
    if label not in _LABELS:
        raise _Problem(f"expected 'label' to be 1 or same, 0 or different, or nothing, found {label!r}")
    texts = [_take(record, key, str) for key in ("text_a", "text_b")]
    if not all(text.strip() for text in texts):
        raise _Problem("a text of the pair is empty; expected 'text_a' and 'text_b'")
    return pair_question(_identifier(record) or f"line-{line}", *texts, same=_LABELS[label])


_LABELS = {"1": True, SAME: True, "0": False, DIFFERENT: False, "": None, "none": None}


def _options(record: Record) -> Any:
    """Where the candidates of a multiple-choice question are, None when it is none."""
    asked = record.get("question")
    if isinstance(asked, dict):  # CommonsenseQA, OpenBookQA
        return asked.get("choices")
    return record.get("options") or record.get("choices")


def _multiple_choice(record: Record, options: Any, identifier: str) -> Question:
    asked = record.get("question", record.get("question_stem"))
    stem = asked.get("stem") if isinstance(asked, dict) else asked
    if not isinstance(stem, str):
        raise _Problem("expected the question as a string, or its 'stem'")
    if isinstance(options, dict) and {"label", "text"} <= options.keys():  # columns, as on the hub
        if not (isinstance(options["label"], list) and isinstance(options["text"], list)):
            raise _Problem("expected 'label' and 'text' of the choices to be lists")
        options = [{"label": a, "text": b} for a, b in zip(options["label"], options["text"], strict=False)]
    if isinstance(options, dict):  # MedQA
        options = [{"label": key, "text": text} for key, text in options.items()]
    if not isinstance(options, list) or not options:
        raise _Problem(f"expected the choices to be a list or an object, found {_kind(options)}")
    labelled: dict[str, str] = {}
    for place, option in enumerate(options):
        one = option if isinstance(option, dict) else {"text": option}
        if not isinstance(one.get("text"), str | int | float) or not str(one["text"]).strip():
            raise _Problem(f"choice {place + 1} has no text")
        labelled[str(one.get("label", chr(ord("A") + place)))] = " ".join(str(one["text"]).split())
    key = next((record[name] for name in ("answerKey", "answer_idx") if record.get(name) not in (None, "")), None)
    golds: list[str]
    if key is not None:
        if str(key) not in labelled:
            raise _Problem(f"the answer {key!r} is none of the choices {', '.join(labelled)}")
        golds = [labelled[str(key)]]
    else:
        found: Any = next((record[n] for n in ("golden_answers", "golds", "answers", "answer") if n in record), None)
        golds = [str(one) for one in (found if isinstance(found, list) else [found]) if one not in (None, "")]
    meta = dict(record.get("metadata") or {})
    concept = asked.get("question_concept") if isinstance(asked, dict) else record.get("question_concept")
    meta |= {"question_concept": concept} if isinstance(concept, str) else {}
    return Question(id=identifier, text=stem, answers=tuple(golds), meta={**meta, "choices": list(labelled.values())})


def _document(record: Record, source: str) -> Passage:
    identifier = _identifier(record)
    if not identifier:
        raise _Problem("expected the key 'id', a string or a number")
    if "contents" in record:
        title, text = split_contents(_take(record, "contents", str))
        title = str(record.get("title") or title)
    else:
        title, text = str(record.get("title") or ""), _take(record, "text", str)
    if not text.strip() and not title.strip():
        raise _Problem(f"the document {identifier!r} is empty; expected 'contents', or 'title' and 'text'")
    return Passage(id=identifier, text=text, title=title, source=source)


def split_contents(contents: str) -> tuple[str, str]:
    """Split FlashRAG / Search-R1 `contents` into (title, text): a first line in double quotes is the title.

    >>> split_contents('"Aspirin"\\nA common drug.')
    ('Aspirin', 'A common drug.')
    >>> split_contents("No title here.")
    ('', 'No title here.')
    """
    match = re.match(r'"([^\n]*)"\s*\n', contents)
    return (match[1], contents[match.end() :]) if match else ("", contents)


def join_contents(title: str, text: str) -> str:
    """The inverse of `split_contents`."""
    return f'"{title}"\n{text}' if title else text


def _contexts(record: Record) -> Iterator[Passage]:
    if "paragraphs" in record:
        yield from (_paragraph(p) for p in _take(record, "paragraphs", list))
        return
    for entry in _take(record, "context", list):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list)):
            raise _Problem("expected each entry of 'context' to be [title, [sentences]]")
        yield Passage(id=str(entry[0]), title=str(entry[0]), text="".join(map(str, entry[1])).strip())


def _paragraph(paragraph: Any) -> Passage:
    """A MuSiQue paragraph. Several share a title and none has an id of its own, so the text tells them apart."""
    if not isinstance(paragraph, dict):
        raise _Problem(f"expected each of 'paragraphs' to be an object, found {_kind(paragraph)}")
    title, text = str(paragraph.get("title") or ""), _take(paragraph, "paragraph_text", str)
    mark = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return Passage(id=f"{title}#{mark}", title=title, text=text)


def _identifier(record: Record) -> str | None:
    """The id as a string, or None when there is none: the key is absent, null or empty."""
    found = next((record[k] for k in ("id", "_id") if record.get(k) not in (None, "")), None)
    if not isinstance(found, str | int | float | None):
        raise _Problem(f"expected 'id' to be a string or a number, found {_kind(found)}")
    return None if found is None else str(found)


def _list(record: Record, key: str) -> list[Any]:
    """The list under `key`; empty when it is absent or null."""
    return [] if record.get(key) is None else list(_take(record, key, list))


def _take(record: Record, key: str, kind: type[str] | type[list[Any]]) -> Any:
    if key not in record:
        raise _Problem(f"expected the key {key!r}, found {', '.join(sorted(record)[:8]) or 'no keys'}")
    if not isinstance(record[key], kind):
        expected = "a string" if kind is str else "a list"
        raise _Problem(f"expected {key!r} to be {expected}, found {_kind(record[key])}")
    return record[key]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


class _Problem(Exception):
    """What is wrong with the record at hand; `_Reporting` adds where."""


class _Reporting:
    """Turn a problem with a record into a `DataError` with file and line: raised, or collected in `bad`."""

    def __init__(self, path: Path, line: int, bad: list[DataError] | None) -> None:
        self.path, self.line, self.bad = path, line, bad

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            # only the start of the place: a document nested hundreds deep is refused with all its levels
            where = "" if first["type"] == "value_error" else f"{'.'.join(map(str, first['loc'][:2]))}: "
            error = _Problem(where + first["msg"].removeprefix("Value error, "))
        if not isinstance(error, _Problem):
            return False
        report = DataError(self.path, self.line, str(error))
        if self.bad is None:
            raise report from error.__cause__
        self.bad.append(report)
        return True
