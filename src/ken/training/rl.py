"""Reinforcement learning of agents: our rollouts, rewards and advantages in TRL's GRPO trainer.

TRL keeps what it does well: loss, optimizer, distribution, checkpoints. One method of it is overridden,
`_generate_and_score_completions`, which here runs strategies over a lockstep-batched model, scores what they did, and
hands TRL token ids exactly as they were sampled. Observation tokens are masked through TRL's `tool_mask`, which its
loss, KL and entropy respect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from ken.agents.background import run
from ken.core import BadInput, SourceError, Trajectory
from ken.core.seeding import derive_seed
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.training import advantages
from ken.training.critic import Critic
from ken.training.focused_forward import FocusedForward
from ken.training.rl_config import RLConfig
from ken.training.rollout_statistics import rollout_statistics, total
from ken.training.rollouts import Group, Reward, Score, Task, Tasks, Unit
from ken.training.sharding import NotFinite, anyone, check_sharding, prepared_reference, whole_weights
from ken.training.token_rows import TokenBatch, token_batch, token_row
from ken.training.vllm_decoding import VllmDecoder

NOTHING = Sources()


class RolloutTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO trainer, fed by agents.

    policy: the model that is trained, in place. reference: the frozen model of the KL terms, or None when both
    coefficients are 0. filter_by: what a group must differ in to be kept by dynamic sampling, by default its reward
    (TAPO filters by accuracy). sources: what strategies may consult, the same for all tasks or made for each.

    Raises `BadInput` when the units cannot be shared out evenly among the processes.
    """

    _last_loaded_step: int  # TRL's: the update after which vLLM was last given the weights

    def __init__(
        self,
        policy: LocalModel,
        tasks: Tasks,
        reward: Reward,
        config: RLConfig,
        arguments: GRPOConfig,
        *,
        sources: Sources | Callable[[Task], Sources] = NOTHING,
        filter_by: Callable[[Trajectory], float] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        from datasets import Dataset

        self.policy, self.tasks, self.reward, self.config = policy, tasks, reward, config
        self.sources, self.filter_by = sources, filter_by
        self.failures = 0  # searches that failed in a row
        reference = deepcopy(policy.model) if config.kl or config.kl_in_reward else None
        self.critic: Critic | None = None
        if config.advantage == "gae":
            self.critic = Critic(policy.model, lr=config.critic_lr, clip=config.value_clip, grad_clip=config.grad_clip)
        # What to train on is drawn when it is needed (a curriculum decides late); TRL only counts these rows.
        rows = config.steps * int(arguments.generation_batch_size or 1)
        super().__init__(
            model=policy.model,
            reward_funcs=_unused,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": [""] * rows}),
            processing_class=policy.tokenizer,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        check_sharding(self.accelerator)
        if config.units % self.accelerator.num_processes:
            raise BadInput(
                f"{config.units} units a step cannot be shared out evenly among {self.accelerator.num_processes} "
                "processes; choose a multiple"
            )
        # Not through TRL, which would load the reference from the hub by name: ours starts where the policy does.
        self.beta = config.kl
        if config.vllm:
            backend = policy.tokenizer.backend_tokenizer
            policy.writer = VllmDecoder(self.vllm_generation, backend, end_ids=policy.end_ids, limit=policy.limit)
        self.focused = [FocusedForward(policy.model, self.temperature)]
        if reference is not None:
            reference.eval().requires_grad_(False)
            add_fused_lm_head(reference, temperature=self.temperature)
            self.focused.append(FocusedForward(reference, self.temperature))
            self.ref_model = prepared_reference(reference, self.accelerator)

    @property
    def rollout_step(self) -> int:
        """How many batches of rollouts have been trained on."""
        return int(self.state.global_step) // self.config.updates

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor | Any]:
        """Roll out this step's tasks and make TRL's batch of them. `inputs` are placeholders."""
        started = time.perf_counter()
        busy = self.policy.seconds
        groups, scores = self._rollouts()
        generated = time.perf_counter()
        batch = token_batch(
            [token_row(t) for group in groups for t in group.trajectories],
            self._tokenizer.pad_token_id,
            self.accelerator.device,
        )
        output = self._batch(batch, groups, scores)
        ended = time.perf_counter()
        self._note("seconds/generate", self.policy.seconds - busy)
        self._note("seconds/agents", generated - started - (self.policy.seconds - busy))
        self._note("seconds/score", ended - generated)
        return output

    # --- rollouts
    # -----------------------------------------------------------------------------------------------------------------

    def _rollouts(self) -> tuple[list[Group], list[Sequence[Score]]]:
        """This process's groups of this step and their scores."""
        step = self.rollout_step
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = self.config.units // world
        kept: list[tuple[Group, Sequence[Score]]] = []
        dropped: list[tuple[Group, Sequence[Score]]] = []
        everything: list[tuple[Group, Sequence[Score]]] = []
        wanted = 0
        for refill in range(self.config.max_refills + 1 if self.config.dynamic_sampling else 1):
            drawn = self.tasks.draw(step, self.config.units, refill=refill)
            mine = range(rank * share, (rank + 1) * share)
            wanted = wanted or sum(len(drawn[i]) for i in mine)
            groups = self._roll_out({i: drawn[i] for i in mine}, step, refill)
            scored = list(zip(groups, self._scored(groups), strict=True))
            everything += scored
            mixed = [self._mixed(group, scores) for group, scores in scored]
            kept += [pair for pair, keep in zip(scored, mixed, strict=True) if keep or not self.config.dynamic_sampling]
            dropped += [pair for pair, keep in zip(scored, mixed, strict=True) if not keep]
            if self._enough(len(kept) >= wanted):
                break
        self._report(step, everything, refills=refill)
        if self.config.dynamic_sampling:
            self._note("filled_up", max(0, wanted - len(kept)) / wanted)
            kept = (kept + dropped)[:wanted]
        return [group for group, _ in kept], [scores for _, scores in kept]

    def _roll_out(self, units: Mapping[int, Unit], step: int, refill: int) -> list[Group]:
        """Roll out units by their place in the draw of all processes. What is drawn depends on that place, so that a
        question that comes twice is not answered alike, and on nothing else of the batch."""
        tasks = [task for unit in units.values() for task in unit]
        seeds = [
            derive_seed("rollouts", self.config.seed, step, refill, place, i)
            for place, unit in units.items()
            for i in range(len(unit))
        ]

        async def everything() -> list[list[Trajectory]]:
            groups = (asyncio.gather(*self._attempts(task, seed)) for task, seed in zip(tasks, seeds, strict=True))
            return list(await asyncio.gather(*groups))

        if self.config.vllm and self._last_loaded_step != self.state.global_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step
        self.policy.forget()
        training = self.policy.model.training
        self.policy.model.eval()
        # vLLM has weights of its own.
        with nullcontext() if self.config.vllm else whole_weights(self.model_wrapped, self.accelerator):
            attempts: list[list[Trajectory]] = run(everything())
        self.policy.model.train(training)
        groups = [Group(task, tuple(trajectories)) for task, trajectories in zip(tasks, attempts, strict=True)]
        self._count_failures(groups)
        return groups

    def _attempts(self, task: Task, seed: int) -> list[Any]:
        sampling = (task.sampling or self.config.sampling).but(seed=seed)
        sources = self.sources(task) if callable(self.sources) else self.sources
        run_once = task.strategy.run
        return [
            run_once(task.question, self.policy, sources, sampling=sampling, sample=i)
            for i in range(self.config.group_size)
        ]

    def _scored(self, groups: Sequence[Group]) -> list[Sequence[Score]]:
        scores: list[Sequence[Score]] = [list(s) for s in self.reward(groups)]
        if [len(s) for s in scores] != [len(g.trajectories) for g in groups]:
            raise BadInput("the reward function must give one score for every rollout of every group")
        values = [total(s) for group in scores for s in group]
        if not np.isfinite(values).all():
            raise BadInput("a reward is not a finite number; mend the reward function")
        return scores

    def _mixed(self, group: Group, scores: Sequence[Score]) -> bool:
        """Whether the rollouts of a group differ in what dynamic sampling looks at."""
        seen = [self.filter_by(t) for t in group.trajectories] if self.filter_by else [total(s) for s in scores]
        return max(seen) > min(seen)

    def _enough(self, mine: bool) -> bool:
        """Whether no process needs a further draw: all draw equally often, or they would wait for each other."""
        return not anyone(not mine, self.accelerator)

    def _count_failures(self, groups: Sequence[Group]) -> None:
        """Give up, on all processes, when the searches of one of them keep failing. Other tools have counters of their
        own (`Toolbox.check`)."""
        problem = ""
        for trajectory in (t for group in groups for t in group.trajectories):
            for result in trajectory.search_results:
                if not problem:
                    self.failures = self.failures + 1 if result.error else 0
                    if self.failures >= self.config.max_failures:
                        problem = f"the last with: {result.note.rstrip('.')}"
        if anyone(bool(problem), self.accelerator):
            raise SourceError(
                f"{self.config.max_failures} searches in a row failed, {problem or 'in another process'}; see to the "
                "search engine, then resume"
            )

    def _report(self, step: int, scored: list[tuple[Group, Sequence[Score]]], *, refills: int) -> None:
        """Tell the curriculum and the log what was rolled out, by all processes."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            scored = gather_object(scored)
        groups, scores = [group for group, _ in scored], [s for _, s in scored]
        self.tasks.observe(step, groups, scores)
        for name, value in rollout_statistics(groups, scores, self.config.sampling.max_tokens).items():
            self._note(name, value)
        for name, value in self.tasks.report().items():
            self._note(f"tasks/{name}", value)
        if self.config.dynamic_sampling:
            self._note("refills", refills)

    def _note(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(float(value))

    # --- tensors
    # -----------------------------------------------------------------------------------------------------------------

    def _batch(self, batch: TokenBatch, groups: Sequence[Group], scores: Sequence[Sequence[Score]]) -> dict[str, Any]:
        """TRL's batch: opening as prompt, the rest as completion, everything not written by the model masked."""
        learn = batch.policy if self.config.mask_observations else _from_first(batch.policy) & batch.real
        for forward in self.focused:
            forward.focus(batch, learn)
        reference = self._logps(self.ref_model, batch) if self.ref_model is not None else None
        rewards = self._token_rewards(batch, scores, reference)
        weights = self._advantages(batch, groups, rewards)
        if not self.config.mask_observations:
            weights = torch.where(learn & ~batch.policy, _row_mean(weights, batch.policy)[:, None], weights)
        tokens = learn.sum()
        output: dict[str, Any] = {
            "prompt_ids": batch.opening,
            "prompt_mask": torch.ones_like(batch.opening),
            "completion_ids": batch.rest,
            "completion_mask": batch.real.long(),
            "tool_mask": learn.long(),
            "advantages": weights,
            "num_items_in_batch": self.accelerator.reduce(tokens.float(), reduction="sum"),
        }
        if reference is not None and self.beta:
            output["ref_per_token_logps"] = reference
        if self.config.vllm:  # sampled by other kernels than those that are trained: the loss weighs by the ratio
            own = self._logps(self.model, batch)
            ratio = torch.exp((own - batch.logprobs) * learn)
            output["old_per_token_logps"] = own
            output["importance_sampling_ratio"] = ratio.clamp(max=self.vllm_importance_sampling_clip_max)
        elif self.config.updates > 1 or self.config.micro_batch:
            output["old_per_token_logps"] = batch.logprobs
        return output

    def _logps(self, model: Any, batch: TokenBatch) -> torch.Tensor:
        """Log-probabilities [B, T] of the tokens under `model`, without a graph."""
        logps: torch.Tensor
        with torch.no_grad():
            logps, _, _ = self._get_per_token_logps_and_entropies(
                model,
                torch.cat([batch.opening, batch.rest], dim=1),
                torch.cat([torch.ones_like(batch.opening), batch.real.long()], dim=1),
                batch.rest.shape[1],
                batch_size=self.config.micro_batch,
            )
        return logps

    def _token_rewards(
        self, batch: TokenBatch, scores: Sequence[Sequence[Score]], reference: torch.Tensor | None
    ) -> torch.Tensor:
        """Rewards [B, T]: an outcome at the last token the model wrote, turn rewards at the last of each turn; less
        the KL penalty (k1) at every token it wrote."""
        rewards = torch.zeros_like(batch.logprobs)
        flat, last = [score for group in scores for score in group], batch.last
        for row, score in enumerate(flat):
            if not batch.policy[row].any():
                continue
            if isinstance(score, int | float):
                rewards[row, last[row]] = float(score)
                continue
            turns = int(batch.turn[row].max()) + 1
            if len(score) != turns:
                raise BadInput(f"an attempt has {turns} turns but was given {len(score)} turn rewards")
            for turn, value in enumerate(score):
                if len(places := (batch.turn[row] == turn).nonzero()[:, 0]):
                    rewards[row, places[-1]] = float(value)
        if self.config.kl_in_reward and reference is not None:
            penalty = (batch.logprobs - reference) * batch.policy
            self._note("kl_in_reward", float(penalty.sum() / batch.policy.sum().clamp(min=1)))
            rewards = rewards - self.config.kl_in_reward * penalty
        return rewards

    def _advantages(self, batch: TokenBatch, groups: Sequence[Group], rewards: torch.Tensor) -> torch.Tensor:
        """Advantages [B, T], 0 at tokens the model did not write."""
        how = self.config.advantage
        token_rewards, real, policy = (t.cpu().double().numpy() for t in (rewards, batch.real, batch.policy))
        turns = batch.turn.cpu().numpy() if self.config.turn_credit else None
        if how == "gae":
            assert self.critic is not None
            old = self.critic.values(batch)
            if anyone(not bool(old.isfinite().all()), self.accelerator):
                raise NotFinite(
                    f"the critic's values are no longer numbers at step {self.rollout_step + 1}; lower critic_lr"
                )
            seen = policy if turns is not None else real
            weights, returns = advantages.gae(
                token_rewards,
                old.cpu().double().numpy(),
                seen > 0,
                gamma=self.config.gamma,
                lam=self.config.lam,
                turns=turns,
            )
            weights = self._whitened(weights, policy > 0)
            goal = torch.as_tensor(returns, dtype=old.dtype, device=old.device)
            for _ in range(self.config.critic_epochs):
                explained = self.critic.fit(batch, goal, old, accelerator=self.accelerator)
            self._note("critic/explained_variance", explained)
        elif how == "batch" and (turns is not None or self.config.kl_in_reward):
            weights, _ = advantages.gae(
                token_rewards, np.zeros_like(token_rewards), policy > 0, gamma=self.config.gamma, turns=turns
            )
            weights = self._whitened(weights, policy > 0)
        else:
            weights = self._outcome_advantages(token_rewards.sum(1), groups)[:, None] * policy
        return torch.as_tensor(weights, dtype=rewards.dtype, device=rewards.device) * batch.policy

    def _whitened(self, weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Whitened over the tokens of all processes. Shapes [B, T]."""
        if self.accelerator.num_processes == 1:
            return advantages.whiten_masked(weights, mask)
        from accelerate.utils import gather_object

        everyone: list[np.ndarray] = gather_object([weights[mask]])
        flat = np.concatenate(everyone)
        start = sum(len(others) for others in everyone[: self.accelerator.process_index])
        white = np.zeros_like(weights)
        white[mask] = advantages.whiten_masked(flat, np.ones_like(flat))[start : start + int(mask.sum())]
        return white

    def _outcome_advantages(self, outcomes: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
        """One advantage a rollout. Whitening over the batch spans all processes."""
        size = self.config.group_size
        place = [i for i in range(len(groups)) for _ in range(size)]
        match self.config.advantage:
            case "group":
                return advantages.group_normalised(outcomes, place)
            case "mean":
                return advantages.mean_centred(outcomes, place)
            case "rloo":
                return advantages.leave_one_out(outcomes, place)
        keys = [_key(group, self.config.whiten_by) for group in groups for _ in range(size)]
        if self.accelerator.num_processes == 1:
            return advantages.whitened(outcomes, keys)
        from accelerate.utils import gather_object

        everyone = gather_object(
            [(self.accelerator.process_index, float(o), k) for o, k in zip(outcomes, keys, strict=True)]
        )
        white = advantages.whitened(np.array([o for _, o, _ in everyone]), [k for _, _, k in everyone])
        return white[[rank == self.accelerator.process_index for rank, _, _ in everyone]]


def _from_first(policy: torch.Tensor) -> torch.Tensor:
    """True from the first token the model wrote on, bool [B, T]."""
    return policy.long().cummax(1).values.bool()


def _row_mean(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (weights * mask).sum(1) / mask.sum(1).clamp(min=1)


def _key(group: Group, by: str | None) -> str:
    return {"kind": group.task.kind, "question": group.task.question.id}.get(by or "", "")


def _unused(**_: Any) -> list[float]:
    raise AssertionError("rewards are computed from trajectories, not by TRL")
