"""DoLa: what the final layer says beyond an earlier one (Chuang et al., arXiv 2309.03883; code voidism/DoLa). It
*subtracts* a premature layer where layer-fused decoding *adds* one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from transformers import DynamicCache

from ken.models.decoder import Steps
from ken.probing.decoders.base import ALPHA, DecoderSettings, ModelSteps, layer_range, plausible
from ken.probing.divergence import dola_compat, jsd
from ken.probing.lens import LogitLens, Recording


class DoLa(DecoderSettings):
    """The next token is drawn from softmax(log q_L − log q_M) over the tokens with q_L(x) ≥ alpha · max q_L.

    M is the premature layer: of all candidates the one farthest from the final layer by JSD (dynamic), or the only one
    (static).

    layers: "high" (every second of the upper half, which its authors advise for short answers), "low" (of the lower
    half), a range "2-6", or one layer "4", which makes it static. The embedding is not among them. compat: measure the
    distance as the released code does, whose JSD is none (`dola_compat`). Its repetition penalty is left out.
    """

    kind = "dola"

    alpha: float = Field(default=ALPHA, gt=0, le=1)
    layers: str = "high"
    compat: bool = False

    @contextmanager
    def open(self, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int) -> Iterator[Steps]:
        lens = LogitLens(model)
        half = lens.layers // 2
        named = {"high": list(range(half, lens.layers, 2)), "low": list(range(2, half, 2)) or [1]}
        candidates = layer_range(self.layers, lens.layers - 1, named)
        with lens.recording(candidates) as states:
            yield _Steps(self, lens, states, candidates)


class _Steps(ModelSteps):
    def __init__(self, settings: DoLa, lens: LogitLens, states: Recording, candidates: Sequence[int]) -> None:
        super().__init__(lens.model)
        self.settings, self.lens, self.states = settings, lens, states
        self.candidates = list(candidates)
        self.distance: torch.Tensor | None = None  # [rows, candidates]

    def logits(
        self, own: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        log_final = own.log_softmax(-1)
        log_early = self.lens.log_probabilities(torch.stack([self.states.out[layer] for layer in self.candidates]))
        measure = dola_compat if self.settings.compat else jsd
        self.distance = measure(log_final, log_early).T
        premature = log_early[self.distance.argmax(-1), torch.arange(len(own), device=own.device)]
        return (log_final - premature).masked_fill(~plausible(log_final, self.settings.alpha), -math.inf)

    def scored(self) -> tuple[Sequence[int | None], Sequence[tuple[tuple[int, float], ...]]]:
        assert self.distance is not None
        layers = [self.candidates[place] for place in self.distance.argmax(-1).tolist()]
        return layers, [tuple(zip(self.candidates, row, strict=True)) for row in self.distance.tolist()]
