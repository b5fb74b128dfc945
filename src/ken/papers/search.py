"""Search in the catalogue, over titles and summaries, by Ken's own index."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ken.core import KenError, Passage
from ken.papers.paper import Entry
from ken.sources.search.index import Index

_BEGUN = 24  # words that begin with what is being typed and are searched for with it
_LONGEST = 500  # characters of a query


class CatalogueSearch:
    """An index over `entries`, in a folder below `data` that is named by what it holds: it is built once, and anew when
    the catalogue changes. Where `data` cannot be written, it is in a temporary folder.
    """

    def __init__(self, entries: Iterable[Entry], data: Path | None = None) -> None:
        documents = [_document(entry) for entry in entries]
        self._count = len(documents)
        self._words = sorted({word for d in documents for word in _words(f"{d.title} {d.text}")})
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        digest = hashlib.blake2b("\n".join(d.model_dump_json() for d in documents).encode(), digest_size=6).hexdigest()
        self._index = self._open(documents, data / f"catalogue-{digest}" if data is not None else None)

    def __call__(self, query: str) -> list[str]:
        """Slugs, best first. The last word of the query may be the beginning of one, as it is while somebody types."""
        query = query[:_LONGEST]
        words = _words(query)
        if not words:
            return []
        last = words[-1]
        begun = [word for word in self._words if len(last) > 1 and word.startswith(last) and word != last][:_BEGUN]
        return [passage.document_id for passage in self._index.search(" ".join([query, *begun]), self._count)]

    def _open(self, documents: list[Passage], folder: Path | None) -> Index:
        if folder is not None:
            try:
                return Index.open(folder)
            except KenError:
                pass  # it is not built yet, or damaged
            try:
                return Index.build(documents, folder, chunk_words=10_000)
            except (KenError, OSError):
                pass  # it cannot be written there, or another server is just building it
        self._temporary = tempfile.TemporaryDirectory(prefix="ken-catalogue-")
        return Index.build(documents, Path(self._temporary.name) / "index", chunk_words=10_000)


def _document(entry: Entry) -> Passage:
    lines = (entry.summary, f"inside: {entry.inside}", f"outside: {entry.outside}", f"signal: {entry.signal}")
    about = "\n".join(line for line in (*lines, entry.organisation, f"arXiv {entry.arxiv}") if line)
    return Passage(id=entry.slug, title=f"{entry.name} {entry.title}", text=about)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
