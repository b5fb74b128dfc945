"""Is the lens of a model's middle layers worth reading? A table to look at before a decoder is trusted (card 57, At
full size)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ken.core import BadInput
from ken.metrics.statistics import mean
from ken.models.decoding import left_padded
from ken.probing.divergence import jsd
from ken.probing.lens import LogitLens


@dataclass(frozen=True, slots=True)
class LayerReading:
    """A layer (1 … L) at the last token of some prompts.

    iks: mean internal knowledge score, in [0, ln 2] nats. lowest: share of prompts in which it has the lowest of the
    upper half without the last layer (nan for other layers). agrees: share in which its lens puts the same token first
    as the model; distance: mean JSD of its lens to the model's own distribution, in nats.
    """

    layer: int
    iks: float
    lowest: float
    agrees: float
    distance: float


@torch.inference_mode()
def calibration(lens: LogitLens, prompts: Sequence[Sequence[int]], *, batch_size: int = 16) -> list[LayerReading]:
    """One reading a layer, over the token ids of some prompts (a hundred tell enough). Raises `BadInput` for none.

    Where `agrees` is near 0 in the upper half, the lens of this model says nothing there, and neither will LFD.
    """
    if not prompts or not all(prompts):
        raise BadInput("there are no prompts to read, or one is empty; give at least one token each")
    upper = range(math.ceil(lens.layers / 2), lens.layers)
    iks: list[torch.Tensor] = []
    agrees: list[torch.Tensor] = []
    distance: list[torch.Tensor] = []
    for start in range(0, len(prompts), batch_size):
        ids, mask = left_padded([tuple(p) for p in prompts[start : start + batch_size]], 0, lens.model.device)
        with lens.recording() as states:
            lens.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            )
        final = lens.log_probabilities(states.out[lens.layers])
        for layer in range(1, lens.layers + 1):  # one at a time: a large vocabulary takes memory
            mid, out = (lens.log_probabilities(of[layer]) for of in (states.mid, states.out))
            iks.append(jsd(mid, out))
            agrees.append((out.argmax(-1) == final.argmax(-1)).float())
            distance.append(jsd(out, final))
    table = [
        torch.stack([torch.cat(of[layer :: lens.layers]) for layer in range(lens.layers)])
        for of in (iks, agrees, distance)
    ]  # each [layers, prompts]
    lowest = table[0][upper.start - 1 : upper.stop - 1].argmin(0) + upper.start
    return [
        LayerReading(
            layer=layer,
            iks=float(table[0][layer - 1].mean()),
            lowest=mean((lowest == layer).tolist()) if layer in upper else math.nan,
            agrees=float(table[1][layer - 1].mean()),
            distance=float(table[2][layer - 1].mean()),
        )
        for layer in range(1, lens.layers + 1)
    ]


def table(readings: Sequence[LayerReading]) -> str:
    """The readings as lines of text."""
    lines = ["layer    IKS  lowest  agrees  distance"]
    for r in readings:
        lowest = "     –" if math.isnan(r.lowest) else f"{r.lowest:6.2f}"
        lines.append(f"{r.layer:5}  {r.iks:.3f}  {lowest}  {r.agrees:6.2f}  {r.distance:8.3f}")
    return "\n".join(lines)
