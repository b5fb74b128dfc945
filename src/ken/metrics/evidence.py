"""Where do an answer's words stand in a passage? For people who check an answer against what was found."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+(?:['’]\w+)*")

# They say nothing by themselves: marked only between words that do.
FUNCTION_WORDS = frozenset(
    """
    a an the of in on at to by for from with and or but nor as also is are was were be been being am do does did has
    have had it its this that these those he him she they we you i his her their our your my not no yes
    there then than so if into about over under after before between which who whom whose what when where how why
    """.split()  # noqa: SIM905
)


def answer_spans(answer: str | None, text: str) -> list[tuple[int, int]]:
    """Stretches [start, end) of `text`, in order and apart, that consist of the answer's words.

    The answer as it stands, whatever its letters' case; and runs of words of the answer, in any order, that begin and
    end with one that is no function word ("of", "the", …). An answer of function words alone is found only as it
    stands, between word boundaries.

    >>> answer_spans("Lima", "The capital of Peru is Lima.")
    [(23, 27)]
    >>> answer_spans("the Bank of England", "England's central bank, the Bank of England, is old")
    [(18, 22), (24, 43)]
    """
    if answer is None or not answer.strip():
        return []
    wanted = {word.casefold() for word in _WORD.findall(answer)}
    telling = wanted - FUNCTION_WORDS
    whole = re.compile(
        rf"(?<!\w){re.escape(answer.strip())}(?!\w)" if answer.isascii() else re.escape(answer.strip()), re.I
    )
    spans = [match.span() for match in whole.finditer(text)]
    run: list[tuple[int, int, bool]] = []  # words of the answer in a row: start, end, is it a telling one
    for match in _WORD.finditer(text):
        word = match[0].casefold()
        if run and (word not in wanted or not _joined(text[run[-1][1] : match.start()])):
            spans += _trimmed(run)
            run = []
        if word in wanted:
            run.append((*match.span(), word in telling))
    return _merged([*spans, *_trimmed(run)])


def marked(text: str, spans: list[tuple[int, int]]) -> list[tuple[str, bool]]:
    """`text` cut into pieces: (piece, whether it lies in one of `spans`). The pieces joined are the text.

    >>> marked("it is Lima.", [(6, 10)])
    [('it is ', False), ('Lima', True), ('.', False)]
    """
    pieces, at = [], 0
    for start, end in spans:
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [piece for piece in [*pieces, (text[at:], False)] if piece[0]]


def _joined(between: str) -> bool:
    """Whether two words stand in one run: nothing ends between them."""
    return len(between) <= 3 and not re.search(r"[.,;:!?\n]", between)


def _trimmed(run: list[tuple[int, int, bool]]) -> list[tuple[int, int]]:
    """The run without function words at its ends."""
    telling = [number for number, (_, _, tells) in enumerate(run) if tells]
    return [(run[telling[0]][0], run[telling[-1]][1])] if telling else []


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
