"""How varied is a set of texts? Distinct-n, self-BLEU, and ROUGE-L between two of them.

Words are what `words` finds: runs of letters and digits, in lower case; punctuation does not count.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_NO_MATCH = 0.1  # stands for a count of 0 (Chen & Cherry 2014, smoothing 1; what Texygen takes from NLTK)

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text, in order and in lower case."""
    return _WORD.findall(text.lower())


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, in [0, 1]; symmetric, 0 without words."""
    return rouge_l_of_words(words(first), words(second))


def rouge_l_of_words(first: Sequence[str], second: Sequence[str]) -> float:
    """`rouge_l` of texts that are split already, for comparing one with many."""
    if not first or not second:
        return 0.0
    return 2 * _longest_common(first, second) / (len(first) + len(second))


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct-n (Li et al. 2016): different n-grams as a share of all n-grams, in (0, 1]; nan when there are none.

    It falls with the number of texts: compare sets of like size. Raises `ValueError` for n < 1, `TypeError` for one
    string.
    """
    _check(texts, n)
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Self-BLEU (Zhu et al. 2018): mean BLEU of each text with all others as its references, in [0, 1]; 1: all alike.

    Up to n-grams, or as long as the text is, in equal weights; a count of 0 is smoothed as in Texygen. nan for fewer
    than two texts with words. Errors as `distinct_n`.
    """
    _check(texts, n)
    split = [found for text in texts if (found := words(text))]
    if len(split) < 2:
        return math.nan
    counts = [[Counter(_grams(text, size)) for text in split] for size in range(1, n + 1)]
    most = [_two_highest(of_size) for of_size in counts]
    lengths = Counter(map(len, split))
    return sum(_bleu(i, split, counts, most, lengths) for i in range(len(split))) / len(split)


def _bleu(
    i: int,
    split: Sequence[Sequence[str]],
    counts: Sequence[Sequence[Counter[Gram]]],
    most: Sequence[dict[Gram, tuple[int, int, int]]],
    lengths: Counter[int],
) -> float:
    length = len(split[i])
    sizes = range(min(len(counts), length))
    total = 0.0
    for size in sizes:
        own = counts[size][i]
        hits = 0
        for gram, count in own.items():
            highest, holder, second = most[size][gram]
            hits += min(count, second if holder == i else highest)
        total += math.log((hits or _NO_MATCH) / own.total())
    others = [other for other, texts in lengths.items() if texts > (other == length)]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return min(1.0, math.exp(1 - nearest / length)) * math.exp(total / len(sizes))


def _two_highest(counts: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int, int]]:
    """Of every n-gram its highest count in a text, in which, and the highest in any other: each text is a reference of
    all but itself, and so one pass serves all."""
    found: dict[Gram, tuple[int, int, int]] = {}
    for i, counter in enumerate(counts):
        for gram, count in counter.items():
            highest, holder, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, i, highest) if count > highest else (highest, holder, max(second, count))
    return found


def _grams(text: Sequence[str], n: int) -> list[Gram]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def _check(texts: Sequence[str], n: int) -> None:
    if isinstance(texts, str):
        raise TypeError("texts is one string; pass a list of texts")
    if n < 1:
        raise ValueError(f"n is {n}; n-grams have at least one word")
