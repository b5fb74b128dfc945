"""The protocol behind which every language model stands."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ken.core import Sampling
from ken.models.conversation import Conversation, Generation, Score


@runtime_checkable
class Model(Protocol):
    """A language model. All calls are coroutines: many may be awaited at once, and how they share the hardware or the
    network is the model's business.

    `spec` names the model in logs, for example `openai/gpt-4o-mini` or `lab/factworld`.
    """

    spec: str

    async def generate(
        self, conversation: Conversation, *, n: int = 1, sampling: Sampling = Sampling()
    ) -> list[Generation]:
        """Continue a conversation `n` times. Raises `ModelError` when no answer could be had, after retries."""
        ...

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        """Log-probabilities of `continuation` after `conversation`. Raises `Unsupported` where the model gives none."""
        ...

    async def close(self) -> None:
        """Release connections and threads. The model can not be used afterwards."""
        ...
