"""Tiny models of random weights over real tokenizers, for tests of how text becomes tokens and back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ken.core import Sampling
from ken.models import Message, Model

TEXT = [
    "Where does the Elbe end? It flows into the North Sea, héllo wörld, 日本語, текст, 🙂.",
    "<think> I recall it </think> <search> mouth of the Elbe </search> <answer> North Sea </answer>",
    "<information>Doc 1(Title: Elbe) The Elbe flows.</information> <assessment>yes</assessment>",
]
SPECIAL = ["<|pad|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def byte_level_tokenizer(chat_template: str | None = CHAT) -> Any:
    """Byte-level BPE, as in GPT-2, Llama 3 and Qwen: decoding and encoding again gives other ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    backend.train_from_iterator(TEXT * 4, trainer)
    return _fast(backend, chat_template)


def byte_fallback_tokenizer(chat_template: str | None = CHAT) -> Any:
    """BPE over words with byte fallback, as in Llama 2 and Gemma."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*SPECIAL, "<unk>"], show_progress=False)
    backend.train_from_iterator(TEXT * 4, trainer)
    backend.add_tokens(bytes_)
    plain = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(plain)
    return _fast(backend, chat_template)


def _fast(backend: Any, chat_template: str | None) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = chat_template
    return tokenizer


def write_model(folder: Path, tokenizer: Any, *, context: int = 1024, kind: str = "llama", scale: float = 0.4) -> Path:
    """A two-layer Llama or GPT-2 (learnt positions) of random weights, fixed seed."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    if kind == "gpt2":
        config = AutoConfig.for_model(
            "gpt2", n_embd=32, n_layer=2, n_head=2, n_positions=context, vocab_size=len(tokenizer), **ends
        )
    else:
        config = AutoConfig.for_model(
            "llama",
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=context,
            vocab_size=len(tokenizer),
            initializer_range=scale,
            **ends,
        )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def says(text: str, system: str = "Answer.") -> list[Message]:
    return [Message("system", system), Message("user", text)]


def generate(model: Model, *prompts: str, n: int = 1, **sampling: Any) -> list[list[Any]]:
    """Generate for all prompts at once."""

    async def everything() -> list[list[Any]]:
        how = Sampling(**sampling)
        return await asyncio.gather(*(model.generate(says(p), n=n, sampling=how) for p in prompts))

    return asyncio.run(everything())


def one(model: Model, prompt: str, **sampling: Any) -> Any:
    return generate(model, prompt, **sampling)[0][0]
