"""Search by character n-grams: TF-IDF and cosine, in memory (Cavnar & Trenkle 1994; Salton & Buckley 1988).

It needs neither stemming nor an index on disk and forgives spelling, which BM25 does not; for corpora that fit in
memory, and as a second engine to test whether what was learnt with one search engine holds with another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from ken.core import BadInput, Passage
from ken.sources.search.batching import BatchingRetriever
from ken.sources.search.bm25 import TITLE_WEIGHT
from ken.sources.search.unicode import well_formed


class NgramRetriever(BatchingRetriever):
    """A `Retriever` over passages in memory. Weights are (1 + log tf) · idf, of unit length per passage; an n-gram in
    the title counts `TITLE_WEIGHT` times, as in our BM25.

    sizes: the lengths of the n-grams, which do not cross word boundaries (a space marks these). Raises `BadInput`
    without passages or for sizes below 1.
    """

    def __init__(self, passages: Iterable[Passage], *, sizes: tuple[int, ...] = (3, 4), name: str = "n-grams") -> None:
        super().__init__(name)
        self.passages = list(passages)
        if not self.passages or not sizes or min(sizes) < 1:
            raise BadInput("an n-gram index needs at least one passage, and sizes of at least 1")
        self._sizes = sizes
        counts = [self._count(passage) for passage in self.passages]
        frequency = Counter(gram for count in counts for gram in count)
        total = len(counts)
        self._idf = {gram: math.log((1 + total) / (1 + n)) + 1.0 for gram, n in frequency.items()}
        postings: dict[str, tuple[list[int], list[float]]] = {gram: ([], []) for gram in frequency}
        for place, count in enumerate(counts):
            for gram, weight in self._weigh(count).items():
                postings[gram][0].append(place)
                postings[gram][1].append(weight)
        self._postings = {gram: (np.array(places), np.array(weights)) for gram, (places, weights) in postings.items()}

    async def _search_batch(self, queries: list[str], k: int) -> list[list[Passage]]:
        return [self._best(query, k) for query in queries]

    def _best(self, query: str, k: int) -> list[Passage]:
        weights = self._weigh(Counter(gram for gram in self._grams(query) if gram in self._idf))
        if not weights:
            return []
        found = [self._postings[gram] for gram in weights]
        places = np.concatenate([places for places, _ in found])
        parts = np.concatenate([values * weight for (_, values), weight in zip(found, weights.values(), strict=True)])
        scores = np.bincount(places, weights=parts, minlength=len(self.passages))
        order = np.argsort(-scores, kind="stable")[:k]
        return [self.passages[int(i)].model_copy(update={"score": float(scores[i])}) for i in order if scores[i] > 0]

    def _count(self, passage: Passage) -> Counter[str]:
        count: Counter[str] = Counter(self._grams(passage.text))
        for gram in self._grams(passage.title):
            count[gram] += TITLE_WEIGHT  # type: ignore[assignment]
        return count

    def _weigh(self, count: Counter[str]) -> dict[str, float]:
        weights = {gram: (1.0 + math.log(n)) * self._idf[gram] for gram, n in count.items()}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {gram: weight / length for gram, weight in weights.items()}

    def _grams(self, text: str) -> list[str]:
        words = [f" {word} " for word in "".join(c if c.isalnum() else " " for c in well_formed(text).lower()).split()]
        return [gram for word in words for gram in self._cut(word)]

    def _cut(self, word: str) -> list[str]:
        """The n-grams of a word; the word itself when it is shorter than all of them."""
        return [word[i : i + n] for n in self._sizes for i in range(len(word) - n + 1)] or [word]
