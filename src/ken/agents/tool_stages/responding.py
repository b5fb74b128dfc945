"""Stage 4, response: from what tools returned to the answer (card 49, Method)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.protocol import parse_answer
from ken.agents.tool_stages.grammar import RESPOND, history
from ken.agents.tool_stages.trace import StepTrace, sinks
from ken.core import Answer, Malformed
from ken.sources.tools.tool import ERROR


class Responder(ABC):
    """Makes the answer. Raises `ModelError`; what cannot be read is a `Malformed`."""

    @abstractmethod
    async def respond(self, attempt: Attempt, question: str, steps: tuple[StepTrace, ...]) -> Answer | Malformed:
        """The answer from what the steps brought."""


@dataclass(frozen=True)
class Insert(Responder):
    """Direct insertion: the result stands where the call stood; several are joined. The model is not asked."""

    joint: str = " and "

    async def respond(self, attempt: Attempt, question: str, steps: tuple[StepTrace, ...]) -> Answer | Malformed:
        values = [step.value for step in sinks(steps)]
        if not values:
            return Malformed(text="", problem="no tool has returned anything")
        return Answer(text=self.joint.join(values), source="tools")


class Integrate(Responder):
    """Information integration: the model writes the answer from all results, trimmed. Errors are shown to it, too."""

    async def respond(self, attempt: Attempt, question: str, steps: tuple[StepTrace, ...]) -> Answer | Malformed:
        text = history(question, exchanges(steps))
        generation = await attempt.aside(RESPOND, text, stop=("</answer>",))
        answer = parse_answer(generation.text)
        if isinstance(answer, Malformed):
            return answer
        confidence = tag_probability(generation, "answer")
        return answer.model_copy(update={"source": "tools", "confidence": confidence})


def exchanges(steps: tuple[StepTrace, ...]) -> list[tuple[str, str]]:
    """Every sub-question and what came back."""
    return [(step.asked or step.planned.text, step.shown or f"{ERROR} nothing came back") for step in steps]
