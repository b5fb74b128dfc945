"""Can this model learn from these tasks at all? Asked before hours are spent on it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ken.agents.background import run
from ken.agents.strategy import Strategy
from ken.core import BadInput, Question, Sampling, Trajectory
from ken.models import Message, Model
from ken.models.local import LocalModel
from ken.sources import Sources

QUESTIONS, ROLLOUTS = 4, 4  # of every strategy


def check_search(sources: Sources, query: str) -> None:
    """Raises `SourceError` when the search engine does not answer."""
    if sources.search is not None:
        run(sources.search.search(query, sources.top_k))


def check_model(model: Model) -> None:
    """Raises `ModelError` when a model that helps in training, such as a teacher, does not answer."""
    run(model.generate([Message("user", "Say yes.")], sampling=Sampling(max_tokens=8)))


def check_tags(
    policy: LocalModel,
    questions: Sequence[Question],
    strategies: Sequence[Strategy],
    sources: Sources,
    sampling: Sampling,
) -> None:
    """Attempt the first few questions with every strategy. Raises `BadInput` when the policy never writes a tag that is
    understood: then every reward is zero, and there is nothing to learn from. One that does now and then passes.
    """

    async def attempts(strategy: Strategy) -> list[Trajectory]:
        return await asyncio.gather(
            *(
                strategy.run(question, policy, sources, sampling=sampling, sample=i)
                for question in questions[:QUESTIONS]
                for i in range(ROLLOUTS)
            )
        )

    for strategy in strategies:
        made = run(attempts(strategy))
        if all(t.error for t in made):
            raise BadInput(f"{policy.spec} fails at the strategy {strategy.name!r}: {made[0].error}")
        if not any(_understood(t) for t in made):
            wrote = next((s.text for t in made for s in t.segments if s.role == "policy" and s.text.strip()), "nothing")
            raise BadInput(
                f"{policy.spec} wrote no tag that is understood in {len(made)} rollouts of the strategy "
                f"{strategy.name!r} (it wrote: {' '.join(wrote.split())[:80]}), so nothing could be rewarded; take an "
                "instruct model, raise max_tokens, or teach it the format first (ken.training.sft)"
            )


def _understood(trajectory: Trajectory) -> bool:
    """Whether the policy answered, searched or decided in a form that could be read."""
    decided = trajectory.decision is not None and trajectory.decision.knows is not None
    return trajectory.answer is not None or bool(trajectory.searches) or decided
