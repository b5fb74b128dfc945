"""An endpoint model asks any OpenAI-compatible server, and reads its answers as if a local model had written them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from faulty_server import Answer, FaultyServer, Status, refused_url

from ken.core import BadInput, ModelError, Sampling, Unsupported
from ken.models import Generation, Instruction, Message, Model
from ken.models.endpoint import EndpointModel

T = TypeVar("T")


def with_model(server: FaultyServer, body: Callable[[EndpointModel], Awaitable[T]], **options: Any) -> T:
    """Run `body` with a model behind the server, and close the model."""

    async def run() -> T:
        model = EndpointModel("m", base_url=server.base_url, timeout=5, backoff_base=0.01, **options)
        try:
            return await body(model)
        finally:
            await model.close()

    return asyncio.run(run())


def ask(text: str = "hello", n: int = 1, **sampling: Any) -> Callable[[EndpointModel], Awaitable[list[Generation]]]:
    return lambda model: model.generate([Message("user", text)], n=n, sampling=Sampling(**sampling))


def test_it_is_a_model():
    assert isinstance(EndpointModel("m", base_url="http://localhost:1/v1"), Model)


def test_the_conversation_is_sent_as_chat_messages_in_which_roles_take_turns():
    conversation = [
        Message("system", "Be brief."),
        Message("user", Instruction(text="Answer with tags.", token="<closed>")),
        Message("user", "Who?"),
        Message("policy", "<search> who </search>"),
        Message("observation", "<information> x </information>"),
        Message("user", "Go on."),
    ]
    with FaultyServer() as server:
        [generation] = with_model(server, lambda model: model.generate(conversation))
    assert server.requests[0].payload["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Answer with tags.\n\nWho?"},
        {"role": "assistant", "content": "<search> who </search>"},
        {"role": "user", "content": "<information> x </information>\n\nGo on."},
    ]
    assert generation.prompt_text.startswith("system: Be brief.\n\nuser: Answer with tags.")


def test_a_model_of_the_lab_behind_a_server_gets_the_control_token_of_an_instruction():
    conversation = [Message("user", Instruction(text="Answer with tags.", token="<closed>")), Message("user", "Who?")]
    with FaultyServer() as server:
        with_model(server, lambda model: model.generate(conversation), control_tokens=True)
    assert server.requests[0].last == "<closed>\n\nWho?"


def test_the_sampling_is_sent_as_it_is():
    with FaultyServer() as server:
        with_model(server, ask(temperature=0.7, top_p=0.9, max_tokens=11, stop=("</a>", "</b>"), seed=5))
    sent = server.requests[0].payload
    assert sent["model"] == "m"
    assert {key: sent[key] for key in ("temperature", "top_p", "max_tokens", "stop", "seed", "logprobs")} == {
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 11,
        "stop": ["</a>", "</b>"],
        "seed": 5,
        "logprobs": True,
    }
    assert "n" not in sent, "servers that do not know n refuse even n = 1"


def test_seeds_fit_into_the_31_bits_that_every_server_takes():
    with FaultyServer() as server:
        with_model(server, ask(seed=2**62 + 3))
    assert server.requests[0].payload["seed"] == 3


def test_usage_is_that_of_the_reply_and_samples_share_it():
    with FaultyServer(lambda number, payload: Answer(usage={"prompt_tokens": 10, "completion_tokens": 7})) as server:
        generations = with_model(server, ask(n=3))
    assert [g.usage.prompt_tokens for g in generations] == [4, 3, 3]
    assert [g.usage.completion_tokens for g in generations] == [3, 2, 2]
    assert [g.usage.model_calls for g in generations] == [1, 1, 1]
    assert all(g.usage.seconds > 0 for g in generations)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": -1, "completion_tokens": "3"}])
def test_a_server_that_does_not_count_tokens_costs_none(usage):
    with FaultyServer(lambda number, payload: Answer(usage=usage)) as server:
        [generation] = with_model(server, ask())
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (0, 0)
    assert generation.usage.model_calls == 1


def test_n_samples_come_from_one_request():
    with FaultyServer() as server:
        generations = with_model(server, ask("x", n=4))
    assert [g.text for g in generations] == ["x"] * 4
    assert [r.payload.get("n") for r in server.requests] == [4]


def test_where_n_is_ignored_the_rest_is_drawn_one_by_one_with_other_seeds():
    with FaultyServer(lambda number, payload: Answer(str(payload["seed"]), choices=1)) as server:

        async def twice(model: EndpointModel) -> list[list[Generation]]:
            return [await ask(n=4, temperature=1.0, seed=9)(model) for _ in range(2)]

        first, second = with_model(server, twice)
    assert len({g.text for g in first}) == 4
    assert first[0].text == "9"
    assert [g.text for g in first] == [g.text for g in second], "the same seed draws the same samples"
    assert [r.payload.get("n") for r in server.requests] == [4, *[None] * 7], "n is not tried again"


def test_a_server_that_returns_more_choices_than_asked_does_not_change_the_number_of_samples():
    with FaultyServer(lambda number, payload: Answer("x", choices=5)) as server:
        assert len(with_model(server, ask(n=2))) == 2


REFUSALS = {
    "OpenAI": lambda name: {"error": {"message": f"Unsupported parameter: '{name}'", "param": name, "type": "x"}},
    "message only": lambda name: {"error": {"message": f"'{name}' is not supported with this model."}},
    "FastAPI": lambda name: {
        "detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted", "input": {"seed": 1, "stop": []}}]
    },
    "Transformers": lambda name: {"detail": f"Unexpected fields in the request: {{'{name}'}}"},
    "plain": lambda name: {"message": f"{name} is not supported"},
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
@pytest.mark.parametrize("name", ["seed", "logprobs", "stop", "top_p", "temperature"])
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_that_the_server_rejects_is_left_out_and_remembered(name, refusal, status):
    def plan(number: int, payload: dict[str, Any]) -> Answer | Status:
        return Status(status, refusal(name)) if name in payload else Answer("yes")

    with FaultyServer(plan) as server:

        async def twice(model: EndpointModel) -> set[str]:
            for _ in range(2):
                assert (await ask(stop=("</a>",))(model))[0].text == "yes"
            return model.dropped

        assert with_model(server, twice, retries=0) == {name}
    assert [name in r.payload for r in server.requests] == [True, False, False]
    assert all("max_tokens" in r.payload for r in server.requests)


def test_several_rejected_parameters_are_left_out_one_after_another():
    def plan(number: int, payload: dict[str, Any]) -> Answer | Status:
        rejected = next((name for name in ("logprobs", "seed", "n") if name in payload), None)
        return Status(400, REFUSALS["OpenAI"](rejected)) if rejected else Answer(str(payload["temperature"]))

    with FaultyServer(plan) as server:

        async def run(model: EndpointModel) -> tuple[list[Generation], set[str]]:
            return await ask(n=2, temperature=0.5)(model), model.dropped

        generations, dropped = with_model(server, run, retries=0)
    assert [g.text for g in generations] == ["0.5", "0.5"]
    assert dropped == {"logprobs", "seed", "n"}


def test_max_tokens_is_renamed_for_servers_that_want_the_newer_name():
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )

    def plan(number: int, payload: dict[str, Any]) -> Answer | Status:
        rejected = Status(400, {"error": {"message": message, "param": "max_tokens"}})
        return rejected if "max_tokens" in payload else Answer(str(payload["max_completion_tokens"]))

    with FaultyServer(plan) as server:
        [generation] = with_model(server, ask(max_tokens=33))
    assert generation.text == "33"


def test_a_prompt_that_is_too_long_is_not_taken_for_a_rejected_parameter():
    message = "max_tokens is too large: 512. This model's maximum context length is 256 tokens."
    with (
        FaultyServer(lambda number, payload: Status(400, {"error": {"message": message}})) as server,
        pytest.raises(ModelError, match=r"; lower max_tokens, or use fewer passages$"),
    ):
        with_model(server, ask())
    assert len(server.requests) == 1


def test_a_rejected_request_in_which_no_parameter_is_named_fails_at_once():
    with (
        FaultyServer(lambda number, payload: Status(400, {"error": {"message": "stop shouting"}})) as server,
        pytest.raises(ModelError, match="stop shouting"),
    ):
        with_model(server, ask(stop=("</a>",)))
    assert len(server.requests) == 1


def test_where_stop_is_not_supported_the_text_is_cut_here():
    def plan(number: int, payload: dict[str, Any]) -> Answer | Status:
        if "stop" in payload:
            return Status(400, REFUSALS["OpenAI"]("stop"))
        tokens = [("<a>", -0.1), (" x ", -0.2), ("</a>\n", -0.3), ("and so on", -0.4)]
        return Answer("<a> x </a>\nand so on", finish_reason="length", logprobs=tokens)

    with FaultyServer(plan) as server:
        [generation] = with_model(server, ask(stop=("</a>",)))
    assert (generation.text, generation.ended) == ("<a> x </a>", "stop")
    assert generation.tokens == ("<a>", " x ", "</a>")
    assert generation.logprobs == (-0.1, -0.2, -0.3)


def test_log_probabilities_are_not_asked_for_when_not_wanted():
    with FaultyServer() as server:
        [generation] = with_model(server, ask(), logprobs=False)
    assert "logprobs" not in server.requests[0].payload
    assert generation.tokens is None


def test_scoring_is_unsupported_and_says_what_to_do():
    with FaultyServer() as server, pytest.raises(Unsupported, match="hf/"):
        with_model(server, lambda model: model.score([Message("user", "a")], "b"))


def test_address_and_key_come_from_the_environment(monkeypatch):
    with FaultyServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")

        async def run() -> None:
            model = EndpointModel("m")
            await model.generate([Message("user", "a")])
            await model.close()

        asyncio.run(run())
    assert server.requests[0].headers["authorization"] == "Bearer sk-environment"


def test_a_server_of_ones_own_needs_no_key_and_no_proxy(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", refused_url())
    monkeypatch.setenv("ALL_PROXY", refused_url())
    with FaultyServer() as server:
        assert with_model(server, ask("x"))[0].text == "x"


def test_the_hosted_server_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        EndpointModel("gpt-4o-mini")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "http://x:notaport/v1", "nonsense"])
def test_a_base_url_that_is_no_address_is_bad_input(url):
    with pytest.raises(BadInput, match="http://localhost:8000/v1"):
        EndpointModel("m", base_url=url)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"retries": -1}, {"timeout": 0}, {"backoff_base": -1}])
def test_limits_that_cannot_be_kept_are_bad_input(options):
    with pytest.raises(BadInput):
        EndpointModel("m", base_url="http://localhost:1/v1", **options)


def test_fewer_than_one_sample_is_bad_input():
    with FaultyServer() as server, pytest.raises(BadInput, match="n must be"):
        with_model(server, ask(n=0))


def test_the_key_is_in_no_error_and_no_representation():
    key = "sk-very-secret-0123456789"
    echo = {"error": {"message": f"Incorrect API key provided: {key}."}}
    with FaultyServer(lambda number, payload: Status(401, echo)) as server:
        model = EndpointModel("m", base_url=server.base_url, api_key=f" {key}\n")
        assert key not in repr(model)
        with pytest.raises(ModelError) as caught:
            asyncio.run(ask()(model))
    assert server.requests[0].headers["authorization"] == f"Bearer {key}", (
        "white space around a pasted key is no part of it"
    )
    assert key not in str(caught.value)
    assert "OPENAI_API_KEY" in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", ["sk-ключ", "sk a", "sk\x00"])
def test_a_key_that_cannot_be_sent_is_bad_input_and_is_not_shown(key):
    with pytest.raises(BadInput) as caught:
        EndpointModel("m", base_url="http://localhost:1/v1", api_key=key)
    assert key not in str(caught.value)


def test_a_password_in_the_base_url_is_not_shown():
    model = EndpointModel("m", base_url="http://me:secret@localhost:1/v1?token=secret")
    assert "secret" not in repr(model)


def test_one_model_serves_several_event_loops_one_after_another():
    with FaultyServer() as server:
        model = EndpointModel("m", base_url=server.base_url, concurrency=2)

        async def many() -> list[str]:
            return [g.text for [g] in await asyncio.gather(*(ask(str(i))(model) for i in range(6)))]

        for _ in range(3):
            assert asyncio.run(many()) == ["0", "1", "2", "3", "4", "5"]
    assert len(server.requests) == 18
    assert server.most_in_flight <= 2


def test_a_closed_model_says_so():
    with FaultyServer() as server:

        async def run(model: EndpointModel) -> None:
            await model.close()
            await ask()(model)

        with pytest.raises(ModelError, match="closed"):
            with_model(server, run)
    assert server.requests == []
