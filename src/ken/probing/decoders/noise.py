"""GD(k): greedy decoding with k noise documents in the prompt, the baseline that layer-fused decoding replaces (card
57, Baselines)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

from pydantic import Field

from ken.core import BadInput
from ken.core.seeding import derive_seed
from ken.models.conversation import Conversation, Instruction, Message
from ken.models.decoder import Steps
from ken.probing.decoders.base import DecoderSettings, ModelSteps
from ken.probing.noise import Kind, noise_documents

_DOCUMENTS = re.compile(r"<information>(.*?)</information>", re.DOTALL)
_NUMBER = re.compile(r"^Doc \d+")


class NoiseDocuments(DecoderSettings):
    """The model's own logits after `k` noise documents were put at random places among the documents of the prompt
    (those between `<information>` tags; where there are none, nothing is added).

    pool: the texts that noise is made of; kind: as of `noise_documents`; seed: of what is drawn, which depends on the
    prompt and not on what else is asked. The pool may hold the right document, which is then noise to itself: leave it
    out.
    """

    kind = "gd"

    k: int = Field(default=2, ge=0)
    of: Kind = "documents"
    seed: int = 0
    pool: tuple[str, ...] = Field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Without the pool, which is long."""
        return f"gd:k={self.k},of={self.of}"

    def prompt(self, conversation: Conversation) -> Conversation:
        return [self._noisy(message) for message in conversation]

    def _noisy(self, message: Message) -> Message:
        if isinstance(message.content, Instruction) or message.role != "user":
            return message
        return replace(message, content=_DOCUMENTS.sub(lambda found: self._among(found[1], message), message.content))

    def _among(self, shown: str, message: Message) -> str:
        rng = Random(derive_seed("noise", self.seed, str(message.content)))
        lines = shown.split("\n")
        texts = [text for text in self.pool if text not in shown]
        question = str(message.content).rpartition("</information>")[2]
        for text in noise_documents(self.k, texts, rng, kind=self.of, question=question):
            lines.insert(rng.randrange(len(lines) + 1), f"Doc 0: {text}")
        numbered = (_NUMBER.sub(f"Doc {number}", line) for number, line in enumerate(lines, start=1))
        return "<information>" + "\n".join(numbered) + "</information>"

    @contextmanager
    def open(self, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int) -> Iterator[Steps]:
        if self.k and not self.pool:
            raise BadInput("gd puts noise documents into the prompt and has none; in Python: NoiseDocuments(pool=[…])")
        yield ModelSteps(model)
