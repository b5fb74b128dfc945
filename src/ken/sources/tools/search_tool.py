"""Search as a tool, and a cache of searches that also knows queries that are nearly the same (card 22, Method)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, ClassVar

from ken.core import BadInput, Passage, SourceError
from ken.sources.search.protocol import Retriever
from ken.sources.tools.tool import Arguments, Tool, ToolResult

NOTHING = "Cannot find any result."
WEEK = 7 * 24 * 3600.0


@dataclass(slots=True)
class CacheCount:
    """How searches were answered."""

    exact: int = 0
    fuzzy: int = 0
    missed: int = 0


class CachedRetriever:
    """A retriever that remembers what it found.

    A query is answered from memory when it was asked before (case and spaces aside) or, of the `candidates` asked last,
    when one resembles it with difflib's ratio ≥ `fuzzy`. TAPO uses 0.7; None asks for the same words, and is right
    where one name makes the difference: "price of Kavelo" and "price of Kavela" resemble each other with 0.93.

    size: entries kept, the least recently used leave first. seconds: how long an entry holds (a week in TAPO).
    Searches that fail are not remembered, but all who ask the same at the same time wait for one. Raises `BadInput` for
    a ratio outside (0, 1].
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        fuzzy: float | None = 0.7,
        candidates: int = 50,
        size: int = 100_000,
        seconds: float = WEEK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if fuzzy is not None and not 0 < fuzzy <= 1:
            raise BadInput(f"fuzzy is {fuzzy}; give a ratio above 0 and up to 1, or None for exact matches only")
        self.retriever, self.name = retriever, retriever.name
        self.count = CacheCount()
        self._fuzzy, self._candidates, self._size, self._seconds, self._clock = fuzzy, candidates, size, seconds, clock
        self._entries: OrderedDict[tuple[str, int], tuple[float, list[Passage]]] = OrderedDict()
        self._under_way: dict[tuple[asyncio.AbstractEventLoop, tuple[str, int]], asyncio.Future[list[Passage]]] = {}

    async def search(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages, from memory if possible. Raises `SourceError` as the retriever does."""
        key = (" ".join(query.lower().split()), k)
        if (found := self._fresh(key)) is not None:
            self.count.exact += 1
            return list(found)
        if (near := self._nearest(key)) is not None and (found := self._fresh(near)) is not None:
            self.count.fuzzy += 1
            return list(found)
        here = (asyncio.get_running_loop(), key)
        while (search := self._under_way.get(here)) is not None:
            await asyncio.wait([search])
            if not search.cancelled():  # else whoever began it was cancelled, and somebody has to begin anew
                self.count.exact += 1
                return list(search.result())
        search = self._under_way[here] = here[0].create_future()
        try:
            passages = await self.retriever.search(query, k)
        except SourceError as error:
            search.set_exception(error)
            search.exception()  # nobody else may have waited for it
            raise
        else:
            search.set_result(passages)
        finally:
            search.cancel()
            del self._under_way[here]
        self.count.missed += 1
        self._entries[key] = (self._clock(), list(passages))
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return list(passages)

    async def close(self) -> None:
        """Close the retriever behind it."""
        await self.retriever.close()

    def _fresh(self, key: tuple[str, int]) -> list[Passage] | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() - entry[0] > self._seconds:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def _nearest(self, key: tuple[str, int]) -> tuple[str, int] | None:
        """The most similar of the latest queries with the same k, if similar enough."""
        if self._fuzzy is None:
            return None
        query, k = key
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(query)
        best, best_ratio = None, self._fuzzy
        for other in islice(reversed(self._entries), self._candidates):
            matcher.set_seq1(other[0])
            if other[1] == k and matcher.real_quick_ratio() >= best_ratio and matcher.quick_ratio() >= best_ratio:
                ratio = matcher.ratio()
                if ratio >= best_ratio and (best is None or ratio > best_ratio):
                    best, best_ratio = other, ratio
        return best


class SearchTool(Tool):
    """The tool `search` over any retriever. top_k: passages a call (1 in TAPO's scripts)."""

    name: ClassVar[str] = "search"
    description: ClassVar[str] = "Search the documents for a short query."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "what to look for, in a few words"}},
        "required": ["query"],
        "additionalProperties": False,
    }

    def __init__(self, retriever: Retriever, *, top_k: int = 1, budget: int | None = None) -> None:
        if top_k < 1:
            raise BadInput(f"top_k is {top_k}; a search must return at least one passage")
        self.retriever, self.top_k, self.budget = retriever, top_k, budget

    async def call(self, arguments: Arguments) -> ToolResult:
        query = str(arguments["query"]).strip()
        passages = tuple(await self.retriever.search(query, self.top_k)) if query else ()
        return ToolResult("\n".join(map(snippet, passages)) or NOTHING, passages=passages)

    async def close(self) -> None:
        await self.retriever.close()


def snippet(passage: Passage) -> str:
    """A passage on one line, led by its title unless it names it itself."""
    title, text = " ".join(passage.title.split()), " ".join(passage.text.split())
    return text if not title or text.lower().startswith(title.lower()) else f"{title}: {text}"
