"""The recipes there are: Search-R1, AdaSearch, IKEA and TAPO on a user's model and questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator

from ken.agents import Decide, Direct, SearchLoop, ToolLoop
from ken.agents.instructions import SEARCH_SPARINGLY
from ken.core import BadInput, Question, Trajectory
from ken.metrics.text import exact_match, substring_match
from ken.papers.catalogue import entry
from ken.papers.recipe import Learning, Recipe, Stage, Trainee, Work
from ken.training.decision_stage import decision_stage
from ken.training.labels.boundary import boundary_questions, ever_solved, solved_at_least
from ken.training.labels.solve_rate import label
from ken.training.rewards.awareness import OwnSolveRate
from ken.training.rewards.outcome import exact
from ken.training.rewards.search_cost import ikea
from ken.training.rewards.tools import accuracy, answer_score, tool_use
from ken.training.rollouts import Task, each

# A turn in the lab's worlds takes eleven tokens, and one passage says all there is to know about a name.
LAB = {
    "steps": 100,
    "questions_per_step": 16,
    "group_size": 8,
    "lr": 3e-4,
    "warmup_steps": 5,
    "max_turns": 3,
    "top_k": 1,
    "max_tokens": 16,
    "save_every": 20,
}


# --- Search-R1 (arXiv 2503.09516; card 00)
# -------------------------------------------------------------------------------------------------------------------


class SearchR1Options(Learning):
    """algo: GRPO, or PPO with a critic (`critic_lr`), whose KL term is part of the reward and whose group is one
    rollout.
    """

    algo: Literal["grpo", "ppo"] = "grpo"
    warmup_steps: int = Field(default=140, ge=0)  # 0.285 of the steps
    minibatches: int = Field(default=2, ge=1)
    critic_lr: float = Field(default=1e-5, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _one_rollout_for_ppo(cls, values: Any) -> Any:
        return {"group_size": 1, **values} if isinstance(values, dict) and values.get("algo") == "ppo" else values

    @property
    def compares_groups(self) -> bool:
        return self.algo == "grpo"


def _search_r1(options: SearchR1Options) -> tuple[Stage, ...]:
    search = SearchLoop(options.max_turns)

    def work(trainee: Trainee) -> Work:
        ppo = {"advantage": "gae", "kl": 0.0, "kl_in_reward": options.kl, "critic_lr": options.critic_lr}
        config = options.rl(**(ppo if options.algo == "ppo" else {}))
        return Work([Task(q, search, "search") for q in trainee.questions], each(exact), config)

    return (Stage("search", "search and answer, rewarded for the exact answer", (search,), work),)


def _search_r1_lab(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("algo") == "ppo":  # as many rollouts a step, each of another question
        return {**LAB, "group_size": 1, "questions_per_step": 128, "minibatches": 2, "critic_lr": 1e-3}
    return {**LAB, "minibatches": 1}


# --- AdaSearch (arXiv 2512.16883; card 01)
# -------------------------------------------------------------------------------------------------------------------


class AdaSearchOptions(Learning):
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


def _adasearch(options: AdaSearchOptions) -> tuple[Stage, ...]:
    inside, search, verdict = Direct(), SearchLoop(options.max_turns), Decide()
    sampling = options.sampling().but(greedy_thoughts=options.greedy_thoughts)

    def solve(trainee: Trainee) -> Work:
        units = [(Task(q, inside, "inside"), Task(q, search, "search")) for q in trainee.questions]
        return Work(units, each(exact), options.rl())

    def decide(trainee: Trainee) -> Work:
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
        return Work(units, reward, config)

    def everything(trainee: Trainee) -> Work:
        units = [
            (Task(q, inside, "inside"), Task(q, search, "search"), Task(q, verdict, "decide", sampling))
            for q in trainee.questions
        ]
        return Work(units, OwnSolveRate(options.threshold), options.rl())

    if options.e2e:
        text = "solve closed book, solve by search, and decide, in one run"
        return (Stage("all", text, (inside, search, verdict), everything),)
    first = Stage("solve", "solve closed book and by search", (inside, search), solve)
    last = Stage("decide", "learn to say what it knows", (inside, verdict), decide)
    return (first, last) if options.steps else (last,)


def _adasearch_lab(_: Mapping[str, Any]) -> dict[str, Any]:
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


# --- IKEA (arXiv 2505.07596; card 42)
# -------------------------------------------------------------------------------------------------------------------


class IkeaOptions(Learning):
    """samples: closed-book answers a question before training; threshold: the share of right ones from which it is
    easy (by default: one is right). ratio: share of easy questions in training. plus, minus: what a right answer earns
    for not searching, and a wrong one for having searched; their budget of searches is `max_turns`.
    greedy_thoughts: think at temperature 0 and sample the action only (see `Sampling`).
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


def _ikea(options: IkeaOptions) -> tuple[Stage, ...]:
    search = SearchLoop(options.max_turns, instruction=SEARCH_SPARINGLY)
    sampling = options.sampling().but(greedy_thoughts=options.greedy_thoughts)
    easy = ever_solved if options.threshold is None else solved_at_least(options.threshold)

    def work(trainee: Trainee) -> Work:
        rates = trainee.solve_rates(options.samples, exact_match).rates
        probed = [q for q in trainee.questions if q.id in rates]
        chosen = boundary_questions(probed, rates, ratio=options.ratio, rule=easy, seed=options.seed).questions
        reward = partial(ikea, plus=options.plus, minus=options.minus, most=options.max_turns)
        return Work([Task(q, search, "search") for q in chosen], each(reward), options.rl(sampling=sampling))

    return (Stage("search", "search only where it does not know", (Direct(), search), work),)


def _ikea_lab(_: Mapping[str, Any]) -> dict[str, Any]:
    # With 40 values, a guess is right in one of 16 samples for a third of the unknown facts: once does not mean known.
    return {**LAB, "lr": 2e-4, "threshold": 0.25, "greedy_thoughts": True}


# --- TAPO (arXiv 2510.07038; card 22)
# -------------------------------------------------------------------------------------------------------------------


class TapoOptions(Learning):
    """search, code: which tools are enabled; code runs in a sandbox. max_turns: tool calls of a rollout.
    max_refills: so many more batches are sampled at most to replace groups whose answers are all right or all wrong.
    length, buffer: tokens of a response, and of its end, over which it is penalised.
    """

    steps: int = Field(default=500, ge=1)
    questions_per_step: int = Field(default=64, ge=1)
    group_size: int = Field(default=4, ge=1)
    minibatches: int = Field(default=4, ge=1)
    warmup_steps: int = Field(default=10, ge=0)
    kl: float = Field(default=0.0, ge=0)
    search: bool = True
    code: bool = True
    max_refills: int = Field(default=9, ge=0)
    length: int = Field(default=2048, ge=1)
    buffer: int = Field(default=1024, ge=1)


def _tapo(options: TapoOptions) -> tuple[Stage, ...]:
    loop = ToolLoop(search=options.search, code=options.code, max_turns=options.max_turns)

    def correct(trajectory: Trajectory) -> float:
        return float(accuracy(answer_score(trajectory, tools=loop.enabled)))

    def work(trainee: Trainee) -> Work:
        config = options.rl(
            loss="dapo",
            clip_low=0.2,
            clip_high=0.28,
            dual_clip=10.0,
            dynamic_sampling=True,
            max_refills=options.max_refills,
        )
        reward = partial(tool_use, tools=loop.enabled, length=options.length, buffer=options.buffer)
        tasks = [Task(q, loop, "tools") for q in trainee.questions]
        return Work(tasks, each(reward), config, filter_by=correct, check=loop.tools.check)

    return (Stage("tools", "search, compute and answer, rewarded for the answer alone", (loop,), work),)


def _tapo_lab(_: Mapping[str, Any]) -> dict[str, Any]:
    return {**LAB, "minibatches": 1, "kl": 0.0, "max_tokens": 24, "length": 96, "buffer": 48}


RECIPES: dict[str, Recipe] = {
    recipe.slug: recipe
    for recipe in (
        Recipe("search-r1", SearchR1Options, _search_r1_lab, _search_r1),
        Recipe("adasearch", AdaSearchOptions, _adasearch_lab, _adasearch),
        Recipe("ikea", IkeaOptions, _ikea_lab, _ikea),
        Recipe("tapo", TapoOptions, _tapo_lab, _tapo),
    )
}


def recipe_of(paper: str) -> Recipe:
    """The recipe of a paper, by slug, name or number. Raises `BadInput` for one that has none."""
    found = entry(paper)
    if found.slug not in RECIPES:
        raise BadInput(
            f"{found.name} has no recipe for a model of your own yet; those that have one: {', '.join(RECIPES)}"
        )
    return RECIPES[found.slug]
