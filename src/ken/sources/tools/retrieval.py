"""Retrieval of tools: which of many tools a question may need (card 49, Stage 2).

A tool is found by its document (name and description), by vectors of both, or by what similar questions needed before.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ken.core import BadInput, Passage

if TYPE_CHECKING:
    from ken.sources.search.vectors import Encoder

Floats = NDArray[np.float32]


class ToolRetriever(ABC):
    """Ranks tools for a question."""

    name: str

    @abstractmethod
    def rank_many(self, queries: Sequence[str], k: int) -> list[list[str]]:
        """The names of at most `k` ≥ 1 tools for each question, best first; a tool that nothing speaks for may be left
        out."""

    def rank(self, query: str, k: int) -> list[str]:
        """Those for one question."""
        return self.rank_many([query], k)[0]


class Bm25Tools(ToolRetriever):
    """BM25 over the tools' documents (`ken.sources.search`). documents: text by tool. Raises `BadInput` for none."""

    def __init__(self, documents: Mapping[str, str], *, tokenizer: str = "english") -> None:
        from ken.sources.search.index import Index

        self.name = "bm25"
        _checked(documents)
        self._folder = TemporaryDirectory(prefix="ken-tools-")
        passages = [Passage(id=name, text=text) for name, text in documents.items()]
        self._index = Index.build(passages, Path(self._folder.name) / "index", tokenizer=tokenizer)

    def rank_many(self, queries: Sequence[str], k: int) -> list[list[str]]:
        asked = [query for query in queries if query.strip()]
        found = iter(self._index.search_many(asked, k) if asked else [])
        return [[passage.document_id for passage in next(found)] if query.strip() else [] for query in queries]


class DenseTools(ToolRetriever):
    """Nearest by vectors. adapter: a matrix of shape (dimension, dimension) by which vectors of questions are
    multiplied first (`ken.training.tool_adapter` learns one). Raises `BadInput` for no documents."""

    def __init__(self, documents: Mapping[str, str], encoder: Encoder, *, adapter: Floats | None = None) -> None:
        self.name = "dense" if adapter is None else "adapter"
        self.tools = _checked(documents)
        self.encoder, self.adapter = encoder, adapter
        self.vectors: Floats = encoder.documents([("", text) for text in documents.values()])

    def rank_many(self, queries: Sequence[str], k: int) -> list[list[str]]:
        vectors = self.encoder.queries(queries)
        return self.rank_vectors(vectors, k)

    def rank_vectors(self, vectors: Floats, k: int) -> list[list[str]]:
        """The same for questions whose vectors are known, shape (questions, dimension)."""
        adapted = vectors if self.adapter is None else vectors @ self.adapter
        scores = adapted @ self.vectors.T
        return [[self.tools[i] for i in np.argsort(-row, kind="stable")[:k]] for row in scores]


class NeighbourTools(ToolRetriever):
    """What the most similar questions of the past needed: a vote of the `neighbours` nearest over their tools, each
    weighted by its similarity to the power of `power`. (Collaborative, and the floor for it: card 49 measures 10 and 4
    on ToolLens, by tf-idf.)

    needed: the tools of each question. Raises `BadInput` for no questions, or unequal numbers.
    """

    def __init__(
        self, questions: Sequence[str], needed: Sequence[Collection[str]], *, neighbours: int = 10, power: float = 4.0
    ) -> None:
        if not questions or len(questions) != len(needed):
            raise BadInput(
                f"{len(questions)} questions and {len(needed)} sets of tools; give one set for each question"
            )
        self.name = "neighbours"
        self.neighbours, self.power = neighbours, power
        self.needed = [sorted(tools) for tools in needed]
        counts = [Counter(_words(question)) for question in questions]
        frequency = Counter(word for count in counts for word in count)
        self._idf = {word: float(np.log(1 + len(counts) / of)) for word, of in frequency.items()}
        postings: dict[str, list[tuple[int, float]]] = {}
        for place, count in enumerate(counts):
            for word, weight in self._weighted(count).items():
                postings.setdefault(word, []).append((place, weight))
        self._postings = {
            word: (np.array([p for p, _ in of]), np.array([w for _, w in of])) for word, of in postings.items()
        }

    def rank_many(self, queries: Sequence[str], k: int) -> list[list[str]]:
        return [self._voted(self._similarity(query), k) for query in queries]

    def _similarity(self, query: str) -> NDArray[np.float64]:
        """The cosine with every question of the past."""
        total = np.zeros(len(self.needed))
        for word, weight in self._weighted(Counter(_words(query))).items():
            if word in self._postings:
                places, weights = self._postings[word]
                total[places] += weight * weights
        return total

    def _voted(self, similarity: NDArray[np.float64], k: int) -> list[str]:
        votes: dict[str, float] = {}
        for place in np.argsort(-similarity, kind="stable")[: self.neighbours]:
            if similarity[place] > 0:
                for tool in self.needed[place]:
                    votes[tool] = votes.get(tool, 0.0) + float(similarity[place]) ** self.power
        return sorted(votes, key=lambda tool: (-votes[tool], tool))[:k]

    def _weighted(self, count: Counter[str]) -> dict[str, float]:
        """Words by tf-idf, of length 1."""
        weights = {word: (1 + np.log(times)) * self._idf.get(word, 0.0) for word, times in count.items()}
        length = float(np.sqrt(sum(weight**2 for weight in weights.values()))) or 1.0
        return {word: float(weight) / length for word, weight in weights.items() if weight}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _checked(documents: Mapping[str, str]) -> list[str]:
    if not documents:
        raise BadInput("there are no tools to retrieve; give at least one document")
    return list(documents)


class NeighbourVectors(NeighbourTools):
    """The same vote, by the cosine of vectors, as `dense` has and adapts them."""

    def __init__(
        self,
        questions: Sequence[str],
        needed: Sequence[Collection[str]],
        dense: DenseTools,
        *,
        neighbours: int = 10,
        power: float = 4.0,
    ) -> None:
        super().__init__(questions, needed, neighbours=neighbours, power=power)
        self.dense = dense
        self._past = self._adapted(questions)

    def rank_many(self, queries: Sequence[str], k: int) -> list[list[str]]:
        return [self._voted(row.astype(np.float64), k) for row in self._adapted(queries) @ self._past.T]

    def _adapted(self, questions: Sequence[str]) -> Floats:
        vectors = self.dense.encoder.queries(questions)
        adapted = vectors if self.dense.adapter is None else vectors @ self.dense.adapter
        return np.asarray(adapted / np.maximum(np.linalg.norm(adapted, axis=1, keepdims=True), 1e-12), dtype=np.float32)
