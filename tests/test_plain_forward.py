"""Small plain models decode by a forward pass of our own, which computes what transformers does; others do not."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `lab`")

from torch import nn  # noqa: E402
from transformers import (  # noqa: E402
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ken.models.plain_forward import plain_forward  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def built(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    elif kind == "llama with biases, scaled positions and wide heads":
        rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
        config = LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=16, rope_parameters=rope)
        model = LlamaForCausalLM(config)
    elif kind == "llama with positions that depend on the longest row":
        rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 16}, rope_parameters=rope))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    else:
        model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.inference_mode()
def logits_of(forward: Any, model: Any, rows: int = 5, steps: int = 20) -> Any:
    """Prompts of different lengths, padded on the left; then tokens one by one, until there are more than `LONG`; then
    two at once, as when a conversation goes on."""
    generator = torch.Generator().manual_seed(1)
    cache = DynamicCache(config=model.config)
    mask = (torch.arange(9) >= torch.tensor([[0], [3], [8], [0], [5]])).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = []
    for new in (9, *[1] * steps, 2):
        ids = torch.randint(0, 60, (rows, new), generator=generator)
        if out:
            mask = torch.cat([mask, mask.new_ones(rows, new)], dim=1)
            positions = (mask.cumsum(-1) - 1)[:, -new:]
        out.append(forward(ids, mask, positions, cache))
    return torch.stack(out)


KINDS = [
    "llama",
    "llama with biases, scaled positions and wide heads",
    "llama with positions that depend on the longest row",
    "qwen2",
    "mistral",
]


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_transformers_does(kind: str) -> None:
    model = built(kind)

    def theirs(ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        return model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache).logits[:, -1]

    ours = plain_forward(model)
    assert ours is not None
    assert torch.allclose(logits_of(ours, model), logits_of(theirs, model), atol=2e-5)


def test_weights_that_were_changed_are_read_when_it_is_asked_for_again() -> None:
    model = built("llama")
    before = logits_of(plain_forward(model), model)
    with torch.no_grad():
        for changed in (model.model.layers[1].mlp.up_proj, model.model.layers[2].self_attn.k_proj):
            changed.weight.mul_(1.5)
            now = logits_of(plain_forward(model), model)
            assert not torch.allclose(now, before)
            before = now


def windowed() -> Any:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))


def hooked() -> Any:
    model = built("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    return model


def adapted() -> Any:
    class Adapter(nn.Linear):
        pass

    model = built("llama")
    model.model.layers[2].self_attn.q_proj = Adapter(32, 32, bias=False)
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30)),
        windowed,
        hooked,
        adapted,
        lambda: built("llama").bfloat16(),
        lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 600_000})),
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu")),
    ],
    ids=["another architecture", "windows", "a hook", "an adapter", "half precision", "large", "another activation"],
)
def test_models_that_are_not_plain_are_left_to_transformers(model: Any) -> None:
    assert plain_forward(model().eval()) is None
