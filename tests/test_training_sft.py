"""Supervised fine-tuning: ids as they were sampled, the loss only where the model itself wrote."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_level_tokenizer, write_model
from torch.nn import functional

from ken.agents.attempt import Attempt
from ken.agents.strategy import Strategy
from ken.core import BadInput, Question, Sampling, Segment, TrainingError, Trajectory
from ken.models.local import LocalModel
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.training.pretraining import Example
from ken.training.sft import SFTConfig, _Collate, accepted, examples_of, sft

AWKWARD = "  héllo\u00a0wörld 日本語🙂\n\n<|end|> a\u0301  "  # decoding and encoding again gives other ids


class Talk(Strategy):
    """Three turns with something awkward to read in between."""

    name = "talk"

    async def solve(self, attempt: Attempt) -> None:
        from ken.agents.instructions import SEARCH

        attempt.begin(SEARCH, attempt.question.text)
        for _ in range(3):
            await attempt.generate(stop=())
            attempt.observe(AWKWARD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sft") / "model", byte_level_tokenizer())


@pytest.fixture
def policy(folder: Path) -> LocalModel:
    return LocalModel(folder, device="cpu")


def talks(policy: LocalModel, count: int = 6) -> list[Trajectory]:
    async def everything() -> list[Trajectory]:
        how = Sampling(temperature=1.0, max_tokens=12)
        runs = (
            Talk().run(Question(id=f"q{i}", text=f"{AWKWARD}{i}"), policy, Sources(), sampling=how)
            for i in range(count)
        )
        return list(await asyncio.gather(*runs))

    return asyncio.run(everything())


def segment(role: Any, *ids: int) -> Segment:
    return Segment(role=role, text="", token_ids=ids, logprobs=tuple(-1.0 for _ in ids) if role == "policy" else None)


def trajectory(*segments: Segment, name: str = "q", **fields: Any) -> Trajectory:
    return Trajectory(question=Question(id=name, text="?"), strategy="s", segments=segments, **fields)


# --- what is learnt


def test_ids_are_those_that_were_sampled_and_the_mask_is_the_policy_segments(policy: LocalModel) -> None:
    for attempt in talks(policy):
        (example,) = examples_of(attempt)
        roles = [(s.role, s.token_ids or ()) for s in attempt.segments]
        assert [role for role, _ in roles] == ["prompt", "policy", "observation", "policy", "observation", "policy"]
        assert example.ids == tuple(i for _, ids in roles for i in ids)
        assert example.learn == tuple(role == "policy" for role, ids in roles for _ in ids)
        text = "".join(s.text for s in attempt.segments)
        again = policy.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert tuple(again) != example.ids, "the text is awkward enough that encoding it again would be noticed"


def test_a_new_prompt_begins_a_new_example_and_what_follows_the_last_words_is_left_out() -> None:
    parts = trajectory(
        segment("prompt", 1, 2),
        segment("policy", 3),
        segment("observation", 4, 4),
        segment("prompt", 5),
        segment("prompt", 6),
        segment("policy", 7, 8),
        segment("observation", 9),
        segment("policy", 10),
    )
    assert examples_of(parts) == [
        Example((1, 2, 3), (False, False, True)),
        Example((6, 7, 8, 9, 10), (False, True, True, False, True)),
    ]


def test_labels_are_the_policy_tokens_and_padding_is_on_the_right() -> None:
    short, long = Example((5, 6), (False, True)), Example((1, 2, 3, 4), (False, True, False, True))
    batch = _Collate([short, long], pad_id=0)([{"row": 0}, {"row": 1}])
    assert batch["input_ids"].tolist() == [[5, 6, 0, 0], [1, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, -100, -100], [-100, 2, -100, 4]]


def test_the_loss_is_the_mean_over_policy_tokens_as_computed_by_hand(policy: LocalModel) -> None:
    examples = [e for t in talks(policy) for e in examples_of(t)]
    total, count = 0.0, 0
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor([example.ids])
            nll = functional.cross_entropy(policy.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
            wanted = torch.tensor(example.learn[1:])
            total, count = total + float(nll[wanted].sum()), count + int(wanted.sum())
    log = sft(policy, examples, SFTConfig(epochs=1, batch=len(examples), lr=1e-9))
    assert log.losses == pytest.approx([total / count], rel=1e-4)
    assert (log.examples, log.learnt, log.tokens) == (len(examples), count, sum(len(e.ids) for e in examples))


def test_what_only_the_environment_wrote_has_no_gradient(folder: Path) -> None:
    """The same rows with their last observation changed train to the same loss; with a policy token changed, not."""
    rows = [Example((5, 6, 7, 8, 9, 10), (False, True, True, False, False, False)) for _ in range(4)]
    other = [Example((5, 6, 7, 80, 90, 100), r.learn) for r in rows]
    wrong = [Example((5, 6, 70, 8, 9, 10), r.learn) for r in rows]
    config = SFTConfig(epochs=3, batch=4, lr=1e-2)
    losses = [sft(LocalModel(folder, device="cpu"), data, config).losses for data in (rows, other, wrong)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-2)


def test_micro_batches_sum_to_the_batch(folder: Path) -> None:
    rows = [Example(tuple(range(5, 8 + i)), (False, *[True] * (2 + i))) for i in range(8)]
    whole, parts = LocalModel(folder, device="cpu"), LocalModel(folder, device="cpu")
    sft(whole, rows, SFTConfig(epochs=2, batch=8, lr=1e-2))
    sft(parts, rows, SFTConfig(epochs=2, batch=8, micro_batch=2, lr=1e-2))
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_it_learns_to_write_what_was_accepted_and_leaves_a_model_that_generates(policy: LocalModel) -> None:
    attempts = talks(policy, 4)
    forward = policy.model.forward
    steps: list[tuple[int, int]] = []
    log = sft(
        policy,
        attempts,
        SFTConfig(epochs=30, batch=4, lr=1e-2, schedule="constant"),
        on_step=lambda step, steps_, loss: steps.append((step, steps_)),
    )
    assert log.losses[-1] < 0.3 * log.losses[0]
    assert steps == [(i, 30) for i in range(1, 31)]
    assert not policy.model.training
    assert policy.model.forward == forward, "TRL's replacement is gone"
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    deepcopy(policy.model)
    assert talks(policy, 1)[0].error is None


def test_the_same_seed_trains_the_same_model(folder: Path) -> None:
    rows = [Example((5, 6 + i, 7, 8), (False, True, True, True)) for i in range(10)]
    logs = [sft(LocalModel(folder, device="cpu"), rows, SFTConfig(batch=4, lr=1e-2, seed=s)).losses for s in (1, 1, 2)]
    assert logs[0] == logs[1] != logs[2]


def test_a_run_that_was_cut_short_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path) -> None:
    rows = [Example((5, 6 + i, 7, 8), (False, True, True, True)) for i in range(10)]
    config = SFTConfig(epochs=4, batch=4, lr=1e-2, save_every=2)
    whole = LocalModel(folder, device="cpu")
    losses = sft(whole, rows, config).losses

    class Cut(Exception):
        pass

    def cut(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Cut

    with pytest.raises(Cut):
        sft(LocalModel(folder, device="cpu"), rows, config, out=tmp_path / "run", on_step=cut)
    resumed = LocalModel(folder, device="cpu")
    log = sft(resumed, rows, config, out=tmp_path / "run", resume=True)
    assert log.losses == pytest.approx(losses, rel=1e-5)
    saved = LocalModel(tmp_path / "run" / "model", device="cpu")
    for one, other in zip(whole.model.parameters(), saved.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_long_sequences_are_left_out_and_counted(policy: LocalModel) -> None:
    rows = [Example((5, 6, 7), (False, True, True)), Example((5,) * 9, (False,) + (True,) * 8)]
    log = sft(policy, rows, SFTConfig(epochs=1, max_tokens=4))
    assert (log.examples, log.too_long) == (1, 1)
    with pytest.raises(BadInput, match="all 2 sequences are longer than max_tokens=2"):
        sft(policy, rows, SFTConfig(max_tokens=2))


# --- rejection sampling


def test_accepted_keeps_what_passes_in_order_and_at_most_so_many_of_a_question() -> None:
    given = [trajectory(name=name, sample=i) for i, name in enumerate("aabab")]
    assert [t.sample for t in accepted(given, lambda t: t.sample != 1)] == [0, 2, 3, 4]
    assert [t.sample for t in accepted(given, lambda t: t.sample != 0, per_question=1)] == [1, 2]


def test_attempts_that_failed_are_never_accepted() -> None:
    broken = trajectory(error="the model is away")
    assert accepted([broken], lambda t: pytest.fail("was asked")) == []


# --- bad input


def test_a_model_without_token_ids_cannot_be_learnt_from() -> None:
    model = ScriptedModel(lambda _: "x")
    attempt = asyncio.run(Talk().run(Question(id="q", text="?"), model, Sources()))
    with pytest.raises(BadInput, match="gives no token ids"):
        examples_of(attempt)


@pytest.mark.parametrize("data", [[], [Example((1, 2), (False, False))], [Example((1, 2), (True, False))]])
def test_nothing_to_learn_is_refused(policy: LocalModel, data: list[Example]) -> None:
    with pytest.raises(BadInput, match="nothing to fine-tune on"):
        sft(policy, data)


@pytest.mark.parametrize("field", [{"epochs": 0}, {"batch": 0}, {"lr": -1.0}, {"max_tokens": 1}, {"schedule": "up"}])
def test_values_out_of_range(field: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"fine-tuning cannot have {next(iter(field))}"):
        SFTConfig(**field)


def test_a_loss_that_is_no_number_ends_the_training_before_it_is_taken(policy: LocalModel, tmp_path: Path) -> None:
    def poison(step: int, steps: int, loss: float) -> None:
        if step == 2:
            next(iter(policy.model.parameters())).register_hook(lambda gradient: gradient * float("nan"))

    examples = [Example((5, 6, 7 + i), (False, True, True)) for i in range(6)]
    config = SFTConfig(epochs=1, batch=1, save_every=1)
    with pytest.raises(TrainingError, match=r"no longer a number at step 3.*step 2 is saved in .*checkpoint-2"):
        sft(policy, examples, config, out=tmp_path / "run", on_step=poison)
    saved = LocalModel(tmp_path / "run" / "checkpoints" / "checkpoint-2", device="cpu")
    assert all(parameter.isfinite().all() for parameter in saved.model.parameters())
    assert len(sft(saved, examples, config, out=tmp_path / "run", resume=True).losses) == 6


def test_a_loss_that_is_no_number_stops_the_training(policy: LocalModel) -> None:
    with torch.no_grad():
        next(iter(policy.model.parameters())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="no longer a number at step 1"):
        sft(policy, [Example((5, 6, 7), (False, True, True))], SFTConfig(epochs=1))
