"""The multi-turn search loop of Search-R1 (arXiv 2503.09516; card 00, rollout format)."""

from __future__ import annotations

from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.direct import write_answer
from ken.agents.instructions import INVALID_ACTION, NO_MORE_SEARCHES, NOTHING_FOUND, SEARCH, SEARCH_FAILED
from ken.agents.protocol import escape, parse_action, parse_thoughts, render_passages
from ken.agents.strategy import Strategy
from ken.core import Answer, BadInput, Malformed, Search
from ken.models import Generation, Instruction

STOP = ("</search>", "</answer>")


class SearchLoop(Strategy):
    """Think, search, read, as often as the model wants up to `max_turns` searches; then one last turn in which it must
    answer.

    instruction: how it is told to; `SEARCH_SPARINGLY` asks it to prefer what it knows.
    """

    name = "search"
    needs_search = True
    answers_from = 1

    def __init__(self, max_turns: int = 4, *, instruction: Instruction = SEARCH) -> None:
        if max_turns < 1:
            raise BadInput(f"max_turns is {max_turns}; the search loop needs at least one turn, or use 'direct'")
        self.max_turns, self.instruction = max_turns, instruction

    async def solve(self, attempt: Attempt) -> None:
        attempt.begin(self.instruction, escape(attempt.question.text))
        for _ in range(self.max_turns):
            action = _act(attempt, await attempt.generate(stop=STOP))
            if isinstance(action, Answer):
                return
            if isinstance(action, Malformed):
                attempt.observe(INVALID_ACTION)
                continue
            await look_up(attempt, action.query)
        generation = await attempt.generate(stop=STOP)
        if isinstance(_act(attempt, generation), Search):  # one reminder, then it ends with or without an answer
            attempt.steps.append(Malformed(text=generation.text, problem="a search after the last turn"))
            attempt.observe(NO_MORE_SEARCHES)
            await write_answer(attempt, reminders=0)


async def look_up(attempt: Attempt, query: str) -> None:
    """Search, and show the model what was found, or that nothing was."""
    passages = await attempt.search(query)
    if passages is None:
        attempt.observe(SEARCH_FAILED)
    elif passages:
        attempt.observe(f"\n\n{render_passages(passages)}\n\n")
    else:
        attempt.observe(NOTHING_FOUND)


def _act(attempt: Attempt, generation: Generation) -> Search | Answer | Malformed:
    """Record the thoughts of a turn and its answer; return its action. A search is recorded when it is carried out."""
    action = parse_action(generation.text)
    attempt.steps.extend(parse_thoughts(generation.text))
    if isinstance(action, Answer):
        action = action.model_copy(update={"confidence": tag_probability(generation, "answer")})
    if not isinstance(action, Search):
        attempt.steps.append(action)
    return action
