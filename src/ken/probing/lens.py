"""The logit lens: a layer's hidden state read by the output head, as if it were the last one (nostalgebraist 2020).

In a decoder with blocks l = 1 … L, block l first adds what its attention read (h_mid), then what its feed-forward
network recalls (h). Both are read here, by hooks that live as long as a `with` block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ken.core import Unsupported

# What stands between attention and feed-forward network, so that its input is h_mid: in Gemma 2 and 3; in Llama,
# Mistral, Qwen and their like; in GPT-2. Blocks whose two parts read the same state (GPT-NeoX, Phi) have no h_mid.
_BETWEEN = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")
_BEFORE = ("input_layernorm", "ln_1")
_FINAL = ("norm", "ln_f")
FEWEST_LAYERS = 4


@dataclass
class Recording:
    """The states of the last forward pass, by layer (1 … L): at the last column [rows, width], which left-padded rows
    share as their last token, or, where all columns were asked for, [rows, columns, width]."""

    mid: dict[int, torch.Tensor] = field(default_factory=dict)
    out: dict[int, torch.Tensor] = field(default_factory=dict)
    ffn: dict[int, torch.Tensor] = field(default_factory=dict)  # what the feed-forward network added: h − h_mid


class LogitLens:
    """The lens of one model: a transformers decoder of the kind of Llama, Mistral, Qwen, Gemma or GPT-2.

    layers: how many blocks there are (L). tied: whether the head is the embedding matrix.

    Raises `Unsupported` in one sentence for a model without blocks that can be read, with fewer than `fewest` (4)
    layers, without a final norm or an output head, whose head says it is tied to the embeddings and is not, or whose
    logits are not head(norm(h_L)) (capped or scaled: the lens would read other numbers than the model says). To know
    that, the model processes three tokens.
    """

    def __init__(self, model: Any, *, fewest: int = FEWEST_LAYERS) -> None:
        name = type(model).__name__
        body = _first(model, "model", "transformer")
        blocks = _first(body, "layers", "h")
        if blocks is None or not len(blocks):
            raise Unsupported(
                f"the layers of {name} cannot be read; use a decoder of the kind of Llama, Mistral or Qwen"
            )
        self._between = [_first(block, *_BETWEEN) for block in blocks]
        if any(
            one is None or _first(block, *_BEFORE) is None for one, block in zip(self._between, blocks, strict=True)
        ):
            raise Unsupported(
                f"{name} has no state between attention and feed-forward network that can be read; use a decoder of "
                "the kind of Llama, Mistral or Qwen"
            )
        if len(blocks) < fewest:
            raise Unsupported(f"{name} has {len(blocks)} layers; to choose among layers takes at least {fewest}")
        self.norm = _first(body, *_FINAL)
        if self.norm is None:
            raise Unsupported(f"{name} has no final norm, without which its middle layers cannot be read by its head")
        self.head = model.get_output_embeddings()
        if self.head is None:
            raise Unsupported(f"{name} has no output head; load it as a causal language model")
        embeddings = model.get_input_embeddings()
        self.tied = embeddings is not None and self.head.weight.data_ptr() == embeddings.weight.data_ptr()
        if getattr(model.config, "tie_word_embeddings", False) and not self.tied:
            raise Unsupported(f"{name} says that its head is tied to its embeddings, and it is not; load it again")
        self.model, self.blocks, self.layers = model, blocks, len(blocks)
        self._check(name)

    @torch.inference_mode()
    def _check(self, name: str) -> None:
        count = self.head.weight.shape[0]  # not token 0, which may be padding, whose embedding is zero
        tokens = torch.tensor([[1, count // 2, count // 3]], device=self.model.device)
        with self.recording([self.layers]) as states:
            said = self.model(input_ids=tokens, use_cache=False).logits[:, -1].float()
        read = self.logits(states.out[self.layers])
        if not torch.allclose(said, read, rtol=1e-2, atol=1e-2 * float(said.abs().max())):
            raise Unsupported(
                f"the logits of {name} are more than its head's (capped or scaled), so that the lens would misread it; "
                "use another model"
            )

    @contextmanager
    def recording(
        self, layers: Iterable[int] | None = None, *, everywhere: bool = False, ffn: bool = False
    ) -> Iterator[Recording]:
        """Record h_mid and h of these layers (1 … L; all by default) in every forward pass within the block; each
        replaces the one before. everywhere: of all columns, not the last alone. ffn: also what each feed-forward
        network adds. Raises `Unsupported` for a layer that there is not."""
        chosen = sorted(set(range(1, self.layers + 1) if layers is None else layers))
        if not chosen or chosen[0] < 1 or chosen[-1] > self.layers:
            raise Unsupported(f"{type(self.model).__name__} has layers 1 to {self.layers}, not {chosen}")
        states = Recording()

        def kept(hidden: torch.Tensor) -> torch.Tensor:
            return hidden.detach() if everywhere else hidden[:, -1].detach()

        def before(layer: int) -> Any:
            def hook(_module: Any, args: tuple[Any, ...]) -> None:
                states.mid[layer] = kept(args[0])

            return hook

        def after(layer: int) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                states.out[layer] = kept(hidden)
                if ffn:
                    states.ffn[layer] = states.out[layer] - states.mid[layer]

            return hook

        handles = []
        try:
            for layer in chosen:
                handles.append(self._between[layer - 1].register_forward_pre_hook(before(layer)))
                handles.append(self.blocks[layer - 1].register_forward_hook(after(layer)))
            yield states
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """W_U · LN_f(h) of states as `recording` gives them, also of the last layer: [..., width] → float32 [...,
        vocabulary]. Not for transformers' `hidden_states[-1]`, on which the norm has been applied already."""
        logits: torch.Tensor = self.head(self.norm(hidden)).float()
        return logits

    @torch.no_grad()
    def log_probabilities(self, hidden: torch.Tensor) -> torch.Tensor:
        """log q(h), in nats: [..., width] → float32 [..., vocabulary]."""
        return self.logits(hidden).log_softmax(-1)

    @torch.no_grad()
    def logits_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The logits of some tokens alone, which spares the rest of the head: hidden [..., rows, width], tokens int64
        [rows, n] → float32 [..., rows, n]."""
        normed = self.norm(hidden)
        logits = torch.einsum("...rd,rnd->...rn", normed, self.head.weight[tokens])
        bias = getattr(self.head, "bias", None)
        return (logits if bias is None else logits + bias[tokens]).float()


def _first(owner: Any, *names: str) -> Any:
    """The first of these attributes that there is; None for none."""
    return next((found for name in names if (found := getattr(owner, name, None)) is not None), None)
