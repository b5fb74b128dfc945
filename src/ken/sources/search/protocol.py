"""The protocol behind which every search engine stands."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ken.core import Passage


@runtime_checkable
class Retriever(Protocol):
    """A search engine as strategies see it. Many calls may be awaited at once; an implementation batches them as it
    likes.

    `name` identifies it in logs (a folder, a URL).
    """

    name: str

    async def search(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages, best first; fewer when fewer match. Raises `SourceError` when the engine does not
        answer.
        """
        ...

    async def close(self) -> None:
        """Release connections and threads."""
        ...


@runtime_checkable
class Library(Protocol):
    """A source that keeps whole documents beside their passages."""

    async def document(self, identifier: str) -> Passage:
        """The document with this id (a passage's `document_id`), whole. Raises `SourceError` when there is none."""
        ...

    async def only_document(self) -> Passage | None:
        """The document, whole, where there is exactly one."""
        ...
