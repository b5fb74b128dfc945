"""The focused forward gives TRL's own numbers and gradients where the loss looks, and costs less."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head

from ken.training.focused_forward import BUCKETS, FocusedForward, buckets
from ken.training.token_rows import TokenRow, token_batch
from tests.tiny_models import byte_level_tokenizer, write_model


def rows(seed: int = 0) -> list[TokenRow]:
    """Rollouts of very different lengths, some of them alike, with policy and observation tokens in turn."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for length in (5, 6, 40, 41, 5, 12, 40):
        ids = torch.randint(5, 300, (length,), generator=generator).tolist()
        policy = [(i >= 3 and (i // 4) % 2 == 0) or i == length - 1 for i in range(length)]
        result.append(TokenRow(tuple(ids), tuple(policy), (0.0,) * length, (0,) * length))
    return [*result, result[2], result[0]]


def asked(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies as TRL asks for them."""
    ids = torch.cat([batch.opening, batch.rest], 1)
    mask = torch.cat([torch.ones_like(batch.opening), batch.real.long()], 1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : batch.opening.shape[1]] = -100
    output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    keep = batch.rest.shape[1]
    return output.log_probs[:, -keep:], output.entropy[:, -keep:]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    folder = write_model(tmp_path_factory.mktemp("m") / "m", byte_level_tokenizer(), kind=request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    twin = deepcopy(plain)
    for model in (plain, twin):
        add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    return plain, twin


def test_the_numbers_and_gradients_are_those_of_trl(models: tuple[Any, Any]) -> None:
    plain, twin = models
    focused = FocusedForward(twin, 0.7)
    batch = token_batch(rows(), pad_id=0)
    focused.focus(batch, batch.policy)
    weight = torch.randn(batch.rest.shape, generator=torch.Generator().manual_seed(1)) * batch.policy
    for model in models:
        model.zero_grad()
        logps, entropy = asked(model, batch)
        (logps * weight).sum().backward()
        model.seen = (logps.detach() * batch.policy, entropy.detach() * batch.policy)
    torch.testing.assert_close(twin.seen[0], plain.seen[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twin.seen[1], plain.seen[1], rtol=1e-4, atol=1e-5)
    for (name, mine), other in zip(twin.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_what_it_was_not_told_of_is_left_to_trl(models: tuple[Any, Any]) -> None:
    plain, twin = models
    focused = FocusedForward(twin, 0.7)
    told, other = token_batch(rows(), pad_id=0), token_batch(rows(seed=9), pad_id=0)
    focused.focus(told, told.policy)
    torch.testing.assert_close(asked(twin, other)[0], asked(plain, other)[0])
    ids = other.opening
    torch.testing.assert_close(twin(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_rows_of_the_same_tokens_and_other_authors_are_both_served(models: tuple[Any, Any]) -> None:
    plain, twin = models
    focused = FocusedForward(twin, 0.7)
    first = rows()[2]
    second = TokenRow(first.ids, tuple(i >= 3 for i in range(len(first.ids))), first.logprobs, first.turn)
    batch = token_batch([first, second], pad_id=0)
    focused.focus(batch, batch.policy)
    got, wanted = asked(twin, batch)[0] * batch.policy, asked(plain, batch)[0] * batch.policy
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60))
def test_buckets_hold_every_row_once_and_pad_no_more_than_one_would(lengths: list[int]) -> None:
    parts = buckets(lengths)
    assert sorted(int(i) for part in parts for i in part) == list(range(len(lengths)))
    assert 1 <= len(parts) <= BUCKETS
    assert sum(len(part) * max(lengths[int(i)] for i in part) for part in parts) <= len(lengths) * max(lengths)
    assert all((part[1:] > part[:-1]).all() for part in parts)


def test_short_rows_do_not_pay_for_long_ones() -> None:
    assert [part.tolist() for part in buckets([10, 60, 10, 60, 10])] == [[0, 2, 4], [1, 3]]


def test_a_lab_model_is_scored_where_it_is_asked(tmp_path: Path) -> None:
    """Chunks of the vocabulary are computed again going backwards: the numbers stay."""
    from transformers import AutoModelForCausalLM

    import ken.training.focused_forward as module

    folder = write_model(tmp_path / "m", byte_level_tokenizer())
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    focused = FocusedForward(model, 1.0)
    batch = token_batch(rows(), pad_id=0)
    focused.focus(batch, batch.policy)
    whole = asked(model, batch)[0]
    whole.sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    size, module.CHUNK = module.CHUNK, 3 * 330
    try:
        pieces = asked(model, batch)[0]
        pieces.sum().backward()
    finally:
        module.CHUNK = size
    torch.testing.assert_close(pieces, whole)
    for mine, other in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(mine.grad, other, rtol=1e-4, atol=1e-5)
