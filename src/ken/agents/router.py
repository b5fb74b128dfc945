"""Read the whole document or retrieve from it? A router between the two (LaRA, arXiv 2502.09977; card 51).

LaRA finds that neither is better: comparisons favour the whole text, questions that the text does not answer favour
retrieval, and the longer the text (and the weaker the model), the more retrieval gains. The router goes by measured
gaps: LaRA's own, averaged over its eleven models, until `fit_routing` has been given answers of the model at hand
(`ken audit reading` writes them down).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ken.agents.attempt import Attempt
from ken.agents.long_context import LongContext, find_documents, room_for_documents
from ken.agents.rag import Rag
from ken.agents.strategy import Strategy
from ken.core import BadInput, Decision, Question
from ken.core.frozen import Frozen
from ken.core.long_documents import Mode, Task
from ken.models.tokens import TokenCounter

Guess = Literal["lookup", "reasoning", "comparison"]
"""What can be told of a question by its words alone: whether the text answers it cannot, so that a lookup is either
LaRA's location or its hallucination."""

GUESS_OF: dict[Task, Guess] = {
    "location": "lookup",
    "hallucination": "lookup",
    "reasoning": "reasoning",
    "comparison": "comparison",
}

_COMPARES = re.compile(
    r"\b(?:compar\w*|contrast\w*|differ(?:s|ed|ent|ences?|ently)? (?:from|in|between)|versus|vs|similarit\w+|"
    r"distinguish\w*|as opposed to|unlike|rather than|which (?:of (?:the two|these)|one)|both|respectively|"
    r"which (?:\w+ ){0,3}?(?:larger|greater|higher|smaller|lower|more|less|longer|shorter|earlier|later))\b",
    re.IGNORECASE,
)
_REASONS = re.compile(
    r"\b(?:why|how (?:does|do|did|would|might|can)|calculat\w*|percent\w*|ratio|sum of|total of|difference|growth|"
    r"increase\w*|decrease\w*|change\w*|average|infer\w*|impl(?:y|ies|ied)|suggests?|reasons?|conclu\w+|explain\w*|"
    r"what does .+ (?:tell|reveal|indicate|mean))\b",
    re.IGNORECASE,
)


def guess_task(question: str) -> Guess:
    """What a question asks for, by its words.

    >>> guess_task("Which was larger, revenue or costs?"), guess_task("Who founded the company?")
    ('comparison', 'lookup')
    """
    if _COMPARES.search(question):
        return "comparison"
    return "reasoning" if _REASONS.search(question) else "lookup"


class Gap(Frozen):
    """How much more often the whole text gave the right answer than retrieval did: `gap` in [−1, 1], over `questions`
    of one kind about documents of about `tokens` tokens."""

    task: Guess
    tokens: int = Field(ge=1)
    gap: float = Field(ge=-1, le=1)
    questions: int = Field(ge=1)


class Routing(Frozen):
    """Measured gaps, and where they come from. The gap of a document between two measured lengths is interpolated over
    the logarithm of the length; beyond them, that of the nearest counts."""

    source: str
    gaps: tuple[Gap, ...]

    def expected(self, task: Guess, tokens: int) -> float | None:
        """The gap to expect, None where nothing was measured for such questions."""
        known = sorted((g for g in self.gaps if g.task == task), key=lambda g: g.tokens)
        if not known:
            return None
        below = [g for g in known if g.tokens <= tokens]
        above = [g for g in known if g.tokens >= tokens]
        if not below or not above:
            return (below or above)[-1 if below else 0].gap
        low, high = below[-1], above[0]
        if low.tokens == high.tokens:
            return low.gap
        share = math.log(tokens / low.tokens) / math.log(high.tokens / low.tokens)
        return low.gap + share * (high.gap - low.gap)


def _lookup(location: float, hallucination: float) -> float:
    """Of LaRA's questions that look something up, 763 have an answer and 608 have none."""
    return (763 * location + 608 * hallucination) / (763 + 608) / 100


LARA = Routing(
    source="LaRA's average over eleven models",
    gaps=(
        Gap(task="lookup", tokens=32_000, gap=_lookup(0.08, -10.38), questions=1371),
        Gap(task="lookup", tokens=128_000, gap=_lookup(-5.25, -22.36), questions=1371),
        Gap(task="reasoning", tokens=32_000, gap=0.0466, questions=606),
        Gap(task="reasoning", tokens=128_000, gap=-0.0139, questions=606),
        Gap(task="comparison", tokens=32_000, gap=0.1522, questions=349),
        Gap(task="comparison", tokens=128_000, gap=0.1430, questions=349),
    ),
)
"""The gaps of the paper's table (card 51), in shares."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A question that was answered both ways: its text, how long its document is, and how right each answer was."""

    question: str
    tokens: int
    lc: float
    rag: float


def fit_routing(answers: Iterable[Compared], *, source: str, prior: Routing = LARA, weight: float = 20.0) -> Routing:
    """Gaps as measured, by kind of question and by length (documents within a factor of two count as one length), each
    drawn towards `prior` as if `weight` more questions had shown that; so a handful of answers changes little. Raises
    `BadInput` without answers."""
    cells: dict[tuple[Guess, int], list[Compared]] = {}
    for answer in answers:
        length = round(math.log2(max(1, answer.tokens)))
        cells.setdefault((guess_task(answer.question), length), []).append(answer)
    if not cells:
        raise BadInput("there are no answers to learn routing from; answer some questions both ways first")
    gaps = []
    for (task, _), found in sorted(cells.items()):
        tokens = max(1, round(math.exp(sum(math.log(max(1, a.tokens)) for a in found) / len(found))))
        measured = sum(a.lc - a.rag for a in found)
        drawn = weight * (prior.expected(task, tokens) or 0.0)
        gaps.append(Gap(task=task, tokens=tokens, gap=(measured + drawn) / (len(found) + weight), questions=len(found)))
    return Routing(source=source, gaps=tuple(gaps))


def read_routing(path: str | Path) -> Routing:
    """A routing that was written down. Raises `BadInput` for a file that is none."""
    try:
        return Routing.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not what `ken audit reading` writes"
        raise BadInput(f"{path} cannot be read as a routing ({reason}); name the routing.json of an audit") from error


class Router(Strategy):
    """Choose for every question between reading the whole document and retrieving from it.

    In this order: what a search would show anyway is read whole; what does not fit the window is retrieved from, since
    it would lose its middle; otherwise the sign of the expected gap for this kind of question and this length decides.
    The `Decision` is outside either way (`knows` is False, its source "search"), and its rationale says which and why.

    routing: measured gaps. max_words: as of `Rag`. passage_tokens: of what a search shows, all passages together; None
    for those of LaRA's five chunks.
    """

    name = "router"
    needs_search = True
    needs_documents = True
    answers_from = 1

    def __init__(self, routing: Routing = LARA, *, max_words: int = 2400, passage_tokens: int | None = None) -> None:
        self.routing, self.passage_tokens = routing, passage_tokens
        self.whole, self.retrieved = LongContext(), Rag(max_words)

    @classmethod
    def from_argument(cls, argument: str) -> Router:
        """Of `--strategy router:FILE`: with the gaps in that file."""
        return cls(read_routing(argument))

    async def solve(self, attempt: Attempt) -> None:
        before = len(attempt.steps)
        documents = await find_documents(attempt, self.whole.documents)
        tokens = sum(map(TokenCounter(attempt.model), (document.text for document in documents)))
        mode, why = self.choose(attempt.question, tokens, room=min(self.whole.max_tokens, room_for_documents(attempt)))
        if mode == "rag":
            del attempt.steps[before:]  # the search that found the document is made again, for its passages
        attempt.steps.append(Decision(knows=False, source="search", rationale=why))
        if mode == "lc":
            await self.whole.read(attempt, documents)
        else:
            await self.retrieved.solve(attempt)

    def choose(self, question: Question, tokens: int, *, room: int) -> tuple[Mode, str]:
        """The mode for a question about a document of so many tokens, where `room` tokens fit, and why."""
        size = f"The document has about {tokens:,} tokens"
        shown = SHOWN if self.passage_tokens is None else self.passage_tokens
        if tokens > room:
            return "rag", f"{size}, and only {room:,} fit: retrieve."
        if tokens <= shown:
            return "lc", f"{size}, no more than a search would show: read it whole."
        task = guess_task(question.text)
        expected = self.routing.expected(task, tokens)
        if expected is None:
            return "rag", f"{size}, and nothing was measured for a question of {task}: retrieve, which costs less."
        mode: Mode = "lc" if expected > 0 else "rag"
        better, done = ("the whole text", "read it whole") if mode == "lc" else ("retrieval", "retrieve")
        return mode, (
            f"{size}, and for a question of {task} {better} is right {abs(100 * expected):.1f} points more often "
            f"({self.routing.source}): {done}."
        )


SHOWN = 3000  # tokens: LaRA's five chunks of 600
