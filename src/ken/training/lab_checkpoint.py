"""Build and keep the base model of a lab world: what all worlds share, whatever their recipe.

The cache is keyed by the config, so that a changed recipe is another model; a checkpoint is there as a whole or not at
all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pydantic import JsonValue
from transformers.utils import logging

import ken
from ken.core import BadInput, TrainingError
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.models.local import LocalModel
from ken.training.factworld_gates import Gate
from ken.training.pretraining import Example, PretrainingConfig, pretrain

MANIFEST = "ken-lab.json"

OnStep = Callable[[int, int, float], None]


class Checkpoint(Frozen):
    """What a checkpoint was built from, and what its gates measured. Stands beside the weights as `ken-lab.json`."""

    world: str
    config: dict[str, JsonValue]
    gates: tuple[Gate, ...]
    parameters: int
    examples: int
    tokens: int
    seconds: float
    versions: dict[str, str]

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that the model did not pass."""
        return tuple(gate for gate in self.gates if gate.gating and not gate.passed)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a base model is made: an untrained model, its tokenizer, the examples stage by stage, and how the result is
    measured."""

    tokenizer: Any
    model: Any
    stages: Sequence[Sequence[Example]]
    settings: PretrainingConfig
    measure: Callable[[LocalModel], Awaitable[Sequence[Gate]]]


def checkpoint_folder(world: str, config: Frozen) -> Path:
    """Where a build with this config is kept: `$XDG_CACHE_HOME/ken/lab/WORLD-HASH`."""
    key = hashlib.blake2b(config.model_dump_json().encode(), digest_size=6).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "ken" / "lab" / f"{world}-{key}"


def cached_checkpoint(
    world: str,
    config: Frozen,
    recipe: Callable[[], Recipe],
    *,
    on_step: OnStep = lambda step, steps, loss: None,
    gated: bool = True,
) -> Path:
    """The folder of the base model with this config: from the cache, or built now. on_step: as in `build_checkpoint`.

    Safe when several processes ask at once: one builds, the others wait. gated: raise `TrainingError` for a model that
    failed a gate.
    """
    folder = checkpoint_folder(world, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        manifest = _whole(folder, config)
        if manifest is None:
            manifest = build_checkpoint(world, config, recipe(), folder, on_step=on_step)
    if gated and manifest.failed:
        first = manifest.failed[0]
        raise TrainingError(
            f"the base model in {folder} is not fit for experiments ({first.name}: {first.value:.3f}, wanted "
            f"{first.low:g} to {first.high:g}); build one from another seed"
        )
    return folder


def build_checkpoint(
    world: str, config: Frozen, recipe: Recipe, out: Path, *, on_step: OnStep = lambda step, steps, loss: None
) -> Checkpoint:
    """Pretrain by `recipe` and save to `out` (float16 weights), replacing a checkpoint that is there once the new one
    is whole.

    on_step: called with (step, steps, loss in nats). Raises `BadInput` when `out` holds something else.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file())):
        raise BadInput(f"{out} exists and holds no lab checkpoint; choose another folder")
    model, tokenizer, stages = recipe.model, recipe.tokenizer, recipe.stages
    seconds = pretrain(model, stages, recipe.settings, pad_id=tokenizer.pad_token_id, on_step=on_step)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    logging.disable_progress_bar()
    try:
        model.half().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        gates = asyncio.run(_measured(recipe, temporary))
        manifest = Checkpoint(
            world=world,
            config=config.model_dump(mode="json"),
            gates=tuple(gates),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            examples=sum(map(len, stages)),
            tokens=sum(len(example.ids) for examples in stages for example in examples),
            seconds=round(seconds, 1),
            versions={"ken": ken.__version__, "torch": torch.__version__},
        )
        (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def read_checkpoint(folder: Path) -> Checkpoint:
    """The manifest of a checkpoint."""
    return Checkpoint.model_validate_json((folder / MANIFEST).read_bytes())


def small_llama(
    tokenizer: Any,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    intermediate_size: int,
    context: int,
    init: float,
    seed: int,
) -> Any:
    """An untrained Llama with tied embeddings, initialised from `seed`.

    (The cards name Qwen2, whose folders transformers 5 gives a tokenizer of its own: see `factworld_base.build_model`.)
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(derive_seed("lab base", seed) % 2**31)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=init,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.do_sample = True  # else `transformers serve` is greedy at every temperature
    return model


def _whole(folder: Path, config: Frozen) -> Checkpoint | None:
    """The manifest of a checkpoint with exactly this config, or None."""
    try:
        manifest = read_checkpoint(folder)
    except (OSError, ValueError):
        return None
    return manifest if manifest.config == config.model_dump(mode="json") else None


async def _measured(recipe: Recipe, folder: Path) -> Sequence[Gate]:
    return await recipe.measure(LocalModel(folder, device="cpu", batch_size=256, control_tokens=True))
