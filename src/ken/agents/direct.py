"""Closed book: answer from the weights alone."""

from __future__ import annotations

from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.instructions import CLOSED, CLOSED_BRIEF, INVALID_ANSWER
from ken.agents.protocol import escape, parse_answer, parse_steps, parse_thoughts
from ken.agents.strategy import Strategy
from ken.core import Answer, Malformed, Search


class Direct(Strategy):
    """Answer without looking anything up (s_param of card 01)."""

    name = "direct"
    answers_from = 1

    async def solve(self, attempt: Attempt) -> None:
        attempt.begin(CLOSED, escape(attempt.question.text))
        await write_answer(attempt)


class InputOutput(Strategy):
    """Answer without looking anything up and without a thought first ("IO prompting" of the papers that compare with
    it)."""

    name = "io"
    answers_from = 1

    async def solve(self, attempt: Attempt) -> None:
        attempt.begin(CLOSED_BRIEF, escape(attempt.question.text))
        await write_answer(attempt)


async def write_answer(attempt: Attempt, *, reminders: int = 1) -> None:
    """Let the model write until it has answered; remind it of the form at most `reminders` times.

    A search that it writes is not carried out, so it counts as malformed and not as a search.
    """
    for turn in range(reminders + 1):
        generation = await attempt.generate(stop=("</answer>",))
        attempt.steps.extend(parse_thoughts(generation.text))
        if any(isinstance(step, Search) for step in parse_steps(generation.text)):
            attempt.steps.append(Malformed(text=generation.text, problem="a search where none is possible"))
        answer = parse_answer(generation.text)
        if isinstance(answer, Answer):
            confidence = tag_probability(generation, "answer")
            attempt.steps.append(answer.model_copy(update={"confidence": confidence}))
            return
        attempt.steps.append(answer)
        if turn < reminders:
            attempt.observe(INVALID_ANSWER)
