"""What the asking application wants of an answer (a system message), put into what a strategy tells the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from ken.core import Sampling, Unsupported
from ken.models import Generation, Instruction, Message, Model
from ken.models.conversation import Conversation, Score


def takes_control_tokens(model: Model) -> bool:
    """Whether a model reads instructions as one token, as models of the lab do; it then understands no others."""
    return bool(getattr(model, "control_tokens", False) or getattr(model, "_control_tokens", False))


class Guided:
    """A model whose instructions end with the wishes of the application that asks. The strategy's own words stand
    first: they say how to answer at all.

    Raises `Unsupported` for a model that takes instructions as control tokens.
    """

    def __init__(self, model: Model, wishes: str) -> None:
        if takes_control_tokens(model):
            raise Unsupported(f"{model.spec} understands no system messages; send the question alone")
        self.spec = model.spec
        self._model, self._wishes = model, wishes

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """As the model does; one that does not stream tells all of its text at the end."""
        told = [self._told(message) for message in conversation]
        if on_text is None:
            return await self._model.generate(told, n=n, sampling=sampling)
        if "on_text" in inspect.signature(self._model.generate).parameters:
            return await self._model.generate(told, n=n, sampling=sampling, on_text=on_text)
        generations = await self._model.generate(told, n=n, sampling=sampling)
        on_text(generations[0].text)
        return generations

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        """As the model does."""
        return await self._model.score([self._told(message) for message in conversation], continuation)

    async def close(self) -> None:
        """The model belongs to others."""

    def _told(self, message: Message) -> Message:
        content = message.content
        if message.role != "system" or not isinstance(content, Instruction):
            return message
        text = f"{content.text}\n\nFor the answer itself, the application that asks adds: {self._wishes}"
        return replace(message, content=replace(content, text=text))
