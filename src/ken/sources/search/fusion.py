"""Join the results of several search engines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ken.core import Passage


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], k: int = 60) -> list[tuple[str, float]]:
    """Fuse rankings of ids (best first) by reciprocal rank: score(d) = Σ over rankings of 1 / (k + rank of d), ranks
    from 1.

    An id that a ranking lacks gets nothing from it. Returns (id, score), best first, equal scores in order of id.
    Source: Cormack, Clarke & Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", SIGIR 2009, with their k = 60.

    >>> reciprocal_rank_fusion([["a", "b"], ["b", "c"]])[0][0]
    'b'
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, identifier in enumerate(dict.fromkeys(ranking), start=1):
            scores[identifier] = scores.get(identifier, 0.0) + 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def union(results: Iterable[Sequence[Passage]]) -> list[Passage]:
    """The passages of several results one after another, each once, by id, where it first stands."""
    found: dict[str, Passage] = {}
    for result in results:
        for passage in result:
            found.setdefault(passage.id, passage)
    return list(found.values())
