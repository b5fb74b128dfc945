"""A fast lane for corpora whose lines are plain: {"id", "title", "text"} or {"id", "contents"}, all strings.

Parsing and checking such a line at once in compiled code costs a third of the general reader. The lane knows no other
shape and no error: at the first line that is anything else, the reader in `ken.core.readers` takes over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic asks for this one below Python 3.12

from ken.core import DataError, Passage
from ken.core.readers import read_corpus, split_contents


@with_config(ConfigDict(extra="forbid", strict=True))
class _Line(TypedDict):
    id: str
    title: NotRequired[str]
    text: NotRequired[str]
    contents: NotRequired[str]


_LINE = TypeAdapter(_Line)


def read_lines(path: Path, *, bad: list[DataError] | None = None) -> Iterator[Passage]:
    """Yield what `ken.core.readers.read_corpus` yields for this file, and raise what it raises."""
    count = 0
    parse, source = _LINE.validator.validate_json, str(path)
    try:
        with path.open("rb") as file:
            for raw in file:
                line = parse(raw)
                identifier, title, text = line["id"], line.get("title", ""), line.get("text")
                if (contents := line.get("contents")) is not None:
                    found, text = split_contents(contents)
                    title = title or found
                if not identifier or text is None or not (text.strip() or title.strip()):
                    break
                yield Passage(id=identifier, title=title, text=text, source=source)
                count += 1
            else:
                if count:
                    return
    except (ValidationError, OSError):
        pass
    yield from islice(read_corpus(path, bad=bad), count, None)
