"""The record of one attempt at one question: what audit reads, the trainer logs and the report draws."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field

from ken.core.frozen import Frozen
from ken.core.question import Question
from ken.core.sampling import Sampling
from ken.core.steps import Answer, Decision, Malformed, Observation, Origin, Passage, Search, Step, Triple

_ORIGINS: dict[str, Origin] = {"search": "search", "graph_query": "graph", "tool_call": "tools"}


class Usage(Frozen):
    """What an attempt cost. Tokens are the model's own count; `seconds` is wall time, waiting included."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    model_calls: int = Field(default=0, ge=0)
    search_calls: int = Field(default=0, ge=0)
    graph_calls: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0.0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            model_calls=self.model_calls + other.model_calls,
            search_calls=self.search_calls + other.search_calls,
            graph_calls=self.graph_calls + other.graph_calls,
            seconds=self.seconds + other.seconds,
        )


class Segment(Frozen):
    """A stretch of the token sequence, by who wrote it. The loss of a trainer sees only `policy` segments.

    `token_ids` are the ids that the model saw or sampled (never a re-encoding of `text`), `logprobs` the
    log-probabilities with which policy tokens were sampled, one per id. Both are None for models that do not give them.
    """

    role: Literal["prompt", "policy", "observation"]
    text: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class Trajectory(Frozen):
    """One attempt of a strategy at a question. One JSON line.

    `sample` is None for the attempt that counts and 0…K−1 for the repeated closed-book samples that measure what the
    model knows. `error` is the one-sentence reason when the attempt failed before it could end; such a trajectory keeps
    its question so that nothing is silently dropped. `unfinished` marks an attempt that ended without an answer.
    """

    question: Question
    strategy: str
    model: str = ""
    sample: int | None = None
    sampling: Sampling = Sampling()
    steps: tuple[Step, ...] = ()
    segments: tuple[Segment, ...] = ()
    usage: Usage = Usage()
    error: str | None = None

    @property
    def answer(self) -> str | None:
        """The text of the last answer, or None."""
        return next((s.text for s in reversed(self.steps) if isinstance(s, Answer)), None)

    @property
    def answer_confidence(self) -> float | None:
        """The model's probability of its last answer, or None."""
        return next((s.confidence for s in reversed(self.steps) if isinstance(s, Answer)), None)

    @property
    def unfinished(self) -> bool:
        """True when the attempt ended without an answer."""
        return self.answer is None

    @property
    def decision(self) -> Decision | None:
        """The explicit judgement whether the model knows, or None for strategies that make none."""
        return next((s for s in self.steps if isinstance(s, Decision)), None)

    @property
    def searches(self) -> tuple[Search, ...]:
        """The searches, in order."""
        return tuple(s for s in self.steps if isinstance(s, Search))

    @property
    def search_results(self) -> tuple[Observation, ...]:
        """What each search brought, in order; not what other tools did. One that was cut off brought nothing."""
        return tuple(b for a, b in pairwise(self.steps) if isinstance(a, Search) and isinstance(b, Observation))

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages that were shown to the model, in order, each once."""
        seen: dict[tuple[str, str], Passage] = {}
        for step in self.steps:
            if isinstance(step, Observation):
                for passage in step.passages:
                    seen.setdefault((passage.id, passage.source), passage)
        return tuple(seen.values())

    @property
    def triples(self) -> tuple[Triple, ...]:
        """All triples that a knowledge graph gave, in order, each once."""
        found = (t for s in self.steps if isinstance(s, Observation) for t in s.triples)
        return tuple({(t.subject.id, t.relation, t.object.id): t for t in found}.values())

    @property
    def consulted(self) -> tuple[Origin, ...]:
        """The sources outside that were asked, each once, in the order of the first time."""
        asked = (_ORIGINS[s.kind] for s in self.steps if s.kind in _ORIGINS)
        return tuple(dict.fromkeys(asked))

    @property
    def lookups(self) -> int:
        """How often a source outside was asked: searches, questions to a graph, calls of tools."""
        return sum(s.kind in _ORIGINS for s in self.steps)

    @property
    def malformed(self) -> int:
        """How many outputs did not follow the protocol."""
        return sum(isinstance(s, Malformed) for s in self.steps)
