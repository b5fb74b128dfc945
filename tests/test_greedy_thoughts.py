"""Thinking at temperature 0 and acting at another: what the rollouts of a group share and what they do not."""

from __future__ import annotations

import asyncio

from ken.agents import Decide
from ken.core import Question, Sampling, Trajectory
from ken.models.loading import load_model
from ken.sources import Sources


def test_greedy_thoughts_are_shared_and_what_follows_is_sampled() -> None:
    """One turn is one segment, whose thought does not depend on the seed and whose action does."""
    model = load_model("lab/factworld")
    question = Question(id="q", text="What is the school of nobody?")

    async def verdicts() -> list[Trajectory]:
        sampling = Sampling(temperature=1.0, max_tokens=16, greedy_thoughts=True)
        return [await Decide().run(question, model, Sources(), sampling=sampling, sample=i) for i in range(12)]

    made = asyncio.run(verdicts())
    assert {len(t.segments) for t in made} == {2}
    assert len({t.segments[1].text.partition("</think>")[0] for t in made}) == 1
    assert {t.decision.knows for t in made if t.decision} == {True, False}
    for trajectory in made:
        written = trajectory.segments[1]
        assert len(written.token_ids or ()) == len(written.logprobs or ())
        assert trajectory.usage.completion_tokens == len(written.token_ids or ())
