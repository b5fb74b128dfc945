"""Numbered citations: which of the passages that the model was shown hold what it answered.

A citation says that the words are there, not that they answer the question, and it is never the model's own claim. A
passage is cited when, after SQuAD normalisation (`ken.metrics.text`) and as whole words, it holds a sentence of the
answer, but for function words at its edges: one of up to `PHRASE_WORDS` words as it stands, a longer one by all of its
words that are no function words. Only the part of a passage that stood in the model's context counts, since long
passages are cut there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ken.agents.protocol import escape
from ken.core import Passage, Trajectory
from ken.metrics.evidence import FUNCTION_WORDS
from ken.metrics.text import normalize_answer

PHRASE_WORDS = 5
SHORTEST = 8

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that holds the answer. `number` counts from 1 in the order in which passages were shown; `text` is the
    part that was shown."""

    number: int
    id: str
    title: str
    text: str


def citations(trajectory: Trajectory) -> tuple[Citation, ...]:
    """The citations of a trajectory's answer; none without an answer or without passages that hold it."""
    if trajectory.answer is None:
        return ()
    sentences = [words for part in _SENTENCE_END.split(trajectory.answer) if (words := _content(part))]
    context = _one_line(" ".join(s.text for s in trajectory.segments if s.role != "policy"))
    found = []
    for passage in trajectory.passages:
        text = shown(passage, context)
        title = _one_line(passage.title)
        seen = f"{title} {text}" if title and escape(title) in context else text
        held = f" {normalize_answer(seen)} " if text else ""
        if any(_holds(held, words) for words in sentences):
            found.append((passage, text))
    return tuple(Citation(number, p.id, p.title, text) for number, (p, text) in enumerate(found, start=1))


def cited(answer: str, sources: Sequence[Citation]) -> str:
    """The answer with the numbers of its citations after it and a list of them below.

    >>> print(cited("Nairobi", [Citation(1, "ke", "Kenya", "The capital of Kenya is Nairobi.")]))
    Nairobi [1]
    <BLANKLINE>
    [1] Kenya: The capital of Kenya is Nairobi.
    """
    return answer + appendix(sources)


def appendix(sources: Sequence[Citation], *, characters: int = 200) -> str:
    """What follows an answer: numbers, and a line for each source, its text cut to `characters`."""
    if not sources:
        return ""
    lines = []
    for source in sources:
        title, text = _one_line(source.title) or source.id, _one_line(source.text)
        text = text.removeprefix(f"{title}: ")  # corpora often repeat it
        excerpt = text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0] + " …"
        lines.append(f"[{source.number}] {title}: {excerpt}")
    return " " + "".join(f"[{source.number}]" for source in sources) + "\n\n" + "\n".join(lines)


def shown(passage: Passage, context: str) -> str:
    """The longest beginning of a passage's text, in whole words, that stands in `context` (on one line) as strategies
    write it; "" for one of fewer than `SHORTEST` words, which may stand there by chance."""
    words = _one_line(passage.text).split(" ")
    written = escape(" ".join(words)).split(" ")  # escaping changes no white space
    low, high = 0, len(words)
    while low < high:  # if so many words stand there, so do fewer
        middle = (low + high + 1) // 2
        if " ".join(written[:middle]) in context:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low]) if low >= min(SHORTEST, len(words)) else ""


def _content(sentence: str) -> list[str]:
    """The words of a sentence, from its first to its last that is no function word."""
    words = normalize_answer(sentence).split()
    telling = [place for place, word in enumerate(words) if word not in FUNCTION_WORDS]
    return words[telling[0] : telling[-1] + 1] if telling else []


def _holds(held: str, sentence: Sequence[str]) -> bool:
    if len(sentence) <= PHRASE_WORDS:
        return f" {' '.join(sentence)} " in held
    return all(f" {word} " in held for word in sentence if word not in FUNCTION_WORDS)


def _one_line(text: str) -> str:
    return " ".join(text.split())
