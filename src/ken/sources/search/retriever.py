"""Search engines as strategies see them: open one by folder or address."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ken.core import Passage
from ken.sources.search.batching import BatchingRetriever
from ken.sources.search.index import Index, Mode
from ken.sources.search.protocol import Retriever


class IndexRetriever(BatchingRetriever):
    """A Ken index behind the `Retriever` protocol; searches run in a worker thread, together."""

    def __init__(self, index: Index, *, mode: Mode | None = None) -> None:
        super().__init__(str(index.path))
        self.index = index
        self._mode = mode

    async def _search_batch(self, queries: list[str], k: int) -> list[list[Passage]]:
        return await asyncio.to_thread(self.index.search_many, queries, k, mode=self._mode)

    async def document(self, identifier: str) -> Passage:
        """A document of the index, whole (`Index.document`)."""
        return await asyncio.to_thread(self.index.document, identifier)

    async def only_document(self) -> Passage | None:
        """The document of an index that holds exactly one, whole."""
        return await asyncio.to_thread(self.index.only_document)


def open_retriever(spec: str | Path, *, mode: Mode | None = None) -> Retriever:
    """The retriever at `spec`: the folder of an index, or the http(s) address of a Search-R1 `/retrieve` service.

    Raises `SourceError` when there is no index in the folder.
    """
    if str(spec).startswith(("http://", "https://")):
        from ken.sources.search.remote import RemoteRetriever

        return RemoteRetriever(str(spec))
    return IndexRetriever(Index.open(spec), mode=mode)
