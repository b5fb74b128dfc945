"""A gate decides before the model writes a word: answer from inside, or search. The baseline of adaptive retrieval
(Adaptive-RAG, arXiv 2403.14403), with any judge of the question in the gate's place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ken.agents.attempt import Attempt
from ken.agents.direct import Direct
from ken.agents.search import SearchLoop
from ken.agents.strategy import Strategy
from ken.core import BadInput, Decision, Question
from ken.models import Model

Gate = Callable[[Question, Model], Awaitable[float]]
"""The probability, in [0, 1], that this model can answer this question alone."""


class Gated(Strategy):
    """Ask `gate` whether the model knows. A probability of at least `threshold`: answer closed book; below: search.

    The verdict is recorded as a `Decision` whose confidence is the gate's probability of knowing. Raises `BadInput` for
    a threshold outside [0, 1].
    """

    name = "gated"
    needs_search = True

    def __init__(self, gate: Gate, *, threshold: float = 0.5, max_turns: int = 4) -> None:
        if not 0 <= threshold <= 1:
            raise BadInput(f"the gate's threshold is {threshold}; it must lie in [0, 1]")
        self.gate, self.threshold = gate, threshold
        self.inside, self.outside = Direct(), SearchLoop(max_turns)

    async def solve(self, attempt: Attempt) -> None:
        known = await self.gate(attempt.question, attempt.model)
        knows = known >= self.threshold
        attempt.steps.append(Decision(knows=knows, confidence=known))
        await (self.inside if knows else self.outside).solve(attempt)
