"""Search-R1: search and answer in turns, rewarded for the exact answer (arXiv 2503.09516; card 00)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ken.agents import SearchLoop
from ken.papers.recipe import Recipe, Searching, Stage, Trainee
from ken.papers.recipes.lab import LAB
from ken.papers.work import Reinforcement
from ken.training.rewards.names import named
from ken.training.rollouts import Task


class SearchR1Options(Searching):
    """algo: GRPO, or PPO with a critic (`critic_lr`), whose KL term is part of the reward and whose group is one
    rollout. entropy_bonus: coefficient of the entropy in the loss. reward: the exact answer (v0.1 and v0.2 of the
    paper), v0.3's with its table for structure, the token F1 or a gold within the answer; or one of the costs of a
    search that AdaSearch's authors compare with.
    """

    algo: Literal["grpo", "ppo"] = "grpo"
    reward: Literal["exact", "structured", "f1", "substring", "search-penalty", "otc-ppo"] = "exact"
    warmup_steps: int = Field(default=140, ge=0)  # 0.285 of the steps
    minibatches: int = Field(default=2, ge=1)
    critic_lr: float = Field(default=1e-5, gt=0)
    entropy_bonus: float = Field(default=1e-3, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_rollout_for_ppo(cls, values: Any) -> Any:
        return {"group_size": 1, **values} if isinstance(values, dict) and values.get("algo") == "ppo" else values

    @property
    def compares_groups(self) -> bool:
        return self.algo == "grpo"


def _stages(options: SearchR1Options) -> tuple[Stage, ...]:
    search = SearchLoop(options.max_turns)

    def work(trainee: Trainee) -> Reinforcement:
        ppo: dict[str, Any] = {}
        if options.algo == "ppo":  # its loss is the mean over all tokens of the batch (card 00, Algorithms)
            ppo = {"advantage": "gae", "loss": "bnpo", "kl": 0.0, "kl_in_reward": options.kl}
            ppo["critic_lr"] = options.critic_lr
        config = options.rl(entropy_bonus=options.entropy_bonus, **ppo)
        return Reinforcement([Task(q, search, "search") for q in trainee.questions], named(options.reward), config)

    return (Stage("search", "search and answer, rewarded for the answer", (search,), work),)


def _lab(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("algo") == "ppo":  # as many rollouts a step, each of another question
        ppo = {"group_size": 1, "questions_per_step": 128, "minibatches": 2, "critic_lr": 1e-3}
        return {**LAB, "entropy_bonus": 0.0, **ppo}
    return {**LAB, "entropy_bonus": 0.0, "minibatches": 1}


recipe = Recipe("search-r1", SearchR1Options, _lab, _stages)
