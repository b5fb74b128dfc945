"""Choose among the candidates of a question: closed book, or below triples around what the question names. Both are
baselines of KSL (arXiv 2309.03118; card 55).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Literal, get_args

from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.direct import write_answer
from ken.agents.graph_walk import edges, graph_of
from ken.agents.instructions import CLOSED, INVALID_ANSWER, READ
from ken.agents.protocol import escape, parse_answer, parse_thoughts
from ken.agents.strategy import Strategy
from ken.core import Answer, BadInput, Entity, Malformed, Observation, Triple, Unsupported, Usage
from ken.core.choices import choices_of, chosen, lettered
from ken.models import Instruction, Message, Model
from ken.sources.graph.mentions import mentioned

By = Literal["writing", "likelihood"]


def asked(question: str, choices: Sequence[str]) -> str:
    """A question with its candidates."""
    return f"{escape(question)}\nCandidates: {escape(lettered(choices))}" if choices else escape(question)


def evidence(lines: Sequence[str]) -> str:
    """Triples as the model sees them, one a line."""
    return "<information>" + "\n".join(escape(" ".join(line.split())) for line in lines) + "</information>"


async def score_choices(
    model: Model, instruction: Instruction, text: str, choices: Sequence[str], *, per_token: bool = True
) -> list[float]:
    """The probability of each candidate as the answer, of them all: from the log-likelihood of `<answer> … </answer>`
    after the prompt, its mean over tokens (length-normalised, as `acc_norm` of the LM Evaluation Harness) or its sum.

    Raises `Unsupported` for a model without log-probabilities, `ModelError`.
    """
    conversation = [Message("system", instruction), Message("user", text)]
    scores = await asyncio.gather(*(model.score(conversation, f"<answer> {choice} </answer>") for choice in choices))
    found = [s.total / max(1, len(s.logprobs)) if per_token else s.total for s in scores]
    most = max(found)
    weights = [math.exp(value - most) for value in found]
    return [weight / sum(weights) for weight in weights]


async def choose(attempt: Attempt, instruction: Instruction, text: str, choices: Sequence[str]) -> None:
    """Answer with one of the candidates: what the model writes, and where that names none, by likelihood, if the
    model can tell it. Raises `ModelError`."""
    attempt.begin(instruction, text)
    for turn in range(2):
        generation = await attempt.generate(stop=("</answer>",))
        attempt.steps.extend(parse_thoughts(generation.text))
        said = parse_answer(generation.text)
        place = chosen(said.text, choices) if isinstance(said, Answer) else None
        if place is not None:
            confidence = tag_probability(generation, "answer")
            attempt.steps.append(Answer(text=choices[place], source="inside", confidence=confidence))
            return
        problem = said.problem if isinstance(said, Malformed) else "an answer that is no candidate"
        attempt.steps.append(Malformed(text=generation.text, problem=problem))
        if not turn:
            attempt.observe(INVALID_ANSWER)
    try:
        shares = await score_choices(attempt.model, instruction, text, choices)
    except Unsupported:
        return
    best = max(range(len(choices)), key=shares.__getitem__)
    attempt.steps.append(Answer(text=choices[best], source="inside", confidence=shares[best]))


async def choose_closed_book(attempt: Attempt, choices: Sequence[str]) -> None:
    """Answer with one of the candidates from the weights alone. Raises `ModelError`."""
    await choose(attempt, CLOSED, asked(attempt.question.text, choices), choices)


class Choose(Strategy):
    """Answer a question with candidates closed book; one without, as `Direct` does.

    by: "writing" takes what the model writes, "likelihood" the candidate that it finds likeliest (see `score_choices`;
    for models in this process). Raises `BadInput` for another.
    """

    name = "choose"

    def __init__(self, by: By = "writing") -> None:
        if by not in get_args(By):
            raise BadInput(f"by is {by!r}; choose by 'writing' or by 'likelihood'")
        self.by = by

    async def solve(self, attempt: Attempt) -> None:
        await self._choose(attempt, CLOSED, "")

    async def _choose(self, attempt: Attempt, instruction: Instruction, before: str) -> None:
        choices = choices_of(attempt.question)
        text = before + asked(attempt.question.text, choices)
        if not choices:
            attempt.begin(instruction, text)
            await write_answer(attempt)
        elif self.by == "writing":
            await choose(attempt, instruction, text, choices)
        else:
            shares = await score_choices(attempt.model, instruction, text, choices)
            attempt.count(Usage(model_calls=len(choices)))
            best = max(range(len(choices)), key=shares.__getitem__)
            attempt.steps.append(Answer(text=choices[best], source="inside", confidence=shares[best]))


class TripleDump(Choose):
    """The same below all triples around the entities that the question names, at most `shown` of each, in one go.

    max_words: of a mention. Raises `BadInput` for numbers below 1.
    """

    name = "triple-dump"
    needs_graph = True

    def __init__(self, by: By = "writing", *, shown: int = 30, max_words: int = 5) -> None:
        super().__init__(by)
        if min(shown, max_words) < 1:
            raise BadInput("shown and max_words of the triple dump must be at least 1")
        self.shown, self.max_words = shown, max_words

    async def solve(self, attempt: Attempt) -> None:
        entities = await mentioned(graph_of(attempt), attempt.question.text, max_words=self.max_words)
        lines: list[str] = []
        for entity in entities:
            lines += [self.line(triple, entity) for triple in await edges(attempt, entity, limit=self.shown)]
        if not lines:
            attempt.steps.append(Observation(note="the graph has nothing about what the question names", error=True))
        before = f"{evidence(list(dict.fromkeys(lines)))}\n\n" if lines else ""
        await self._choose(attempt, READ if lines else CLOSED, before)

    def line(self, triple: Triple, entity: Entity) -> str:
        """How a triple of an entity reads."""
        return str(triple)
