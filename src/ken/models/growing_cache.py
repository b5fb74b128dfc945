"""A cache of keys and values that grows in place.

transformers' own lays every step's column behind the others by copying all of them, which is a tenth of a step of a
small model and more where contexts are long.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 16  # columns that are made at once


def growing_cache(model: Any) -> DynamicCache:
    """An empty cache for a model; layers that are more than all keys and values (sliding windows, recurrent ones) are
    as transformers makes them."""
    cache = DynamicCache(config=model.config)
    layer_type: Any = GrowingLayer  # transformers' own has no types
    cache.layers = [layer_type() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class GrowingLayer(DynamicLayer):
    """`keys` and `values`, [rows, heads, columns, width], are the filled part of a buffer with room behind them."""

    keys: Any
    values: Any
    _buffers: tuple[torch.Tensor, ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        columns = old + key_states.shape[2]
        if not self._roomy(columns):
            shapes = [(*new.shape[:2], columns + ROOM, new.shape[3]) for new in (key_states, value_states)]
            self._buffers = tuple(key_states.new_empty(shape) for shape in shapes)
            if old:
                for buffer, kept in zip(self._buffers, (self.keys, self.values), strict=True):
                    buffer[:, :, :old] = kept
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:columns] = new
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)
        return self.keys, self.values

    def _roomy(self, columns: int) -> bool:
        """Whether keys and values are what they were after the last update, or cut, with room for `columns`."""
        if not self._buffers or not self.get_seq_length():
            return False
        same = self.keys.data_ptr() == self._buffers[0].data_ptr() and len(self.keys) == len(self._buffers[0])
        return same and columns <= self._buffers[0].shape[2]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """The rows `beam_idx`, in that order; the room goes along."""
        columns = self.get_seq_length()
        if not self._roomy(columns):
            super().reorder_cache(beam_idx)
            return
        self._buffers = tuple(buffer.index_select(0, beam_idx.to(buffer.device)) for buffer in self._buffers)
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)
