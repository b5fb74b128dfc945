"""Self-consistency: several chains of thought, and the answer that most of them give (Wang et al. 2023, arXiv
2203.11171)."""

from __future__ import annotations

import asyncio
from collections import Counter

from ken.agents.attempt import Attempt
from ken.agents.instructions import CLOSED
from ken.agents.protocol import escape, parse_answer
from ken.agents.strategy import Strategy
from ken.core import Answer, BadInput, Thought
from ken.metrics import normalize_answer


class SelfConsistency(Strategy):
    """Answer closed book `samples` times at `temperature`, all at once; the majority after SQuAD normalisation is the
    answer, in the words in which it came first. Of equally frequent answers the one that came first counts.

    Raises `BadInput` for fewer than two samples, or a temperature of 0, at which all are the same.
    """

    name = "sc"

    def __init__(self, samples: int = 5, *, temperature: float = 0.7) -> None:
        if samples < 2 or temperature <= 0:
            raise BadInput(
                f"self-consistency needs at least 2 samples at a temperature above 0, not {samples} at {temperature}; "
                "to answer once, use 'direct'"
            )
        self.samples, self.temperature = samples, temperature

    async def solve(self, attempt: Attempt) -> None:
        sampling = attempt.sampling.but(temperature=self.temperature)
        text = escape(attempt.question.text)
        replies = await asyncio.gather(
            *(attempt.aside(CLOSED, text, stop=("</answer>",), sampling=sampling) for _ in range(self.samples))
        )
        said = [parse_answer(reply.text) for reply in replies]
        attempt.steps += [one for one in said if not isinstance(one, Answer)]
        answers = [one for one in said if isinstance(one, Answer)]
        if not answers:
            return
        votes = Counter(normalize_answer(one.text) for one in answers)
        chosen, count = votes.most_common(1)[0]
        told = ", ".join(f"{answer} ({n})" for answer, n in votes.most_common())
        attempt.steps.append(Thought(text=f"{count} of {self.samples} samples agree: {told}"))
        first = next(one for one in answers if normalize_answer(one.text) == chosen)
        attempt.steps.append(first.model_copy(update={"source": "inside"}))
