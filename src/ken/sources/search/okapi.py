"""BM25 over a handful of strings in memory, as ToG prunes relations and entities with it (arXiv 2307.07697, section
3.3.4).

An index of the engine takes 11 ms to make and stems its words, neither of which suits ten labels compared as they are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def okapi(query: str, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> list[float]:
    """The BM25 score of each text for `query`, in order; words are what stands between white space, in lower case.

    Robertson & Zaragoza 2009 with the idf of Lucene, log(1 + (N − n + ½) / (n + ½)), which is never negative: among few
    texts a word that most of them have must not count against them. Defaults are those of rank_bm25's BM25Okapi.
    """
    bags = [Counter(text.lower().split()) for text in texts]
    lengths = [bag.total() for bag in bags]
    average = sum(lengths) / len(bags) if bags else 0.0
    words = set(query.lower().split())
    scores = [0.0] * len(bags)
    for word in words:
        having = sum(word in bag for bag in bags)
        idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
        for i, bag in enumerate(bags):
            if count := bag[word]:
                scores[i] += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * lengths[i] / average))
    return scores
