"""Which questions next: those whose estimated accuracy is near one half teach most (Wiki-R1, sampling curriculum)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ken.core import BadInput

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.intp]


def gaussian_weights(estimates: Floats, sigma: float = 0.15) -> Floats:
    """exp(−(Â − ½)² / (2σ²)): 1 at ½, 0.0039 at 0 and 1 for σ = 0.15. Same shape. Raises `BadInput` for σ ≤ 0."""
    weights: Floats = np.exp(_log_weights(estimates, sigma))
    return weights


class Sampler(Protocol):
    """Chooses `count` ≤ N different places in 0 … N−1, given the estimated accuracies (N,) and which of them were
    observed (N,).
    """

    def __call__(self, estimates: Floats, observed: Bools, count: int, rng: np.random.Generator) -> Places: ...


@dataclass(frozen=True, slots=True)
class GaussianAccuracySampler:
    """Without replacement, each next one with probability ∝ `gaussian_weights` of those left. σ > 0."""

    sigma: float = 0.15

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)

    def __call__(self, estimates: Floats, observed: Bools, count: int, rng: np.random.Generator) -> Places:
        return _without_replacement(_log_weights(estimates, self.sigma), count, rng)


@dataclass(frozen=True, slots=True)
class UniformSampler:
    """All questions alike, without replacement: no sampling curriculum."""

    def __call__(self, estimates: Floats, observed: Bools, count: int, rng: np.random.Generator) -> Places:
        return rng.permutation(len(estimates))[:count]


@dataclass(frozen=True, slots=True)
class ObservedOnlySampler:
    """Trusts observations only, for the ablation: Gaussian among the questions that were tried, blindly among the rest.

    A share `explore` in [0, 1] of every draw (rounded) is uniform over questions never tried, more where too few were
    tried to fill the draw, less where too few are left.
    """

    sigma: float = 0.15
    explore: float = 0.5

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)
        if not 0 <= self.explore <= 1:
            raise BadInput(f"explore is {self.explore}; the share of questions never tried must lie in [0, 1]")

    def __call__(self, estimates: Floats, observed: Bools, count: int, rng: np.random.Generator) -> Places:
        tried, untried = np.flatnonzero(observed), np.flatnonzero(~observed)
        new = min(untried.size, max(round(count * self.explore), count - tried.size))
        known = _without_replacement(_log_weights(estimates[tried], self.sigma), count - new, rng)
        return np.concatenate([tried[known], rng.permutation(untried)[:new]])


def _without_replacement(log_weights: Floats, count: int, rng: np.random.Generator) -> Places:
    # The largest of log-weight + Gumbel noise: the same distribution as drawing one after another, without underflow.
    return np.argsort(-(log_weights + rng.gumbel(size=log_weights.size)), kind="stable")[:count]


def _log_weights(estimates: Floats, sigma: float) -> Floats:
    _check_sigma(sigma)
    return -((np.asarray(estimates, dtype=np.float64) - 0.5) ** 2) / (2 * sigma**2)


def _check_sigma(sigma: float) -> None:
    if not sigma > 0:
        raise BadInput(f"sigma is {sigma}; the width of the accuracies sampled must be above 0")
