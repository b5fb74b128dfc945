"""Did the search bring what was needed? Measures over a ranked list of document ids, best first.

Ranks are those of distinct documents: when several passages of one document were retrieved, only the first takes a
rank. `k` ≥ 1 counts distinct documents. `relevant` are the ids of the gold documents; an empty one means that they
are not known, hence `ValueError`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ken.core import Passage
from ken.metrics import ranks
from ken.metrics.text import exact_match, normalize_answer


def ranks_of(ranking: Iterable[str], relevant: Collection[str]) -> tuple[int, ...]:
    """The ranks of the relevant documents that were retrieved, best first, for the measures of `ken.metrics.ranks`."""
    wanted = _relevant(relevant)
    return tuple(rank for rank, document in enumerate(dict.fromkeys(ranking), start=1) if document in wanted)


def recall_at_k(ranking: Iterable[str], relevant: Collection[str], k: int) -> float:
    """Share of the relevant documents among the first k, in [0, 1]. (Manning et al. 2008, section 8.4.)"""
    return ranks.recall(ranks_of(ranking, relevant), len(_relevant(relevant)), k)


def ndcg_at_k(ranking: Iterable[str], relevant: Collection[str], k: int) -> float:
    """NDCG@k with binary gains, in [0, 1]. The ideal order holds min(k, |relevant|) documents, not k. (Järvelin &
    Kekäläinen 2002; COLT, arXiv 2405.16089, for tools.)"""
    return ranks.ndcg(ranks_of(ranking, relevant), len(_relevant(relevant)), k)


def complete_at_k(ranking: Iterable[str], relevant: Collection[str], k: int) -> bool:
    """Are all relevant documents among the first k? Its mean is COMP@k, the completeness of COLT (arXiv 2405.16089):
    a set of tools of which one is missing does not solve the task."""
    return _relevant(relevant) <= set(_top(ranking, k))


def hit_at_k(ranking: Iterable[str], relevant: Collection[str], k: int) -> bool:
    """Is at least one relevant document among the first k? Its mean is the top-k accuracy of DPR (2020)."""
    return not _relevant(relevant).isdisjoint(_top(ranking, k))


def reciprocal_rank(ranking: Iterable[str], relevant: Collection[str]) -> float:
    """1 / rank of the first relevant document, 0 when none was retrieved. (Voorhees 1999, TREC-8 QA track.)"""
    return ranks.reciprocal(ranks_of(ranking, relevant))


def mean_reciprocal_rank(rankings: Sequence[Iterable[str]], relevants: Sequence[Collection[str]]) -> float:
    """MRR: the mean `reciprocal_rank` over questions. In [0, 1]. Raises `ValueError` if none or unequal in number."""
    if len(rankings) != len(relevants):
        raise ValueError(
            f"{len(rankings)} rankings but {len(relevants)} sets of relevant documents; pass one of each per question"
        )
    if not rankings:
        raise ValueError("there are no rankings to average; pass at least one")
    return sum(map(reciprocal_rank, rankings, relevants)) / len(rankings)


def answer_in_passages(passages: Iterable[Passage], golds: Sequence[str]) -> bool:
    """Does a gold occur as a run of whole words in the title or text of a passage, after normalisation?

    The answer recall of open-domain QA (`has_answer` of DrQA, Chen et al. 2017, and DPR), with SQuAD normalisation in
    place of their tokenizer. Whole words, unlike `substring_match`: over a long text "no" must not be found in
    "know". A gold that normalises to nothing counts only where it is the whole title or text. Raises `ValueError`
    when there are no golds.
    """
    exact_match(None, golds)  # complains about golds that are missing or one string
    wanted = [f" {normal} " for normal in map(normalize_answer, golds) if normal]
    for passage in passages:
        for text in (passage.title, passage.text):
            padded = f" {normalize_answer(text)} "
            if any(words in padded for words in wanted) or exact_match(text, golds):
                return True
    return False


def _top(ranking: Iterable[str], k: int) -> list[str]:
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    return list(dict.fromkeys(ranking))[:k]


def _relevant(relevant: Collection[str]) -> set[str]:
    if isinstance(relevant, str):
        raise TypeError("relevant is one string; pass a collection of document ids")
    if not relevant:
        raise ValueError(
            "there are no relevant documents to look for; skip questions whose supporting documents are not known"
        )
    return set(relevant)
