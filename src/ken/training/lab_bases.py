"""The base models of all lab worlds, by name: what `ken lab build` builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ken.core import BadInput
from ken.lab.calculation import CalculationWorldConfig
from ken.lab.conversations import ConversationWorldConfig
from ken.lab.multihop import MultiHopConfig
from ken.training import calculation_base, conversations_base, factworld_build, multihop_base
from ken.training.calculation_base import CalculationBaseConfig
from ken.training.conversations_base import ConversationsBaseConfig
from ken.training.factworld_variants import variant_config
from ken.training.lab_checkpoint import LabBaseConfig, Recipe
from ken.training.multihop_base import MultiHopBaseConfig


class LabBase(NamedTuple):
    """The base model of one world: its config for a seed, of world and model, and how a config is made a model."""

    config: Callable[[int], LabBaseConfig]
    recipe: Callable[[Any], Recipe]


BASES = {
    calculation_base.NAME: LabBase(
        lambda seed: CalculationBaseConfig(world=CalculationWorldConfig(seed=seed), seed=seed), calculation_base.recipe
    ),
    conversations_base.NAME: LabBase(
        lambda seed: ConversationsBaseConfig(world=ConversationWorldConfig(seed=seed), seed=seed),
        conversations_base.recipe,
    ),
    multihop_base.NAME: LabBase(
        lambda seed: MultiHopBaseConfig(world=MultiHopConfig(seed=seed), seed=seed), multihop_base.recipe
    ),
}


def lab_base(world: str, *, variant: str = "plain", seed: int = 0) -> tuple[LabBaseConfig, Callable[[], Recipe]]:
    """Config and recipe of a world's base model. Raises `BadInput` for a world or a variant that there is not; only
    FactWorld has variants (see `variant_config`)."""
    if world == factworld_build.NAME:
        config = variant_config(variant, seed=seed)
        return config, lambda: factworld_build.recipe(config)
    if world not in BASES:
        raise BadInput(f"there is no world {world!r}; choose from {', '.join([factworld_build.NAME, *BASES])}")
    if variant != "plain":
        raise BadInput(f"only {factworld_build.NAME} has variants; leave --variant out for {world}")
    base = BASES[world]
    other = base.config(seed)
    return other, lambda: base.recipe(other)
