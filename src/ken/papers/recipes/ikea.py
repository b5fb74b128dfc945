"""IKEA: search less where the model knows, on questions from both sides of its boundary (arXiv 2505.07596; card 42)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import Field

from ken.agents import Direct, SearchLoop
from ken.agents.instructions import SEARCH_SPARINGLY
from ken.metrics.text import exact_match
from ken.papers.recipe import Recipe, Searching, Stage, Trainee
from ken.papers.recipes.lab import LAB
from ken.papers.work import Reinforcement
from ken.training.labels.boundary import boundary_questions, ever_solved, solved_at_least
from ken.training.rewards.search_cost import ikea
from ken.training.rollouts import Task, each


class IkeaOptions(Searching):
    """samples: closed-book answers a question before training; threshold: the share of right ones from which it is
    easy (by default: one is right). ratio: share of easy questions in training. plus, minus: what a right answer earns
    for not searching, and a wrong one for having searched; their budget of searches is `max_turns`.
    greedy_thoughts: think at temperature 0 and sample the action only (see `Sampling`). entropy_bonus: coefficient of
    the entropy in the loss.
    """

    steps: int = Field(default=120, ge=1)
    questions_per_step: int = Field(default=256, ge=1)
    group_size: int = Field(default=16, ge=1)
    lr: float = Field(default=5e-7, gt=0)
    max_turns: int = Field(default=3, ge=1)
    samples: int = Field(default=16, ge=1)
    threshold: float | None = Field(default=None, gt=0, le=1)
    ratio: float = Field(default=0.5, ge=0, le=1)
    plus: float = Field(default=0.6, ge=0)
    minus: float = Field(default=0.05, ge=0)
    greedy_thoughts: bool = False
    entropy_bonus: float = Field(default=1e-3, ge=0)


def _stages(options: IkeaOptions) -> tuple[Stage, ...]:
    search = SearchLoop(options.max_turns, instruction=SEARCH_SPARINGLY)
    sampling = options.sampling().but(greedy_thoughts=options.greedy_thoughts)
    easy = ever_solved if options.threshold is None else solved_at_least(options.threshold)

    def work(trainee: Trainee) -> Reinforcement:
        rates = trainee.solve_rates(options.samples, exact_match).rates
        probed = [q for q in trainee.questions if q.id in rates]
        chosen = boundary_questions(probed, rates, ratio=options.ratio, rule=easy, seed=options.seed).questions
        reward = partial(ikea, plus=options.plus, minus=options.minus, most=options.max_turns)
        config = options.rl(sampling=sampling, entropy_bonus=options.entropy_bonus)
        tasks = [Task(q, search, "search", known=easy(rates[q.id])) for q in chosen]
        return Reinforcement(tasks, each(reward), config)

    return (Stage("search", "search only where it does not know", (Direct(), search), work),)


def _lab(_: Mapping[str, Any]) -> dict[str, Any]:
    # With 40 values, a guess is right in one of 16 samples for a third of the unknown facts: once does not mean known.
    return {**LAB, "lr": 2e-4, "threshold": 0.25, "greedy_thoughts": True, "entropy_bonus": 0.0}


recipe = Recipe("ikea", IkeaOptions, _lab, _stages)
