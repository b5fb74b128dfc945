"""The endpoint model against a real server that this project did not write: `transformers serve`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from conftest import Served

from ken.agents.instructions import CLOSED
from ken.core import ModelError, Sampling
from ken.models import Generation, Message, load_model
from ken.models.endpoint import EndpointModel

T = TypeVar("T")


def with_model(
    server: Served, body: Callable[[EndpointModel], Awaitable[T]], *, name: str | None = None, **options: Any
) -> T:
    async def run() -> T:
        model = load_model(f"openai/{name or server.model}", base_url=server.base_url, retries=1, **options)
        assert isinstance(model, EndpointModel)
        try:
            return await body(model)
        finally:
            await model.close()

    return asyncio.run(run())


async def ask(model: EndpointModel, text: str = "word3 word7", n: int = 1, **sampling: Any) -> list[Generation]:
    sampling = {"max_tokens": 12, **sampling}
    return await model.generate([Message("user", text)], n=n, sampling=Sampling(**sampling))


def test_it_answers_and_counts(transformers_server):
    [generation] = with_model(transformers_server, ask)
    assert generation.text.strip()
    assert generation.ended == "length"
    assert generation.usage.completion_tokens == 12
    assert generation.usage.prompt_tokens >= 2
    assert generation.usage.seconds > 0
    assert generation.tokens is None, "transformers serve gives no log-probabilities"


def test_greedy_answers_are_the_same_twice_and_seeded_samples_follow_their_seed(transformers_server):
    async def run(model: EndpointModel) -> list[str]:
        calls = [
            {"temperature": 0.0},
            {"temperature": 0.0, "seed": 5},
            {"temperature": 1.0, "seed": 1},
            {"temperature": 1.0, "seed": 1},
            {"temperature": 1.0, "seed": 2},
        ]
        return [(await ask(model, **call))[0].text for call in calls]

    greedy, greedy_again, one, one_again, two = with_model(transformers_server, run)
    assert greedy == greedy_again
    assert one == one_again
    assert one != two


def test_it_stops_at_a_stop_string_which_stays_in_the_text(transformers_server):
    async def run(model: EndpointModel) -> tuple[str, list[Generation]]:
        [free] = await ask(model, max_tokens=24)
        stop = free.text.split()[3]  # a word that the model is going to write
        return stop, [free, *await ask(model, max_tokens=24, stop=("never-written", stop))]

    stop, [free, stopped] = with_model(transformers_server, run)
    assert stopped.text == free.text[: free.text.index(stop) + len(stop)]
    assert stopped.ended == "stop"
    assert stopped.usage.completion_tokens < free.usage.completion_tokens


def test_n_samples_are_drawn_one_by_one_because_it_ignores_n(transformers_server):
    async def run(model: EndpointModel) -> tuple[list[Generation], set[str]]:
        return await ask(model, n=3, temperature=1.0, seed=4), model.dropped

    generations, dropped = with_model(transformers_server, run)
    assert len({g.text for g in generations}) == 3
    assert dropped == {"n"}
    assert sum(g.usage.completion_tokens for g in generations) <= 36


def test_concurrent_questions_get_their_own_answers(transformers_server):
    questions = [f"word{i} word{i + 1}" for i in range(16)]

    async def run(model: EndpointModel) -> tuple[list[str], list[str]]:
        apart = [(await ask(model, question, max_tokens=6))[0].text for question in questions]
        together = await asyncio.gather(*(ask(model, question, max_tokens=6) for question in questions))
        return apart, [g.text for [g] in together]

    apart, together = with_model(transformers_server, run)
    assert together == apart
    assert len(set(apart)) > 1


def test_a_model_that_it_does_not_serve_is_reported_at_once(transformers_server):
    with pytest.raises(ModelError, match="check the model name"):
        with_model(transformers_server, ask, name="other/model")


def test_the_lab_model_behind_it_answers_as_it_does_in_this_process(lab_server):
    conversation = [Message("user", CLOSED), Message("user", "What is the capital of Doc ?")]
    sampling = Sampling(max_tokens=24, stop=("</answer>",))

    async def run(model: EndpointModel) -> tuple[list[Generation], list[Generation]]:
        return (
            await model.generate(conversation, sampling=sampling),
            await model.generate(conversation, n=8, sampling=sampling.but(temperature=1.0)),
        )

    async def here() -> list[Generation]:
        model = load_model("lab/factworld")
        try:
            return await model.generate(conversation, sampling=sampling)
        finally:
            await model.close()

    [served], samples = with_model(lab_server, run, control_tokens=True)
    [local] = asyncio.run(here())
    assert (served.text.split(), served.ended) == (local.text.split(), local.ended)
    assert served.usage.completion_tokens == local.usage.completion_tokens
    assert served.usage.prompt_tokens == local.usage.prompt_tokens
    assert len({g.text for g in samples}) > 1, "samples at temperature 1 differ"


@pytest.mark.parametrize("stop", [(), ("word",)])
def test_a_streamed_answer_is_the_answer_in_one_piece(transformers_server, stop):
    pieces: list[str] = []

    async def run(model: EndpointModel) -> tuple[Generation, Generation]:
        how = Sampling(max_tokens=24, stop=stop)
        [streamed] = await model.generate([Message("user", "word3 word7")], sampling=how, on_text=pieces.append)
        [whole] = await model.generate([Message("user", "word3 word7")], sampling=how)
        return streamed, whole

    streamed, whole = with_model(transformers_server, run)
    assert streamed.text == "".join(pieces) == whole.text
    assert (streamed.ended, streamed.usage.completion_tokens) == (whole.ended, whole.usage.completion_tokens)
    assert streamed.usage.prompt_tokens == whole.usage.prompt_tokens
    assert len(pieces) > 1
