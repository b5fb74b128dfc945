"""What prunes a walk without a language model: words in common, or nearness in meaning (ToG, arXiv 2307.07697, section
3.3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ken.sources.search.okapi import okapi

if TYPE_CHECKING:
    from ken.sources.search.vectors import Encoder

DEFAULT_ENCODER = "sentence-transformers/msmarco-distilbert-base-tas-b"


class Scorer(Protocol):
    """Scores short texts by how well they fit a question."""

    def __call__(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score ≥ 0 a text, in order."""
        ...


def by_words(question: str, texts: Sequence[str]) -> list[float]:
    """BM25 over words between white space."""
    return okapi(question, texts)


class ByMeaning:
    """The inner product of sentence vectors, 0 where it is negative; each text is encoded once.

    encoder: a sentence-transformers model by name or folder, or a loaded one. Raises `Unsupported` on the first use
    when sentence-transformers is not installed, `BadInput` for a model that cannot be loaded.
    """

    def __init__(self, encoder: str | Encoder = DEFAULT_ENCODER) -> None:
        from ken.sources.search.vectors import Encoder

        self._encoder = Encoder(encoder) if isinstance(encoder, str) else encoder
        self._vectors: dict[tuple[bool, str], list[float]] = {}

    def __call__(self, question: str, texts: Sequence[str]) -> list[float]:
        asked = self._of([question], query=True)[0]
        return [
            max(0.0, sum(a * b for a, b in zip(asked, vector, strict=True))) for vector in self._of(texts, query=False)
        ]

    def _of(self, texts: Sequence[str], *, query: bool) -> list[list[float]]:
        missing = list(dict.fromkeys(text for text in texts if (query, text) not in self._vectors))
        if missing:
            found = self._encoder.queries(missing) if query else self._encoder.documents([("", t) for t in missing])
            self._vectors.update(((query, text), row) for text, row in zip(missing, found.tolist(), strict=True))
        return [self._vectors[query, text] for text in texts]
