"""How sure a model was of a part of what it wrote, from its own log-probabilities."""

from __future__ import annotations

import math
import re

from ken.models import Generation


def span_logprobs(generation: Generation, start: int, end: int) -> tuple[float, ...] | None:
    """The log-probabilities of the tokens that overlap characters [start, end) of the text, given what stands before
    them; () where there are none.

    None when the model gave no log-probabilities, or its tokens do not spell out the text.
    """
    if generation.logprobs is None or generation.tokens is None:
        return None
    found: list[float] = []
    unwritten: list[float] = []
    position = 0
    for token, logprob in zip(generation.tokens, generation.logprobs, strict=True):
        unwritten.append(logprob)
        if not token:  # the first bytes of a character, which is written with its last
            continue
        if position < end and position + len(token) > start:
            found += unwritten
        position += len(token)
        unwritten = []
    return tuple(found) if position == len(generation.text) else None


def span_probability(generation: Generation, start: int, end: int) -> float | None:
    """The probability of the tokens that overlap characters [start, end) of the text; None as above, and where there
    are none."""
    found = span_logprobs(generation, start, end)
    return min(1.0, math.exp(sum(found))) if found else None


def tag_probability(generation: Generation, tag: str) -> float | None:
    """The probability of the content of the last `<tag>…</tag>` of a generation, white space at its edges left out;
    None as above.
    """
    blocks = list(re.finditer(rf"<{tag}>\s*(.*?)\s*</{tag}>", generation.text, re.DOTALL))
    return span_probability(generation, *blocks[-1].span(1)) if blocks and blocks[-1][1] else None
