"""Build and keep the base model of a lab world: what all worlds share, whatever their recipe.

The cache is keyed by the config, so that a changed recipe is another model; a checkpoint is there as a whole or not at
all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from filelock import FileLock
from pydantic import Field, JsonValue
from transformers.utils import logging

import ken
from ken.core import BadInput, TrainingError
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.models.local import LocalModel
from ken.training.pretraining import Example, PretrainingConfig, Weigh, pretrain

MANIFEST = "ken-lab.json"

OnStep = Callable[[int, int, float], None]


class LabBaseConfig(Frozen):
    """Architecture and pretraining of a base model, as every world has them; a world adds itself and its examples.

    context: longest sequence, in tokens. init: standard deviation of the initial weights. batch, lr, weight_decay,
    warmup, optimizer, weigh: as of `PretrainingConfig`. seed: of the initial weights and of the examples. gated:
    whether the model is measured, and refused where it is not fit for experiments.

    called: the world's name.
    """

    called: ClassVar[str]

    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=384, ge=8)
    context: int = Field(default=512, ge=1)
    init: float = 0.06
    batch: int = Field(default=32, ge=1)
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = Field(default=100, ge=0)
    optimizer: Literal["adamw", "muon"] = "muon"
    weigh: Weigh = "batch"
    seed: int = 0
    gated: bool = True

    @abstractmethod
    def recipe(self) -> Recipe:
        """How the model is made and measured."""

    @property
    def pretraining(self) -> PretrainingConfig:
        """The part of the config that `pretrain` takes."""
        return PretrainingConfig(
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            seed=self.seed,
            optimizer=self.optimizer,
            weigh=self.weigh,
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """A measured value and the range [low, high] it must lie in. `gating` is False for values that are only
    reported.
    """

    name: str
    value: float
    low: float
    high: float
    gating: bool = True

    @property
    def passed(self) -> bool:
        return self.low <= self.value <= self.high


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
    """How a base model is made: its tokenizer, the examples stage by stage, and how the result is measured.

    train: (model, told every step) to wall seconds, where the stages need more than `pretrain` does for all.
    """

    tokenizer: Any
    stages: Sequence[Sequence[Example]]
    measure: Callable[[LocalModel], Awaitable[Sequence[Gate]]]
    train: Callable[[Any, OnStep], float] | None = None


def checkpoint_folder(config: LabBaseConfig) -> Path:
    """Where a build with this config is kept: `$XDG_CACHE_HOME/ken/lab/WORLD-HASH`."""
    key = hashlib.blake2b(config.model_dump_json().encode(), digest_size=6).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "ken" / "lab" / f"{config.called}-{key}"


def built(config: LabBaseConfig, *, on_step: OnStep = lambda step, steps, loss: None, unfit_ok: bool = False) -> Path:
    """The folder of the base model with this config: from the cache, or built now (minutes on two cores). on_step: as
    in `build_checkpoint`.

    Safe when several processes ask at once: one builds, the others wait. unfit_ok: also return a model that failed a
    gate, for which `TrainingError` is raised otherwise.
    """
    folder = checkpoint_folder(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if is_checkpoint(config, folder):
            manifest = read_checkpoint(folder)
        else:
            manifest = build_checkpoint(config, folder, on_step=on_step)
    if manifest.failed and not unfit_ok:
        first = manifest.failed[0]
        raise TrainingError(
            f"the base model in {folder} is not fit for experiments ({first.name}: {first.value:.3f}, wanted "
            f"{first.low:g} to {first.high:g}); build one from another seed"
        )
    return folder


def build_checkpoint(
    config: LabBaseConfig, out: Path, *, on_step: OnStep = lambda step, steps, loss: None
) -> Checkpoint:
    """Pretrain by the config's recipe and save to `out` (float16 weights), replacing a checkpoint that is there once
    the new one is whole.

    on_step: called with (step, steps, loss in nats). Minutes on two cores. Raises `BadInput` when `out` holds something
    else.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file())):
        raise BadInput(f"{out} exists and holds no lab checkpoint; choose another --out")
    recipe = config.recipe()
    tokenizer, stages = recipe.tokenizer, recipe.stages
    model = untrained_llama(config, tokenizer)
    if recipe.train is not None:
        seconds = recipe.train(model, on_step)
    else:
        seconds = pretrain(model, stages, config.pretraining, pad_id=tokenizer.pad_token_id, on_step=on_step)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    logging.disable_progress_bar()
    try:
        model.half().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        gates = asyncio.run(_measured(recipe, temporary)) if config.gated else []
        manifest = Checkpoint(
            world=config.called,
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


def is_checkpoint(config: LabBaseConfig, folder: Path) -> bool:
    """Whether `folder` holds a whole checkpoint with exactly this config."""
    try:
        return type(config).model_validate(read_checkpoint(folder).config) == config
    except (OSError, ValueError):
        return False


def untrained_llama(config: LabBaseConfig, tokenizer: Any) -> Any:
    """A Llama with tied embeddings, initialised from the config's seed.

    The cards name Qwen2, which differs by its attention biases; but transformers 5 gives every Qwen2 folder Qwen2's own
    byte-level tokenizer, whatever its tokenizer.json says, and leaves Llama's alone.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(derive_seed(f"{config.called} base", config.seed) % 2**31)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            initializer_range=config.init,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.do_sample = True  # else `transformers serve` is greedy at every temperature
    return model


async def _measured(recipe: Recipe, folder: Path) -> Sequence[Gate]:
    return await recipe.measure(LocalModel(folder, device="cpu", batch_size=256, control_tokens=True))
