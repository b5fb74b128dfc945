"""From what rollouts earned to how much better than expected that was. NumPy only; nothing here knows of tokens' ids.

Rewards are flat, float [N], one per rollout; `groups` (or `keys`) says for each which group it belongs to, by anything
hashable. All functions return float64 and raise `BadInput` for lengths that differ, no rewards at all, or a reward that
is not finite.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ken.core import BadInput

Floats = NDArray[np.float64]


def group_normalised(rewards: ArrayLike, groups: Sequence[Hashable], *, eps: float = 1e-6) -> Floats:
    """(r − mean of the group) / (standard deviation of the group + eps), with n − 1 below the line: GRPO.

    A group of one keeps mean 0 and standard deviation 1. Source: DeepSeekMath (arXiv 2402.03300) as in veRL and
    Search-R1 (card 00, Algorithms).
    """
    values, index, sizes = _grouped(rewards, groups)
    single = sizes == 1
    mean = _means(values, index, sizes)
    squares = np.bincount(index, (values - mean[index]) ** 2)
    deviation = np.sqrt(squares / np.maximum(sizes - 1, 1))
    mean, deviation = np.where(single, 0.0, mean), np.where(single, 1.0, deviation)
    return _ratio(values - mean[index], deviation[index] + eps)


def mean_centred(rewards: ArrayLike, groups: Sequence[Hashable]) -> Floats:
    """r − mean of the group, without division: Dr. GRPO (arXiv 2503.20783). A group of one gets 0."""
    values, index, sizes = _grouped(rewards, groups)
    centred: Floats = values - _means(values, index, sizes)[index]
    return centred


def leave_one_out(rewards: ArrayLike, groups: Sequence[Hashable]) -> Floats:
    """r − mean of the *other* rewards of the group: RLOO (arXiv 2402.14740). Equals n / (n − 1) · `mean_centred`.

    Raises `BadInput` for a group of one, which has no others.
    """
    values, index, sizes = _grouped(rewards, groups)
    if (sizes == 1).any():
        raise BadInput("leave-one-out compares a rollout with the others of its group; use a group size of at least 2")
    n = sizes[index]
    left: Floats = (values - _means(values, index, sizes)[index]) * n / (n - 1)
    return left


def whitened(rewards: ArrayLike, keys: Sequence[Hashable] | None = None, *, eps: float = 1e-8) -> Floats:
    """(r − mean) / (standard deviation + eps) over the whole batch, or over the rollouts that share a key; n below the
    line: Reinforce++ (arXiv 2501.03262). Rollouts that are alone or all alike get 0.
    """
    values, index, sizes = _grouped(rewards, [0] * np.size(rewards) if keys is None else keys)
    centred = values - _means(values, index, sizes)[index]
    deviation = np.sqrt(np.bincount(index, centred**2) / sizes)
    return _ratio(centred, deviation[index] + eps)


@dataclass(frozen=True, slots=True)
class ZeroVariance:
    """Groups whose rollouts all earned the same, and so teach nothing. share: of all groups, in [0, 1]. groups: which,
    by their key, in order of appearance."""

    share: float
    groups: tuple[Hashable, ...]


def zero_variance(rewards: ArrayLike, groups: Sequence[Hashable], *, tolerance: float = 1e-9) -> ZeroVariance:
    """Which groups have no variance: the largest reward exceeds the smallest by at most `tolerance`. A group of one has
    none."""
    values, index, sizes = _grouped(rewards, groups)
    low, high = np.full(sizes.size, np.inf), np.full(sizes.size, -np.inf)
    np.minimum.at(low, index, values)
    np.maximum.at(high, index, values)
    flat = high - low <= tolerance
    return ZeroVariance(
        float(flat.mean()), tuple(key for key, is_flat in zip(_distinct(groups), flat, strict=True) if is_flat)
    )


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    turns: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438): advantages and returns, float [B, T].

    rewards, values: float [B, T]; the value of a position is what is expected before its token is written. mask: bool
    [B, T], the positions that count; the recursion passes over the others as if they were not there, and both results
    are 0 there. With observations in the mask this is Search-R1, without them the variant that masks the recursion too
    (card 00, Pitfalls). turns: int [B, T]; the recursion starts afresh wherever the number changes between positions
    that count, so that every turn is a sample of its own (R3-RAG, card 40).

    Raises `BadInput` for shapes that differ, gamma or lam outside [0, 1], numbers that are not finite, and a reward at
    a position that does not count, where it would be lost.
    """
    counts = np.asarray(mask, dtype=bool)
    earned, expected = np.asarray(rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    turn = np.zeros(counts.shape, dtype=np.int64) if turns is None else np.asarray(turns)
    if counts.ndim != 2 or not earned.shape == expected.shape == turn.shape == counts.shape:
        raise BadInput(
            f"rewards {earned.shape}, values {expected.shape}, turns {turn.shape} and mask {counts.shape} must have "
            "one shape, rollouts × positions"
        )
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise BadInput(f"gamma is {gamma} and lam is {lam}; both must lie in [0, 1]")
    if not (np.isfinite(earned).all() and np.isfinite(expected[counts]).all()):
        raise BadInput("a reward or a value is not finite; look for a division by zero in the reward or the critic")
    if earned[~counts].any():
        raise BadInput("there is a reward at a position that the mask leaves out; put it at one that counts")
    advantages = np.zeros_like(expected)
    later = np.zeros(len(counts))  # advantage, value and turn of the next position that counts
    next_value = np.zeros(len(counts))
    next_turn = np.zeros(len(counts), dtype=turn.dtype)
    for t in reversed(range(counts.shape[1])):
        here, same = counts[:, t], turn[:, t] == next_turn  # beyond the end both are 0, whichever turn it is
        value = np.where(here, expected[:, t], 0.0)
        surprise = earned[:, t] + gamma * next_value * same - value
        advantage = surprise + gamma * lam * later * same
        advantages[:, t] = np.where(here, advantage, 0.0)
        later, next_value = np.where(here, advantage, later), np.where(here, value, next_value)
        next_turn = np.where(here, turn[:, t], next_turn)
    return advantages, np.where(counts, advantages + np.where(counts, expected, 0.0), 0.0)


def whiten_masked(advantages: ArrayLike, mask: ArrayLike, *, eps: float = 1e-8) -> Floats:
    """(A − mean) / √(variance + eps) over the positions of the mask, 0 elsewhere; n − 1 below the line, as in veRL.

    advantages: float [B, T]. mask: bool [B, T]. Fewer than two positions give 0. Raises `BadInput` for shapes that
    differ or a number that is not finite.
    """
    given, counts = np.asarray(advantages, dtype=np.float64), np.asarray(mask, dtype=bool)
    if given.shape != counts.shape:
        raise BadInput(f"advantages {given.shape} and mask {counts.shape} must have one shape")
    chosen = given[counts]
    if not np.isfinite(chosen).all():
        raise BadInput("an advantage is not finite; look for a division by zero in the reward or the critic")
    whole = np.zeros_like(given)
    if chosen.size > 1:
        whole[counts] = (chosen - chosen.mean()) / np.sqrt(chosen.var(ddof=1) + eps)
    return whole


def _grouped(rewards: ArrayLike, groups: Sequence[Hashable]) -> tuple[Floats, NDArray[np.intp], NDArray[np.int64]]:
    """Rewards [N], the number of each one's group [N] (in order of appearance), and the size of each group [G]."""
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 1 or values.size != len(groups):
        raise BadInput(f"{values.shape} rewards and {len(groups)} group keys do not match; give one key per reward")
    if not values.size:
        raise BadInput("there are no rewards; roll out at least one task")
    if not np.isfinite(values).all():
        raise BadInput("a reward is not finite; look for a division by zero in the reward")
    numbers = {key: number for number, key in enumerate(_distinct(groups))}
    index = np.array([numbers[key] for key in groups], dtype=np.intp)
    return values, index, np.bincount(index)


def _distinct(groups: Sequence[Hashable]) -> list[Hashable]:
    return list(dict.fromkeys(groups))


def _means(values: Floats, index: NDArray[np.intp], sizes: NDArray[np.int64]) -> Floats:
    means: Floats = np.bincount(index, values) / sizes
    return means


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, 0 where both vanish (eps = 0)."""
    result: Floats = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result
