"""The protocol behind which every language model stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ken.core import BadInput, Sampling
from ken.models.conversation import Conversation, Generation, Score


@runtime_checkable
class Model(Protocol):
    """A language model. All calls are coroutines: many may be awaited at once, and how they share the hardware or the
    network is the model's business.

    `spec` names the model in logs, for example `openai/gpt-4o-mini` or `lab/factworld`.
    """

    spec: str

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """Continue a conversation `n` times. Raises `ModelError` when no answer could be had, after retries.

        on_text: told what the model writes, in pieces that are not empty, as it writes them; for n = 1 only, else
        `BadInput`. It is called on the caller's event loop, always before this call returns, raises or is cancelled;
        it must not block. The pieces joined are exactly the text of the generation (nothing told is taken back, nothing
        after a stop string is told). When this call raises, they are what was written until then: a call that has told
        anything is not tried again. What is returned does not depend on whether somebody listens.
        """
        ...

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        """Log-probabilities of `continuation` after `conversation`. Raises `Unsupported` where the model gives none."""
        ...

    async def close(self) -> None:
        """Release connections and threads. The model can not be used afterwards."""
        ...


def check_call(n: int, on_text: Callable[[str], None] | None) -> None:
    """Raise `BadInput` unless `generate` can be called so."""
    if n < 1:
        raise BadInput("n must be at least 1")
    if on_text is not None and n > 1:
        raise BadInput("on_text hears one continuation; leave n at 1")
