"""Texts are grouped by what they are about; the grouping is fixed by its seed, and what it found is reported."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput
from ken.sources.search.clustering import METHODS, Method, cluster, lexical_vectors


def blobs(k: int, each: int = 12, *, spread: float = 0.05, seed: int = 0) -> np.ndarray:
    """k tight groups on the axes of a space of k dimensions."""
    rng = np.random.default_rng(seed)
    return np.repeat(np.eye(k), each, axis=0) + rng.normal(scale=spread, size=(k * each, k))


@pytest.mark.parametrize("method", ["kmeans", "minibatch", "agglomerative"])
def test_clear_groups_are_found_by_every_method(method: Method) -> None:
    found = cluster(blobs(4), 4, method=method)
    assert {frozenset(i // 12 for i in c.members) for c in found.clusters} == {frozenset({i}) for i in range(4)}
    assert found.silhouette > 0.8
    assert found.inertia == pytest.approx(sum(c.inertia for c in found.clusters))


@pytest.mark.parametrize("k", ["silhouette", "elbow"])
@pytest.mark.parametrize("groups", [3, 5])
def test_the_number_of_groups_is_found(k: str, groups: int) -> None:
    found = cluster(blobs(groups), k)  # type: ignore[arg-type]
    assert found.k == groups
    assert set(found.tried) == set(range(2, 11))


def test_random_groups_have_the_sizes_of_real_ones_and_no_meaning() -> None:
    vectors = np.vstack([blobs(2, 30), blobs(2, 5)])
    real, random = cluster(vectors, 2), cluster(vectors, 2, method="random")
    assert [c.size for c in real.clusters] == [c.size for c in random.clusters]
    assert random.silhouette < 0.1 < real.silhouette


def test_the_length_of_a_vector_does_not_matter() -> None:
    vectors = blobs(3)
    longer = vectors * np.random.default_rng(1).uniform(0.1, 10, (len(vectors), 1))
    assert [c.members for c in cluster(vectors, 3).clusters] == [c.members for c in cluster(longer, 3).clusters]


@settings(max_examples=15)
@given(
    n=st.integers(1, 14),
    copies=st.integers(1, 3),
    k=st.one_of(st.integers(1, 8), st.sampled_from(["silhouette", "elbow"])),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 3),
)
def test_every_text_is_in_one_group_whatever_is_asked(n: int, copies: int, k: int, method: Method, seed: int) -> None:
    vectors = np.tile(np.random.default_rng(seed).normal(size=(n, 3)), (copies, 1))
    found = cluster(vectors, k, method=method, seed=seed)  # type: ignore[arg-type]
    assert sorted(i for c in found.clusters for i in c.members) == list(range(n * copies))
    assert [c.size for c in found.clusters] == sorted((c.size for c in found.clusters), reverse=True)
    if isinstance(k, int):
        assert found.k <= k
        assert found.k == n * copies or n * copies > k
    again = cluster(vectors, k, method=method, seed=seed)  # type: ignore[arg-type]
    assert [c.members for c in again.clusters] == [c.members for c in found.clusters]


def test_the_report_names_the_text_nearest_to_each_centroid() -> None:
    vectors = np.array([[1, 0], [0.9, 0.3], [0.9, -0.3], [0, 1.0]])
    lines = cluster(vectors, 2).report(["middle", "left", "right", "alone"])
    assert lines[0].startswith("3 texts, inertia ")
    assert lines[0].endswith(": middle")
    assert lines[1].endswith(": alone")
    assert math.isnan(cluster(vectors, 1).silhouette)
    assert math.isnan(cluster(vectors, 9).silhouette)


@pytest.mark.parametrize(
    ("vectors", "k", "method"),
    [
        (np.eye(3), 0, "kmeans"),
        (np.eye(3), "best", "kmeans"),
        (np.eye(3), 2, "dbscan"),
        (np.empty((0, 3)), 2, "kmeans"),
        (np.full((3, 3), np.nan), 2, "kmeans"),
    ],
)
def test_what_cannot_be_clustered_is_refused(vectors: np.ndarray, k: int, method: Method) -> None:
    with pytest.raises(BadInput):
        cluster(vectors, k, method=method)


def test_words_alone_tell_topics_apart() -> None:
    texts = [f"the battery {verb} all day {n}" for n, verb in enumerate(["lasts", "drains", "holds", "dies"] * 3)]
    texts += [f"my parcel and its courier {verb} {n}" for n, verb in enumerate(["came", "vanished", "arrived"] * 4)]
    groups = cluster(lexical_vectors(texts), 2).clusters
    assert {frozenset(i // 12 for i in c.members) for c in groups} == {frozenset({0}), frozenset({1})}
    assert cluster(lexical_vectors(["the", "of", "and"]), 2).k == 1
    assert lexical_vectors(["only one text"]).shape[0] == 1
