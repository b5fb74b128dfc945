"""Build the base model of FactWorld from its seed: pretrain, measure the gates, save."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from transformers.utils import logging

import ken
from ken.core import BadInput, TrainingError
from ken.core.frozen import Frozen
from ken.lab.factworld import FactWorld
from ken.models.local import LocalModel
from ken.training.factworld_base import (
    FactWorldBaseConfig,
    build_model,
    build_tokenizer,
)
from ken.training.factworld_examples import (
    pretraining_stages,
)
from ken.training.factworld_gates import Gate, measure_gates
from ken.training.pretraining import PretrainingConfig, pretrain

MANIFEST = "ken-lab.json"


class LabManifest(Frozen):
    """What a checkpoint was built from, and what its gates measured. Stands beside the weights as `ken-lab.json`."""

    config: FactWorldBaseConfig
    gates: tuple[Gate, ...]
    parameters: int
    examples: int
    tokens: int
    seconds: float
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates if gate.gating)


OnStep = Callable[[int, int, float], None]


def built(
    config: FactWorldBaseConfig, *, on_step: OnStep = lambda step, steps, loss: None, unfit_ok: bool = False
) -> Path:
    """The folder of the base model with this config: from the cache, or built now (minutes; on_step as in
    `build_factworld`).

    Safe when several processes ask at once: one builds while the others wait. unfit_ok: also return a model that failed
    a gate, for which `TrainingError` is raised otherwise.
    """
    folder = cache_folder(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if is_built(config, folder):
            manifest = read_manifest(folder)
        else:
            manifest = build_factworld(config, folder, on_step=on_step)
    if failed := [gate for gate in manifest.gates if gate.gating and not gate.passed]:
        first = failed[0]
        if not unfit_ok:
            raise TrainingError(
                f"the base model in {folder} is not fit for experiments ({first.name}: {first.value:.3f}, wanted "
                f"{first.low:g} to {first.high:g}); build one from another seed"
            )
    return folder


def is_built(config: FactWorldBaseConfig, folder: Path) -> bool:
    """Whether `folder` holds a whole checkpoint with exactly this config."""
    try:
        return read_manifest(folder).config == config
    except (OSError, ValueError):
        return False


def cache_folder(config: FactWorldBaseConfig) -> Path:
    """Where a build with this config is kept: `$XDG_CACHE_HOME/ken/lab/factworld-HASH`."""
    key = hashlib.blake2b(config.model_dump_json().encode(), digest_size=6).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "ken" / "lab" / f"factworld-{key}"


def build_factworld(
    config: FactWorldBaseConfig,
    out: Path,
    *,
    on_step: OnStep = lambda step, steps, loss: None,
) -> LabManifest:
    """Pretrain the base model and save it to `out` (float16 weights), replacing a checkpoint that is there once the new
    one is whole.

    on_step: called with (step, steps, loss in nats). Minutes on two cores. Raises `BadInput` when `out` holds something
    else.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file())):
        raise BadInput(f"{out} exists and holds no lab checkpoint; choose another --out")
    world = FactWorld(config.world)
    tokenizer = build_tokenizer(world, generating=config.generating > 0)
    model = build_model(config, tokenizer)
    stages = pretraining_stages(config, world, tokenizer)
    settings = PretrainingConfig(
        batch=config.batch, lr=config.lr, weight_decay=config.weight_decay, seed=config.seed, optimizer=config.optimizer
    )
    seconds = pretrain(model, stages, settings, pad_id=tokenizer.pad_token_id, on_step=on_step)

    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    logging.disable_progress_bar()
    try:
        model.half().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        trained = LocalModel(temporary, device="cpu", batch_size=256, control_tokens=True)
        gates = asyncio.run(measure_gates(trained, world, introspective=config.generating > 0)) if config.gated else []
        manifest = LabManifest(
            config=config,
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


def read_manifest(folder: Path) -> LabManifest:
    """The manifest of a checkpoint."""
    return LabManifest.model_validate_json((folder / MANIFEST).read_bytes())
