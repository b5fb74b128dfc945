"""Cut long documents into passages of about equal length that overlap.

A passage ends at a paragraph or a sentence where one ends near its limit, so that a fact is rarely cut in two; the
overlap keeps the facts that are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ken.core import BadInput

# A word is a run without white space. Scripts written without spaces (Han, kana) count each character as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_SENTENCE_END = re.compile(r"[.!?…。！？]['\"’”)\]»」』]*$")


def check_chunking(words: int, overlap: int) -> None:
    """Raise `BadInput` unless words ≥ 1 and 0 ≤ overlap < words."""
    if words < 1:
        raise BadInput(f"a chunk needs at least 1 word, not {words}; 200 is a good start")
    if not 0 <= overlap < words:
        raise BadInput(f"the overlap must be at least 0 and below the {words} words of a chunk, not {overlap}")


def split_text(text: str, words: int, overlap: int) -> list[str]:
    """Cut `text` into chunks of at most `words` words; each next chunk starts with the last `overlap` words of the one
    before.

    A chunk ends after the last paragraph that ends within its last quarter, else after the last sentence that does,
    else at `words` words. Chunks are slices of `text`: nothing inside them is changed, and no word is lost.
    """
    if _is_short(text, words):
        return [text]
    spans = [match.span() for match in _WORD.finditer(text)]
    chunks = []
    start = 0
    while True:
        end = min(start + words, len(spans))
        if end < len(spans):
            end = _boundary(text, spans, max(start + words - words // 4, start + overlap + 1), end)
        chunks.append(text[spans[start][0] : spans[end - 1][1]])
        if end == len(spans):
            return chunks
        start = end - overlap


def join_chunks(chunks: Sequence[str], overlap: int) -> str:
    """The text that `split_text` cut into these chunks, in order; without overlap, the white space between two chunks
    is not known and becomes one space.
    """
    pieces = list(chunks[:1])
    for before, chunk in pairwise(chunks):
        shared = ""
        if overlap:
            starts = [match.start() for match in _WORD.finditer(before)]
            shared = before[starts[-overlap] :] if len(starts) >= overlap else ""
        pieces.append(chunk.removeprefix(shared) if shared else f" {chunk}")
    return "".join(pieces)


def _is_short(text: str, words: int) -> bool:
    """Whether `text` has at most `words` words; most documents do, and finding the place of each word is slow."""
    if len(text) <= words or (len(text) < 2 * words and text.isascii()):  # a word of ASCII takes a space beside it
        return True
    if text.isascii() and text.isprintable() and text.count(" ") < words:  # no other white space than these
        return True
    if not text.isascii() and _UNSPACED_CHARACTER.search(text):
        return sum(1 for _ in _WORD.finditer(text)) <= words
    return len(text.split()) <= words


def _boundary(text: str, spans: list[tuple[int, int]], first: int, last: int) -> int:
    """The best end (exclusive word number) in [first, last]: the last paragraph end, else the last sentence end, else
    `last`.
    """
    sentence = None
    for end in range(last, first - 1, -1):
        if "\n" in (gap := text[spans[end - 1][1] : spans[end][0]]) and gap.count("\n") > 1:
            return end
        if sentence is None and _SENTENCE_END.search(text, *spans[end - 1]):
            sentence = end
    return sentence or last
