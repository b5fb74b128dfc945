"""Batched autoregressive decoding: many prompts, one forward pass a token.

Own code rather than `transformers.generate` because rows of one batch belong to different callers: each has its own
temperature, limits, stop strings and random stream, and leaves the batch when it is done. `tests/test_local.py` holds
it against `transformers.generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field
from functools import partial
from operator import itemgetter
from random import Random
from typing import Any, Literal

import torch
from torch.nn import functional
from transformers import DynamicCache

from ken.core import ModelError, Sampling
from ken.models.decoder import Decoder, StepNote, Steps
from ken.models.growing_cache import growing_cache
from ken.models.kept_turns import KeptTurns
from ken.models.one_thread import one_thread
from ken.models.plain_forward import Forward, plain_forward

MOST_THREADS = 4  # beyond, they wait for Python
FEWEST_ROWS = 16  # worth a thread

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # how tokenizers write the first bytes of a character
PENDING = 8  # tokens after which bytes that still form no character never will (UTF-8 needs at most four)


# Where a text stream stands: the last tokens, how many of them are written out, and the text of these.
_Window = tuple[tuple[int, ...], int, str]
# What a token adds to the text, and where the stream then stands, by where it stood.
Memory = dict[tuple[_Window, int], tuple[str, _Window]]

REMEMBERED = 2**16


class TextStream:
    """Token ids to text, one at a time; a character is written with its last byte.

    Own code rather than `tokenizers.decoders.DecodeStream`, which raises on tokenizers with byte fallback (Llama 2,
    Gemma) when a model writes bytes that form no character. Like it, this decodes a window of the last tokens, because
    how a token reads can depend on the one before. Streams of one tokenizer may share a `memory`: the same few tokens
    follow each other all the time, and decoding is slow.
    """

    __slots__ = ("_at", "_memory")

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory: Memory = {} if memory is None else memory
        self._at: _Window = ((), 0, "")

    def step(self, tokenizer: Any, token: int) -> str:
        """The text that `token` completes; empty while it ends within a character."""
        key = self._at, token
        done = self._memory.get(key)
        if done is None:
            if len(self._memory) >= REMEMBERED:
                self._memory.clear()
            done = self._memory[key] = self._step(tokenizer, token)
        piece, self._at = done
        return piece

    def _step(self, tokenizer: Any, token: int) -> tuple[str, _Window]:
        window, read, known = self._at
        window = (*window, token)
        text: str = tokenizer.decode(window, skip_special_tokens=False)
        if text.endswith(UNFINISHED) and len(window) - read < PENDING:
            return "", (window, read, known)
        last = window[read:]
        return text[len(known) :], (last, len(last), tokenizer.decode(last, skip_special_tokens=False))

    def rest(self, tokenizer: Any) -> str:
        """What `step` still holds back."""
        window, read, known = self._at
        if len(window) == read:
            return ""
        return str(tokenizer.decode(window, skip_special_tokens=False))[len(known) :]


@dataclass(slots=True, eq=False)
class Row:
    """One sequence being written. `ids`, `tokens`, `logprobs` grow by one entry a step; `ended` is set when it is
    done. `given_up` says when nobody waits for it any more. `known`: how many tokens of the prompt the model had
    processed when it last wrote in this conversation. `on_text` is told the text as it grows, in the thread that
    decodes. `contrast`: the second context, for a decoder that needs one; `trace`: what the decoder did, step by step.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    given_up: Callable[[], bool] = lambda: False
    known: int = 0
    memory: InitVar[Memory | None] = None
    on_text: Callable[[str], None] | None = None
    contrast: tuple[int, ...] | None = None
    trace: list[StepNote] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: Literal["stop", "end", "length"] | None = None
    _stream: TextStream = field(init=False)
    _stops: tuple[str, ...] = field(init=False)
    _longest: int = field(init=False)
    _tail: str = field(default="", init=False)
    _random: Random = field(init=False)

    def __post_init__(self, memory: Memory | None) -> None:
        self._stream = TextStream(memory)
        self._stops = tuple(filter(None, self.sampling.stop))
        self._longest = max(map(len, self._stops), default=0)
        self._random = Random(self.sampling.seed)

    def uniform(self) -> float:
        """The next number of this row's own random stream: what a row draws does not depend on who shares its batch."""
        return self._random.random()

    def extend(self, token: int, logprob: float, tokenizer: Any, end_ids: frozenset[int], limit: int) -> None:
        """Take the sampled token and notice whether the row is done. `limit`: most tokens, prompt included."""
        if logprob != logprob:  # noqa: PLR0124
            raise ModelError("the model computed no valid probabilities (NaN); load it with dtype bfloat16 or float32")
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token in end_ids:  # the end mark is sampled and trained, but is no text
            self._write(self._stream.rest(tokenizer))
            self.ended = "end"
            return
        piece = self._stream.step(tokenizer, token)
        if self._stops and piece:
            tail = self._tail + piece
            for stop in self._stops:
                if stop in tail:
                    self.ended = "stop"
            self._tail = tail[-self._longest :]
        if self.ended is None and (
            len(self.ids) >= self.sampling.max_tokens or len(self.prompt) + len(self.ids) >= limit
        ):
            self.ended = "length"
            piece += self._stream.rest(tokenizer)
        self._write(piece)

    def _write(self, piece: str) -> None:
        self.tokens.append(piece)
        if self.on_text is not None and piece:
            self.on_text(piece)


def decode(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    end_ids: frozenset[int],
    pad_id: int,
    limit: int,
    turns: KeptTurns | None = None,
    decoder: Decoder | None = None,
) -> None:
    """Write all rows to their end.

    model: a decoder-only transformers model in eval mode. tokenizer: the `tokenizers.Tokenizer` behind the fast
    tokenizer. turns: what earlier calls left for conversations that go on; what ends at a stop string is added.
    decoder: makes the logits instead of the model; it sees every conversation from its first token on, so that nothing
    is taken from earlier turns.

    Rows of the same tokens share one place in the batch until they differ: attempts at one question their prompt and as
    much as they agree on, which in a policy that is sure of itself is a lot. Places that are done leave the batch once
    they are an eighth of it (leaving costs one copy of the cache, as every step does). Raises `ModelError` on NaN.

    For a small model two threads on one kernel are slower than one, but two threads with half of the rows each are
    faster: where `plain_forward` is used, the rows are shared out.
    """
    prompts: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        prompts.setdefault((row.prompt, row.contrast), []).append(row)
    places = list(prompts.values())  # the open rows of each place in the batch
    write = partial(_decode, model=model, tokenizer=tokenizer, end_ids=end_ids, pad_id=pad_id, limit=limit)
    if decoder is not None:
        with decoder.open(model, [shared[0].contrast for shared in places], pad_id) as steps:
            write(places, forward=steps, turns=None, steps=steps)
        return
    if turns is not None:
        turns.check(model)
    plain = plain_forward(model, turns)
    write = partial(write, forward=plain or partial(whole_forward, model), turns=turns)
    if plain is None:
        write(places)
        return
    first, *others = _shares(places, min(torch.get_num_threads(), MOST_THREADS))
    with one_thread(), ThreadPoolExecutor(max(1, len(others)), initializer=partial(torch.set_num_threads, 1)) as pool:
        written = [pool.submit(write, share) for share in others]
        write(first)
        for share in written:
            share.result()


def _shares(places: Sequence[list[Row]], most: int) -> list[list[list[Row]]]:
    """The places in up to `most` parts of about as many rows each."""
    rows = sum(map(len, places))
    parts = max(1, min(most, len(places), rows // FEWEST_ROWS))
    shares: list[list[list[Row]]] = [[] for _ in range(parts)]
    before = 0
    for place in places:
        shares[before * parts // rows].append(place)
        before += len(place)
    return [share for share in shares if share]


@torch.inference_mode()
def _decode(
    places: list[list[Row]],
    *,
    model: Any,
    tokenizer: Any,
    forward: Forward,
    end_ids: frozenset[int],
    pad_id: int,
    limit: int,
    turns: KeptTurns | None,
    steps: Steps | None = None,
) -> None:
    cache, logits, mask = _prefilled(model, forward, [shared[0] for shared in places], pad_id, turns)
    positions = mask.sum(-1, keepdim=True) - 1
    live: list[Row] = []
    while True:
        open_rows = [row for shared in places for row in shared]
        if open_rows != live:
            live, chooser = open_rows, _Chooser(open_rows, logits.device)
        owners = [place for place, shared in enumerate(places) for _ in shared]
        which = None if owners == list(range(len(logits))) else torch.tensor(owners, device=logits.device)
        chosen, logprobs = chooser.choose(logits, which)
        if steps is not None:
            notes = steps.notes()
            for row, place in zip(live, owners, strict=True):
                row.trace.append(notes[place])
        branches: dict[tuple[int, int], list[Row]] = {}
        stopped: dict[int, Row] = {}
        for row, place, token, logprob in zip(live, owners, chosen.tolist(), logprobs.tolist(), strict=True):
            row.extend(token, logprob, tokenizer, end_ids, limit)
            if row.ended is None and row.given_up():
                row.ended = "length"
            if row.ended is None:
                branches.setdefault((place, token), []).append(row)
            elif row.ended == "stop":
                stopped[place] = row
        if turns is not None and stopped:
            turns.keep(cache, mask, stopped)
        if not branches:
            return
        done = sorted({*range(len(places))} - {place for place, _ in branches})
        if len(branches) + len(done) == len(places) and len(done) < max(1, len(places) // 8):
            for place in done:  # not worth a copy yet: it goes along, with nobody to take what it writes
                branches[place, pad_id] = []
        ordered = sorted(branches, key=itemgetter(0))
        if (kept := [place for place, _ in ordered]) != list(range(len(places))):
            select = torch.tensor(kept, device=mask.device)
            # Not batch_select_indices, whose way of indexing takes five times as long.
            cache.reorder_cache(select)  # type: ignore[arg-type]
            mask, positions = mask[select], positions[select]
            if steps is not None:
                steps.keep(select)
        places = [branches[branch] for branch in ordered]
        tokens = torch.tensor([token for _, token in ordered], device=mask.device)
        mask = torch.cat([mask, mask.new_ones(len(places), 1)], dim=1)
        # Places that are done but still here may run past the context; what they compute is not used.
        positions = (positions + 1).clamp(max=limit - 1)
        logits = forward(tokens[:, None], mask, positions, cache)


def _prefilled(
    model: Any, forward: Forward, rows: Sequence[Row], pad_id: int, turns: KeptTurns | None
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
    """Cache, logits [rows, vocabulary] and mask [rows, columns] after the prompts of these rows."""
    begun = turns.find([row.prompt[: row.known] for row in rows]) if turns is not None else [None] * len(rows)
    parts = []
    new = [i for i, turn in enumerate(begun) if turn is None]
    going_on = [i for i, turn in enumerate(begun) if turn is not None]
    if new:
        ids, mask = left_padded([rows[i].prompt for i in new], pad_id, model.device)
        cache = growing_cache(model)
        logits = forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        parts.append((cache, logits, mask))
    if going_on and turns is not None:
        cache, before = turns.restore(model, [turn for turn in begun if turn is not None])
        ids, mask = left_padded([rows[i].prompt[rows[i].known :] for i in going_on], pad_id, model.device)
        mask = torch.cat([before, mask], dim=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, before.shape[1] :]
        parts.append((cache, forward(ids, mask, positions, cache), mask))
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([*new, *going_on], device=model.device).argsort()
    cache, logits, mask = _stacked(model, parts)
    cache.reorder_cache(order)  # type: ignore[arg-type]
    return cache, logits[order], mask[order]


def _stacked(
    model: Any, parts: Sequence[tuple[DynamicCache, torch.Tensor, torch.Tensor]]
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
    """Several batches as one, padded on the left."""
    width = max(mask.shape[1] for _, _, mask in parts)

    def padded(tensor: torch.Tensor, axis: int) -> torch.Tensor:
        missing = [0] * (2 * (tensor.dim() - axis))
        missing[-2] = width - tensor.shape[axis]
        return functional.pad(tensor, missing)

    cache = growing_cache(model)
    for i in range(len(cache.layers)):
        keys, values = (
            torch.cat([padded(getattr(part.layers[i], name), 2) for part, _, _ in parts]) for name in ("keys", "values")
        )
        cache.update(keys, values, i)
    return cache, torch.cat([logits for _, logits, _ in parts]), torch.cat([padded(mask, 1) for _, _, mask in parts])


def left_padded(prompts: Sequence[tuple[int, ...]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one [rows, length] tensor with its attention mask; all prompts end in the last column."""
    length = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def whole_forward(
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

    def choose(self, logits: torch.Tensor, which: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [rows], and the log-probability of each at the row's temperature (1 for greedy rows), before top-p.

        logits: [rows, vocabulary], or one line for several rows: then `which` (int64 [rows]) says each row's line.
        """
        if which is not None and (self.temperatures is not None or self.top_p is not None):
            logits, which = logits[which], None
        if self.temperatures is not None:  # the greatest becomes 0 first, so that no temperature is too small
            logits = (logits - logits.amax(-1, keepdim=True)) / self.temperatures
        logprobs = torch.log_softmax(logits, dim=-1)
        greedy = None
        if self.any_greedy:
            greedy = logprobs.argmax(-1) if which is None else logprobs.argmax(-1)[which]
        if self.all_greedy and greedy is not None:
            tokens = greedy
        else:
            uniforms = torch.tensor([row.uniform() for row in self.rows], dtype=torch.float64, device=logits.device)
            tokens = _sample(logprobs.exp(), uniforms, self.top_p, which)
            if greedy is not None:
                tokens = torch.where(self.greedy, greedy, tokens)
        if which is not None:
            return tokens, logprobs[which, tokens]
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _sample(
    probabilities: torch.Tensor,
    uniforms: torch.Tensor,
    top_p: torch.Tensor | None,
    which: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw by inversion of the cumulative distribution, within the smallest set of tokens whose mass reaches top-p
    (Holtzman 2020). probabilities: [rows, vocabulary]; uniforms: float64 [rows] in [0, 1); top_p: [rows, 1] or None;
    which: as in `_Chooser.choose`, only without top_p.
    """
    if top_p is not None:
        ordered, order = probabilities.sort(stable=True, dim=-1, descending=True)
        before = ordered.cumsum(-1, dtype=torch.float64) - ordered
        keep = (before < top_p - 1e-6) | (top_p >= 1)  # 1e-6: 0.5 + 0.3 reaches 0.8 in spite of rounding
        keep[:, 0] = True
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * keep)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    if which is not None:
        cumulative = cumulative.index_select(0, which)  # indexing by [which] takes five times as long
    total = cumulative[:, -1:]
    # Kept below the total, or a uniform just under 1 would run past the last token that has any mass.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=probabilities.shape[-1] - 1)
