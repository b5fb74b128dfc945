"""Contrastive search: likely, and unlike what was said before (Su et al. 2022, arXiv 2202.06417)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch.nn import functional
from transformers import DynamicCache

from ken.models.decoder import Steps
from ken.models.decoding import whole_forward
from ken.probing.decoders.base import DecoderSettings, ModelSteps
from ken.probing.lens import LogitLens, Recording


class ContrastiveSearch(DecoderSettings):
    """Of the `top_k` likeliest tokens v the one with the greatest (1 − penalty) · p(v) − penalty · max cos(h_v, h_j)
    over all earlier tokens j; h are final states after the last norm.

    Every token takes a second pass over `top_k` continuations, to see their states. penalty: in [0, 1]; 0 is greedy.
    """

    kind = "contrastive"

    penalty: float = Field(default=0.6, ge=0, le=1)
    top_k: int = Field(default=4, ge=1)

    @contextmanager
    def open(self, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int) -> Iterator[Steps]:
        lens = LogitLens(model, fewest=1)
        with lens.recording([lens.layers], everywhere=True) as states:
            yield _Steps(self, lens, states)


class _Steps(ModelSteps):
    def __init__(self, settings: ContrastiveSearch, lens: LogitLens, states: Recording) -> None:
        super().__init__(lens.model)
        self.settings, self.lens, self.states = settings, lens, states
        self.seen: torch.Tensor | None = None  # directions of all tokens so far [rows, columns, width]
        config = self.model.config.get_text_config(decoder=True)
        self.limit: int = getattr(config, "max_position_embeddings", None) or 2**31

    def logits(
        self, own: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        new = self._directions()
        self.seen = new if self.seen is None else torch.cat([self.seen, new], dim=1)
        k = min(self.settings.top_k, own.shape[-1])
        probabilities, tokens = own.softmax(-1).topk(k, dim=-1)
        ahead = copy.deepcopy(cache)
        ahead.batch_repeat_interleave(k)
        longer = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1).repeat_interleave(k, dim=0)
        next_place = (positions[:, -1:] + 1).clamp(max=self.limit - 1).repeat_interleave(k, dim=0)
        whole_forward(self.model, tokens.reshape(-1, 1), longer, next_place, ahead)
        candidates = self._directions().reshape(len(own), k, -1)
        likeness = torch.einsum("rkd,rcd->rkc", candidates, self.seen)
        likeness = likeness.masked_fill(~mask.bool()[:, None], -math.inf).amax(-1)
        penalty = self.settings.penalty
        scores = (1 - penalty) * probabilities - penalty * likeness
        return torch.full_like(own, -math.inf).scatter(-1, tokens, scores)

    def _directions(self) -> torch.Tensor:
        return functional.normalize(self.lens.norm(self.states.out[self.lens.layers]).float(), dim=-1)

    def keep(self, rows: torch.Tensor) -> None:
        if self.seen is not None:
            self.seen = self.seen[rows]
