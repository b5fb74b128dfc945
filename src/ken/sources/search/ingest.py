"""Feed documents into the engine: check ids, cut into chunks, embed, add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import tantivy

from ken.core import BadInput, DataError, Passage
from ken.sources.search.bm25 import engine_document
from ken.sources.search.chunking import split_text
from ken.sources.search.documents import lines_of, read_documents
from ken.sources.search.storage import Manifest
from ken.sources.search.unicode import is_well_formed
from ken.sources.search.vectors import Encoder, Vectors, ensure

Source = str | Path | Iterable[Passage]
Progress = Callable[[int], None]

_MAX_ID = 1024  # characters
_BATCH = 256  # passages embedded at a time


def checked(source: Source, bad: list[DataError] | None, progress: Progress | None) -> Iterator[Passage]:
    """The documents of `source` with their ids checked.

    Raises `BadInput` or `DataError` (collected in `bad` if given).
    """
    place = Path(source) if isinstance(source, str | Path) else None
    documents = read_documents(place, bad=bad) if place else source
    seen: dict[str, int] = {}
    number = 0
    for number, document in enumerate(documents, start=1):  # type: ignore[arg-type]
        if not isinstance(document, Passage):
            raise BadInput(
                f"expected Passages to index, found {type(document).__name__}; "
                "name a file or a folder, or give ken.core.Passage objects"
            )
        error: BadInput | None = None
        if seen.setdefault(document.id, number) != number:
            error = _duplicate(place, document.id, seen[document.id], number)
        elif not document.id or len(document.id) > _MAX_ID:
            error = _refusal(place, number, f"has an id of {len(document.id)} characters; ids have 1 to {_MAX_ID}")
        if error is not None:
            if bad is None or not isinstance(error, DataError):
                raise error
            bad.append(error)
            continue
        yield document
        if progress:
            progress(number)
    if not number:
        if bad:
            raise BadInput(f"none of the documents of {place} can be read; the first of {len(bad)} problems: {bad[0]}")
        raise BadInput(f"{place or 'the source'} holds no documents; there is nothing to index")


def feed(
    writer: tantivy.IndexWriter,
    documents: Iterable[Passage],
    settings: Manifest,
    dense: tuple[Vectors, Encoder] | None,
) -> set[str]:
    """Add documents to an open writer, without committing. Vectors are on disk when this returns.

    Returns the keys used.
    """
    parts = (
        (document, chunk, part)
        for document in documents
        for chunks in [split_text(document.text, settings.chunk_words, settings.overlap)]
        for part, chunk in enumerate(chunks, start=len(chunks) > 1)
    )
    used: set[str] = set()
    document: Passage | None = None
    try:
        if dense is None:
            for document, chunk, part in parts:
                writer.add_document(engine_document(document, chunk, part, None, settings.source))
        else:
            while batch := list(islice(parts, _BATCH)):
                keys = ensure(*dense, [(document.title, chunk) for document, chunk, _ in batch])
                used.update(keys)
                for (document, chunk, part), key in zip(batch, keys, strict=True):
                    writer.add_document(engine_document(document, chunk, part, key, settings.source))
    except ValueError as error:  # the readers refuse such text; it can come only in Passages made by a caller
        if document is None or is_well_formed(document.id + document.title + document.text):
            raise
        problem = "holds a lone surrogate, which is not Unicode; clean its text"
        raise BadInput(f"the document {document.id!r} {problem}") from error
    return used


def _duplicate(place: Path | None, identifier: str, first: int, second: int) -> BadInput:
    """The error for an id that occurs twice, naming both places."""
    if place and place.is_file() and len(lines := lines_of(place, identifier)) > 1:
        return DataError(
            place, lines[1], f"the id {identifier!r} was used before, on line {lines[0]}; ids must be unique"
        )
    if place:
        return _refusal(place, second, f"has the id {identifier!r}, as document {first} has; ids must be unique")
    return BadInput(f"documents {first} and {second} have the same id {identifier!r}; ids must be unique")


def _refusal(place: Path | None, number: int, problem: str) -> BadInput:
    return (
        DataError(place, number, f"document {number} {problem}") if place else BadInput(f"document {number} {problem}")
    )
