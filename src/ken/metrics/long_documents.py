"""Whole or in pieces? LaRA's scores of reading a long document (arXiv 2502.09977; card 51, Scores), and deterministic
judges for them.

Accuracy is a macro mean: over the types of text within a task, then over the tasks. A gap is long context minus
retrieval.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from ken.core.long_documents import TASKS, Task
from ken.metrics.statistics import Interval, stratified_bootstrap

# --- judges ----------------------------------------------------------------------------------------------------------

_SILENT = (
    r"(?:not|n't|never|no longer)\s+(?:\w+\s+){0,3}?(?:mention|state|specif|provid|given?\b|gives\b|includ|contain|"
    r"disclos|indicat|detail|discuss|describ|report|address|reveal|identif|cover|cite|explain|elaborat|offer|list|name|"
    r"say|tell|present|available|answer|determin|possible|clear|enough|sufficient|known?\b|find|found)"
)
_NOTHING = (
    r"\bno (?:\w+ ){0,3}?(?:mention|information|details?|indication|data|reference|evidence|specific|explicit|answer|"
    r"record|description|discussion)"
)
_REFUSAL = re.compile(
    rf"{_SILENT}|{_NOTHING}|\b(?:unable to|cannot|can't|could not|couldn't) (?:\w+ ){{0,2}}?"
    r"(?:answer|determin|find|provid|say|tell|identify|locate)|\bunanswerable\b|\bunspecified\b|\bnot stated\b|"
    r"\bdoes not appear\b|"
    r"\b(?:lacks?|without|insufficient|missing) (?:\w+ ){0,2}?(?:information|details?|data|context)|"
    r"\bis unknown\b|\bnothing (?:is|about|in)\b",
    re.IGNORECASE,
)


def refuses(answer: str) -> bool:
    """Whether an answer says that the text does not say it. A regular expression over the ways in which models and
    LaRA's own gold answers put it: for a first look and for what no judge was asked about, not for a verdict on one
    answer.

    >>> refuses("The document does not specify any measures."), refuses("It rose by 4%.")
    (True, False)
    """
    return _REFUSAL.search(answer) is not None


_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
# Words that carry no content, and those with which an answer is introduced.
_FUNCTION = (
    "a about after all also an and any are as at be because been before being both but by can could did do does during "
    "each for from further had has have having he her hers him his how i if in into is it its itself more most not of "
    "off on once only or other our out over own same she should so some such than that the their them then there these "
    "they this those through to too under up very was we were what when where which while who whom why will with would "
    "you your text document according states stated mentioned answer"
)
_FUNCTION_WORDS = frozenset(_FUNCTION.split())
ENOUGH = 0.5  # of the gold's numbers, and of its content words


def numbers_of(text: str) -> frozenset[float]:
    """The numbers in a text by value: "1,234.50" is 1234.5; signs, currencies and per cent are left out."""
    return frozenset(float(n.replace(",", "")) for n in _NUMBER.findall(text) if len(n) < 300)


def content_words(text: str) -> frozenset[str]:
    """The words of a text that carry content, in lower case, their endings -s, -ed, -ing cut so that inflection does
    not count."""
    return frozenset(_stem(word) for word in _WORD.findall(text.lower()) if word not in _FUNCTION_WORDS)


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) > 2:
            return word[: -len(ending)]
    return word


def recalls(prediction: str, gold: str) -> bool:
    """The deterministic judge of answers that are in the text: at least `ENOUGH` of the gold's numbers and of its
    content words stand in the prediction, and the prediction does not refuse where the gold does not. Lenient: words in
    another order, or with a "not" between them, pass.
    """
    if refuses(prediction) and not refuses(gold):
        return False
    wanted, words = numbers_of(gold), content_words(gold)
    if not wanted and not words:  # a gold such as "yes" is all function words elsewhere; compare it whole
        return " ".join(prediction.lower().split()) == " ".join(gold.lower().split())
    return _share(wanted, numbers_of(prediction)) >= ENOUGH and _share(words, content_words(prediction)) >= ENOUGH


def _share(wanted: frozenset[object] | frozenset[float] | frozenset[str], found: Iterable[object]) -> float:
    return len(wanted & frozenset(found)) / len(wanted) if wanted else 1.0


def right(task: Task, prediction: str | None, gold: str) -> bool:
    """The deterministic verdict: a question without an answer is right when it was refused, any other when the gold is
    recalled. Nothing, or white space, is wrong."""
    if prediction is None or not prediction.strip():
        return False
    return refuses(prediction) if task == "hallucination" else recalls(prediction, gold)


# --- scores ----------------------------------------------------------------------------------------------------------

Cell = tuple[str, str]
"""A task and a type of text."""


def task_scores(accuracy: Mapping[Cell, float]) -> dict[str, float]:
    """By task, the mean over the types of text for which there is a value; tasks in LaRA's order."""
    tasks = sorted({task for task, _ in accuracy}, key=_place)
    return {task: fmean(value for (t, _), value in accuracy.items() if t == task) for task in tasks}


def overall(accuracy: Mapping[Cell, float]) -> float:
    """The mean over tasks of the mean over types. Raises `ValueError` without any value."""
    if not accuracy:
        raise ValueError("there is no accuracy to average; measure at least one task")
    return fmean(task_scores(accuracy).values())


@dataclass(frozen=True, slots=True)
class Paired:
    """A question answered in both modes."""

    task: str
    kind: str  # the type of text
    lc: float
    rag: float


def gap(answers: Sequence[Paired], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """LC − RAG, macro mean, with its 95% interval: a paired bootstrap of questions within task and type (so that no
    cell is ever empty). Raises `ValueError` without answers."""
    cells: dict[Cell, list[float]] = {}
    for answer in answers:
        cells.setdefault((answer.task, answer.kind), []).append(answer.lc - answer.rag)
    tasks = {task for task, _ in cells}
    weights = [1 / len(tasks) / sum(t == task for t, _ in cells) for task, _ in cells]
    return stratified_bootstrap(list(cells.values()), weights, resamples=resamples, seed=seed)


def position_profile(answers: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Accuracy by the part of the document from which the question was made, from pairs of part and score. The part is
    where the generator looked, not the exact place of the answer."""
    by_part: dict[int, list[float]] = {}
    for part, score in answers:
        by_part.setdefault(part, []).append(score)
    return {part: fmean(scores) for part, scores in sorted(by_part.items())}


Advice = Literal["lc", "rag", "no clear winner"]


def advise(interval: Interval) -> Advice:
    """The mode that a measured gap recommends: none where its interval holds 0."""
    return "lc" if interval.low > 0 else "rag" if interval.high < 0 else "no clear winner"


def _place(task: str) -> int:
    return TASKS.index(task) if task in TASKS else len(TASKS)
