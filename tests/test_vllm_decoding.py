"""Rollouts through vLLM's interface are those of the policy: a stand-in with vLLM's signature writes with the model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ken.agents import SearchLoop
from ken.core import ModelError, Passage, Question, Sampling
from ken.models.decoding import Row, decode
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.training.token_rows import token_row
from ken.training.vllm_decoding import VllmDecoder
from tests.tiny_models import byte_level_tokenizer, one, write_model


class Generation:
    """TRL's VLLMGeneration as the decoder sees it, with the model itself in the place of vLLM."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.temperature, self.top_p, self.max_completion_length = 0.9, 0.5, 77
        self.generation_kwargs: dict[str, Any] = {"seed": 3}
        self.calls: list[dict[str, Any]] = []

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        assert num_generations == 1
        self.calls.append({"prompts": len(prompts), "temperature": self.temperature, **self.generation_kwargs})
        sampling = Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_completion_length,
            stop=tuple(self.generation_kwargs["stop"]),
        )
        rows = [Row(tuple(prompt), sampling) for prompt in prompts]
        backend = self.model.tokenizer.backend_tokenizer
        decode(self.model.model, backend, rows, end_ids=self.model.end_ids, pad_id=0, limit=self.model.limit)
        return prompts, [row.ids for row in rows], [[[score] for score in row.logprobs] for row in rows], None


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    return LocalModel(write_model(tmp_path / "m", byte_level_tokenizer()), device="cpu")


def with_vllm(model: LocalModel, generation: Generation) -> None:
    backend = model.tokenizer.backend_tokenizer
    model.writer = VllmDecoder(generation, backend, end_ids=model.end_ids, limit=model.limit)


@pytest.mark.parametrize("stop", [(), ("e",), ("</answer>", "a")])
def test_text_ids_and_logprobs_are_those_of_the_model(model: LocalModel, stop: tuple[str, ...]) -> None:
    plain = one(model, "Where does the Elbe end?", max_tokens=12, stop=stop)
    with_vllm(model, Generation(model))
    through = one(model, "Where does the Elbe end?", max_tokens=12, stop=stop)
    assert (through.text, through.token_ids, through.ended) == (plain.text, plain.token_ids, plain.ended)
    assert through.logprobs == pytest.approx(plain.logprobs)


def test_an_agent_of_several_turns_rolls_out_through_it(model: LocalModel) -> None:
    class Found:
        spec = "found"

        async def search(self, query: str, k: int) -> list[Passage]:
            return [Passage(id="1", text="x")]

        async def close(self) -> None:
            """Nothing to close."""

    with_vllm(model, generation := Generation(model))
    question = Question(id="q", text="Where?")
    made = asyncio.run(
        SearchLoop(2).run(question, model, Sources(search=Found()), sampling=Sampling(temperature=1.0, max_tokens=6))
    )
    assert made.error is None
    assert sum(token_row(made).policy) == sum(len(s.token_ids or ()) for s in made.segments if s.role == "policy")
    assert all(call["include_stop_str_in_output"] and "</answer>" in call["stop"] for call in generation.calls)


def test_rows_sampled_in_different_ways_are_different_calls(model: LocalModel) -> None:
    with_vllm(model, generation := Generation(model))
    rows = [Row((5, 6), Sampling(temperature=t, max_tokens=3, seed=i)) for i, t in enumerate([0.0, 1.0, 0.0])]
    assert model.writer is not None
    model.writer(rows)
    assert [(call["prompts"], call["temperature"]) for call in generation.calls] == [(2, 0.0), (1, 1.0)]
    assert all(row.ended == "length" and len(row.ids) == 3 for row in rows)
    assert (generation.temperature, generation.top_p, generation.max_completion_length) == (0.9, 0.5, 77)
    assert generation.generation_kwargs == {"seed": 3}


def test_a_reply_without_logprobs_is_said(model: LocalModel) -> None:
    class Silent(Generation):
        def generate(self, *arguments: Any) -> tuple[Any, ...]:
            prompts, ids, _, _ = super().generate(*arguments)
            return prompts, ids, None, None

    with_vllm(model, Silent(model))
    with pytest.raises(ModelError, match="no log-probabilities"):
        one(model, "Where?", max_tokens=2)
