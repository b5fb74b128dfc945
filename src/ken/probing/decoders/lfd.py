"""Layer-fused decoding (arXiv 2508.19614; card 57): the last layers lean on what the model learnt, a middle layer on
what it has just read, so their predictions are joined.

The method section of the paper could not be read by us. Verified are: that the layer of the lowest internal knowledge
score (IKS) in the latter half is chosen, anew for every token, and that its representation is combined with the final
layer's output. *Inferred*, and therefore settings, are the score itself (as ReDeEP's parametric-knowledge score: how
far the feed-forward network of a layer moves the lens) and the way of joining (with DoLa's plausibility constraint).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import DynamicCache

from ken.core.seeding import derive_seed
from ken.models.decoder import Steps
from ken.probing.decoders.base import ALPHA, DecoderSettings, ModelSteps, layer_range, plausible
from ken.probing.divergence import jsd
from ken.probing.lens import LogitLens, Recording

BESIDE_HEAD = 50  # tokens that IKS looks at for iks_over="head", at least


class LFD(DecoderSettings):
    """The next token is drawn from softmax(s), where s(x) = log q_L(x) + weight · log q_l*(x) for the tokens x that the
    final layer holds plausible, q_L(x) ≥ alpha · max q_L, and −∞ for others; q_l is layer l read by the lens.

    l* is the layer of least IKS_l = JSD(q(h_mid) ‖ q(h)): the one whose feed-forward network adds least.

    weight: ≥ 0; 0 is greedy decoding. alpha: in (0, 1]. layers: those to choose from, "upper_half" (⌈L/2⌉ … L − 1), a
    range "5-7" or one layer "6". choice: of the layer, for every "token", once for the "prompt", or at "random" (for
    comparison; `seed`). iks_over: the whole "vocabulary", or the "head": the plausible tokens and the 50 likeliest,
    renormalised, which costs next to nothing with a large vocabulary.
    fusion: "log_sum" (above); "logit_sum" adds logits instead, which is the same distribution, since logits and log
    q differ by a constant; "hidden_mix" reads the state (h_L + weight · h_l*) / (1 + weight) instead.
    """

    kind = "lfd"

    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    alpha: float = Field(default=ALPHA, gt=0, le=1)
    layers: str = "upper_half"
    choice: Literal["token", "prompt", "random"] = "token"
    fusion: Literal["log_sum", "logit_sum", "hidden_mix"] = "log_sum"
    iks_over: Literal["vocabulary", "head"] = "vocabulary"
    seed: int = 0

    def candidates(self, layers: int) -> list[int]:
        """The layers to choose from, of a model with so many. Raises `BadInput`."""
        return layer_range(self.layers, layers, {"upper_half": list(range(math.ceil(layers / 2), layers))})

    @contextmanager
    def open(self, model: Any, contrasts: Sequence[tuple[int, ...] | None], pad_id: int) -> Iterator[Steps]:
        lens = LogitLens(model)
        candidates = self.candidates(lens.layers)
        with lens.recording([*candidates, lens.layers]) as states:
            yield _Steps(self, lens, states, candidates)


class _Steps(ModelSteps):
    def __init__(self, settings: LFD, lens: LogitLens, states: Recording, candidates: Sequence[int]) -> None:
        super().__init__(lens.model)
        self.settings, self.lens, self.states = settings, lens, states
        self.candidates = list(candidates)
        self.fixed: torch.Tensor | None = None  # places among the candidates, where they are chosen once
        self.keys: list[int] | None = None  # of each row, for choosing at random whoever shares the batch
        self.iks: torch.Tensor | None = None  # [rows, candidates]
        self.chosen: torch.Tensor | None = None  # [rows]

    def logits(
        self, own: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        log_final = own.log_softmax(-1)
        count = len(self.candidates)
        mid, out = (torch.stack([of[layer] for layer in self.candidates]) for of in (self.states.mid, self.states.out))
        head = plausible(log_final, self.settings.alpha)
        read = torch.cat([mid, out])
        if self.settings.iks_over == "head":
            # V_head is the top of the ranking, so that as many of the likeliest tokens contain it.
            size = min(own.shape[-1], max(BESIDE_HEAD, int(head.sum(-1).max())))
            tokens = own.topk(size, dim=-1).indices
            lensed = self.lens.logits_of(read, tokens)
        else:
            tokens = None
            lensed = self.lens.logits(read)
        log_read = lensed.log_softmax(-1)
        self.iks = jsd(log_read[:count], log_read[count:]).T
        self.chosen = self._choose(ids, mask, positions)
        rows = torch.arange(len(own), device=own.device)
        if self.settings.fusion == "hidden_mix":
            weight = self.settings.weight
            mixed = (self.states.out[self.lens.layers] + weight * out[self.chosen, rows]) / (1 + weight)
            fused = self.lens.log_probabilities(mixed)
        elif self.settings.weight == 0:
            fused = log_final
        else:
            summed = lensed if self.settings.fusion == "logit_sum" else log_read
            of_layer = summed[count:][self.chosen, rows]
            if tokens is not None:
                of_layer = torch.zeros_like(own).scatter(-1, tokens, of_layer)  # all outside of V_head is masked below
            fused = (own if self.settings.fusion == "logit_sum" else log_final) + self.settings.weight * of_layer
        return fused.masked_fill(~head, -math.inf)

    def _choose(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The place of l* among the candidates, of each row."""
        assert self.iks is not None
        if self.settings.choice == "random":
            if self.keys is None:
                self.keys = [
                    derive_seed("lfd", self.settings.seed, *row[seen.bool()].tolist())
                    for row, seen in zip(ids, mask, strict=True)
                ]
            at = positions[:, -1].tolist()
            drawn = [derive_seed(key, place) % len(self.candidates) for key, place in zip(self.keys, at, strict=True)]
            return torch.tensor(drawn, device=ids.device)
        if self.settings.choice == "prompt":
            if self.fixed is None:
                self.fixed = self.iks.argmin(-1)
            return self.fixed
        return self.iks.argmin(-1)

    def keep(self, rows: torch.Tensor) -> None:
        if self.fixed is not None:
            self.fixed = self.fixed[rows]
        if self.keys is not None:
            self.keys = [self.keys[row] for row in rows.tolist()]

    def scored(self) -> tuple[Sequence[int | None], Sequence[tuple[tuple[int, float], ...]]]:
        assert self.iks is not None
        assert self.chosen is not None
        layers = [self.candidates[place] for place in self.chosen.tolist()]
        return layers, [tuple(zip(self.candidates, row, strict=True)) for row in self.iks.tolist()]
