"""What a model says on the graph, read: scores of relations and entities, whether what was found suffices, answers.

Nothing here raises on model output. What cannot be read comes back as problems, which the caller counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NO_RELATIONS = "no relation with a score"
UNKNOWN_RELATION = "a relation that was not offered"
SCORE_COUNT = "as many scores as entities are needed"
NO_VERDICT = "neither Yes nor No"
NO_ANSWER = "no answer in braces"

_NUMBER = r"\d{0,9}\.?\d{1,9}"
_SCORED = re.compile(rf"([^{{}}\n;]{{1,300}}?)\s*\(\s*score\s*[:=]?\s*({_NUMBER})[\s\d.]*\)", re.IGNORECASE)
_LEADING = re.compile(r"^[\s*\-•\"'`]*(?:\d{1,3}\s*[.):]\s*)?[\s*\"'`]*")
_DECIMAL = re.compile(r"\d{1,9}\.\d{1,9}")
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_BRACES = re.compile(r"\{+\s*([^{}]*[^{}\s])\s*\}+")
_ANSWER_IS = re.compile(r"(?:the\s+)?answer\s+is\s*:?\s*(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ScoredNames:
    """Offered names with their scores in [0, 1], best first, and what could not be read."""

    scores: tuple[tuple[str, float], ...]
    problems: tuple[str, ...] = ()


def parse_relations(text: str, offered: Sequence[str], most: int) -> ScoredNames:
    """The best `most` of the relations that a model scored: lines `1. {name (Score: 0.4)}: reason`.

    A name that was not offered is a problem, and so is text without any score. Case and white space do not count. Where
    scores exceed 1 they are taken as shares of their sum.

    >>> parse_relations("1. {mother (Score: 0.7)}: … 2. {uncle (Score: 0.3)}", ["father", "mother"], 3)
    ScoredNames(scores=(('mother', 0.7),), problems=('a relation that was not offered',))
    """
    known = {_plain(name): name for name in reversed(offered)}
    found: dict[str, float] = {}
    problems = []
    for match in _SCORED.finditer(text):
        bare = _LEADING.sub("", match[1], count=1)
        name = known.get(_plain(match[1])) or known.get(_plain(bare)) or known.get(_plain(bare.strip("*\"'` ")))
        if name is None:
            problems.append(UNKNOWN_RELATION)
        else:
            found.setdefault(name, float(match[2]))
    if not found and not problems:
        problems.append(NO_RELATIONS)
    scores = dict(zip(found, _shares(list(found.values())), strict=True))
    best = sorted(scores.items(), key=lambda pair: -pair[1])[:most]  # stable: equal scores as the model ranked them
    return ScoredNames(tuple(best), tuple(problems))


def parse_scores(text: str, count: int) -> tuple[list[float], str | None]:
    """The scores of `count` entities, in order, and what is wrong: where the text holds another number of them each
    gets 1 / count (ToG).

    >>> parse_scores("Score: 0.1, 0.9", 2), parse_scores("0.1, 0.2, 0.7", 2)[0]
    (([0.1, 0.9], None), [0.5, 0.5])
    """
    found = _DECIMAL.findall(text)
    if len(found) != count:  # whole numbers among them, which ToG does not take
        lines = text.strip().splitlines()
        parts = [part.strip(" .") for part in (lines[-1] if lines else "").rpartition(":")[2].split(",")]
        found = parts if all(re.fullmatch(_NUMBER, part) for part in parts) else []
    if len(found) != count:
        return [1 / count] * count, SCORE_COUNT
    return _shares([float(score) for score in found]), None


def parse_enough(text: str) -> bool | None:
    """Whether a model says that what was found suffices; None when it says neither."""
    match = _VERDICT.search(text)
    return None if match is None else match[1].lower() == "yes"


def parse_braced(text: str) -> tuple[str, int, int] | None:
    """The first `{…}` that is no verdict, and where it stands in the text: the answer. None when there is none.

    The paper's evaluation takes the first braces, which in `{Yes}. … {answer}` are the verdict's (card 44, Pitfalls).
    """
    for match in _BRACES.finditer(text):
        if not re.fullmatch(r"(?:yes|no)\W*", match[1], re.IGNORECASE):
            return match[1], *match.span(1)
    return None


def parse_unbraced(text: str) -> str:
    """What a model that forgot the braces most likely means as its answer: what follows "the answer is", else the last
    line; "" when there is no text."""
    said = [m[1] for line in text.splitlines() if (m := _ANSWER_IS.search(line))]
    lines = said or [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip(" \t*.\"'`{}") if lines else ""


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _shares(scores: list[float]) -> list[float]:
    """Scores in [0, 1]."""
    if any(score > 1 for score in scores):
        total = sum(scores)
        return [score / total for score in scores]
    return scores
