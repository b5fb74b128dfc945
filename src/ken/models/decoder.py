"""What a decoder is to a model: it makes the logits from which each next token is chosen.

A local model chooses from its own logits. A decoder computes others, of hidden states or of a second context
(`ken.probing.decoders` has several); temperature, top-p, stop strings and limits work on them as on any.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from ken.models.conversation import Conversation


@dataclass(frozen=True, slots=True)
class StepNote:
    """What a decoder did at one token.

    layer: the layer it read beside the last, counted from 1; None where it reads none. scores: what the layers to
    choose from scored, by layer. greedy: the id that the model's own logits put first; best: the one that the
    decoder's do.
    """

    greedy: int
    best: int
    layer: int | None = None
    scores: tuple[tuple[int, float], ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the decoder put another token first than the model."""
        return self.best != self.greedy


class Steps(Protocol):
    """A decoder at work on one batch. It is called for the prompts, then for every token."""

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """(ids [rows, new], padded on the left; mask [rows, old and new]; positions [rows, new]; cache, which grows by
        the new columns) → logits after the last column, float32 [rows, vocabulary]; −inf for what must not be
        chosen."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """The batch now consists of these of its rows (int64, some perhaps twice)."""
        ...

    def notes(self) -> Sequence[StepNote]:
        """Of the last call, one a row."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """A way to choose tokens. It holds settings only, so that one decoder may serve many models and batches.

    `name` tells it and its settings apart in logs: `lfd`, `lfd:weight=2.0`.
    """

    @property
    def name(self) -> str: ...

    def prompt(self, conversation: Conversation) -> Conversation:
        """The conversation as the model is to see it; most leave it as it is."""
        ...

    def contrast(self, conversation: Conversation) -> Conversation | None:
        """A second context that the decoder needs; None for decoders that need none."""
        ...

    def open(
        self, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int
    ) -> AbstractContextManager[Steps]:
        """Start on a batch. model: a decoder-only transformers model in eval mode; contrasts: the ids of each row's
        second context. Raises `Unsupported` for a model that the decoder cannot read."""
        ...
