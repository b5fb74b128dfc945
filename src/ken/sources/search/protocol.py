"""The protocol behind which every search engine stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ken.core import Passage

if TYPE_CHECKING:
    import numpy as np


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
class DocumentStore(Retriever, Protocol):
    """A search engine that can also give everything it has, and in groups: a group is a folder of document ids, as the
    reviews of one product are `zorba/1`, `zorba/2`, …

    `group` is the one to which it is limited, "" for none.
    """

    group: str

    async def inside(self, group: str) -> DocumentStore:
        """The same store, limited to a group. Raises `BadInput` for one that it does not have, naming those like it."""
        ...

    async def passages(self) -> list[Passage]:
        """All passages, in order of id. Raises `SourceError`."""
        ...

    async def vectors(self, passages: Sequence[Passage]) -> np.ndarray | None:
        """Their vectors, of length 1, float32 [passages, dimension]; None in a store that keeps none."""
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
