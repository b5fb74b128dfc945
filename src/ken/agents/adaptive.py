"""Decide first, then answer from inside or look outside: the inference pipeline of AdaSearch (arXiv 2512.16883; card
01, Inference), for one source outside or several.
"""

from __future__ import annotations

from collections.abc import Collection

from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.direct import Direct
from ken.agents.instructions import DECIDE, choose
from ken.agents.protocol import escape, parse_decision
from ken.agents.search import SearchLoop
from ken.agents.strategy import Strategy
from ken.agents.tools import ToolLoop
from ken.core import Decision, Origin
from ken.models import Instruction

WITH_TOOLS = "adaptive-tools"


class Adaptive(Strategy):
    """Ask the model, in words, whether its own knowledge suffices. Yes: closed book. No, or a verdict that cannot be
    parsed: look outside.

    Where there are several sources outside (an index, a knowledge graph, tools), it is asked which, and that source's
    strategy answers: the search loop, Think-on-Graph, the tool loop. tools: with which of them; the name is then
    `WITH_TOOLS`.

    An unparseable verdict is recorded as a `Malformed` step and a `Decision` with `knows=None`; it is never taken for a
    "no". It leads to the first source that there is.
    """

    name = "adaptive"
    needs_search = True
    answers_from = 2  # after the verdict

    def __init__(self, max_turns: int = 4, *, tools: ToolLoop | None = None) -> None:
        self.inside, self.outside, self.tools = Direct(), SearchLoop(max_turns), tools
        if tools is not None:
            self.name = WITH_TOOLS  # type: ignore[misc]  # of this variant

    def lacks(self, there: Collection[Origin]) -> str | None:
        return None if self._outside(there) else "index"

    async def solve(self, attempt: Attempt) -> None:
        outside = self._outside(attempt.sources.there) or ["search"]
        decision = await (decide(attempt) if len(outside) == 1 else decide_where(attempt, ["inside", *outside]))
        chosen = "inside" if decision.knows else decision.source or outside[0]
        await self._strategy(chosen).solve(attempt)

    def _outside(self, there: Collection[Origin]) -> list[Origin]:
        """Where it can look, in the order of preference."""
        every: tuple[Origin, ...] = ("search", "graph", "tools")
        return [o for o in every if o in there or (o == "tools" and self.tools is not None)]

    def _strategy(self, source: Origin) -> Strategy:
        if source == "graph":
            from ken.agents import load_strategy

            return load_strategy("graph")
        if source == "tools" and self.tools is not None:
            return self.tools
        return self.inside if source == "inside" else self.outside


class Decide(Strategy):
    """Only the verdict, without acting on it: what the decision stage trains (card 01, Training stage 2)."""

    name = "decide"

    async def solve(self, attempt: Attempt) -> None:
        await decide(attempt)


async def decide(attempt: Attempt) -> Decision:
    """Ask for the verdict and record it."""
    return await _decide(attempt, DECIDE)


async def decide_where(attempt: Attempt, sources: list[Origin]) -> Decision:
    """Ask which of several sources to answer from, and record it. The verdict has no confidence: the probability of
    one of many choices says little about the others."""
    return await _decide(attempt, choose(sources), sources)


async def _decide(attempt: Attempt, instruction: Instruction, sources: list[Origin] | None = None) -> Decision:
    attempt.begin(instruction, escape(attempt.question.text))
    generation = await attempt.generate(stop=("</assessment>",))
    parsed = parse_decision(generation.text, sources or ())
    if isinstance(parsed, Decision):
        probability = tag_probability(generation, "assessment") if sources is None else None
        if probability is not None and not parsed.knows:
            probability = 1.0 - probability  # of "yes": what is not "no"
        decision = parsed.model_copy(update={"confidence": probability})
    else:
        attempt.steps.append(parsed)
        decision = Decision(knows=None, rationale=generation.text.strip())
    attempt.steps.append(decision)
    return decision
