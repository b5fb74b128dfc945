"""Small decoders of four layers: of random weights in several architectures, and one written by hand."""

from __future__ import annotations

from typing import Any

A, B, C = 1, 2, 3  # the tokens that layers vote for


def random_model(kind: str = "llama", *, layers: int = 4, vocabulary: int = 61, tied: bool = False) -> Any:
    """Of random weights, large enough that layers disagree."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    if kind == "gpt2":
        config = AutoConfig.for_model(
            "gpt2", n_embd=32, n_layer=layers, n_head=4, n_positions=128, vocab_size=vocabulary, initializer_range=0.3
        )
    elif kind == "gpt_neox":
        config = AutoConfig.for_model(
            "gpt_neox",
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            vocab_size=61,
        )
    else:
        more = {"head_dim": 8} if kind.startswith("gemma") else {}
        config = AutoConfig.for_model(
            kind,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=vocabulary,
            max_position_embeddings=128,
            initializer_range=0.3,
            tie_word_embeddings=tied,
            **more,
        )
    return AutoModelForCausalLM.from_config(config).eval()


def hand_made() -> Any:
    """Every token is e0. Layer 2's feed-forward network writes a little of C, layer 3's attention writes A, layer 4's
    feed-forward network writes B, a little stronger; nothing else writes anything. So the model says B before A, and
    layer 3, whose feed-forward network is the identity, says A."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=6,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=4,
            num_attention_heads=1,
            max_position_embeddings=32,
            tie_word_embeddings=False,
        )
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer, token, size in ((1, C, 0.05), (3, B, 0.75)):
            mlp = model.model.layers[layer].mlp
            mlp.gate_proj.weight[0, 0] = mlp.up_proj.weight[0, 0] = 1.0
            mlp.down_proj.weight[token, 0] = size
        attention = model.model.layers[2].self_attn
        attention.v_proj.weight[0, 0] = 1.0
        attention.o_proj.weight[A, 0] = 0.5
        for token in (A, B, C):
            model.lm_head.weight[token, token] = 2.0
    return model


def written(model: Any, prompts: list[tuple[int, ...]], decoder: Any = None, **options: Any) -> list[Any]:
    """The rows that `decode` writes after these prompts: four tokens each, greedily, unless told otherwise."""
    from ken.core import Sampling
    from ken.models.decoding import Row, decode

    sampling = Sampling(**{"max_tokens": 4, **options.pop("sampling", {})})
    contrasts = options.pop("contrasts", [None] * len(prompts))
    rows = [
        Row(prompt, sampling.but(seed=sampling.seed + i), contrast=contrast)
        for i, (prompt, contrast) in enumerate(zip(prompts, contrasts, strict=True))
    ]
    decode(model, _Tokens(), rows, end_ids=frozenset(), pad_id=0, limit=128, decoder=decoder)
    return rows


class _Tokens:
    """Every id is a word."""

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(f" {i}" for i in ids)
