"""Batched autoregressive decoding: many prompts, one forward pass a token.

Own code rather than `transformers.generate` because rows of one batch belong to different callers: each has its own
temperature, limits, stop strings and random stream, and leaves the batch when it is done. `tests/test_local.py` holds
it against `transformers.generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from transformers import DynamicCache

from ken.core import Sampling


@dataclass(slots=True)
class Row:
    """One sequence being written. `ids`, `tokens`, `logprobs` grow by one entry a step; `ended` is set when it is
    done.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: Literal["stop", "end", "length"] | None = None
    _stream: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=False))
    _tail: str = ""
    _random: np.random.Generator | None = None

    def uniform(self) -> float:
        """The next number of this row's own random stream: what a row draws does not depend on who shares its batch."""
        if self._random is None:
            self._random = np.random.default_rng(self.sampling.seed)
        return float(self._random.random())

    def extend(self, token: int, logprob: float, tokenizer: Any, end_ids: frozenset[int], limit: int) -> None:
        """Take the sampled token and notice whether the row is done. `limit`: most tokens, prompt included."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token in end_ids:
            self.tokens.append("")  # the end mark is sampled and trained, but is no text
            self.ended = "end"
            return
        piece = self._stream.step(tokenizer, token) or ""
        self.tokens.append(piece)
        longest = max(map(len, self.sampling.stop), default=0)
        self._tail = (self._tail + piece)[-(longest + len(piece)) :] if longest else ""
        if any(stop in self._tail for stop in self.sampling.stop):
            self.ended = "stop"
        elif len(self.ids) >= self.sampling.max_tokens or len(self.prompt) + len(self.ids) >= limit:
            self.ended = "length"


@torch.inference_mode()
def decode(
    model: Any, tokenizer: Any, rows: Sequence[Row], *, end_ids: frozenset[int], pad_id: int, limit: int
) -> None:
    """Write all rows to their end.

    model: a decoder-only transformers model in eval mode. tokenizer: the `tokenizers.Tokenizer` behind the fast
    tokenizer. Rows with the same prompt share one prefill. Rows that are done leave the batch once they are half of it.
    """
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    place = {prompt: index for index, prompt in enumerate(prompts)}
    ids, mask = _left_padded(prompts, pad_id, model.device)
    cache = DynamicCache(config=model.config)
    logits = _forward(model, ids, mask, cache)

    live = list(rows)
    which = torch.tensor([place[row.prompt] for row in live], device=model.device)
    if len(live) != len(prompts):
        cache.batch_select_indices(which)
        mask = mask[which]
    logits = logits[which]
    while True:
        tokens, logprobs = _choose(logits, live)
        for row, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
            if row.ended is None:
                row.extend(token, logprob, tokenizer, end_ids, limit)
        open_rows = [index for index, row in enumerate(live) if row.ended is None]
        if not open_rows:
            return
        if len(open_rows) <= len(live) // 2:
            keep = torch.tensor(open_rows, device=model.device)
            cache.batch_select_indices(keep)
            mask, tokens = mask[keep], tokens[keep]
            live = [live[index] for index in open_rows]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        logits = _forward(model, tokens[:, None], mask, cache)


def _left_padded(prompts: Sequence[tuple[int, ...]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one [rows, length] tensor with its attention mask; all prompts end in the last column."""
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _forward(model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Logits after the last column, float32 [rows, vocabulary]; `cache` grows by the columns of `ids`."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[:, -1].float()
    return logits


def _choose(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each row and its log-probability at the row's temperature (1 for greedy rows), before top-p."""
    temperatures = torch.tensor([row.sampling.temperature for row in rows], device=logits.device)
    greedy = temperatures == 0
    logprobs = torch.log_softmax(logits / torch.where(greedy, 1.0, temperatures)[:, None], dim=-1)
    tokens = logprobs.argmax(-1)
    if not bool(greedy.all()):
        uniforms = torch.tensor(
            [0.0 if row.sampling.temperature == 0 else row.uniform() for row in rows], device=logits.device
        )
        top_p = torch.tensor([row.sampling.top_p for row in rows], device=logits.device)
        tokens = torch.where(greedy, tokens, _sample(logprobs.exp(), uniforms, top_p))
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _sample(probabilities: torch.Tensor, uniforms: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Draw by inversion of the cumulative distribution, within the smallest set of tokens whose mass reaches top-p
    (Holtzman 2020).
    """
    if bool((top_p < 1).any()):
        ordered, order = probabilities.sort(-1, descending=True)
        ordered = torch.where(ordered.cumsum(-1) - ordered < top_p[:, None], ordered, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    cumulative = probabilities.double().cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:], right=True)[:, 0]
    # A uniform that rounds to the total mass would run past the last token that has any.
    last = (probabilities > 0).long().cumsum(-1).argmax(-1)
    return torch.minimum(drawn, last)
