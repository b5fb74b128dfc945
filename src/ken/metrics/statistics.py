"""How sure is a number? Bootstrap intervals over questions, the Wilson interval of a share, mean and spread over seeds.

Intervals are two-sided at `level` in (0, 1). Bootstraps resample questions with replacement and use the percentile
method (Efron & Tibshirani 1993, chapter 13). The same seed gives the same interval; memory stays bounded however many
questions and resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_BLOCK = 1 << 20  # resampled rows held at once: about 16 MB of indices and values


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, the value on the data itself, with its interval: low ≤ high, `level` the nominal coverage."""

    low: float
    high: float
    level: float
    estimate: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (n − 1 below the line) over n runs; `std` is None for a single run."""

    mean: float
    std: float | None
    n: int


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; nan without any value. Truth values count as 0 and 1.

    >>> mean([True, False, True, True]), mean([])
    (0.75, nan)
    """
    items = [float(value) for value in values]
    return math.fsum(items) / len(items) if items else math.nan


def bootstrap(
    statistic: Callable[[Indices], Floats], n: int, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of any statistic of n questions.

    statistic: takes row indices of shape (blocks, n), each row a resample, and returns one value per row, shape
        (blocks,). To compare two arms on the same questions (a paired bootstrap) let it return their difference.
    Raises `ValueError` when n or resamples is below 1, when level is outside (0, 1), or when the statistic is not
    finite.
    """
    if n < 1:
        raise ValueError("there are no values to resample; pass at least one")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")
    _check_level(level)
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // n)
    blocks = [
        statistic(generator.integers(0, n, size=(min(rows, resamples - start), n)))
        for start in range(0, resamples, rows)
    ]
    estimate = float(statistic(np.arange(n, dtype=np.intp)[None, :])[0])
    values = np.concatenate(blocks)
    if not (np.isfinite(values).all() and math.isfinite(estimate)):
        raise ValueError("the statistic is not a finite number on some resample; give it a value there")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, estimate)


def bootstrap_mean(
    values: Sequence[float] | Floats, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean of `values`, one per question. `ValueError` if empty or not finite."""
    data = _finite(values)
    return bootstrap(lambda rows: data[rows].mean(axis=1), data.size, level=level, resamples=resamples, seed=seed)


def bootstrap_difference(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Paired bootstrap interval of mean(first) − mean(second); entry i of both belongs to question i.

    Source: Efron 1979; for comparing systems, Koehn 2004. Raises `ValueError` when the two differ in length, are
    empty, or hold a number that is not finite.
    """
    a, b = _finite(first), _finite(second)
    if a.size != b.size:
        raise ValueError(f"{a.size} values against {b.size}; a paired difference needs one of each per question")
    return bootstrap_mean(a - b, level=level, resamples=resamples, seed=seed)


def stratified_bootstrap(
    strata: Sequence[Sequence[float] | Floats],
    weights: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of Σ weight · mean over strata, whose values are resampled within each: for macro
    means, and for designs that fix how many there are of each kind (Efron & Tibshirani 1993, chapter 8).

    Raises `ValueError` for a stratum that is empty or not finite, or another number of weights than of strata.
    """
    if len(strata) != len(weights) or not strata:
        raise ValueError(f"{len(weights)} weights for {len(strata)} strata; give one for each")
    _check_level(level)
    generator = np.random.default_rng(seed)
    total, estimate = np.zeros(resamples), 0.0
    for values, weight in zip(strata, weights, strict=True):
        data = _finite(values)
        rows = max(1, _BLOCK // data.size)
        for start in range(0, resamples, rows):
            drawn = generator.integers(0, data.size, size=(min(rows, resamples - start), data.size))
            total[start : start + rows] += weight * data[drawn].mean(axis=1)
        estimate += weight * float(data.mean())
    low, high = np.quantile(total, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, estimate)


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson score interval of a share `successes` / n (Wilson 1927, without continuity correction). Lies in [0, 1].

    Raises `ValueError` when n < 1, when successes is outside 0…n, or when level is outside (0, 1).
    """
    if n < 1:
        raise ValueError("there are no trials; pass at least one")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials; successes must be between 0 and {n}")
    _check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The exact bounds at the ends are 0 and 1; rounding must not leave the estimate outside its own interval.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return Interval(low, high, level, p)


def over_seeds(values: Sequence[float] | Floats) -> Spread:
    """Mean and sample standard deviation of one number over runs that differ only in seed. `ValueError` if empty."""
    data = _finite(values)
    return Spread(float(data.mean()), float(data.std(ddof=1)) if data.size > 1 else None, data.size)


def _finite(values: Sequence[float] | Floats) -> Floats:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1:
        raise ValueError(f"expected a flat list of numbers, found an array of shape {data.shape}")
    if not data.size:
        raise ValueError("there are no values; pass at least one")
    if not np.isfinite(data).all():
        raise ValueError("the values hold a nan or an infinity; drop or replace it")
    return data


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95")
