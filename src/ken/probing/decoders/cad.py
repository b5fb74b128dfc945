"""Context-aware decoding: what the documents change, once more (Shi et al., arXiv 2305.14739)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from transformers import DynamicCache

from ken.core import BadInput
from ken.models.conversation import Conversation, Instruction, Message
from ken.models.decoder import Steps
from ken.models.decoding import left_padded, whole_forward
from ken.probing.decoders.base import DecoderSettings, ModelSteps

_DOCUMENTS = re.compile(r"<information>.*?</information>\s*", re.DOTALL)


class CAD(DecoderSettings):
    """The next token is drawn from softmax((1 + beta) · log p(y | documents, question) − beta · log p(y | question)).

    The second context is the same conversation without what came from outside, so that every token takes two passes;
    where nothing came from outside, it is plain decoding.

    beta: ≥ 0. Its authors take 0.5, and 1 where documents are known to contradict the model.
    """

    kind = "cad"

    beta: float = Field(default=0.5, ge=0, allow_inf_nan=False)

    def contrast(self, conversation: Conversation) -> Conversation:
        return without_documents(conversation)

    @contextmanager
    def open(self, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int) -> Iterator[Steps]:
        yield _Steps(self, model, contrasts, pad_id)


def without_documents(conversation: Conversation) -> Conversation:
    """The conversation without what came from outside: documents between `<information>` tags (as
    `ken.agents.protocol.render_passages` writes them) in the opening, and all observations but instructions."""
    return [_without(message) for message in conversation]


def _without(message: Message) -> Message:
    if isinstance(message.content, Instruction) or message.role in {"system", "policy"}:
        return message
    return replace(message, content="" if message.role == "observation" else _DOCUMENTS.sub("", message.content))


class _Steps(ModelSteps):
    def __init__(self, settings: CAD, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int) -> None:
        super().__init__(model)
        self.beta, self.pad_id = settings.beta, pad_id
        if any(not prompt for prompt in contrasts):
            raise BadInput("context-aware decoding needs the prompt without documents of every row, and it is empty")
        self.prompts = [prompt for prompt in contrasts if prompt]
        self.cache: DynamicCache | None = None
        self.mask: torch.Tensor | None = None

    def logits(
        self, own: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        if self.cache is None or self.mask is None:
            self.cache = DynamicCache(config=self.model.config)
            ids, self.mask = left_padded(self.prompts, self.pad_id, self.model.device)
        else:
            self.mask = torch.cat([self.mask, self.mask.new_ones(ids.shape)], dim=1)
        places = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        inside = whole_forward(self.model, ids, self.mask, places, self.cache)
        return (1 + self.beta) * own.log_softmax(-1) - self.beta * inside.log_softmax(-1)

    def keep(self, rows: torch.Tensor) -> None:
        if self.cache is not None and self.mask is not None:
            self.cache.reorder_cache(rows)  # type: ignore[arg-type]
            self.mask = self.mask[rows]
