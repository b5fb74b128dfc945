"""Retrieve once, then answer."""

from __future__ import annotations

from ken.agents.attempt import Attempt
from ken.agents.direct import write_answer
from ken.agents.instructions import READ
from ken.agents.protocol import MAX_WORDS, escape, render_passages
from ken.agents.strategy import Strategy
from ken.core import BadInput, SourceError


class Rag(Strategy):
    """Search with the question itself, whatever the model knows, and answer with the passages in the prompt.

    max_words: of all passages together (`protocol.render_passages`). Raises `BadInput` below 1.
    """

    name = "rag"
    needs_search = True
    answers_from = 1

    def __init__(self, max_words: int = MAX_WORDS) -> None:
        if max_words < 1:
            raise BadInput(f"max_words is {max_words}; passages need at least one word")
        self.max_words = max_words

    async def solve(self, attempt: Attempt) -> None:
        passages = await attempt.search(attempt.question.text)
        if passages is None:
            raise SourceError(f"the search failed: {attempt.steps[-1].note}")  # type: ignore[union-attr]
        attempt.begin(READ, f"{render_passages(passages, max_words=self.max_words)}\n\n{escape(attempt.question.text)}")
        await write_answer(attempt)
