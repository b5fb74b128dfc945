"""AdaSearch: solve closed book and by search, then learn to say which is needed (arXiv 2512.16883; card 01)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import Field, model_validator

from ken.agents import Decide, Direct, SearchLoop
from ken.core import BadInput, Question
from ken.metrics.text import substring_match
from ken.papers.recipe import Recipe, Searching, Stage, Trainee
from ken.papers.recipes.lab import LAB
from ken.papers.work import Reinforcement
from ken.training.decision_stage import decision_stage
from ken.training.labels.boundary import boundary_questions
from ken.training.labels.degenerate import EqualLabels
from ken.training.labels.solve_rate import label
from ken.training.rewards.awareness import OwnSolveRate
from ken.training.rewards.outcome import exact
from ken.training.rollouts import Task, each


class AdaSearchOptions(Searching):
    """steps: of the first stage, which solves closed book and by search (0 leaves it out, for a model that solves
    already). samples, threshold: K closed-book answers a question, and the share of right ones from which it counts as
    known. decide_*: the second stage, which learns the verdict alone; `verdicts` are the rollouts of a question in it.
    replay_every: every so many verdicts bring a closed-book group of their question (see `decision_stage`).
    greedy_thoughts: think at temperature 0 and sample the verdict only (see `Sampling`).
    balanced: train the verdict on as many known as unknown questions, so that no constant verdict pays (not in the
    paper).
    e2e: one stage of `steps` steps that does all three, labelled by its own closed-book rollouts.
    """

    steps: int = Field(default=100, ge=0)
    questions_per_step: int = Field(default=512, ge=1)
    warmup_steps: int = Field(default=10, ge=0)
    samples: int = Field(default=8, ge=1)
    threshold: float = Field(default=0.5, ge=0, le=1)
    decide_steps: int = Field(default=100, ge=1)
    decide_questions: int = Field(default=512, ge=1)
    decide_lr: float = Field(default=1e-6, gt=0)
    decide_kl: float = Field(default=1e-3, ge=0)
    verdicts: int = Field(default=5, ge=2)
    greedy_thoughts: bool = False
    replay_every: int = Field(default=0, ge=0)
    balanced: bool = False
    e2e: bool = False

    @model_validator(mode="after")
    def _something_to_do(self) -> AdaSearchOptions:
        if self.e2e and not self.steps:
            raise BadInput("steps is 0, but with e2e there is no other stage; give at least one step")
        return self


def _stages(options: AdaSearchOptions) -> tuple[Stage, ...]:
    inside, search, verdict = Direct(), SearchLoop(options.max_turns), Decide()
    sampling = options.sampling().but(greedy_thoughts=options.greedy_thoughts)

    def solve(trainee: Trainee) -> Reinforcement:
        units = [(Task(q, inside, "inside"), Task(q, search, "search")) for q in trainee.questions]
        return Reinforcement(units, each(exact), options.rl())

    def decide(trainee: Trainee) -> Reinforcement:
        measured = trainee.solve_rates(options.samples, substring_match)
        labels = measured.labels(options.threshold)
        asked: Sequence[Question] = [q for q in trainee.questions if q.id in labels]
        if options.balanced and len(set(labels.values())) == 2:
            known = partial(label, tau=options.threshold)
            asked = boundary_questions(asked, measured.rates, rule=known, seed=options.seed).questions
        config = options.rl(
            steps=options.decide_steps,
            units=options.decide_questions,
            group_size=options.verdicts,
            lr=options.decide_lr,
            kl=options.decide_kl,
            sampling=sampling,
        )
        units, reward = decision_stage(asked, labels, sampling=config.sampling, replay_every=options.replay_every)
        return Reinforcement(units, reward, config)

    def everything(trainee: Trainee) -> Reinforcement:
        units = [
            (Task(q, inside, "inside"), Task(q, search, "search"), Task(q, verdict, "decide", sampling))
            for q in trainee.questions
        ]
        watch = EqualLabels(say=lambda problem: trainee.on_note(f"WARNING: {problem}"))
        return Reinforcement(units, OwnSolveRate(options.threshold, watch=watch), options.rl())

    if options.e2e:
        text = "solve closed book, solve by search, and decide, in one run"
        return (Stage("all", text, (inside, search, verdict), everything),)
    first = Stage("solve", "solve closed book and by search", (inside, search), solve)
    last = Stage("decide", "learn to say what it knows", (inside, verdict), decide)
    return (first, last) if options.steps else (last,)


def _lab(_: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **LAB,
        "steps": 50,
        "decide_steps": 120,
        "decide_questions": 64,
        "verdicts": 4,
        "decide_lr": 3e-4,
        "replay_every": 4,  # without, the facts can be washed out while the verdict is learnt
        "decide_kl": 0.1,  # with less, the verdict falls on the commoner label before knowledge is found
        "greedy_thoughts": True,
    }


recipe = Recipe("adasearch", AdaSearchOptions, _lab, _stages)
