"""The candidates of a multiple-choice question, in `question.meta["choices"]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from ken.core.question import Question

CHOICES = "choices"
MOST = len(ascii_uppercase)


def choices_of(question: Question) -> tuple[str, ...]:
    """The candidates of a question in their order, those that are blank or said before left out; () for an open one."""
    listed = question.meta.get(CHOICES)
    if not isinstance(listed, list):
        return ()
    texts = (" ".join(str(choice).split()) for choice in listed if isinstance(choice, str | int | float))
    found: dict[str, str] = {}
    for text in texts:
        if text:
            found.setdefault(text.casefold(), text)
    return tuple(found.values())[:MOST]


def letter(place: int) -> str:
    """The letter of a candidate: A for the first."""
    return ascii_uppercase[place]


def lettered(choices: Sequence[str]) -> str:
    """All candidates on one line: `A) Rome B) Oslo`."""
    return " ".join(f"{letter(i)}) {choice}" for i, choice in enumerate(choices))


_LETTER = re.compile(r"\(?([A-Za-z])\b[).:]?")


def chosen(text: str, choices: Sequence[str]) -> int | None:
    """The place of the candidate that a text names: by its letter, alone or before it (`B`, `(b)`, `B) Oslo`), or by
    its words. None when it names none.

    >>> chosen("B) Oslo", ["Rome", "Oslo"]), chosen("oslo.", ["Rome", "Oslo"]), chosen("Paris", ["Rome", "Oslo"])
    (1, 1, None)
    """
    said = " ".join(text.split()).strip(" *_`\"'.")
    plain = [choice.casefold() for choice in choices]
    if said.casefold() in plain:
        return plain.index(said.casefold())
    match = _LETTER.match(said)
    if match is None:
        return None
    place, rest = ascii_uppercase.index(match[1].upper()), said[match.end() :].strip(" *_`\"'.:").casefold()
    marked = not rest or rest == (plain[place] if place < len(plain) else None) or match[0][-1] in ").:"
    return place if place < len(plain) and marked else None
