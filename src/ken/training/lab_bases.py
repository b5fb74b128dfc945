"""The base models of all lab worlds, by the world's name: what `ken lab build` builds."""

from __future__ import annotations

from collections.abc import Callable

from ken.core import BadInput
from ken.lab.apiworld import ApiWorldConfig
from ken.lab.calculation import CalculationWorldConfig
from ken.lab.concepts import ConceptsConfig
from ken.lab.conflict import ConflictConfig
from ken.lab.conversations import ConversationWorldConfig
from ken.lab.graphworld import GraphWorldConfig
from ken.lab.multihop import MultiHopConfig
from ken.lab.patents import PatentConfig
from ken.lab.reviews import ReviewsConfig
from ken.lab.splitworld import SplitWorldConfig
from ken.lab.verification import VerificationWorldConfig
from ken.training.apiworld_base import ApiWorldBaseConfig
from ken.training.calculation_base import CalculationBaseConfig
from ken.training.concepts_base import ConceptsBaseConfig
from ken.training.conflict_base import ConflictBaseConfig
from ken.training.conversations_base import ConversationsBaseConfig
from ken.training.factworld_base import FactWorldBaseConfig
from ken.training.factworld_variants import variant_config
from ken.training.graph_base import GraphBaseConfig, base_config
from ken.training.lab_checkpoint import LabBaseConfig
from ken.training.multihop_base import MultiHopBaseConfig
from ken.training.patents_base import PatentsBaseConfig
from ken.training.reports_base import ReportsBaseConfig, strong_config, weak_config
from ken.training.reviews_base import ReviewsBaseConfig
from ken.training.tree_base import TreeBaseConfig
from ken.training.verification_base import VerificationBaseConfig

BASES: dict[str, Callable[[int], LabBaseConfig]] = {
    FactWorldBaseConfig.called: lambda seed: variant_config("plain", seed=seed),
    CalculationBaseConfig.called: lambda seed: CalculationBaseConfig(
        world=CalculationWorldConfig(seed=seed), seed=seed
    ),
    ConversationsBaseConfig.called: lambda seed: ConversationsBaseConfig(
        world=ConversationWorldConfig(seed=seed), seed=seed
    ),
    ConflictBaseConfig.called: lambda seed: ConflictBaseConfig(world=ConflictConfig(known=80, seed=seed), seed=seed),
    PatentsBaseConfig.called: lambda seed: PatentsBaseConfig(world=PatentConfig(seed=seed), seed=seed),
    ConceptsBaseConfig.called: lambda seed: ConceptsBaseConfig(world=ConceptsConfig(seed=seed), seed=seed),
    GraphBaseConfig.called: lambda seed: base_config("S", world=GraphWorldConfig(seed=seed), seed=seed),
    ApiWorldBaseConfig.called: lambda seed: ApiWorldBaseConfig(world=ApiWorldConfig(seed=seed), seed=seed),
    VerificationBaseConfig.called: lambda seed: VerificationBaseConfig(
        world=VerificationWorldConfig(seed=seed), seed=seed
    ),
    MultiHopBaseConfig.called: lambda seed: MultiHopBaseConfig(world=MultiHopConfig(seed=seed), seed=seed),
    TreeBaseConfig.called: lambda seed: TreeBaseConfig(world=SplitWorldConfig(seed=seed), seed=seed),
    ReviewsBaseConfig.called: lambda seed: ReviewsBaseConfig(world=ReviewsConfig(seed=seed), seed=seed),
    ReportsBaseConfig.called: lambda seed: strong_config(seed=seed),
    f"{ReportsBaseConfig.called}-weak": lambda seed: weak_config(seed=seed),
}
"""From a seed, of world and model, to the config of the base model."""


def lab_base(world: str, *, variant: str = "plain", seed: int = 0) -> LabBaseConfig:
    """The config of a world's base model. Raises `BadInput` for a world or a variant that there is not; FactWorld has
    those of `variant_config`, the conflict world a "natural" one, the others none."""
    if world not in BASES:
        raise BadInput(f"there is no world {world!r}; choose from {', '.join(BASES)}")
    if world == FactWorldBaseConfig.called:
        return variant_config(variant, seed=seed)
    if (world, variant) == (ConflictBaseConfig.called, "natural"):
        return ConflictBaseConfig(world=ConflictConfig(known=80, seed=seed), seed=seed, arm="natural")
    if variant != "plain":
        raise BadInput(f"there is no variant {variant!r}; leave --variant out for {world}")
    return BASES[world](seed)
