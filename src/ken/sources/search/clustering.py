"""Group texts by what they are about: k-means and agglomerative clustering (scikit-learn's) over unit vectors.

Vectors are brought to length 1 first, so that the Euclidean distance of k-means orders texts as their cosine does
(‖u − v‖² = 2 − 2·cos). Everything is fixed by the seed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ken.core import BadInput, Unsupported

Method = Literal["kmeans", "minibatch", "agglomerative", "random"]
METHODS: tuple[Method, ...] = ("kmeans", "minibatch", "agglomerative", "random")
K = int | Literal["silhouette", "elbow"]
RESTARTS = 10  # of k-means, the best of which counts
MOST = 10  # clusters that are tried where their number is to be found

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """members: rows of the texts, the nearest to the centroid first. silhouette: mean over them; nan where it is
    undefined. inertia: sum of their squared distances to the centroid."""

    members: tuple[int, ...]
    centroid: Vectors
    inertia: float
    silhouette: float

    @property
    def size(self) -> int:
        return len(self.members)


@dataclass(frozen=True, slots=True)
class Clustering:
    """clusters: the largest first. inertia: their sum; silhouette: the mean over all texts (Rousseeuw 1987), nan for
    one cluster or for as many as texts. tried: where the number was to be found, the score of each that was tried
    (silhouette, or inertia), else empty."""

    clusters: tuple[Cluster, ...]
    inertia: float
    silhouette: float
    tried: dict[int, float]

    @property
    def k(self) -> int:
        return len(self.clusters)

    def report(self, texts: Sequence[str]) -> list[str]:
        """A line a cluster: its size, inertia, silhouette, and the text nearest to its centroid."""
        return [
            f"{c.size} texts, inertia {c.inertia:.2f}"
            f"{'' if math.isnan(c.silhouette) else f', silhouette {c.silhouette:.2f}'}: {texts[c.members[0]]}"
            for c in self.clusters
        ]


def cluster(
    vectors: NDArray[Any], k: K = 4, *, method: Method = "kmeans", seed: int = 0, most: int = MOST
) -> Clustering:
    """Group the rows of `vectors` [texts, dimension].

    k: how many clusters, ≥ 1, or how to find it among 2 … `most`: "silhouette" takes the number with the highest mean
        silhouette, "elbow" the one at which inertia bends most (the largest distance below the line between the ends;
        Satopää et al. 2011). At most as many as there are different vectors; as many texts as clusters or fewer are a
        cluster each.
    method: "kmeans" (k-means++ starts, the best of `RESTARTS`), "minibatch" (the same for very many texts),
        "agglomerative" (Ward 1963), or "random": groups of the sizes that k-means finds, filled at random, to see what
        the grouping is worth.

    Raises `BadInput` for k < 1, an unknown name, no vectors or such as are not finite; `Unsupported` without
    scikit-learn.
    """
    if method not in METHODS:
        raise BadInput(f"there is no clustering {method!r}; choose one of {', '.join(METHODS)}")
    if (isinstance(k, str) and k not in ("silhouette", "elbow")) or (not isinstance(k, str) and k < 1) or most < 2:
        raise BadInput(f"k is {k!r}; it must be at least 1, or 'silhouette' or 'elbow' (with at least 2 to try)")
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
        raise BadInput("there is nothing to cluster: give finite vectors, one a text")
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    different = len(np.unique(unit, axis=0))
    if len(unit) <= (k if isinstance(k, int) else 2):
        return _described(unit, np.arange(len(unit)), {})
    tried: dict[int, float] = {}
    if isinstance(k, int):
        labels = _labels(unit, min(k, different), method, seed)
    else:
        found = {n: _labels(unit, n, method, seed) for n in range(2, min(most, len(unit) - 1, different) + 1)}
        if not found:  # all texts alike
            return _described(unit, np.zeros(len(unit), dtype=np.int64), {})
        if k == "silhouette":
            tried = {n: _mean(_silhouettes(unit, of)) for n, of in found.items()}
            chosen = max(tried, key=lambda n: (tried[n], -n))
        else:
            tried = {n: _described(unit, of, {}).inertia for n, of in found.items()}
            chosen = _elbow(tried)
        labels = found[chosen]
    if method == "random":
        labels = np.random.default_rng(seed).permutation(labels)
    return _described(unit, labels, tried)


def lexical_vectors(texts: Sequence[str]) -> Vectors:
    """TF-IDF over words, float32 [texts, words], of length 1: what texts are about as far as their words tell, without
    a model. Words that stand in one text only, or in more than half of many, tell nothing and are left out.

    Raises `Unsupported` without scikit-learn.
    """
    with _scikit_learn():
        from sklearn.feature_extraction.text import TfidfVectorizer
    many = len(texts) >= 10
    try:
        weighed = TfidfVectorizer(
            sublinear_tf=True, stop_words="english", min_df=2 if many else 1, max_df=0.5 if many else 1.0
        ).fit_transform(texts)
    except ValueError:  # no word is left: nothing tells these texts apart
        return np.ones((len(texts), 1), dtype=np.float32)
    return np.asarray(weighed.toarray(), dtype=np.float32)


def _labels(unit: Vectors, k: int, method: Method, seed: int) -> Labels:
    if k == 1:
        return np.zeros(len(unit), dtype=np.int64)
    with _scikit_learn():
        from sklearn.cluster import AgglomerativeClustering, KMeans, MiniBatchKMeans
    made: dict[Method, Callable[[], Any]] = {
        "kmeans": lambda: KMeans(k, n_init=RESTARTS, random_state=seed),
        "minibatch": lambda: MiniBatchKMeans(k, n_init=RESTARTS, random_state=seed),
        "agglomerative": lambda: AgglomerativeClustering(k),
        "random": lambda: KMeans(k, n_init=RESTARTS, random_state=seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer clusters than asked for are seen in the result
        return np.asarray(made[method]().fit_predict(unit), dtype=np.int64)


def _described(unit: Vectors, labels: Labels, tried: dict[int, float]) -> Clustering:
    silhouettes = _silhouettes(unit, labels)
    clusters = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        centroid = unit[rows].mean(axis=0)
        distances = ((unit[rows] - centroid) ** 2).sum(axis=1)
        order = rows[np.argsort(distances, kind="stable")]
        clusters.append(Cluster(tuple(order.tolist()), centroid, float(distances.sum()), _mean(silhouettes[rows])))
    clusters.sort(key=lambda c: (-c.size, min(c.members)))
    return Clustering(tuple(clusters), sum(c.inertia for c in clusters), _mean(silhouettes), tried)


def _silhouettes(unit: Vectors, labels: Labels) -> NDArray[np.float64]:
    """Of every text; nan where there is one cluster, or no two texts share one."""
    if not 1 < len(np.unique(labels)) < len(labels):
        return np.full(len(labels), np.nan)
    with _scikit_learn():
        from sklearn.metrics import silhouette_samples
    return np.asarray(silhouette_samples(unit, labels), dtype=np.float64)


def _elbow(inertia: dict[int, float]) -> int:
    """The k that lies furthest below the line from the first to the last, both axes scaled to 1."""
    ks = np.array(list(inertia), dtype=np.float64)
    values = np.array(list(inertia.values()), dtype=np.float64)
    if len(ks) < 3 or values[0] == values[-1]:
        return int(ks[0])
    x, y = (ks - ks[0]) / (ks[-1] - ks[0]), (values - values[-1]) / (values[0] - values[-1])
    return int(ks[np.argmax(1.0 - x - y)])


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


@contextmanager
def _scikit_learn() -> Iterator[None]:
    """Where scikit-learn is imported."""
    try:
        yield
    except ImportError as error:
        raise Unsupported("clustering needs scikit-learn; run `pip install 'ken[clusters]'`") from error
