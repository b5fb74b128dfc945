"""A model that remembers what it said: the same greedy question is asked once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ken.core import Sampling
from ken.models.conversation import Conversation, Generation, Score
from ken.models.protocol import Model, check_call


class KeptReplies:
    """A model whose greedy generations are kept, for arms and audits that ask one model the same things in different
    ways. A kept generation has the usage of when it was made, so that costs stay comparable.

    Sampled, repeated (n > 1) and streamed generations are passed on. Other attributes are those of the model. Not for a
    model that is being trained.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._kept: dict[tuple[object, ...], asyncio.Future[Generation]] = {}
        self.spec = model.spec

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """As of the model; who asks the same while it is being answered waits for that answer. Raises `ModelError`, and
        the next to ask tries again."""
        check_call(n, on_text)
        if sampling.temperature or n > 1 or on_text is not None:
            return await self._model.generate(conversation, n=n, sampling=sampling, on_text=on_text)
        key = (tuple(conversation), sampling.but(seed=0))
        kept = self._kept.get(key)
        if kept is not None and (kept.done() or kept.get_loop() is asyncio.get_running_loop()):
            return [await asyncio.shield(kept)] if not kept.done() else [kept.result()]
        mine = self._kept[key] = asyncio.get_running_loop().create_future()
        try:
            (generation,) = await self._model.generate(conversation, sampling=sampling)
        except BaseException as error:
            del self._kept[key]
            mine.set_exception(error if isinstance(error, Exception) else RuntimeError("it was cancelled"))
            mine.exception()  # nobody need have waited
            raise
        mine.set_result(generation)
        return [generation]

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        """As of the model."""
        return await self._model.score(conversation, continuation)

    async def close(self) -> None:
        """Close the model."""
        await self._model.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
