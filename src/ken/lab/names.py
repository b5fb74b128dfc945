"""Invented names: pronounceable, distinct, and in no real corpus."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ei", "ou"]
_CODAS = ["", "", "", "l", "n", "r", "s", "m"]


def invented_names(rng: np.random.Generator) -> Iterator[str]:
    """Endless distinct capitalised names of two or three syllables, in an order fixed by `rng`."""
    seen: set[str] = set()
    while True:
        syllables = int(rng.integers(2, 4))
        name = "".join(str(rng.choice(part)) for _ in range(syllables) for part in (_ONSETS, _VOWELS)) + str(
            rng.choice(_CODAS)
        )
        if name not in seen:
            seen.add(name)
            yield name.capitalize()
