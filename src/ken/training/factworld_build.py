"""Build the base model of FactWorld from its seed, or take it from the cache."""

from __future__ import annotations

from pathlib import Path

from ken.lab.factworld import FactWorld
from ken.training.factworld_base import FactWorldBaseConfig, build_tokenizer
from ken.training.factworld_examples import pretraining_stages
from ken.training.factworld_gates import measure_gates
from ken.training.lab_checkpoint import OnStep, Recipe, cached_checkpoint

NAME = "factworld"


def recipe(config: FactWorldBaseConfig) -> Recipe:
    """How the base model is made and measured."""
    world = FactWorld(config.world)
    introspective = config.generating > 0
    tokenizer = build_tokenizer(world, generating=introspective)
    return Recipe(
        tokenizer,
        pretraining_stages(config, world, tokenizer),
        lambda model: measure_gates(model, world, introspective=introspective),
    )


def built(
    config: FactWorldBaseConfig, *, on_step: OnStep = lambda step, steps, loss: None, unfit_ok: bool = False
) -> Path:
    """The folder of the base model with this config; see `cached_checkpoint`."""
    return cached_checkpoint(NAME, config, lambda: recipe(config), on_step=on_step, unfit_ok=unfit_ok)
