"""Interleave retrieval with a chain of thought: each new sentence of the thought is the next query (IRCoT, Trivedi et
al. 2023, arXiv 2212.10509).

The original prompts for one sentence at a time with demonstrations; here the model reads, thinks and answers at every
round, as in `Rag`, and the sentence that is new is taken from its thought. So any model that can read can do it.
"""

from __future__ import annotations

import re

from ken.agents.attempt import Attempt
from ken.agents.direct import write_answer
from ken.agents.instructions import INVALID_ANSWER, READ
from ken.agents.protocol import escape, parse_answer, parse_thoughts, render_passages
from ken.agents.stepwise import Unseen
from ken.agents.strategy import Strategy
from ken.core import Answer, BadInput, Passage, Thought
from ken.sources import Sources

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\s+,\s+|\n+")


class Ircot(Strategy):
    """Search with the question; then up to `max_rounds` times: read all passages so far and think; search with the
    sentence of the thought that this round adds. It ends when the thought has no further sentence, with its answer.

    max_passages: shown in all; none is shown twice. Raises `BadInput` for numbers below 1.
    """

    name = "ircot"
    needs_search = True

    def __init__(self, max_rounds: int = 4, *, max_passages: int = 10) -> None:
        if min(max_rounds, max_passages) < 1:
            raise BadInput("max_rounds and max_passages must be at least 1")
        self.max_rounds, self.max_passages = max_rounds, max_passages

    async def solve(self, attempt: Attempt) -> None:
        if attempt.sources.search is not None:
            unseen = Unseen(attempt.sources.search, self.max_passages)
            attempt.sources = Sources(search=unseen, top_k=attempt.sources.top_k)
        passages: list[Passage] = list(await attempt.search(attempt.question.text) or ())
        for turn in range(self.max_rounds):
            self._begin(attempt, passages)
            generation = await attempt.generate(stop=("</answer>",))
            sentences = [s for t in parse_thoughts(generation.text) for s in split_sentences(t.text)]
            if len(sentences) <= turn:
                attempt.steps.append(answer := parse_answer(generation.text))
                if isinstance(answer, Answer):
                    return
                attempt.observe(INVALID_ANSWER)
                break
            attempt.steps.append(Thought(text=sentences[turn]))
            passages += await attempt.search(sentences[turn]) or ()
        else:
            self._begin(attempt, passages)
        await write_answer(attempt)

    @staticmethod
    def _begin(attempt: Attempt, passages: list[Passage]) -> None:
        attempt.begin(READ, f"{render_passages(passages)}\n\n{escape(attempt.question.text)}")


def split_sentences(text: str) -> list[str]:
    """The sentences of a thought. A comma between spaces, as models of the lab write it, ends one too.

    >>> split_sentences("Ann's mentor is Bob. Bob was born in Bonn.")
    ["Ann's mentor is Bob.", 'Bob was born in Bonn.']
    """
    return [part for part in map(str.strip, _SENTENCE_END.split(text)) if part]
