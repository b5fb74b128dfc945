"""Is the answer right? Exact match, substring match and token F1 after SQuAD normalisation.

Every function takes a prediction (None: nothing was answered) and the accepted golds, and scores against the best
gold. An empty list of golds means that correctness is not known, so it is a `ValueError`, never a zero.

One departure from SQuAD v1.1: a gold that normalises to nothing ("A", "The The", "!!!") would there equal the empty
prediction, and be a substring of every prediction. Here such a gold is compared whole, in lower case with its
punctuation and articles kept: "the the" matches "The The", and "" matches no gold at all.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, turn the articles a, an, the into spaces, squeeze white space, in this order.

    Source: the evaluation script of SQuAD v1.1 (Rajpurkar et al. 2016), also that of HotpotQA, MuSiQue, FlashRAG and
    Search-R1. Punctuation is deleted, not replaced by a space: "twenty-one" becomes "twentyone".

    >>> normalize_answer("The  Cat's pyjamas!")
    'cats pyjamas'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str | None, golds: Sequence[str]) -> bool:
    """EM: does the normalised prediction equal a normalised gold? (SQuAD v1.1.)

    Raises `ValueError` when there are no golds, `TypeError` when `golds` is one string.
    """
    golds = _checked(golds)
    return prediction is not None and any(_equal(prediction, gold) for gold in golds)


def substring_match(prediction: str | None, golds: Sequence[str]) -> bool:
    """SubEM: is a normalised gold a substring of the normalised prediction? (As in AdaSearch and Search-R1.)

    True whenever `exact_match` is. Word boundaries do not count ("art" is in "party"), as in the source; long
    predictions are favoured.
    Raises `ValueError` when there are no golds, `TypeError` when `golds` is one string.
    """
    golds = _checked(golds)
    if prediction is None:
        return False
    said = normalize_answer(prediction)
    for gold in golds:
        wanted = normalize_answer(gold)
        if (wanted in said) if wanted else _equal(prediction, gold):
            return True
    return False


def lenient_match(prediction: str | None, golds: Sequence[str]) -> bool:
    """ToG's "exact match" as its authors' code computes it: in lower case and without spaces, is the prediction equal
    to a gold, part of one, or one part of it? Never to be reported without `exact_match` beside it: a prediction of one
    letter is right for most golds, and so is one that lists every candidate.

    Source: IDEA-FinAI/ToG, eval (arXiv 2307.07697; card 44, Metric). An empty prediction is wrong here; there it is
    right. Raises `ValueError` when there are no golds, `TypeError` when `golds` is one string.
    """
    golds = _checked(golds)
    said = "".join((prediction or "").lower().split())
    wanted = ["".join(gold.lower().split()) for gold in golds]
    return bool(said) and any(said in gold or (bool(gold) and gold in said) for gold in wanted)


def token_f1(prediction: str | None, golds: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall (bags of normalised words), the best over the golds. In [0, 1].

    Source: SQuAD v1.1. 1 whenever `exact_match` is true. HotpotQA's rule that a differing yes/no scores 0 is not
    applied.
    Raises `ValueError` when there are no golds, `TypeError` when `golds` is one string.
    """
    golds = _checked(golds)
    if prediction is None:
        return 0.0
    return max(_f1(prediction, gold) for gold in golds)


def rouge_l(prediction: str | None, golds: Sequence[str]) -> float:
    """ROUGE-L: F1 over the longest common subsequence of normalised words, the best over the golds. In [0, 1].

    Source: Lin 2004, with equal weight of precision and recall.
    Raises `ValueError` when there are no golds, `TypeError` when `golds` is one string.
    """
    golds = _checked(golds)
    if prediction is None:
        return 0.0
    said = normalize_answer(prediction).split()
    scores = []
    for gold in golds:
        wanted = normalize_answer(gold).split()
        common = _longest_common(said, wanted)
        scores.append(2 * common / (len(said) + len(wanted)) if common else float(_equal(prediction, gold)))
    return max(scores)


def bleu(prediction: str | None, golds: Sequence[str], *, order: int = 4) -> float:
    """BLEU of one sentence over normalised words, in [0, 1]: geometric mean of the n-gram precisions up to `order`, or
    up to the length of the prediction where that is shorter, each but the first smoothed by adding one, times the
    brevity penalty against the gold closest in length.

    Source: Papineni et al. 2002; smoothing of Lin & Och 2004 (method 2 of Chen & Cherry 2014).
    Raises `ValueError` when there are no golds, `TypeError` when `golds` is one string.
    """
    golds = _checked(golds)
    said = normalize_answer(prediction or "").split()
    if not said:
        return 0.0
    wanted = [normalize_answer(gold).split() for gold in golds]
    logs = []
    for n in range(1, min(order, len(said)) + 1):
        grams = _grams(said, n)
        most: Counter[tuple[str, ...]] = Counter()
        for words in wanted:
            most |= _grams(words, n)
        hits, total, added = (grams & most).total(), grams.total(), int(n > 1)
        if hits + added == 0:
            return 0.0
        logs.append(math.log((hits + added) / (total + added)))
    closest = min((abs(len(words) - len(said)), len(words)) for words in wanted)[1]
    brevity = min(0.0, 1 - closest / len(said))
    return math.exp(math.fsum(logs) / len(logs) + brevity)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def _f1(prediction: str, gold: str) -> float:
    said, wanted = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not wanted:
        return float(_equal(prediction, gold))
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted))  # 2PR / (P + R) with P = shared/said, R = shared/wanted


def _equal(prediction: str, gold: str) -> bool:
    wanted = normalize_answer(gold)
    if wanted:
        return normalize_answer(prediction) == wanted
    bare = " ".join(gold.lower().split())
    return bool(bare) and " ".join(prediction.lower().split()) == bare


def _checked(golds: Sequence[str]) -> Sequence[str]:
    if isinstance(golds, str):
        raise TypeError("golds is one string; pass a list of accepted answers")
    if not golds:
        raise ValueError("there is no gold answer to compare with; skip questions whose answers are not known")
    return golds
