"""What all decoders share: settings with a name, and the steps of a batch over the model's own logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from transformers import DynamicCache

from ken.core import BadInput
from ken.core.explained import Explained
from ken.models.conversation import Conversation
from ken.models.decoder import StepNote, Steps
from ken.models.decoding import whole_forward

ALPHA = 0.1  # DoLa's relative_top: tokens with less than this share of the greatest probability are not chosen


class DecoderSettings(Explained):
    """A decoder is its settings; every batch begins with `open`. Raises `BadInput` for a setting out of range."""

    called = "a decoder"
    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """Kind and settings that are not the default: `lfd:weight=2.0`."""
        changed = ",".join(
            f"{key}={value}"
            for key, value in self
            if key in type(self).model_fields and value != type(self).model_fields[key].default
        )
        return f"{self.kind}:{changed}" if changed else self.kind

    def prompt(self, conversation: Conversation) -> Conversation:
        return conversation

    def contrast(self, conversation: Conversation) -> Conversation | None:
        return None


class ModelSteps:
    """The steps of a batch whose logits are made of the model's own by `logits`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._notes: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        own = whole_forward(self.model, ids, mask, positions, cache)
        made = self.logits(own, ids, mask, positions, cache)
        self._notes = own.argmax(-1), made.argmax(-1)
        return made

    def logits(
        self, own: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        return own

    def keep(self, rows: torch.Tensor) -> None:
        pass

    def scored(self) -> tuple[Sequence[int | None], Sequence[tuple[tuple[int, float], ...]]]:
        """Of the last call: the layer read in each row, and what the layers scored."""
        assert self._notes is not None
        return [None] * len(self._notes[0]), [()] * len(self._notes[0])

    def notes(self) -> Sequence[StepNote]:
        if self._notes is None:
            return []
        layers, scores = self.scored()
        greedy, best = (part.tolist() for part in self._notes)
        return [StepNote(*one) for one in zip(greedy, best, layers, scores, strict=True)]


class Greedy(DecoderSettings):
    """The model's own logits, computed as the other decoders compute them: what to compare their speed with, since a
    model without a decoder may take a faster way (`ken.models.plain_forward`)."""

    kind = "greedy"

    @contextmanager
    def open(self, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int) -> Iterator[Steps]:
        yield ModelSteps(model)


def plausible(log_p: torch.Tensor, alpha: float) -> torch.Tensor:
    """V_head: which tokens have at least `alpha` times the greatest probability (Li et al. 2023, contrastive decoding).
    log_p: [rows, vocabulary] → bool of that shape, with at least one token a row."""
    return log_p >= log_p.amax(-1, keepdim=True) + math.log(alpha)


def layer_range(text: str, layers: int, named: dict[str, list[int]]) -> list[int]:
    """Layers as a setting names them: a name, one layer "6" or a range "5-7" (1 … L). Raises `BadInput`."""
    if text in named:
        return named[text]
    first, _, last = text.partition("-")
    if first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit())):
        chosen = list(range(int(first), int(last or first) + 1))
        if chosen and chosen[0] >= 1 and chosen[-1] <= layers:
            return chosen
    raise BadInput(
        f'layers is {text!r}; give {", ".join(map(repr, named))}, one layer ("6") or a range ("5-7") of 1 to {layers}'
    )
