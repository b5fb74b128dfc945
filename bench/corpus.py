"""A seeded corpus of short documents for benchmarks, as many as asked for, with word frequencies like text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ken.core.seeding import derive_seed
from ken.lab.names import invented_names

VOCABULARY = 50_000
EXPONENT = 1.0  # Zipf's law: the r-th most frequent word has a share in proportion to 1/r


def vocabulary(seed: int = 0) -> np.ndarray:
    """Invented words, most frequent first; shape (VOCABULARY,)."""
    names = invented_names(np.random.default_rng(derive_seed("bench words", seed)))
    return np.array([next(names).lower() for _ in range(VOCABULARY)])


def documents(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """`count` documents {"id", "title", "text"} with titles of 2 words and texts of 30 to 60 in sentences."""
    words, shares = vocabulary(seed), _shares()
    rng = np.random.default_rng(derive_seed("bench documents", seed))
    for first in range(0, count, 10_000):
        size = min(10_000, count - first)
        lengths = rng.integers(30, 61, size)
        drawn = words[rng.choice(VOCABULARY, int(lengths.sum()), p=shares)]
        titles = words[rng.integers(0, VOCABULARY, (size, 2))]
        end = 0
        for number, (length, title) in enumerate(zip(lengths.tolist(), titles, strict=True), start=first):
            start, end = end, end + length
            sentences = (" ".join(drawn[i : min(i + 12, end)]).capitalize() for i in range(start, end, 12))
            yield {"id": f"doc-{number}", "title": " ".join(title).title(), "text": ". ".join(sentences) + "."}


def queries(count: int, seed: int = 0) -> list[str]:
    """`count` queries of 4 words drawn like those of the texts and 2 rare ones."""
    words, shares = vocabulary(seed), _shares()
    rng = np.random.default_rng(derive_seed("bench queries", seed))
    common = words[rng.choice(VOCABULARY, (count, 4), p=shares)]
    rare = words[rng.integers(1000, VOCABULARY, (count, 2))]
    return [" ".join(row) for row in np.concatenate([common, rare], axis=1)]


def write(path: Path, count: int, seed: int = 0) -> None:
    """Write the corpus as jsonl."""
    with path.open("w", encoding="utf-8") as file:
        for document in documents(count, seed):
            file.write(json.dumps(document) + "\n")


def _shares() -> np.ndarray:
    weights = 1.0 / np.arange(1, VOCABULARY + 1) ** EXPONENT
    return weights / weights.sum()
