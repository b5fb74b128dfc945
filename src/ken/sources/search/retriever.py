"""Search engines as strategies see them: open one by folder or address."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ken.core import BadInput, Passage
from ken.sources.search.batching import BatchingRetriever
from ken.sources.search.index import Index, Mode
from ken.sources.search.protocol import Retriever

if TYPE_CHECKING:
    import numpy as np


class IndexRetriever(BatchingRetriever):
    """A Ken index behind the protocols of a `Retriever` and of a `DocumentStore`; searches run in a worker thread,
    together. group: only documents whose ids lie in this folder. Raises `BadInput` for a folder that there is not.
    """

    def __init__(self, index: Index, *, mode: Mode | None = None, group: str = "") -> None:
        super().__init__(str(index.path))
        self.index = index
        self.group = index.check_folder(group) if group else ""
        self._mode = mode

    async def _search_batch(self, queries: list[str], k: int) -> list[list[Passage]]:
        return await asyncio.to_thread(self.index.search_many, queries, k, mode=self._mode, within=self.group)

    async def inside(self, group: str) -> IndexRetriever:
        """The same index, limited to a folder of document ids. Raises `BadInput` as the class does."""
        return await asyncio.to_thread(IndexRetriever, self.index, mode=self._mode, group=group)

    async def passages(self) -> list[Passage]:
        """All passages, in order of id."""
        return await asyncio.to_thread(self.index.passages, self.group)

    async def vectors(self, passages: Sequence[Passage]) -> np.ndarray | None:
        """The vectors of passages of this index, as `Index.vectors`."""
        return await asyncio.to_thread(self.index.vectors, passages)

    async def document(self, identifier: str) -> Passage:
        """A document of the index, whole (`Index.document`)."""
        return await asyncio.to_thread(self.index.document, identifier)

    async def only_document(self) -> Passage | None:
        """The document of an index that holds exactly one, whole."""
        return await asyncio.to_thread(self.index.only_document)


def open_retriever(spec: str | Path, *, mode: Mode | None = None, group: str = "") -> Retriever:
    """The retriever at `spec`: the folder of an index, or the http(s) address of a Search-R1 `/retrieve` service.
    group: of an index, only the documents whose ids lie in this folder.

    Raises `SourceError` when there is no index in the folder, `BadInput` for a group that it does not have.
    """
    if str(spec).startswith(("http://", "https://")):
        if group:
            raise BadInput(f"a /retrieve service cannot be limited to {group!r}; name the folder of an index")
        from ken.sources.search.remote import RemoteRetriever

        return RemoteRetriever(str(spec))
    return IndexRetriever(Index.open(spec), mode=mode, group=group)
