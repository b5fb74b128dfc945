"""Generated worlds with known truth. No torch, no models, no files: a world is a value, rendered on request."""

from ken.lab.factworld import Fact, FactWorld, FactWorldConfig

__all__ = ["Fact", "FactWorld", "FactWorldConfig"]
