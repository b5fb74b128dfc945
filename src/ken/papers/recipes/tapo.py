"""TAPO: search and compute in one transcript, rewarded for the answer alone (arXiv 2510.07038; card 22)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import Field, model_validator

from ken.agents import ToolLoop
from ken.core import BadInput, Question, Trajectory
from ken.papers.recipe import Recipe, Searching, Stage, Trainee, with_answers
from ken.papers.recipes.lab import LAB
from ken.papers.work import Reinforcement
from ken.training.monitors import DEFAULTS, STARVED
from ken.training.rewards.tools import accuracy, answer_score, score_answer, tool_use
from ken.training.rollouts import Task, each


class TapoOptions(Searching):
    """search, code: which tools are enabled; code runs in a sandbox. max_turns: tool calls of a rollout.
    max_refills: so many more batches are sampled at most to replace groups whose answers are all right or all wrong.
    length, buffer: tokens of a response, and of its end, over which it is penalised. clip_low, clip_high: the ratio of
    an update is clipped to [1 − low, 1 + high], and to `dual_clip` where the advantage is negative. weight_decay: of
    AdamW.
    """

    steps: int = Field(default=500, ge=1)
    questions_per_step: int = Field(default=64, ge=1)
    group_size: int = Field(default=4, ge=1)
    minibatches: int = Field(default=4, ge=1)
    warmup_steps: int = Field(default=10, ge=0)
    kl: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    top_k: int = Field(default=1, ge=1)
    search_cache: float = Field(default=0.7, ge=0, le=1)
    search: bool = True
    code: bool = True
    max_refills: int = Field(default=9, ge=0)
    length: int = Field(default=2048, ge=1)
    buffer: int = Field(default=1024, ge=1)
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.28, gt=0, allow_inf_nan=False)
    dual_clip: float | None = Field(default=10.0, gt=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _buffer_at_the_end(self) -> TapoOptions:
        if self.buffer > self.length:
            raise BadInput(
                f"buffer is {self.buffer}, but a response has {self.length} tokens; lower it, or raise length"
            )
        return self


def _stages(options: TapoOptions) -> tuple[Stage, ...]:
    loop = ToolLoop(search=options.search, code=options.code, max_turns=options.max_turns)

    def correct(trajectory: Trajectory) -> float:
        return float(accuracy(answer_score(trajectory, tools=loop.enabled)))

    def work(trainee: Trainee) -> Reinforcement:
        config = options.rl(
            loss="dapo",
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            dual_clip=options.dual_clip,
            dynamic_sampling=True,
            max_refills=options.max_refills,
            weight_decay=options.weight_decay,
        )
        reward = partial(tool_use, tools=loop.enabled, length=options.length, buffer=options.buffer)
        tasks = [Task(q, loop, "tools") for q in trainee.questions]
        return Reinforcement(
            tasks,
            each(reward),
            config,
            filter_by=correct,
            monitors=(*DEFAULTS, STARVED),
            check=loop.tools.check,
        )

    return (Stage("tools", "search, compute and answer, rewarded for the answer alone", (loop,), work),)


def _fit(questions: Sequence[Question], options: TapoOptions) -> None:
    """Every question can be scored: it has golds, and they are what the scorer of its source compares with."""
    with_answers(questions)
    for question in questions:
        try:
            score_answer(question, "")
        except BadInput as error:
            raise BadInput(f"question {question.id!r} cannot be scored: {error}") from error


def _lab(_: Mapping[str, Any]) -> dict[str, Any]:
    return {**LAB, "minibatches": 1, "kl": 0.0, "max_tokens": 24, "length": 96, "buffer": 48, "search_cache": 1.0}


recipe = Recipe(
    "tapo",
    TapoOptions,
    _lab,
    _stages,
    file="questions with accepted answers: TAPO (question, golds, source), FlashRAG, HotpotQA or MuSiQue",
    fit=_fit,
    then="ken audit --model hf/{model} --index {index} --top-k {top_k} --strategies tools --questions FILE --out DIR",
)
