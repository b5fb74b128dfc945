"""Do two judges agree more than by chance?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """κ = (p_o − p_e) / (1 − p_e): observed agreement of two judges on the same items, beyond what their habits alone
    would give (Cohen 1960). In [−1, 1]; nan where both always say the same one thing, since then nothing is left to
    agree about.

    Raises `ValueError` when there are no items, or not the same number from both.

    >>> cohen_kappa([True, True, False, False], [True, True, False, True])
    0.5
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} verdicts against {len(second)}; give one of each judge for every item")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[label] * theirs[label] for label in ours) / n**2
    return math.nan if chance == 1 else (observed - chance) / (1 - chance)
