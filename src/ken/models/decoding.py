"""Batched autoregressive decoding: many prompts, one forward pass a token.

Own code rather than `transformers.generate` because rows of one batch belong to different callers: each has its own
temperature, limits, stop strings and random stream, and leaves the batch when it is done. `tests/test_local.py` holds
it against `transformers.generate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import torch
from transformers import DynamicCache

from ken.core import ModelError, Sampling

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # how tokenizers write the first bytes of a character
PENDING = 8  # tokens after which bytes that still form no character never will (UTF-8 needs at most four)


class TextStream:
    """Token ids to text, one at a time; a character is written with its last byte.

    Own code rather than `tokenizers.decoders.DecodeStream`, which raises on tokenizers with byte fallback (Llama 2,
    Gemma) when a model writes bytes that form no character. Like it, this decodes a window of the last tokens, because
    how a token reads can depend on the one before.
    """

    __slots__ = ("_known", "_read", "_window")

    def __init__(self) -> None:
        self._window: list[int] = []
        self._read = 0  # tokens of the window whose text is out
        self._known = ""  # that text

    def step(self, tokenizer: Any, token: int) -> str:
        """The text that `token` completes; empty while it ends within a character."""
        self._window.append(token)
        text: str = tokenizer.decode(self._window, skip_special_tokens=False)
        if text.endswith(UNFINISHED) and len(self._window) - self._read < PENDING:
            return ""
        piece = text[len(self._known) :]
        del self._window[: self._read]
        self._read = len(self._window)
        self._known = tokenizer.decode(self._window, skip_special_tokens=False)
        return piece

    def rest(self, tokenizer: Any) -> str:
        """What `step` still holds back."""
        if len(self._window) == self._read:
            return ""
        return str(tokenizer.decode(self._window, skip_special_tokens=False))[len(self._known) :]


@dataclass(slots=True)
class Row:
    """One sequence being written. `ids`, `tokens`, `logprobs` grow by one entry a step; `ended` is set when it is
    done. `given_up` says when nobody waits for it any more.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    given_up: Callable[[], bool] = lambda: False
    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: Literal["stop", "end", "length"] | None = None
    _stream: TextStream = field(default_factory=TextStream)
    _stops: tuple[str, ...] = ()
    _tail: str = ""
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self._stops = tuple(filter(None, self.sampling.stop))
        self._random = Random(self.sampling.seed)

    def uniform(self) -> float:
        """The next number of this row's own random stream: what a row draws does not depend on who shares its batch."""
        return self._random.random()

    def extend(self, token: int, logprob: float, tokenizer: Any, end_ids: frozenset[int], limit: int) -> None:
        """Take the sampled token and notice whether the row is done. `limit`: most tokens, prompt included."""
        if math.isnan(logprob):
            raise ModelError("the model computed no valid probabilities (NaN); load it with dtype bfloat16 or float32")
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token in end_ids:  # the end mark is sampled and trained, but is no text
            self.tokens.append(self._stream.rest(tokenizer))
            self.ended = "end"
            return
        piece = self._stream.step(tokenizer, token)
        if self._stops and piece:
            self._tail += piece
            if any(stop in self._tail for stop in self._stops):
                self.ended = "stop"
            self._tail = self._tail[-max(map(len, self._stops)) :]
        if self.ended is None and (
            len(self.ids) >= self.sampling.max_tokens or len(self.prompt) + len(self.ids) >= limit
        ):
            self.ended = "length"
            piece += self._stream.rest(tokenizer)
        self.tokens.append(piece)


@torch.inference_mode()
def decode(
    model: Any, tokenizer: Any, rows: Sequence[Row], *, end_ids: frozenset[int], pad_id: int, limit: int
) -> None:
    """Write all rows to their end.

    model: a decoder-only transformers model in eval mode. tokenizer: the `tokenizers.Tokenizer` behind the fast
    tokenizer. Rows with the same prompt share one prefill. Rows that are done leave the batch once they are an eighth
    of it (leaving costs one copy of the cache, as every step does). Raises `ModelError` on NaN.
    """
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    place = {prompt: index for index, prompt in enumerate(prompts)}
    ids, mask = _left_padded(prompts, pad_id, model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    logits = _forward(model, ids, mask, positions, cache)

    live = list(rows)
    which = torch.tensor([place[row.prompt] for row in live], device=model.device)
    if len(live) != len(prompts):
        cache.batch_select_indices(which)
    logits, mask, positions = logits[which], mask[which], positions[which, -1:]
    chooser = _Chooser(live, logits.device)
    while True:
        tokens, logprobs = chooser.choose(logits)
        for row, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
            if row.ended is None:
                row.extend(token, logprob, tokenizer, end_ids, limit)
                if row.ended is None and row.given_up():
                    row.ended = "length"
        open_rows = [index for index, row in enumerate(live) if row.ended is None]
        if not open_rows:
            return
        if len(open_rows) <= len(live) - max(1, len(live) // 8):
            keep = torch.tensor(open_rows, device=model.device)
            cache.batch_select_indices(keep)
            mask, tokens, positions = mask[keep], tokens[keep], positions[keep]
            live = [live[index] for index in open_rows]
            chooser = _Chooser(live, logits.device)
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        # Rows that are done but still here may run past the context; what they compute is not used.
        positions = (positions + 1).clamp(max=limit - 1)
        logits = _forward(model, tokens[:, None], mask, positions, cache)


def _left_padded(prompts: Sequence[tuple[int, ...]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one [rows, length] tensor with its attention mask; all prompts end in the last column."""
    length = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """Logits after the last column, float32 [rows, vocabulary]; `cache` grows by the columns of `ids`."""
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


class _Chooser:
    """Chooses the next token of each row, by the row's own sampling."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        temperatures = [row.sampling.temperature for row in rows]
        top_p = [row.sampling.top_p for row in rows]
        self.rows = rows
        self.greedy = torch.tensor([t == 0 for t in temperatures], device=device)
        self.any_greedy, self.all_greedy = 0 in temperatures, not any(temperatures)
        self.temperatures = (
            torch.tensor([t or 1.0 for t in temperatures], device=device)[:, None] if {*temperatures} - {0, 1} else None
        )
        self.top_p = torch.tensor(top_p, device=device)[:, None] if min(top_p) < 1 else None

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [rows], and the log-probability of each at the row's temperature (1 for greedy rows), before top-p."""
        if self.temperatures is not None:  # the greatest becomes 0 first, so that no temperature is too small
            logits = (logits - logits.amax(-1, keepdim=True)) / self.temperatures
        logprobs = torch.log_softmax(logits, dim=-1)
        if self.all_greedy:
            tokens = logprobs.argmax(-1)
        else:
            uniforms = torch.tensor([row.uniform() for row in self.rows], dtype=torch.float64, device=logits.device)
            tokens = _sample(logprobs.exp(), uniforms, self.top_p)
            if self.any_greedy:
                tokens = torch.where(self.greedy, logprobs.argmax(-1), tokens)
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _sample(probabilities: torch.Tensor, uniforms: torch.Tensor, top_p: torch.Tensor | None) -> torch.Tensor:
    """Draw by inversion of the cumulative distribution, within the smallest set of tokens whose mass reaches top-p
    (Holtzman 2020). probabilities: [rows, vocabulary]; uniforms: float64 [rows] in [0, 1); top_p: [rows, 1] or None.
    """
    if top_p is not None:
        ordered, order = probabilities.sort(stable=True, dim=-1, descending=True)
        before = ordered.cumsum(-1, dtype=torch.float64) - ordered
        keep = (before < top_p - 1e-6) | (top_p >= 1)  # 1e-6: 0.5 + 0.3 reaches 0.8 in spite of rounding
        keep[:, 0] = True
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * keep)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Kept below the total, or a uniform just under 1 would run past the last token that has any mass.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=probabilities.shape[-1] - 1)
