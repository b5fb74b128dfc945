"""The settings of a reinforcement learning run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ken.core import BadInput, Sampling
from ken.core.explained import Explained

Advantage = Literal["group", "mean", "rloo", "batch", "gae"]
Loss = Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]


class RLConfig(Explained):
    """One step: draw `units` units of tasks, roll every task out `group_size` times, update the policy.

    sampling: of rollouts, unless their task has its own.
    advantage: "group" (GRPO: group mean and standard deviation), "mean" (group mean only, Dr. GRPO), "rloo" (leave one
        out), "batch" (Reinforce++: whitened over the whole batch, or over the rollouts that share `whiten_by`), "gae"
        (PPO: a critic and generalised advantage estimation with `gamma`, `lam`).
    turn_credit: every turn (policy segment) is credited by its own reward alone, as if it were a sample of its own
        whose prompt is what came before (R3-RAG); only for "gae" and "batch".
    loss, clip_low, clip_high, dual_clip, kl: passed to TRL's GRPO loss (loss_type, epsilon, epsilon_high, delta, beta;
        the KL estimator there is k3). kl_in_reward: coefficient of the k1 estimate that is subtracted from the rewards
        (PPO, Reinforce++). entropy_bonus: coefficient of the policy's entropy, which the loss then favours.
    lr, warmup_steps, schedule, grad_clip, weight_decay: of the optimizer, in updates. critic_lr, critic_epochs,
        value_clip: of the critic, for "gae": updates a step, and how far one may move a value.
    epochs, minibatches: updates per step are their product. micro_batch: rows of one forward pass, for memory (default:
        all).
    dynamic_sampling: drop groups in which all rollouts score alike and draw others, at most `max_refills` times (DAPO);
        what is then missing is filled with groups that were dropped.
    mask_observations: tokens that the model did not write carry no loss, KL or entropy. Off only for ablations.
    max_failures: so many searches that fail in a row end the training, with a checkpoint.
    vllm: rollouts are written by a vLLM beside the trainer (colocated, no tensor parallelism), which may use
        `vllm_memory` of each GPU; the loss corrects for its log-probabilities being a little other than the policy's.
    save_every: steps between checkpoints; 0 saves none but the last.
    gradient_checkpointing: less memory, more time. bf16: compute in bfloat16; weights stay float32.
    seed: of rollouts and the order of tasks.

    Raises `BadInput` for a value out of range.
    """

    called = "training"

    steps: int = Field(default=100, ge=1)
    units: int = Field(default=16, ge=1)
    group_size: int = Field(default=8, ge=1)
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=64)
    advantage: Advantage = "group"
    whiten_by: Literal["kind", "question"] | None = None
    turn_credit: bool = False
    gamma: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=1.0, ge=0, le=1)
    loss: Loss = "grpo"
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float | None = Field(default=None, gt=0)
    dual_clip: float | None = Field(default=None, gt=1)
    kl: float = Field(default=1e-3, ge=0)
    kl_in_reward: float = Field(default=0.0, ge=0)
    entropy_bonus: float = Field(default=0.0, ge=0)
    lr: float = Field(default=2e-4, gt=0)
    warmup_steps: int = Field(default=5, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    grad_clip: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=1, ge=1)
    minibatches: int = Field(default=1, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    dynamic_sampling: bool = False
    max_refills: int = Field(default=9, ge=0)
    mask_observations: bool = True
    critic_lr: float = Field(default=1e-3, gt=0)
    critic_epochs: int = Field(default=1, ge=1)
    value_clip: float = Field(default=0.5, gt=0)
    max_failures: int = Field(default=64, ge=1)
    save_every: int = Field(default=0, ge=0)
    vllm: bool = False
    vllm_memory: float = Field(default=0.3, gt=0, lt=1)
    gradient_checkpointing: bool = False
    bf16: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> RLConfig:
        if self.group_size < 2 and self.advantage in {"group", "mean", "rloo"}:
            raise BadInput(
                f"advantage={self.advantage!r} compares the rollouts of a group, so group_size must be at least 2, "
                f"not {self.group_size}; or choose advantage 'batch' or 'gae'"
            )
        if self.turn_credit and self.advantage not in {"gae", "batch"}:
            raise BadInput(f"turn_credit needs advantage 'gae' or 'batch', not {self.advantage!r}")
        if self.sampling.temperature == 0:
            raise BadInput("training samples its rollouts; give a temperature above 0, for example 1")
        return self

    @property
    def updates(self) -> int:
        """Optimizer updates per step."""
        return self.epochs * self.minibatches
