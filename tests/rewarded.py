"""Attempts to be rewarded, made by the real strategies from what a model is scripted to say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ken.agents import Direct, SearchLoop, Strategy
from ken.agents.adaptive import decide
from ken.agents.attempt import Attempt
from ken.core import Passage, Question, SourceError, Trajectory
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.training.rollouts import Group, Task

GOLD = "Lisbon"
RIGHT = f"<think> I know </think><answer> {GOLD} </answer>"
WRONG = "<think> I know </think><answer> Porto </answer>"
SEARCH = "<think> look </think><search> capital </search>"
YES, NO = "<think> hm </think><assessment>yes</assessment>", "<think> hm </think><assessment>no</assessment>"
HIT = (Passage(id="p1", text=f"The capital is {GOLD}."),)
MISS = (Passage(id="p2", text="It rains in spring."),)


class Retriever:
    """Finds what the script says, in turn; the last entry repeats; None is a failure."""

    name = "scripted"

    def __init__(self, *results: Sequence[Passage] | None) -> None:
        self.results, self.asked = results, 0

    async def search(self, query: str, k: int) -> list[Passage]:
        found = self.results[min(self.asked, len(self.results) - 1)]
        self.asked += 1
        if found is None:
            raise SourceError("the search engine is down")
        return list(found)

    async def close(self) -> None:
        pass


class Decide(Strategy):
    """Only the verdict."""

    name = "decide"

    async def solve(self, attempt: Attempt) -> None:
        await decide(attempt)


def question(id: str = "q", golds: Sequence[str] = (GOLD,), **meta: Any) -> Question:
    return Question(id=id, text="What is the capital of Portugal?", answers=tuple(golds), meta=meta)


def attempt(
    strategy: Strategy,
    *outputs: str,
    asked: Question | None = None,
    results: Sequence[Sequence[Passage] | None] = (MISS,),
    control_tokens: bool = False,
) -> Trajectory:
    """What `strategy` makes of a model that writes `outputs` in turn, and nothing at all after them."""
    left = iter(outputs)
    model = ScriptedModel(lambda _: next(left, ""), logprob=lambda _: -1.0, control_tokens=control_tokens)
    return asyncio.run(strategy.run(asked or question(), model, Sources(search=Retriever(*results))))


def searching(*outputs: str, turns: int = 4, **how: Any) -> Trajectory:
    return attempt(SearchLoop(turns), *outputs, **how)


def closed_book(*outputs: str, **how: Any) -> Trajectory:
    return attempt(Direct(), *outputs, **how)


def deciding(*outputs: str, **how: Any) -> Trajectory:
    return attempt(Decide(), *outputs, **how)


def failed(trajectory: Trajectory) -> Trajectory:
    """The same attempt, ended by an error of the model or the source."""
    return trajectory.model_copy(update={"error": "the model did not answer"})


def group(*trajectories: Trajectory, kind: str = "rollout") -> Group:
    return Group(Task(trajectories[0].question, Direct(), kind), trajectories)
