"""The forward pass of plain decoder-only transformers, for small models on a processor.

A step of decoding a small model is short, and much of it is Python: modules, hooks, masks built anew. This computes the
same with the same kernels in fewer calls. It is used where nothing stands between the weights and the logits that is
not written here (`plain_forward` says where); `tests/test_plain_forward.py` holds it against transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM

from ken.models.kept_turns import KeptTurns

ARCHITECTURES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)
SMALL = 2**24  # parameters; above, the kernels take so long that Python no longer matters
LENGTH_BOUND = {"dynamic", "longrope"}  # rotary positions that depend on the longest row
LONG = 24  # columns from which `_read_once` is the faster one

Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, DynamicCache], torch.Tensor]


def plain_forward(model: Any, turns: KeptTurns | None = None) -> Forward | None:
    """(ids [rows, new], mask [rows, old and new], positions [rows, new], each less than the columns of the mask, cache)
    → logits after the last column, [rows, vocabulary]; `cache` grows by the new columns. It computes with the weights
    of now: ask again after a change. turns: keeps what is made of the weights for as long as they stay; it must have
    been asked to `check` them.
    None for a model that is not plain: of another architecture, with windows, adapters, sharded, quantised or
    half-precision weights, hooks, on another device, or large."""
    if type(model) not in ARCHITECTURES or model.config.hidden_act != "silu":
        return None
    modules = list(model.modules())
    if any(m._forward_hooks or m._forward_pre_hooks for m in modules):
        return None
    linear = [m for m in modules if hasattr(m, "in_features")]
    if any(type(m) is not nn.Linear for m in linear) or len(linear) != 7 * len(model.model.layers) + 1:
        return None
    parameters = list(model.parameters())
    if any(p.dtype != torch.float32 or p.device.type != "cpu" or not p.numel() for p in parameters):
        return None
    if any(type(p.data) is not torch.Tensor for p in parameters) or sum(p.numel() for p in parameters) > SMALL:
        return None
    windows = getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True)
    if windows:
        return None
    return _Plain(model) if turns is None else turns.of_weights(model, _Plain)


class _Plain:
    """Weights that read the same states are laid side by side, as one product takes less time than three. They are
    copies: `plain_forward` is asked anew when the weights may have changed. Threads may share it."""

    def __init__(self, model: Any) -> None:
        self.body, self.head, self.eps = model.model, model.lm_head, model.config.rms_norm_eps
        self.table = torch.empty(0), torch.empty(0)
        with torch.no_grad():
            self.joined = [
                (
                    _joined(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                    _joined(layer.mlp.gate_proj, layer.mlp.up_proj),
                )
                for layer in self.body.layers
            ]

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        hidden = functional.embedding(ids, self.body.embed_tokens.weight)
        cos, sin = self._turns(positions, mask.shape[1])
        seen = _seen(mask, ids.shape[1])
        unseen: torch.Tensor | None = None
        last = len(self.body.layers) - 1
        for i, (layer, (attends, gates)) in enumerate(zip(self.body.layers, self.joined, strict=True)):
            attention, mlp = layer.self_attn, layer.mlp
            states = functional.linear(self._norm(hidden, layer.input_layernorm), *attends)
            states = states.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            groups = attention.num_key_value_groups
            heads = states.shape[1] // (groups + 2)  # of keys, and of values
            turned = _rotated(states[:, :-heads], cos, sin)
            keys, values = cache.update(turned[:, -heads:], states[:, -heads:], i)
            queries = turned[:, :-heads]
            if i == last and ids.shape[1] > 1:  # what comes after it is only asked for the last column
                hidden, queries, seen = hidden[:, -1:], queries[:, :, -1:], None if seen is None else seen[:, :, -1:]
            if queries.shape[2] == 1 and keys.shape[2] >= LONG:
                if unseen is None and seen is not None:
                    unseen = _unseen(seen, keys.shape[1])
                read = _read_once(queries, keys, values, unseen, attention.scaling)
            else:
                read = functional.scaled_dot_product_attention(
                    queries, keys, values, attn_mask=seen, scale=attention.scaling, enable_gqa=groups > 1
                )
            out = attention.o_proj
            hidden = hidden + functional.linear(read.transpose(1, 2).flatten(2), out.weight, out.bias)
            gate, up = functional.linear(self._norm(hidden, layer.post_attention_layernorm), *gates).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, mlp.down_proj.weight, mlp.down_proj.bias)
        return functional.linear(self._norm(hidden[:, -1], self.body.norm), self.head.weight, self.head.bias)

    def _turns(self, positions: torch.Tensor, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions below `columns`, [rows, 1, columns, width], the first half of the sines
        negated. They are looked up where they do not depend on how long the longest row is."""
        rotary = self.body.rotary_emb
        if rotary.rope_type in LENGTH_BOUND:
            return _turned(rotary, positions)
        if len(self.table[0]) < columns:
            some = torch.arange(2 * columns, device=positions.device)[None]
            cos, sin = _turned(rotary, some)
            self.table = cos[0, 0], sin[0, 0]
        cos, sin = self.table
        return functional.embedding(positions, cos)[:, None], functional.embedding(positions, sin)[:, None]

    def _norm(self, hidden: torch.Tensor, module: Any) -> torch.Tensor:
        return functional.rms_norm(hidden, (hidden.shape[-1],), module.weight, self.eps)


def _joined(*layers: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of the linear layer whose output is theirs, one after another."""
    biases = [layer.bias for layer in layers]
    return torch.cat([layer.weight for layer in layers]), None if biases[0] is None else torch.cat(biases)


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: states [rows, heads, columns, width], cos and sin [rows, 1, columns, width], the first half of
    the sines negated."""
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, -1), sin)


def _turned(rotary: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of these positions as `_Plain._turns` gives them."""
    cos, sin = rotary(torch.empty(0, device=positions.device), positions)  # of the states it takes only the type
    half = sin.shape[-1] // 2
    return cos[:, None], torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)[:, None]


def _read_once(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, unseen: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Attention of one column: queries [rows, heads, 1, width], keys and values [rows, key heads, columns, width];
    unseen as `_unseen` makes it. Two plain products take two thirds of the time of the fused kernel, which is made for
    many columns."""
    rows, heads, _, width = queries.shape
    of = keys.shape[1]
    asked = queries.reshape(rows * of, heads // of, width)
    nothing = queries.new_empty(1, 1, 1) if unseen is None else unseen
    scores = torch.baddbmm(nothing, asked, keys.flatten(0, 1).transpose(1, 2), beta=unseen is not None, alpha=scale)
    return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view(rows, heads, 1, width)


def _unseen(seen: torch.Tensor, heads: int) -> torch.Tensor:
    """What is added to the scores of one column, [rows · key heads, 1, columns]: −∞ where it does not attend."""
    rows, _, _, columns = seen.shape
    added = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
    return added.expand(rows, heads, 1, columns).reshape(rows * heads, 1, columns)


def _seen(mask: torch.Tensor, new: int) -> torch.Tensor | None:
    """Which columns each of the `new` last ones attends to, bool [rows, 1, new, columns]; None: to all of them. A
    column of padding attends to itself, so that nothing is divided by zero."""
    real = mask.bool()[:, None, None]
    if new == 1:
        return None if bool(real.all()) else real
    columns = mask.shape[1]
    before = torch.ones(new, columns, dtype=torch.bool, device=mask.device).tril(columns - new)
    itself = torch.ones_like(before).triu(columns - new) & before
    return (before & real) | itself
