"""What a model computed for the turns of a conversation, kept for its next turn.

A strategy that searches calls the model again with everything it saw and wrote, and a document behind it. Only that is
new; keys and values of the rest are taken from here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ken.models.growing_cache import GrowingLayer, growing_cache

if TYPE_CHECKING:
    from ken.models.decoding import Row


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Turns that ended together. states: keys and values of each layer, [turns, heads, columns, width]; mask: int64
    [turns, columns]; names: their tokens.
    """

    states: tuple[tuple[torch.Tensor, ...], ...]
    mask: torch.Tensor
    names: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(part.nbytes for layer in self.states for part in layer)


Place = tuple[_Block, int]
Made = TypeVar("Made")


class KeptTurns:
    """Keys and values by the tokens they were computed for; the oldest give way when there are more than `most` bytes.

    Everything is forgotten when the weights change, for which `check` looks. That is read off the parameters: where
    they lie, how often they were written to in place, and a few of their numbers, since fused optimizers write without
    counting (torch 2.13). A trainer says so itself, by `forget`. Threads may share it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._places: dict[tuple[int, ...], Place] = {}
        self._blocks: deque[_Block] = deque()
        self._size = 0
        self._weights: object = None
        self._made: dict[object, Any] = {}
        self._lock = Lock()

    def keep(self, cache: DynamicCache, mask: torch.Tensor, ended: Mapping[int, Row]) -> None:
        """Keep what was computed for rows that have just ended, given by their place in the batch: all of their tokens
        but the last. mask: [batch, columns] of the cache. Does nothing for caches that are more than keys and values of
        every token (sliding windows, recurrent layers)."""
        plain: list[Any] = [layer for layer in cache.layers if type(layer) in (DynamicLayer, GrowingLayer)]
        if len(plain) < len(cache.layers):
            return
        places = torch.tensor(list(ended), device=mask.device)
        layers = [(layer.keys, layer.values) for layer in plain]
        names = tuple((*row.prompt, *row.ids[:-1]) for row in ended.values())
        if sum(2 * keys.nbytes // len(keys) for keys, _ in layers) * len(names) > self.most:
            return
        states = tuple(tuple(part.index_select(0, places) for part in layer) for layer in layers)
        block = _Block(states, mask[places], names)
        with self._lock:
            self._blocks.append(block)
            self._size += block.size
            self._places.update((name, (block, i)) for i, name in enumerate(names))
            while self._size > self.most:
                self._drop(self._blocks.popleft())

    def _drop(self, block: _Block) -> None:
        self._size -= block.size
        for name in block.names:
            if name in self._places and self._places[name][0] is block:
                del self._places[name]

    def forget(self) -> None:
        """Keep nothing: the weights are others now."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._places.clear()
        self._blocks.clear()
        self._made.clear()
        self._size = 0

    def check(self, model: Any) -> None:
        """Forget everything if these are not the weights of the last time. To be called before a batch."""
        parameters = list(model.parameters())
        some = torch.cat([_some(p) for p in parameters])
        weights = [(p.data_ptr(), p._version) for p in parameters], some.tolist()
        with self._lock:
            if weights != self._weights:
                self._forget()
                self._weights = weights

    def of_weights(self, model: Any, make: Callable[[Any], Made]) -> Made:
        """What `make` makes of a model, made again once the weights are others."""
        with self._lock:
            if make not in self._made:
                self._made[make] = make(model)
            made: Made = self._made[make]
            return made

    def find(self, prompts: Sequence[tuple[int, ...]]) -> list[Place | None]:
        """Where the states of each of these token sequences are; None for those that are not here."""
        with self._lock:
            return [self._places.get(prompt) for prompt in prompts]

    def restore(self, model: Any, found: Sequence[Place]) -> tuple[DynamicCache, torch.Tensor]:
        """A cache of these, padded on the left, and its mask [found, columns]."""
        # From the first token on: further in, a mask can have gaps, where documents of different lengths were padded.
        width = max(block.mask.shape[1] - int(block.mask[i].argmax()) for block, i in found)
        by_block: dict[int, tuple[_Block, list[int], list[int]]] = {}
        for row, (block, i) in enumerate(found):
            _, places, rows = by_block.setdefault(id(block), (block, [], []))
            places.append(i)
            rows.append(row)
        first = found[0][0]
        mask = first.mask.new_zeros(len(found), width)
        states = [
            [part.new_zeros(len(found), part.shape[1], width, part.shape[3]) for part in layer]
            for layer in first.states
        ]
        for block, places, rows in by_block.values():
            columns = min(width, block.mask.shape[1])
            skipped = block.mask.shape[1] - columns
            mask[rows, width - columns :] = block.mask[places, skipped:]
            for layer, kept in zip(states, block.states, strict=True):
                for part, kept_part in zip(layer, kept, strict=True):
                    part[rows, :, width - columns :] = kept_part[places, :, skipped:]
        cache = growing_cache(model)
        for i, (keys, values) in enumerate(states):
            cache.update(keys, values, i)
        return cache, mask


def _some(parameter: torch.Tensor) -> torch.Tensor:
    """A few of its numbers, float32."""
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, len(flat) // 4)].float()
