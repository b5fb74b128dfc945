"""A search engine that asks in parts: a model splits every query, and each part is searched on its own (R3-RAG, arXiv
2505.23794; card 40, Stage 1: later attempts of the teacher).
"""

from __future__ import annotations

import asyncio
import logging
import re
from itertools import chain, zip_longest

from ken.agents.protocol import escape
from ken.core import BadInput, ModelError, Passage, Sampling
from ken.models import Instruction, Message, Model
from ken.sources import Retriever

logger = logging.getLogger(__name__)

SPLIT = Instruction(
    token="<split>",
    text=(
        "Split the user's search query into the smallest queries that can be looked up independently, each complete in "
        "itself. Write one query a line and nothing else. A query that asks for one thing only is repeated as it is."
    ),
)

_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")


class SubQueries:
    """A `Retriever` that splits queries by `model` and searches for each part with `retriever`.

    The results are merged in turn: the best of every part, then the second best, none twice. The scores stay those of
    their parts. most: parts of a query; further ones are ignored. When the model does not answer, the whole query is
    searched for, with a warning. Raises `BadInput` for most < 1.
    """

    def __init__(self, retriever: Retriever, model: Model, *, most: int = 4) -> None:
        if most < 1:
            raise BadInput(f"most is {most}; a query has at least one part")
        self.name, self._retriever, self._model, self._most = retriever.name, retriever, model, most

    async def search(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages over all parts. Raises `SourceError` when the engine does not answer."""
        parts = await self.split(query)
        found = await asyncio.gather(*(self._retriever.search(part, k) for part in parts))
        merged = {(p.id, p.source): p for p in reversed([*chain.from_iterable(zip_longest(*found))]) if p is not None}
        return list(reversed(merged.values()))[:k]

    async def split(self, query: str) -> list[str]:
        """The parts of a query, at least one."""
        asked = [Message("system", SPLIT), Message("user", escape(query))]
        try:
            (reply,) = await self._model.generate(asked, sampling=Sampling(max_tokens=256))
        except ModelError as error:
            logger.warning("the query was not split: %s", error)
            return [query]
        lines = [_BULLET.sub("", line).strip() for line in reply.text.rpartition("</think>")[2].splitlines()]
        return list(dict.fromkeys(filter(None, lines)))[: self._most] or [query]

    async def close(self) -> None:
        """The retriever and the model belong to others."""
