"""Read all edges of the topic entities at once: what a walk must beat (card 44, Baselines)."""

from __future__ import annotations

from ken.agents import graph_prompts as prompts
from ken.agents.attempt import Attempt
from ken.agents.confidence import span_probability
from ken.agents.graph import answer_inside
from ken.agents.graph_link import LINKERS, Linker, topic_entities
from ken.agents.graph_parse import NO_ANSWER, parse_braced, parse_unbraced
from ken.agents.graph_walk import edges
from ken.agents.strategy import Strategy
from ken.core import Answer, BadInput, Malformed


class GraphDump(Strategy):
    """Answer from the triples with a topic entity at either end, at most `limit` of each; closed book when there are
    none. Raises `BadInput` for a limit below 1 or an unknown linker."""

    name = "graph-dump"
    needs_graph = True

    def __init__(self, limit: int = 30, *, linker: Linker = "auto") -> None:
        if limit < 1 or linker not in LINKERS:
            raise BadInput(f"limit is {limit} and linker {linker!r}; give at least 1, and one of {', '.join(LINKERS)}")
        self.limit, self.linker = limit, linker

    async def solve(self, attempt: Attempt) -> None:
        topics = await topic_entities(attempt, self.linker, 3)
        found = [triple for topic in topics for triple in await edges(attempt, topic, limit=self.limit)]
        if not found:
            return await answer_inside(attempt)
        text = prompts.triples_prompt(attempt.question.text, prompts.triple_lines(found, {}))
        attempt.begin(prompts.ANSWER, text)
        reply = await attempt.generate(stop=())
        if (said := parse_braced(reply.text)) is not None:
            answer, start, end = said
            confidence = span_probability(reply, start, end)
            attempt.steps.append(Answer(text=answer, source="graph", confidence=confidence))
            return None
        attempt.steps.append(Malformed(text=reply.text, problem=NO_ANSWER))
        if text := parse_unbraced(reply.text):
            attempt.steps.append(Answer(text=text, source="graph"))
        return None
