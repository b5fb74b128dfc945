"""Retrieve once, then answer."""

from __future__ import annotations

from ken.agents.attempt import Attempt
from ken.agents.direct import write_answer
from ken.agents.instructions import READ
from ken.agents.protocol import escape, render_passages
from ken.agents.strategy import Strategy
from ken.core import SourceError


class Rag(Strategy):
    """Search with the question itself, whatever the model knows, and answer with the passages in the prompt."""

    name = "rag"
    needs_search = True
    answers_from = 1

    async def solve(self, attempt: Attempt) -> None:
        passages = await attempt.search(attempt.question.text)
        if passages is None:
            raise SourceError(f"the search failed: {attempt.steps[-1].note}")  # type: ignore[union-attr]
        attempt.begin(READ, f"{render_passages(passages)}\n\n{escape(attempt.question.text)}")
        await write_answer(attempt)
