"""Log-probabilities only where the loss looks: short rows apart from long ones, and no vocabulary for the rest.

TRL asks a model for the log-probability of every token of a padded batch. In a batch of rollouts most of these are not
wanted: rows that searched are several times as long as rows that did not, and prompts and observations carry no loss.
This stands in front of the model's forward, as TRL's own fused head does, and gives TRL the same numbers where they
count and zeros elsewhere (`tests/test_focused_forward.py`); `bench/training.py` measures what it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput

from ken.training.token_rows import TokenBatch

BUCKETS = 4  # lengths a batch is split into at most; each costs one more pass through the layers
CHUNK = 2**24  # logits computed at once, tokens times vocabulary


class FocusedForward:
    """Replaces `model.forward` while it is in use; `focus` tells it which tokens of a batch will be asked for.

    It does nothing where it could be wrong: for inputs other than ids and a right-padded mask, for models that scale or
    cap their logits, for rows it was not told of, and on devices for which TRL has kernels of its own.
    """

    def __init__(self, model: Any, temperature: float) -> None:
        self.model, self.temperature, self._forward = model, temperature, model.forward
        self._wanted: dict[bytes, torch.Tensor] = {}
        text = model.config.get_text_config()
        scaled = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
        self._plain = not any(getattr(text, name, None) not in {None, 1.0} for name in scaled)

        def forward(_: Any, *arguments: Any, **options: Any) -> Any:
            return self(*arguments, **options)

        model.forward = MethodType(forward, model)

    def focus(self, batch: TokenBatch, wanted: torch.Tensor) -> None:
        """Only `wanted` (bool [B, T] over `rest`) of this batch will be asked for, from now until the next call."""
        ids = torch.cat([batch.opening, batch.rest], dim=1)
        mask = torch.cat([torch.zeros_like(batch.opening, dtype=torch.bool), wanted], dim=1)
        real = torch.cat([torch.ones_like(batch.opening, dtype=torch.bool), batch.real], dim=1)
        self._wanted = {}
        for key, row in zip(_keys(ids, real), mask.cpu(), strict=True):
            # Rows of the same tokens may differ in who wrote them: then both readings are wanted.
            self._wanted[key] = row | self._wanted[key] if key in self._wanted else row

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not options.get("fused_lm_head"):
            return self._forward(*arguments, **options)
        known = {"fused_lm_head", "input_ids", "attention_mask", "labels"}
        if arguments or set(options) != known or not self._plain:
            return self._forward(*arguments, **options)
        ids, mask, labels = options["input_ids"], options["attention_mask"], options["labels"]
        if ids.device.type != "cpu":
            return self._forward(**options)
        real = mask.bool()
        keys = _keys(ids, real)
        if set(keys) - self._wanted.keys() or bool((real[:, 1:] & ~real[:, :-1]).any()):
            return self._forward(**options)
        seen = torch.stack([self._wanted[key][: ids.shape[1]] for key in keys])[:, 1:] & (labels[:, 1:] != -100)
        # A policy that is sure of itself writes the same rollout several times: it is computed once.
        place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        copies = torch.tensor([place[key] for key in keys])
        first = torch.tensor([keys.index(key) for key in place])
        logps, entropy = (part[copies] for part in self._focused(ids[first], real[first], seen[first]))
        return FusedCausalLMOutput(loss=-logps.sum(), log_probs=logps, entropy=entropy)

    def _focused(self, ids: torch.Tensor, real: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies [B, L − 1], 0 where `seen` (bool [B, L − 1], of token i + 1) is False."""
        width = self.model.get_output_embeddings().weight
        lengths = real.sum(1)
        logps = torch.zeros(seen.shape, dtype=torch.float32)
        entropy = torch.zeros(seen.shape, dtype=torch.float32)
        for rows in buckets(lengths.tolist()):
            length = int(lengths[rows].max())
            hidden = self.model.base_model(
                input_ids=ids[rows, :length], attention_mask=real[rows, :length].long(), use_cache=False
            ).last_hidden_state
            where = seen[rows, : length - 1]
            chosen = ids[rows, 1:length][where]
            parts = []
            size = max(1, CHUNK // width.shape[0])
            picked = hidden[:, :-1][where]
            for start in range(0, max(1, len(chosen)), size):
                piece = (picked[start : start + size], chosen[start : start + size])
                # More than one chunk means memory matters: then the logits are computed again going backwards.
                parts.append(
                    checkpoint(self._score, *piece, use_reentrant=False) if len(chosen) > size else self._score(*piece)
                )
            places = torch.zeros(seen.shape, dtype=torch.bool)
            places[rows, : length - 1] = where
            logps = logps.masked_scatter(places, torch.cat([p[0] for p in parts]))
            entropy = entropy.masked_scatter(places, torch.cat([p[1] for p in parts]))
        return logps, entropy

    def _score(self, hidden: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each chosen token and entropy (nats) of its distribution, both [N]."""
        logits = self.model.get_output_embeddings()(hidden).float()
        logprobs = functional.log_softmax(logits / self.temperature if self.temperature != 1 else logits, dim=-1)
        picked = logprobs.gather(-1, chosen[:, None])[:, 0]
        return picked, -(logprobs.exp() * logprobs).sum(-1)


def buckets(lengths: Sequence[int], most: int = BUCKETS) -> list[torch.Tensor]:
    """Row numbers, ascending within each bucket, split by length into at most `most` buckets so that the padded size is
    least (dynamic programming over the distinct lengths); a bucket must save more than a sixteenth of the batch."""
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    distinct = sorted(counts)
    below = [0]
    for length in distinct:
        below.append(below[-1] + counts[length])
    price = len(lengths) * distinct[-1] / 16
    best: list[tuple[float, list[int]]] = [(0.0, [])]  # cost of the shortest i lengths, and where their buckets end
    for end in range(1, len(distinct) + 1):
        options = [
            (cost + (below[end] - below[start]) * distinct[end - 1] + price, [*ends, end])
            for start, (cost, ends) in enumerate(best)
            if len(ends) < most
        ]
        best.append(min(options))
    ends = best[-1][1]
    bounds = [distinct[end - 1] for end in ends]
    of = torch.bucketize(torch.tensor(list(lengths)), torch.tensor(bounds))
    return [(of == i).nonzero()[:, 0] for i in range(len(bounds))]


def _keys(ids: torch.Tensor, real: torch.Tensor) -> list[bytes]:
    """Each row's own tokens, without padding."""
    data = ids.cpu().numpy()
    return [row[:n].tobytes() for row, n in zip(data, real.sum(1).tolist(), strict=True)]
