"""Verifiers: is a response right, given the reference? One interface for rules, models, and models with tools
(CoSineVerifier, arXiv 2512.01224; card 28)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

from ken.agents.equivalence import Equivalence
from ken.agents.verify_loop import Manner, VerifyLoop, verification_question
from ken.core import BadInput, Malformed, Sampling, ToolCall, Trajectory
from ken.core.steps import Step
from ken.metrics import exact_match
from ken.metrics.equivalence import near, plain_math, without_constants
from ken.metrics.expressions import Rational, read_expression
from ken.metrics.final_answer import Label, final_answer, window
from ken.models import Model
from ken.sources import Sources
from ken.sources.tools.python import PythonTool
from ken.sources.tools.tool import Tool

SAMPLING = Sampling(temperature=0.6, top_p=0.85, max_tokens=4096)
"""The card's, for judgements that are repeated; its limit of tokens is 32,768 a call."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A judgement. label: "Correct" or "Incorrect". score: in [0, 1], how sure it is that the answer is right: of a
    rule the closeness of the numbers, of a model the probability of its label, of several votes the share that said
    Correct. reason: by which rule, or why there is no better one. tools: names of those called, in order. tokens: that
    the model wrote. trace: of the attempts, steps in order. failed: no model answered; the label is then no judgement.
    unread: judgements without a label, which count as Incorrect here and as wrong in accuracies (card 28, Verdict).
    """

    label: Label
    score: float
    reason: str = ""
    tools: tuple[str, ...] = ()
    tokens: int = 0
    trace: tuple[Step, ...] = ()
    unread: int = 0
    failed: str = ""

    @property
    def right(self) -> bool:
        return self.label == "Correct"


@runtime_checkable
class Verifier(Protocol):
    """Whoever verifies. Many calls may be awaited at once."""

    name: str

    async def verify(self, question: str, reference: str, response: str) -> Verification:
        """Judge a response. An empty one is Incorrect, with the reason. Raises `BadInput` without a reference."""
        ...

    async def close(self) -> None:
        """Release processes."""
        ...


EMPTY = Verification("Incorrect", 0.0, "the response is empty, or ends while it is thinking")


def checked(reference: str, response: str) -> Verification | None:
    """What can be said before anybody compares. Raises `BadInput` without a reference."""
    if not reference.strip():
        raise BadInput("there is no reference answer to verify against; give one")
    return None if window(response) else EMPTY


class _Rule(ABC):
    """A verifier that reads the final answer of a response (`final_answer`) and needs no model."""

    name: str

    async def verify(self, question: str, reference: str, response: str) -> Verification:
        if (known := checked(reference, response)) is not None:
            return known
        return await self.judged(question, reference, final_answer(response))

    @abstractmethod
    async def judged(self, question: str, reference: str, answer: str) -> Verification:
        """The judgement of the final answer of a response that says something."""

    async def close(self) -> None:
        return


class ExactMatch(_Rule):
    """The same text after normalisation (as open-domain question answering compares)."""

    name = "exact"

    async def judged(self, question: str, reference: str, answer: str) -> Verification:
        return _by_rule(float(exact_match(answer, (reference,))), "exact match")


class NumericMatch(_Rule):
    """The same number, in whatever notation, within a relative tolerance."""

    name = "numeric"

    def __init__(self, tolerance: float = 1e-3) -> None:
        self.tolerance = tolerance

    async def judged(self, question: str, reference: str, answer: str) -> Verification:
        try:
            said, gold = (read_expression(plain_math(text)) for text in (answer, reference))
        except BadInput:
            return _by_rule(0.0, "not both are numbers")
        if not (isinstance(said, Rational) and isinstance(gold, Rational)):
            return _by_rule(0.0, "not both are numbers")
        if said.number is None or gold.number is None:
            return _by_rule(0.0, "not both are numbers")
        return _by_rule(near(float(said.number), float(gold.number), self.tolerance), "number")


class RuleVerifier(_Rule):
    """The rules of `Equivalence`: numbers, sets, intervals, algebra, units, choices, text.

    equivalence: which rules; by default all for which the libraries are installed. constants: whether values that the
    question gives are put in.
    """

    name = "rule"

    def __init__(self, equivalence: Equivalence | None = None, *, constants: bool = True) -> None:
        self.equivalence, self.constants = equivalence or Equivalence(), constants

    async def judged(self, question: str, reference: str, answer: str) -> Verification:
        found = await self.equivalence.compare(
            answer, reference, question if self.constants else without_constants(question)
        )
        return _by_rule(found.score, found.how)

    async def close(self) -> None:
        await self.equivalence.close()


def _by_rule(score: float, how: str) -> Verification:
    return Verification("Correct" if score >= 0.5 else "Incorrect", score, how)


class ModelVerifier:
    """A model judges, with tools, by thinking, or by its first word; `votes` times, of which the majority counts (card
    28, Tool loop, Verdict).

    tools: of the manner "tools"; by default sandboxed Python and, where pint is installed, the unit converter; closed
    with the verifier. max_turns: of the loop. attempts: at a request, when the model does not answer. sampling: by
    default greedy for one vote, and the card's for several.

    Raises `BadInput` for no vote, or for tools with another manner.
    """

    def __init__(
        self,
        model: Model,
        *,
        manner: Manner = "tools",
        tools: Sequence[Tool] | None = None,
        votes: int = 1,
        max_turns: int = 5,
        attempts: int = 2,
        sampling: Sampling | None = None,
    ) -> None:
        if votes < 1 or attempts < 1:
            raise BadInput(f"votes is {votes} and attempts {attempts}; a verifier needs at least one of each")
        chosen = tools if tools is not None else verifier_tools() if manner == "tools" else ()
        self.name = {"tools": "tools", "thoughts": "think", "label": "label"}[manner]
        self.model, self.votes, self.attempts = model, votes, attempts
        self.loop = VerifyLoop(chosen, manner=manner, max_turns=max_turns)
        self.sampling = sampling or (SAMPLING if votes > 1 else SAMPLING.but(temperature=0.0, top_p=1.0))

    async def verify(self, question: str, reference: str, response: str) -> Verification:
        return majority(await self.each_vote(question, reference, response))

    async def each_vote(self, question: str, reference: str, response: str) -> list[Verification]:
        """The judgements one by one. Raises `BadInput` without a reference."""
        if (known := checked(reference, response)) is not None:
            return [known] * self.votes
        made = await asyncio.gather(*(self._vote(question, reference, response, i) for i in range(self.votes)))
        return [as_verification(trajectory) for trajectory in made]

    async def _vote(self, question: str, reference: str, response: str, vote: int) -> Trajectory:
        asked = verification_question(question, reference, response)
        for attempt in range(self.attempts):
            sampling = self.sampling.but(seed=(self.sampling.seed or 0) + attempt)
            made = await self.loop.run(asked, self.model, Sources(), sampling=sampling, sample=vote)
            if made.error is None:
                break
        return made

    async def close(self) -> None:
        await self.loop.tools.close()


def verifier_tools() -> list[Tool]:
    """Sandboxed Python, and the unit converter where pint is installed."""
    tools: list[Tool] = [PythonTool(seconds=5.0)]
    if find_spec("pint") is not None:
        from ken.sources.tools.units import UnitTool

        tools.append(UnitTool())
    return tools


def as_verification(trajectory: Trajectory) -> Verification:
    """What an attempt of `VerifyLoop` amounts to."""
    answer = next((step for step in reversed(trajectory.steps) if step.kind == "answer"), None)
    sure = 1.0 if answer is None or answer.confidence is None else answer.confidence
    problem = next((s.problem for s in reversed(trajectory.steps) if isinstance(s, Malformed)), "")
    right = answer is not None and answer.text == "Correct"
    return Verification(
        label="Correct" if right else "Incorrect",
        score=sure if right else 0.0 if answer is None else 1.0 - sure,
        reason=trajectory.error or ("" if answer is not None else problem),
        tools=tuple(step.name for step in trajectory.steps if isinstance(step, ToolCall)),
        tokens=trajectory.usage.completion_tokens,
        trace=trajectory.steps,
        unread=int(answer is None and trajectory.error is None),
        failed=trajectory.error or "",
    )


def majority(votes: Sequence[Verification]) -> Verification:
    """What most votes say; votes of models that did not answer do not count, and a tie is Incorrect. One vote is
    itself. score: the mean of one vote's; of several, the share that said Correct. Raises `BadInput` without votes."""
    if not votes:
        raise BadInput("there is nothing to vote with; give at least one verifier")
    if len(votes) == 1:
        return votes[0]
    counted = [vote for vote in votes if not vote.failed]
    share = sum(vote.right for vote in counted) / len(counted) if counted else 0.0
    right = share > 0.5
    return Verification(
        label="Correct" if right else "Incorrect",
        score=share,
        reason="; ".join(dict.fromkeys(vote.reason for vote in votes if vote.reason)),
        tools=tuple(name for vote in votes for name in vote.tools),
        tokens=sum(vote.tokens for vote in votes),
        trace=tuple(step for vote in votes for step in vote.trace),
        unread=sum(vote.unread for vote in votes),
        failed="" if counted else votes[0].failed,
    )


class Ensemble:
    """Several verifiers; the majority counts. Raises `BadInput` without any."""

    name = "ensemble"

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        if not verifiers:
            raise BadInput("an ensemble needs at least one verifier")
        self.verifiers = tuple(verifiers)

    async def verify(self, question: str, reference: str, response: str) -> Verification:
        said = await asyncio.gather(*(v.verify(question, reference, response) for v in self.verifiers))
        return majority(said)

    async def close(self) -> None:
        for verifier in self.verifiers:
            await verifier.close()


RULES: dict[str, Callable[[], Verifier]] = {"exact": ExactMatch, "numeric": NumericMatch, "rule": RuleVerifier}
"""Verifiers that need no model, by name."""

MANNERS: dict[str, Manner] = {"tools": "tools", "think": "thoughts", "label": "label"}
"""How a model verifies, by name."""

__all__ = [
    "EMPTY",
    "MANNERS",
    "RULES",
    "Ensemble",
    "ExactMatch",
    "ModelVerifier",
    "NumericMatch",
    "RuleVerifier",
    "Verification",
    "Verifier",
    "as_verification",
    "majority",
    "verifier_tools",
]
