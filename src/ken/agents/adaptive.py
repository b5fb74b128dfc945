"""Decide first, then answer from inside or search: the inference pipeline of AdaSearch (arXiv 2512.16883; card 01,
Inference).
"""

from __future__ import annotations

from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.direct import Direct
from ken.agents.instructions import DECIDE
from ken.agents.protocol import escape, parse_decision
from ken.agents.search import SearchLoop
from ken.agents.strategy import Strategy
from ken.core import Decision


class Adaptive(Strategy):
    """Ask the model, in words, whether its own knowledge suffices. Yes: closed book. No, or a verdict that cannot be
    parsed: search.

    An unparseable verdict is recorded as a `Malformed` step and a `Decision` with `knows=None`; it is never taken for a
    "no".
    """

    name = "adaptive"
    needs_search = True
    answers_from = 2  # after the verdict

    def __init__(self, max_turns: int = 4) -> None:
        self.inside, self.outside = Direct(), SearchLoop(max_turns)

    async def solve(self, attempt: Attempt) -> None:
        decision = await decide(attempt)
        await (self.inside if decision.knows else self.outside).solve(attempt)


class Decide(Strategy):
    """Only the verdict, without acting on it: what the decision stage trains (card 01, Training stage 2)."""

    name = "decide"

    async def solve(self, attempt: Attempt) -> None:
        await decide(attempt)


async def decide(attempt: Attempt) -> Decision:
    """Ask for the verdict and record it."""
    attempt.begin(DECIDE, escape(attempt.question.text))
    generation = await attempt.generate(stop=("</assessment>",))
    parsed = parse_decision(generation.text)
    if isinstance(parsed, Decision):
        probability = tag_probability(generation, "assessment")
        if probability is not None and not parsed.knows:
            probability = 1.0 - probability  # of "yes": what is not "no"
        decision = parsed.model_copy(update={"confidence": probability})
    else:
        attempt.steps.append(parsed)
        decision = Decision(knows=None, rationale=generation.text.strip())
    attempt.steps.append(decision)
    return decision
