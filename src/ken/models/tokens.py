"""How many tokens a text costs a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ken.models.protocol import Model

TOKENS_PER_WORD = 1.3  # of English, for the tokenizers of large models: an estimate, and always called one

_WORD = re.compile(r"\w+|[^\w\s]")


@runtime_checkable
class CountsTokens(Protocol):
    """A model that has its tokenizer at hand."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text that stands in a conversation; marks of the chat template are not among them."""
        ...


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of a text as `model` does: by its own tokenizer, or, where it keeps that to itself (an
    endpoint), by `TOKENS_PER_WORD` a word, punctuation not counted, rounded up. `exact` says which.

    >>> TokenCounter(load_model("openai/m", base_url="http://localhost"))("Ten words make thirteen tokens.")
    7
    """

    model: Model

    @property
    def exact(self) -> bool:
        return isinstance(self.model, CountsTokens)

    def __call__(self, text: str) -> int:
        if isinstance(self.model, CountsTokens):
            return self.model.count_tokens(text)
        words = sum(1 for match in _WORD.finditer(text) if match[0][0].isalnum() or match[0][0] == "_")
        return -int(-words * TOKENS_PER_WORD // 1)

    def cut(self, text: str, most: int) -> str:
        """The longest opening of `text` that ends with a whole word and takes at most `most` tokens; "" when the first
        word takes more."""
        if self(text) <= most:
            return text
        ends = [match.end() for match in re.finditer(r"\S+", text)]
        low, high = 0, len(ends)  # words that fit, and that do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self(text[: ends[middle - 1]]) <= most else (low, middle)
        return text[: ends[low - 1]] if low else ""

    def cut_middle(self, text: str, most: int) -> str:
        """The longest beginning and end of `text`, of as many whole words each, with an ellipsis between them, that
        take at most `most` tokens; "" when no word has room. LaRA's truncation (arXiv 2502.09977), by words."""
        if self(text) <= most:
            return text
        spans = [match.span() for match in re.finditer(r"\S+", text)]

        def ends(words: int) -> str:
            return f"{text[: spans[words - 1][1]]} … {text[spans[-words][0] :]}" if words else ""

        low, high = 0, (len(spans) + 1) // 2  # words at each end that fit, and that do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self(ends(middle)) <= most else (low, middle)
        return ends(low)
