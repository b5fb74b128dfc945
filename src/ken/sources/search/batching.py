"""Gather the concurrent searches of many coroutines into batches."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from ken.core import BadInput, Passage
from ken.sources.search.unicode import well_formed

_Waiting = tuple[str, int, "asyncio.Future[list[Passage]]"]


class BatchingRetriever(ABC):
    """A `Retriever` that runs all searches that are waiting as one batch, then those that came in meanwhile, and so on.

    One query at the prompt is a batch of one; ten thousand rollouts share the engine without knowing of each other, and
    those that ask the same in one batch share the answer: attempts at one question mostly do.
    """

    def __init__(self, name: str, *, max_batch: int = 256) -> None:
        self.name = name
        self._max_batch = max_batch
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    async def _search_batch(self, queries: list[str], k: int) -> list[list[Passage]]:
        """One list of passages per query."""

    async def search(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages, best first. Raises `BadInput` for an empty query or k < 1, `SourceError` when no
        answer came.
        """
        if not query.strip():
            raise BadInput("the query is empty; say what to search for")
        if k < 1:
            raise BadInput(f"k must be at least 1, not {k}")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # the loop of an earlier asyncio.run is gone, and its callers with it
            self._loop, self._waiting, self._worker = loop, [], None
        future: asyncio.Future[list[Passage]] = loop.create_future()
        self._waiting.append((well_formed(query), k, future))
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return await future

    async def close(self) -> None:
        """Wait for nothing, hold nothing: searches that are still waiting are cancelled."""
        worker, self._worker = self._worker, None
        if worker and self._loop is asyncio.get_running_loop():
            worker.cancel()
            for _, _, future in self._waiting:
                future.cancel()
        self._waiting = []

    async def _work(self) -> None:
        batch: list[_Waiting] = []
        try:
            await asyncio.sleep(0)  # let the other coroutines that are ready ask too
            while self._waiting:
                k = self._waiting[0][1]
                batch = [entry for entry in self._waiting if entry[1] == k and not entry[2].done()][: self._max_batch]
                taken = {id(entry) for entry in batch}
                self._waiting = [entry for entry in self._waiting if id(entry) not in taken and not entry[2].done()]
                if not batch:
                    continue
                try:
                    queries = list(dict.fromkeys(query for query, _, _ in batch))
                    results = dict(zip(queries, await self._search_batch(queries, k), strict=True))
                except Exception as error:  # every caller of the batch hears of it
                    for _, _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for query, _, future in batch:
                        if not future.done():
                            future.set_result(list(results[query]))
        except BaseException:
            for _, _, future in (*batch, *self._waiting):
                future.cancel()
            raise
        finally:
            if self._worker is asyncio.current_task():
                self._worker = None
