"""The trainer: every algorithm finds a known optimum, gradients are those of the formula, observations carry none."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from ken.core import BadInput
from ken.models.local import LocalModel
from ken.training.rl import RolloutTrainer
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Group, Shuffled, Task, by_kind, each, within
from ken.training.token_rows import TokenBatch
from ken.training.train import train
from ken.training.trl_arguments import trl_arguments
from ken.training.vllm_decoding import VllmDecoder
from tests.bandits import (
    HEARD,
    QUESTIONS,
    Choose,
    bandit_model,
    probability_of_right,
    right_word,
    settings,
)


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    return bandit_model(tmp_path / "model")


TASKS = [Task(question, Choose()) for question in QUESTIONS]


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "group"},
        {"advantage": "group", "kl": 1e-3, "loss": "dapo", "clip_high": 0.28, "dual_clip": 10.0},
        {"advantage": "mean", "loss": "dr_grpo"},
        {"advantage": "rloo", "loss": "bnpo"},
        {"advantage": "batch"},
        {"advantage": "batch", "whiten_by": "question", "group_size": 1, "units": 32},
        {"advantage": "batch", "kl_in_reward": 1e-3, "kl": 0.0},
        {"advantage": "gae"},
        {"advantage": "gae", "group_size": 1, "units": 32, "minibatches": 2, "epochs": 2},
        {"advantage": "group", "dynamic_sampling": True},
        {"advantage": "group", "micro_batch": 8},
    ],
    ids=str,
)
def test_every_algorithm_finds_the_optimum_of_a_bandit(model: LocalModel, changes: dict[str, Any]) -> None:
    before = probability_of_right(model)
    log = train(model, TASKS, each(right_word), RLConfig(**settings(**changes)), monitors=())
    assert before < 0.35
    assert probability_of_right(model) > 0.9
    assert len(log.history) == 60


def trainer_of(model: LocalModel, tmp_path: Path, tasks: Any, reward: Any, **changes: Any) -> RolloutTrainer:
    config = RLConfig(**settings(**changes))
    return RolloutTrainer(model, Shuffled(tasks), reward, config, trl_arguments(config, str(tmp_path / "t"), cpu=True))


def two_token_rows(model: LocalModel, tmp_path: Path, heard: str = HEARD, **changes: Any) -> tuple[Any, Any]:
    """A trainer and one batch of it: two turns of one token each, with an observation between them."""
    tasks = [Task(question, Choose(turns=2, heard=heard)) for question in QUESTIONS]

    def reward(trajectory: Any) -> float:
        return float(len(set(trajectory.answer or "")) % 3)

    trainer = trainer_of(model, tmp_path, tasks, each(reward), units=2, group_size=6, **changes)
    return trainer, trainer._generate_and_score_completions([])


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "bnpo"])
def test_the_gradient_is_that_of_a_handwritten_grpo(model: LocalModel, tmp_path: Path, loss: str) -> None:
    twin = deepcopy(model.model)
    trainer, batch = two_token_rows(model, tmp_path, loss=loss, kl=0.3)
    with torch.no_grad():  # away from the reference, so that the KL term has a gradient
        for mine, other in zip(trainer.model.parameters(), twin.parameters(), strict=True):
            noise = torch.randn(mine.shape, generator=torch.Generator().manual_seed(mine.numel())) * 0.02
            mine.add_(noise), other.add_(noise)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, batch).backward()

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    start = batch["prompt_ids"].shape[1]
    logps = torch.log_softmax(twin(input_ids=ids).logits, -1)[:, start - 1 : -1]
    logps = logps.gather(-1, batch["completion_ids"][..., None])[..., 0]
    mask = batch["tool_mask"]
    assert (mask.sum(1) == 2).all()
    ratio = torch.exp(logps - logps.detach())
    gap = batch["ref_per_token_logps"] - logps
    token = -ratio * batch["advantages"] + 0.3 * (torch.exp(gap) - gap - 1)
    if loss == "grpo":
        wanted = ((token * mask).sum(1) / mask.sum(1)).mean()
    elif loss == "dr_grpo":
        wanted = (token * mask).sum() / (len(ids) * trainer.max_completion_length)
    else:
        wanted = (token * mask).sum() / mask.sum()
    wanted.backward()
    for (name, mine), other in zip(trainer.model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_the_mask_marks_exactly_the_sampled_tokens(model: LocalModel, tmp_path: Path) -> None:
    _, batch = two_token_rows(model, tmp_path)
    heard = len(HEARD.split())
    for row, real in zip(batch["tool_mask"].tolist(), batch["completion_mask"].tolist(), strict=True):
        assert row[: sum(real)] == [1, *[0] * heard, 1][: sum(real)]


def test_another_observation_changes_no_loss(model: LocalModel, tmp_path: Path) -> None:
    """The tokens of an observation are seen but not learnt: swapping one for another that is as likely a target leaves
    the loss of a model that does not look at it as it was, and no gradient comes from predicting it."""
    trainer, batch = two_token_rows(model, tmp_path)
    batch["advantages"] = torch.arange(1.0, 13.0)[:, None].expand(12, 6)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad():  # no attention: what was heard cannot change what is predicted afterwards
        for layer in trainer.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    loss = float(trainer.compute_loss(trainer.model, batch))
    other = {**batch, "completion_ids": batch["completion_ids"].clone()}
    other["completion_ids"][:, 2] = model.tokenizer.convert_tokens_to_ids("loud")
    assert (other["completion_ids"] != batch["completion_ids"]).any()
    assert float(trainer.compute_loss(trainer.model, other)) == loss
    assert loss != 0
    model.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    learnt = model.model.lm_head.weight.grad.clone()
    model.model.zero_grad()
    trainer.compute_loss(trainer.model, other).backward()
    torch.testing.assert_close(model.model.lm_head.weight.grad, learnt)


def test_the_entropy_bonus_is_of_the_sampled_tokens_alone(model: LocalModel, tmp_path: Path) -> None:
    """With advantages of 0 the loss is −bonus · H, H the mean entropy of what the policy wrote, in nats a token."""
    twin = deepcopy(model.model)
    trainer, batch = two_token_rows(model, tmp_path, entropy_bonus=0.5)
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1

    def by_hand(batch: Any) -> torch.Tensor:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        logps = torch.log_softmax(twin(input_ids=ids).logits, -1)[:, batch["prompt_ids"].shape[1] - 1 : -1]
        return (-(logps.exp() * logps).sum(-1))[batch["tool_mask"].bool()].mean()

    loss, wanted = trainer.compute_loss(trainer.model, batch), -0.5 * by_hand(batch)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    loss.backward(), wanted.backward()
    for mine, other in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_another_observation_changes_no_entropy(model: LocalModel, tmp_path: Path) -> None:
    """Without attention an observation can reach the bonus only through the entropies at its own tokens."""
    trainer, batch = two_token_rows(model, tmp_path, entropy_bonus=0.5)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad():
        for layer in trainer.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    batch["advantages"] = torch.zeros_like(batch["advantages"])

    def loss(batch: Any) -> float:
        return trainer.compute_loss(trainer.model, batch).item()

    other = {**batch, "completion_ids": batch["completion_ids"].clone()}
    other["completion_ids"][:, 2] = model.tokenizer.convert_tokens_to_ids("loud")
    assert loss(batch) < 0
    assert loss(other) == pytest.approx(loss(batch), rel=1e-6)
    everything = {"tool_mask": batch["completion_mask"]}
    trainer.focused[0]._wanted.clear()  # with observations unmasked, all tokens are asked for, and it shows
    assert loss({**other, **everything}) != pytest.approx(loss({**batch, **everything}), rel=1e-3)


def toy_batch() -> TokenBatch:
    """One row of two turns of two tokens each, with an observation of one token between them, one row of a single
    token, and padding."""
    policy = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 0, 0]]).bool()
    return TokenBatch(
        opening=torch.zeros(2, 1, dtype=torch.long),
        rest=torch.zeros(2, 5, dtype=torch.long),
        real=torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool(),
        policy=policy,
        logprobs=torch.tensor([[-1.0, -2.0, 0.0, -0.5, -3.0], [-0.25, 0.0, 0.0, 0.0, 0.0]]),
        turn=torch.tensor([[0, 0, -1, 1, 1], [0, -1, -1, -1, -1]]),
    )


REFERENCE = torch.tensor([[-1.5, -1.0, -9.0, -0.5, -5.0], [-1.25, -7.0, -7.0, -7.0, -7.0]])


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ([[1.0, 0.5]], [[-0.05, 0.1, 0, 0, 1 - 0.2], [0.5 - 0.1, 0, 0, 0, 0]]),
        ([[[2.0, 3.0], [0.5]]], [[-0.05, 2 + 0.1, 0, 0, 3 - 0.2], [0.5 - 0.1, 0, 0, 0, 0]]),
    ],
    ids=["outcomes", "turns"],
)
def test_the_penalty_in_the_reward_is_k1_at_every_sampled_token(
    model: LocalModel, tmp_path: Path, scores: Any, wanted: Any
) -> None:
    """r − β (log π − log π_ref): what the policy finds likelier than the reference costs it, the reverse earns."""
    trainer = trainer_of(model, tmp_path, TASKS, each(right_word), advantage="batch", kl_in_reward=0.1)
    rewards = trainer._token_rewards(toy_batch(), scores, REFERENCE)
    torch.testing.assert_close(rewards, torch.tensor(wanted, dtype=torch.float32))
    (noted,) = trainer._metrics["train"]["kl_in_reward"]
    assert noted == pytest.approx((0.5 - 1.0 + 0.0 + 2.0 + 1.0) / 5), "without the coefficient, mean of sampled tokens"


def test_without_a_coefficient_rewards_stand_alone(model: LocalModel, tmp_path: Path) -> None:
    trainer = trainer_of(model, tmp_path, TASKS, each(right_word), kl=0.1)
    rewards = trainer._token_rewards(toy_batch(), [[1.0, 0.5]], REFERENCE)
    assert rewards.tolist() == [[0, 0, 0, 0, 1], [0.5, 0, 0, 0, 0]]


def test_without_masking_observations_are_learnt_too(model: LocalModel, tmp_path: Path) -> None:
    _, batch = two_token_rows(model, tmp_path, mask_observations=False)
    assert (batch["tool_mask"] == batch["completion_mask"]).all()
    rows = batch["advantages"][batch["completion_mask"].sum(1) == 6]
    assert len(rows)
    torch.testing.assert_close(rows, rows[:, :1].expand_as(rows))


def test_turn_rewards_reach_only_their_turn(model: LocalModel, tmp_path: Path) -> None:
    tasks = [Task(QUESTIONS[0], Choose(turns=2))]
    trainer = trainer_of(
        model, tmp_path, tasks, each(lambda t: [1.0, 0.0]), units=1, group_size=4, advantage="batch", turn_credit=True
    )
    batch = trainer._generate_and_score_completions([])
    first, last = batch["advantages"][:, 0], batch["advantages"][:, -1]
    assert (first > 0).all()
    assert (last < 0).all()
    assert (batch["advantages"][:, 1:-1] == 0).all()


def test_a_wrong_number_of_turn_rewards_is_said(model: LocalModel, tmp_path: Path) -> None:
    tasks = [Task(QUESTIONS[0], Choose(turns=2))]
    trainer = trainer_of(model, tmp_path, tasks, each(lambda t: [1.0]), units=1, advantage="gae")
    with pytest.raises(BadInput, match="2 turns but was given 1 turn rewards"):
        trainer._generate_and_score_completions([])


def test_old_logprobs_are_those_of_sampling(model: LocalModel, tmp_path: Path) -> None:
    trainer, batch = two_token_rows(model, tmp_path, minibatches=2)
    logps, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].shape[1],
    )
    mask = batch["tool_mask"].bool()
    torch.testing.assert_close(logps[mask], batch["old_per_token_logps"][mask], rtol=1e-4, atol=1e-5)


def test_dynamic_sampling_keeps_only_groups_that_differ(model: LocalModel, tmp_path: Path) -> None:
    trainer = trainer_of(
        model, tmp_path, TASKS, each(right_word), units=4, group_size=4, dynamic_sampling=True, max_refills=20
    )
    groups, scores = trainer._rollouts()
    assert len(groups) == 4
    assert all(max(s) > min(s) for s in scores)


def test_dynamic_sampling_that_never_fills_ends_with_what_there_is(model: LocalModel, tmp_path: Path) -> None:
    trainer = trainer_of(
        model, tmp_path, TASKS, each(lambda t: 1.0), units=4, group_size=4, dynamic_sampling=True, max_refills=3
    )
    groups, _ = trainer._rollouts()
    assert len(groups) == 4
    assert trainer._metrics["train"]["refills"] == [3]
    assert trainer._metrics["train"]["filled_up"] == [1.0]


def test_groups_can_be_filtered_by_something_else_than_the_reward(model: LocalModel, tmp_path: Path) -> None:
    config = RLConfig(**settings(units=4, group_size=4, dynamic_sampling=True, max_refills=0))
    arguments = trl_arguments(config, str(tmp_path), cpu=True)
    noisy = each(lambda t: right_word(t) + t.usage.seconds)
    trainer = RolloutTrainer(model, Shuffled(TASKS), noisy, config, arguments, filter_by=lambda t: 0.0)
    trainer._rollouts()
    assert trainer._metrics["train"]["filled_up"] == [1.0]


def test_a_rollout_does_not_depend_on_who_shares_its_batch(model: LocalModel, tmp_path: Path) -> None:
    units = {place: (task,) for place, task in enumerate([*TASKS, *TASKS])}
    trainer = trainer_of(model, tmp_path, TASKS, each(right_word))
    together = trainer._roll_out(units, 3, 0)
    alone = [trainer._roll_out({place: unit}, 3, 0)[0] for place, unit in units.items()]
    assert together[0].trajectories != together[2].trajectories, "a question that comes twice is drawn anew"
    for one, other in zip(together, alone, strict=True):
        ids = [[[s.token_ids for s in t.segments] for t in group.trajectories] for group in (one, other)]
        assert ids[0] == ids[1]


def test_rewards_by_kind_keep_the_order_of_groups() -> None:
    tasks = [Task(QUESTIONS[0], Choose(), kind) for kind in ("a", "b", "a")]
    groups = [Group(task, ()) for task in tasks]
    reward = by_kind({"a": within(lambda g: [1.0]), "b": within(lambda g: [2.0])})
    assert reward(groups) == [[1.0], [2.0], [1.0]]
    with pytest.raises(BadInput, match="no reward is given for tasks of kind 'b'"):
        by_kind({"a": within(lambda g: [1.0])})(groups)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused(model: LocalModel, tmp_path: Path, score: float) -> None:
    with pytest.raises(BadInput, match="not a finite number"):
        trainer_of(model, tmp_path, TASKS, each(lambda t: score))._rollouts()


@pytest.mark.parametrize("advantage", ["group", "mean", "rloo"])
def test_comparing_rollouts_needs_more_than_one(advantage: Any) -> None:
    with pytest.raises(BadInput, match="group_size must be at least 2"):
        RLConfig(advantage=advantage, group_size=1)


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"lr": 0.0}, {"clip_low": 1.5}, {"gamma": 2.0}, {"lam": -1}, {"turn_credit": True}, {"loss": "x"}],
    ids=str,
)
def test_settings_that_cannot_work_are_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        RLConfig(**changes)
    assert "\n" not in str(caught.value)


def test_no_tasks_are_refused() -> None:
    with pytest.raises(BadInput, match="no questions to train on"):
        Shuffled([])


def test_trl_gives_the_numbers_that_were_asked_for(model: LocalModel, tmp_path: Path) -> None:
    """The override is pinned to how TRL calls it: one batch of rollouts for every `updates` optimizer steps."""
    calls = []
    original = RolloutTrainer._generate_and_score_completions

    def counted(self: Any, inputs: Any) -> Any:
        calls.append(self.rollout_step)
        return original(self, inputs)

    RolloutTrainer._generate_and_score_completions = counted  # type: ignore[method-assign]
    try:
        log = train(model, TASKS, each(right_word), RLConfig(**settings(steps=3, minibatches=2, epochs=2)))
    finally:
        RolloutTrainer._generate_and_score_completions = original  # type: ignore[method-assign]
    assert calls == [0, 1, 2]
    assert [entry["step"] for entry in log.history] == [1, 2, 3]


def test_only_one_method_of_trl_is_overridden() -> None:
    from trl import GRPOTrainer

    shared = {name for name in vars(RolloutTrainer) if hasattr(GRPOTrainer, name) and not name.startswith("__")}
    assert shared - {"_abc_impl"} == {"_generate_and_score_completions"}


def test_rollouts_of_vllm_are_weighed_by_how_likely_the_policy_finds_them(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM itself needs a GPU: here the policy writes, and its log-probabilities are told a little wrong."""
    from tests.test_vllm_decoding import Generation

    class Off(Generation):
        synced = 0

        def sync_weights(self) -> None:
            self.synced += 1

        def generate(self, *arguments: Any) -> tuple[Any, ...]:
            prompts, ids, logprobs, _ = super().generate(*arguments)
            return prompts, ids, [[[score - 0.1 for score in one] for one in row] for row in logprobs], None

    trainer = trainer_of(model, tmp_path, TASKS, each(right_word))
    trainer.config = trainer.config.model_copy(update={"vllm": True})
    trainer.vllm_generation, trainer._last_loaded_step = Off(model), -1
    trainer.vllm_importance_sampling_clip_max = 2.0
    backend = model.tokenizer.backend_tokenizer
    model.writer = VllmDecoder(trainer.vllm_generation, backend, end_ids=model.end_ids, limit=model.limit)
    batch = trainer._generate_and_score_completions([])
    mask = batch["tool_mask"].bool()
    ratio = batch["importance_sampling_ratio"][mask]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.10517), rtol=1e-3, atol=1e-3)
    assert trainer.vllm_generation.synced == 1


def test_vllm_is_asked_for_as_configured(tmp_path: Path) -> None:
    arguments = trl_arguments(RLConfig(vllm=True, vllm_memory=0.4), str(tmp_path), cpu=True)
    assert (arguments.use_vllm, arguments.vllm_mode) == (True, "colocate")
    assert arguments.vllm_gpu_memory_utilization == 0.4
    assert arguments.vllm_importance_sampling_clip_max == 2.0
