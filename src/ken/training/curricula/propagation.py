"""How hard is a question that was never tried? As hard as those like it: observed accuracies spread over a graph of
similar texts (Wiki-R1, arXiv 2603.05256, observation propagation; the iteration is that of Zhou et al. 2004).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ken.core import BadInput

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_WORD = re.compile(r"(?u)\b\w\w+\b")  # scikit-learn's, so that both give the same similarities
_BLOCK = 1 << 24  # similarities held at once: 128 MB


class ObservationGraph:
    """Which samples are alike: of each of N nodes the nearest others, with weights > 0 that sum to 1 over its row.

    A sparse N × N matrix K in rows: row i has `weights[starts[i]:starts[i + 1]]` at the columns `columns[…]`, the most
    similar first. Rows are cut to the nearest first and normalised then. A node like no other has an empty row. No node
    is its own neighbour (its own observation enters `propagate` by itself).
    """

    def __init__(self, starts: Ints, columns: Ints, weights: Floats) -> None:
        self.starts, self.columns, self.weights = starts, columns, weights
        self._rows = np.repeat(np.arange(starts.size - 1), np.diff(starts))

    @classmethod
    def from_texts(cls, texts: Sequence[str], *, neighbours: int = 100) -> ObservationGraph:
        """By TF-IDF cosine of the samples' articles, one text per sample (texts may be equal).

        Weights: raw counts times ln((1 + N)/(1 + df)) + 1, rows of length 1, words of two and more letters in lower
        case: scikit-learn's defaults. Raises `BadInput` for no texts or neighbours < 1.
        """
        _check_size(len(texts), neighbours)
        terms, starts, values = _tfidf(texts)
        n = len(texts)
        # postings: for each term the documents that have it, so that a row of similarities costs what it shares
        order = np.argsort(terms, kind="stable")
        documents = np.repeat(np.arange(n), np.diff(starts))[order]
        weights = values[order]
        vocabulary = int(terms.max()) + 1 if terms.size else 0
        ends = np.searchsorted(terms[order], np.arange(vocabulary + 1))

        def similarities(first: int, last: int) -> Floats:
            block = np.zeros((last - first, n))
            for row in range(first, last):
                mine = slice(starts[row], starts[row + 1])
                for term, value in zip(terms[mine].tolist(), values[mine].tolist(), strict=True):
                    posting = slice(ends[term], ends[term + 1])
                    block[row - first, documents[posting]] += value * weights[posting]  # a document once per posting
            return block

        return cls._nearest(n, neighbours, similarities)

    @classmethod
    def from_vectors(cls, vectors: ArrayLike, *, neighbours: int = 100) -> ObservationGraph:
        """By cosine of embeddings, an array (N, width); what points away (cosine ≤ 0) is no neighbour.

        Raises `BadInput` for an array of another shape, values that are not finite, or neighbours < 1.
        """
        data = np.asarray(vectors, dtype=np.float64)
        if data.ndim != 2 or not np.isfinite(data).all():
            raise BadInput(f"expected finite vectors of shape (samples, width), found an array of shape {data.shape}")
        _check_size(len(data), neighbours)
        norms = np.linalg.norm(data, axis=1, keepdims=True)
        unit = np.divide(data, norms, out=np.zeros_like(data), where=norms > 0)
        return cls._nearest(len(data), neighbours, lambda first, last: unit[first:last] @ unit.T)

    @classmethod
    def _nearest(cls, n: int, neighbours: int, similarities: Callable[[int, int], Floats]) -> ObservationGraph:
        """similarities(first, last): cosines of these nodes to all, (last − first, N); it may be written to."""
        columns: list[Ints] = []
        weights: list[Floats] = []
        height = max(1, _BLOCK // n)
        for first in range(0, n, height):
            block = similarities(first, min(n, first + height))
            for row, cosines in enumerate(block, start=first):
                cosines[row] = 0.0
                best = np.arange(n) if n <= neighbours else np.argpartition(-cosines, neighbours - 1)[:neighbours]
                best = best[cosines[best] > 1e-12]  # a cosine of 0 but for rounding is none
                best = best[np.lexsort((best, -cosines[best]))]
                columns.append(best)
                weights.append(cosines[best] / cosines[best].sum() if best.size else cosines[best])
        starts = np.concatenate([[0], np.cumsum([row.size for row in columns])]).astype(np.int64)
        return cls(starts, np.concatenate(columns).astype(np.int64), np.concatenate(weights))

    def __len__(self) -> int:
        return int(self.starts.size - 1)

    def neighbours(self, node: int) -> dict[int, float]:
        """node → weight, the most similar first."""
        row = slice(self.starts[node], self.starts[node + 1])
        return dict(zip(self.columns[row].tolist(), self.weights[row].tolist(), strict=True))

    @property
    def isolated(self) -> Bools:
        """Which nodes have no neighbour, (N,)."""
        empty: Bools = np.diff(self.starts) == 0
        return empty

    def average(self, values: Floats) -> Floats:
        """K · values: for each node the weighted mean over its neighbours (0 for an isolated one), (N,)."""
        weighted = self.weights * values[self.columns]
        return np.bincount(self._rows, weights=weighted, minlength=len(self)).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Propagation:
    """`estimates` (N,) of the accuracies, and how the iteration went: `converged` is False when `iterations` were used
    up while the last change (its Euclidean norm) was still eps or more.
    """

    estimates: Floats
    iterations: int
    change: float
    converged: bool


def propagate(
    graph: ObservationGraph,
    accuracies: ArrayLike,
    observed: ArrayLike,
    *,
    alpha: float = 0.8,
    max_iterations: int = 10,
    eps: float = 1e-4,
    prior: float = 0.5,
) -> Propagation:
    """Â ← α K Â + (1 − α) A, from Â = A, until ‖ΔÂ‖ < eps or `max_iterations` (T) are over.

    accuracies: (N,), read only where `observed`, (N,), is true; elsewhere A is `prior`. At the end observed nodes get
    their observed value back, and isolated nodes keep their entry of A throughout.

    Raises `BadInput` for arrays of another size, accuracies that are not finite, alpha outside [0, 1],
    max_iterations < 1 or eps ≤ 0.
    """
    mask = np.asarray(observed, dtype=bool)
    given = np.asarray(accuracies, dtype=np.float64)
    n = len(graph)
    if given.shape != (n,) or mask.shape != (n,):
        raise BadInput(f"a graph of {n} nodes needs as many accuracies and marks, not {given.shape} and {mask.shape}")
    if not np.isfinite(given[mask]).all():
        raise BadInput("an observed accuracy is nan or infinite; observe shares in [0, 1]")
    if not 0 <= alpha <= 1 or max_iterations < 1 or not eps > 0:
        raise BadInput(
            f"alpha is {alpha}, max_iterations {max_iterations}, eps {eps}; they must be in [0, 1], ≥ 1 and > 0"
        )
    start = np.where(mask, given, prior)
    isolated = graph.isolated
    estimates, change, iterations = start, math.inf, 0
    while iterations < max_iterations and change >= eps:
        spread = alpha * graph.average(estimates) + (1 - alpha) * start
        spread[isolated] = start[isolated]
        change = float(np.linalg.norm(spread - estimates))
        estimates, iterations = spread, iterations + 1
    return Propagation(np.where(mask, start, estimates), iterations, change, converged=change < eps)


def _tfidf(texts: Sequence[str]) -> tuple[Ints, Ints, Floats]:
    """Sparse rows of length 1: (terms, starts, values); row i is starts[i]:starts[i + 1]."""
    vocabulary: dict[str, int] = {}
    bags = [Counter(_WORD.findall(text.lower())) for text in texts]
    terms = np.array([vocabulary.setdefault(w, len(vocabulary)) for bag in bags for w in bag], dtype=np.int64)
    counts = np.array([count for bag in bags for count in bag.values()], dtype=np.float64)
    sizes = np.array([len(bag) for bag in bags], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    frequency = np.bincount(terms, minlength=len(vocabulary))
    values = counts * (np.log((1 + len(texts)) / (1 + frequency)) + 1)[terms]
    rows = np.repeat(np.arange(len(texts)), sizes)
    norms = np.sqrt(np.bincount(rows, weights=values**2, minlength=len(texts)))
    return terms, starts, values / norms[rows]


def _check_size(n: int, neighbours: int) -> None:
    if n < 1:
        raise BadInput("there are no samples to relate to each other; give at least one")
    if neighbours < 1:
        raise BadInput(f"neighbours is {neighbours}; keep at least one neighbour per sample")
