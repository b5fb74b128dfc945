"""The base models of all lab worlds, by the world's name: what `ken lab build` builds."""

from __future__ import annotations

from collections.abc import Callable

from ken.core import BadInput
from ken.lab.calculation import CalculationWorldConfig
from ken.lab.conversations import ConversationWorldConfig
from ken.lab.multihop import MultiHopConfig
from ken.lab.patents import PatentConfig
from ken.lab.verification import VerificationWorldConfig
from ken.training.calculation_base import CalculationBaseConfig
from ken.training.conversations_base import ConversationsBaseConfig
from ken.training.factworld_base import FactWorldBaseConfig
from ken.training.factworld_variants import variant_config
from ken.training.lab_checkpoint import LabBaseConfig
from ken.training.multihop_base import MultiHopBaseConfig
from ken.training.patents_base import PatentsBaseConfig
from ken.training.verification_base import VerificationBaseConfig

BASES: dict[str, Callable[[int], LabBaseConfig]] = {
    FactWorldBaseConfig.called: lambda seed: variant_config("plain", seed=seed),
    CalculationBaseConfig.called: lambda seed: CalculationBaseConfig(
        world=CalculationWorldConfig(seed=seed), seed=seed
    ),
    ConversationsBaseConfig.called: lambda seed: ConversationsBaseConfig(
        world=ConversationWorldConfig(seed=seed), seed=seed
    ),
    PatentsBaseConfig.called: lambda seed: PatentsBaseConfig(world=PatentConfig(seed=seed), seed=seed),
    VerificationBaseConfig.called: lambda seed: VerificationBaseConfig(
        world=VerificationWorldConfig(seed=seed), seed=seed
    ),
    MultiHopBaseConfig.called: lambda seed: MultiHopBaseConfig(world=MultiHopConfig(seed=seed), seed=seed),
}
"""From a seed, of world and model, to the config of the base model."""


def lab_base(world: str, *, variant: str = "plain", seed: int = 0) -> LabBaseConfig:
    """The config of a world's base model. Raises `BadInput` for a world or a variant that there is not; only FactWorld
    has variants (see `variant_config`)."""
    if world not in BASES:
        raise BadInput(f"there is no world {world!r}; choose from {', '.join(BASES)}")
    if world == FactWorldBaseConfig.called:
        return variant_config(variant, seed=seed)
    if variant != "plain":
        raise BadInput(f"only {FactWorldBaseConfig.called} has variants; leave --variant out for {world}")
    return BASES[world](seed)
