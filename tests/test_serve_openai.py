"""`ken serve` to those who speak to OpenAI: the official client, curl, and requests that are wrong."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capitals
import httpx
import openai
import pytest
from faulty_server import Answer, FaultyServer, Status
from pydantic import BaseModel, ValidationError
from running import ken_serve, running
from tiny_models import byte_level_tokenizer, write_model

import ken.serving
from ken.core import Observation, Passage, Trajectory
from ken.models.endpoint import EndpointModel
from ken.models.scripted import ScriptedModel
from ken.serving.completion import passage_infos
from ken.serving.openai_types import ChatCompletion, KenInfo, ModelList
from ken.serving.service import Service

EGYPT = "What is the capital of Egypt?"  # the model must look it up
KENYA = "What is the capital of Kenya?"  # the model knows it


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capitals.build_index(tmp_path_factory.mktemp("serve") / "capitals")


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyServer]:
    with FaultyServer(capitals.serve) as server:
        yield server


@pytest.fixture(scope="module")
def url(index: Path, upstream: FaultyServer) -> Iterator[str]:
    models = [EndpointModel(name, base_url=upstream.base_url) for name in ("first", "second")]
    with running(Service(models, indexes={"capitals": index, "again": index})) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={"model": "ken/adaptive", "messages": user(KENYA), **body})


# --- the official client ---


def test_an_answer_that_was_looked_up_says_so(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="ken/adaptive", messages=user(EGYPT), extra_body={"ken": {"citations": True, "top_k": 1}}
    )
    assert reply.choices[0].message.content == "Cairo [1]\n\n[1] Egypt: The capital of Egypt is Cairo."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "ken/adaptive"
    told: Any = reply.model_extra and reply.model_extra["ken"]
    assert told["decision"] == {"knows": False, "confidence": None, "rationale": "I recall maps.", "source": None}
    (search,) = told["searches"]
    assert search["query"] == "capital of Egypt"
    assert [(p["id"], p["title"]) for p in search["passages"]] == [("egypt", "Egypt")]
    text = "The capital of Egypt is Cairo."
    assert told["citations"] == [{"number": 1, "id": "egypt", "title": "Egypt", "text": text}]
    assert told["usage"]["model_calls"] == 3
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3 * 7, 3 * 3)


def test_an_answer_that_was_known_searched_for_nothing(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="ken/adaptive/openai/second", messages=user(KENYA))
    assert reply.choices[0].message.content == "Nairobi", "without citations, unless asked for"
    told: Any = reply.model_extra and reply.model_extra["ken"]
    assert (told["decision"]["knows"], told["searches"], told["citations"]) == (True, [], [])
    assert (told["model"], told["strategy"], told["question"]) == ("openai/second", "adaptive", KENYA)


def test_a_stream_brings_what_happens_and_then_the_answer(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="ken/adaptive",
            messages=user(EGYPT),
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ken": {"citations": True, "top_k": 1}},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Cairo [1]\n\n[1] Egypt: The capital of Egypt is Cairo."
    told = [(c.model_extra or {})["ken"] for c in chunks if "ken" in (c.model_extra or {})]
    assert [t["event"] for t in told[:-1]] == ["decision", "search", "found"]
    assert told[0]["decision"]["knows"] is False
    assert told[-1]["citations"][0]["id"] == "egypt"
    thoughts = [getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks if c.choices]
    assert "".join(thoughts).strip() == "it is written there"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 30
    assert len({c.id for c in chunks}) == 1


def test_a_stream_says_the_same_as_a_reply_at_once_for_every_strategy(client: openai.OpenAI, url: str) -> None:
    for name in ("direct", "rag", "search", "adaptive", "ircot", "tools"):
        whole = client.chat.completions.create(model=f"ken/{name}", messages=user(EGYPT))
        pieces = client.chat.completions.create(model=f"ken/{name}", messages=user(EGYPT), stream=True)
        text = "".join(c.choices[0].delta.content or "" for c in pieces)
        assert text == whole.choices[0].message.content, name


def test_the_asynchronous_client_asks_many_questions_at_once(url: str) -> None:
    async def run() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:

            async def ask(land: str) -> str | None:
                question = user(f"What is the capital of {land}?")
                reply = await client.chat.completions.create(model="ken/adaptive", messages=question)
                return reply.choices[0].message.content

            async def stream(land: str) -> str:
                question = user(f"What is the capital of {land}?")
                chunks = await client.chat.completions.create(model="ken/adaptive", messages=question, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in chunks])

            return await asyncio.gather(*map(ask, capitals.CAPITALS), *map(stream, capitals.CAPITALS))

    assert asyncio.run(run()) == [*capitals.CAPITALS.values()] * 2


def test_models_are_strategies_and_specs(client: openai.OpenAI, url: str) -> None:
    names = [entry.id for entry in client.models.list()]
    assert {"ken/adaptive", "ken/direct", "ken/adaptive/openai/first", "ken/adaptive/openai/second"} <= set(names)
    assert client.models.retrieve("ken/adaptive/openai/second").owned_by == "ken"
    with pytest.raises(openai.NotFoundError, match="GET /v1/models"):
        client.models.retrieve("gpt-4o")
    ModelList.model_validate(httpx.get(f"{url}/v1/models").json(), strict=True)


def test_strategies_that_search_are_not_offered_where_there_is_no_index(upstream: FaultyServer) -> None:
    with running(Service([EndpointModel("m", base_url=upstream.base_url)])) as url:
        offered = {e["id"] for e in httpx.get(f"{url}/v1/models").json()["data"]}
        assert {"ken/direct", "ken/direct/openai/m", "ken/adaptive-tools"} <= offered
        assert not offered & {"ken/adaptive", "ken/rag", "ken/search"}
        refused = post(url)
        assert refused.status_code == 400
        assert "--index" in refused.json()["error"]["message"]


# --- curl, against the real command ---


def test_curl_asks_the_real_command(index: Path, upstream: FaultyServer, tmp_path: Path) -> None:
    arguments = ("--model", "openai/m", "--index", f"capitals={index}", "--base-url", upstream.base_url)
    with ken_serve(*arguments, folder=tmp_path) as served:

        def curl(*more: str) -> str:
            done = subprocess.run(
                ["curl", "-sS", "--noproxy", "*", *more], capture_output=True, text=True, timeout=60, check=True
            )
            return done.stdout

        header = ("-H", "Content-Type: application/json")
        body = json.dumps({"model": "ken/adaptive", "messages": user(EGYPT), "stream": True})
        stream = curl(f"{served.address}/v1/chat/completions", "-N", *header, "-d", body)
        assert stream.startswith("data: {")
        assert stream.endswith("data: [DONE]\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in stream.split("\n\n")[:-2]]
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Cairo"

        asked = curl(f"{served.address}/v1/ask", *header, "-d", json.dumps({"question": KENYA}))
        trajectory = Trajectory.model_validate_json(asked)
        assert (trajectory.answer, trajectory.strategy) == ("Nairobi", "adaptive")
        assert [segment.role for segment in trajectory.segments][:2] == ["prompt", "policy"]

        assert json.loads(curl(f"{served.address}/healthz")) == {"status": "ok"}
        counted = curl(f"{served.address}/metrics")
        assert 'ken_requests_total{method="POST",route="/v1/ask",status="200"} 1.0' in counted
        assert 'ken_decisions_total{knows="yes",strategy="adaptive"} 1.0' in counted
        assert 'ken_decisions_total{knows="no",strategy="adaptive"} 1.0' in counted
        assert 'ken_searches_total{strategy="adaptive"} 1.0' in counted
        assert "ken_attempts_running 0.0" in counted
        assert served.end() in {0, -15}
        lines = [json.loads(line) for line in served.log.splitlines()]
        first = next(line for line in lines if line["route"] == "/v1/chat/completions")
        assert (first["status"], first["knows"], first["searches"], first["strategy"]) == (200, False, 1, "adaptive")
        assert "capital" not in served.log, "no texts in the log, unless asked for"
        assert "Cairo" not in served.log


def test_texts_are_logged_when_asked_for(upstream: FaultyServer, tmp_path: Path) -> None:
    arguments = ("--model", "openai/m", "--base-url", upstream.base_url, "--log-texts")
    with ken_serve(*arguments, folder=tmp_path) as served:
        assert post(served.address, model="ken/direct").status_code == 200
        served.end()
        (line,) = [json.loads(line) for line in served.log.splitlines()]
        assert (line["question"], line["answer"]) == (KENYA, "Nairobi")


@pytest.mark.parametrize("log_texts", [False, True])
def test_what_an_upstream_says_of_its_failure_is_in_the_log_only_with_the_texts(
    index: Path, tmp_path: Path, log_texts: bool
) -> None:
    """It may repeat the question: cut, in other letters, or inside of the prompt."""

    def plan(number: int, payload: dict[str, Any]) -> Any:
        if "<assessment>" in str(payload):
            return Answer("Hm. <assessment>no</assessment>")
        return Status(422, {"error": {"message": "I will not say THE CAPITAL OF KEN"}})

    with FaultyServer(plan) as upstream:
        arguments = ("--model", "openai/m", "--base-url", upstream.base_url, "--index", index)
        with ken_serve(*arguments, *["--log-texts"][:log_texts], folder=tmp_path) as served:
            assert post(served.address, model="ken/direct").status_code == 502
            assert post(served.address, model="ken/direct", stream=True).status_code == 502
            assert "THE CAPITAL" in post(served.address, stream=True).text, "in mid-stream"
            assert httpx.post(f"{served.address}/v1/ask", json={"question": KENYA}).status_code == 502
            served.end()
        lines = [json.loads(line) for line in served.log.splitlines()]
        assert ["CAPITAL" in line.get("message", "") for line in lines] == [log_texts] * 4
        assert ("capital" in served.log.lower()) == log_texts
        assert [line["status"] for line in lines] == [502, 502, 200, 502]
        assert {(line["error"], line["upstream_status"]) for line in lines} == {("upstream_error", 422)}
        assert [line["model"] for line in lines] == ["ken/direct", "ken/direct", "ken/adaptive", "openai/m"]


# --- what a conversation asks ---


def scripted(reply: Any, **options: Any) -> tuple[Service, ScriptedModel]:
    model = ScriptedModel(reply)
    return Service([model], **options), model


def test_a_follow_up_is_rewritten_against_what_was_said_before() -> None:
    def reply(prompt: str) -> str:
        if "<rewrite>" in prompt:
            assert "Q1: Who wrote Emma?\nA1: Jane Austen" in prompt
            return "<think>she is Austen</think>\n<rewrite>When did Jane Austen die?</rewrite>"
        assert "Emma" not in prompt
        return "<answer>1817</answer>" if "When did Jane Austen die?" in prompt else "<answer>?</answer>"

    service, model = scripted(reply)
    with running(service) as url:
        said = [*user("Who wrote Emma?"), {"role": "assistant", "content": "Jane Austen"}, *user("When did she die?")]
        for stream in (False, True):
            replied = post(url, model="ken/direct", messages=said, stream=stream)
            told = replied.json() if not stream else json.loads(replied.text.split("\n\n")[-3].removeprefix("data: "))
            assert told["ken"]["question"] == "When did Jane Austen die?"
            assert told["ken"]["usage"]["model_calls"] == 2
            assert "1817" in replied.text
    assert len(model.calls) == 4


def test_a_model_that_does_not_rewrite_reads_the_conversation_instead() -> None:
    service, model = scripted(lambda prompt: "<answer>1817</answer>" if "A1: Jane Austen" in prompt else "no")
    with running(service) as url:
        said = [*user("Who wrote Emma?"), {"role": "assistant", "content": "Jane Austen"}, *user("When did she die?")]
        told = post(url, model="ken/direct", messages=said).json()
    assert told["choices"][0]["message"]["content"] == "1817"
    assert "Q1: Who wrote Emma?" in told["ken"]["question"]
    assert "When did she die?" in told["ken"]["question"]
    assert model.calls[1].prompt.count("Jane Austen") == 1


def test_system_messages_reach_the_model_beside_the_strategy_s_own() -> None:
    service, model = scripted(lambda _: "<answer>x</answer>")
    with running(service) as url:
        said = [{"role": "system", "content": "Answer in French."}, *user("Why?"), {"role": "user", "content": "Now?"}]
        assert post(url, model="ken/direct", messages=said).status_code == 200
        assert post(url, model="ken/direct", messages=said, stream=True).status_code == 200
    for call in model.calls:
        assert "<answer> Lisbon </answer>" in call.prompt
        assert "the application that asks adds: Answer in French." in call.prompt
        assert call.prompt.endswith("Why?\n\nNow?"), "neighbours of one role are one message"


def test_parameters_reach_the_model() -> None:
    service, model = scripted(lambda _: "<answer>one two three</answer>")
    with running(service) as url:
        sent = {"temperature": 0.7, "top_p": 0.9, "max_completion_tokens": 99, "seed": 5, "stop": [" three", "four"]}
        whole = post(url, model="ken/direct", **sent)
        stream = post(url, model="ken/direct", **sent, stream=True)
    assert whole.json()["choices"][0]["message"]["content"] == "one two"
    pieces = [json.loads(line.removeprefix("data: ")) for line in stream.text.split("\n\n")[:-2]]
    assert "".join(p["choices"][0]["delta"].get("content", "") for p in pieces) == "one two"
    first, second = (call.sampling for call in model.calls)
    assert (first.temperature, first.top_p, first.max_tokens) == (0.7, 0.9, 99)
    assert first.seed == second.seed
    assert "</answer>" in first.stop


def test_the_index_is_chosen_by_name(url: str) -> None:
    assert post(url, messages=user(EGYPT), ken={"index": "again"}).status_code == 200
    refused = post(url, ken={"index": "../capitals"})
    assert refused.status_code == 400
    assert "it has capitals, again" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "ken.index"


@pytest.mark.parametrize(
    ("change", "code", "param", "says"),
    [
        ({"strategy": "x"}, "invalid_value", "strategy", "it has direct, "),
        ({"index": "x"}, "invalid_value", "index", "it has capitals, again"),
        ({"model": "x"}, "model_not_found", "model", "it has openai/first, openai/second"),
        ({"history": [{"answer": "a"}]}, "missing_required_parameter", "history[0].query", "is missing; add it"),
        ({"history": [{"query": "q", "answer": "a"}] * 201}, "invalid_value", "history", "at most 200 items, not 201"),
        ({"question": None}, "invalid_value", "question", "valid string"),
    ],
)
def test_what_is_wrong_with_a_question_of_ken_s_own_is_named(
    url: str, change: dict[str, Any], code: str, param: str, says: str
) -> None:
    reply = httpx.post(f"{url}/v1/ask", json={"question": KENYA, **change})
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert reply.status_code == (404 if code == "model_not_found" else 400)
    assert says in error["message"]


# --- what is wrong ---

MESSAGE = "messages[0]"


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": []}, "messages", "empty"),
        ({"messages": user("")}, MESSAGE, "empty"),
        ({"messages": user(" \n ")}, MESSAGE, "empty"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, MESSAGE, "last message"),
        ({"messages": [{"role": "system", "content": "hi"}]}, MESSAGE, "last message"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, f"{MESSAGE}.role", "user"),
        ({"messages": [{"role": "user"}]}, f"{MESSAGE}.content", "missing"),
        ({"messages": [{"role": "user", "content": None}]}, f"{MESSAGE}.content", "string"),
        ({"messages": user([{"type": "image_url", "image_url": {}}])}, f"{MESSAGE}.content", "image_url"),  # type: ignore[arg-type]
        ({"messages": "hi"}, "messages", "array"),
        ({"n": 2}, "n", "one choice"),
        ({"n": 0}, "n", "leave it out"),
        ({"tools": [{"type": "function"}]}, "tools", "leave it out"),
        ({"functions": [{"name": "f"}]}, "functions", "leave it out"),
        ({"tool_choice": "required"}, "tool_choice", "leave it out"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "plain text"),
        ({"logprobs": True}, "logprobs", "ken"),
        ({"top_logprobs": 3}, "top_logprobs", "ken"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "leave it out"),
        ({"presence_penalty": 1.5}, "presence_penalty", "leave it out"),
        ({"modalities": ["text", "audio"]}, "modalities[1]", "text only"),
        ({"audio": {"voice": "x"}}, "audio", "text only"),
        ({"stop": [""]}, "stop", "not empty"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "0.5"}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"min_p": 0.1}, "min_p", "leave it out"),
        ({"ken": {"topk": 3}}, "ken.topk", "leave it out"),
        ({"ken": {"top_k": 0}}, "ken.top_k", "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(url: str, change: dict[str, Any], param: str, says: str) -> None:
    reply = post(url, **change)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert says in error["message"]


def test_what_makes_no_difference_is_accepted(url: str) -> None:
    harmless: dict[str, Any] = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "stream_options": None, "n": 1,
        "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False, "logit_bias": {},
        "presence_penalty": 0, "frequency_penalty": 0.0, "parallel_tool_calls": True, "modalities": ["text"],
    }  # fmt: skip
    assert post(url, **harmless).status_code == 200
    parts = [{"type": "text", "text": "Tell me."}, {"type": "text", "text": KENYA}]
    assert post(url, messages=[{"role": "user", "content": parts}]).status_code == 200


@pytest.mark.parametrize("model", ["gpt-4o", "ken", "ken/", "ken/nonsense", "ken/adaptive/openai/third", "adaptive"])
def test_an_unknown_model_is_404_as_at_openai(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model=model, messages=user(KENYA))
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[]", 400, "invalid_value"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', 400, "missing_required_parameter"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "invalid_json"),
        (b'{"model": "ken/direct", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "invalid_json"),
    ],
)
def test_a_body_that_is_no_request_is_refused(url: str, body: bytes, status: int, code: str) -> None:
    for path in ("/v1/chat/completions", "/v1/ask"):
        reply = httpx.post(f"{url}{path}", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == status, reply.text
        if code != "missing_required_parameter":
            assert reply.json()["error"]["code"] == code


def test_other_addresses_methods_and_types_are_refused_in_the_same_shape(url: str) -> None:
    assert httpx.get(f"{url}/v1/nowhere").json()["error"]["code"] == "not_found"
    wrong = httpx.get(f"{url}/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    form = httpx.post(f"{url}/v1/ask", data={"question": "x"})
    assert (form.status_code, form.json()["error"]["code"]) == (415, "not_json")
    page = httpx.get(f"{url}/nowhere", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "<h1>Not Found</h1>" in page.text, "people get a page"


# --- an upstream that fails ---


def test_an_upstream_that_is_down_is_502_and_not_asked_again_by_the_client(index: Path) -> None:
    with FaultyServer(lambda number, payload: Status(400, {"error": {"message": "no such luck"}})) as upstream:
        model = EndpointModel("m", base_url=upstream.base_url, retries=0)
        with running(Service([model], indexes={"capitals": index})) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="any")
            for stream in (False, True):
                with pytest.raises(openai.InternalServerError, match="no such luck") as failed:
                    client.chat.completions.create(model="ken/direct", messages=user(KENYA), stream=stream)
                assert (failed.value.status_code, failed.value.code) == (502, "upstream_error")
            asked = httpx.post(f"{url}/v1/ask", json={"question": KENYA, "strategy": "direct"})
            assert asked.status_code == 502
            assert Trajectory.model_validate(asked.json()["trajectory"]).error
            counted = httpx.get(f"{url}/metrics").text
            assert 'ken_upstream_errors_total{model="openai/m"} 3.0' in counted
        assert len(upstream.requests) == 3, "the official client would ask again after 5xx, unless told"


def test_an_upstream_that_fails_in_mid_stream_ends_the_stream_with_an_error(index: Path) -> None:
    def plan(number: int, payload: dict[str, Any]) -> Any:
        return Status(500, "gone") if number else Answer("Hm. <assessment>no</assessment>")

    with FaultyServer(plan) as upstream:
        model = EndpointModel("m", base_url=upstream.base_url, retries=0)
        with running(Service([model], indexes={"capitals": index})) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
            chunks = client.chat.completions.create(model="ken/adaptive", messages=user(EGYPT), stream=True)
            with pytest.raises(openai.APIError, match="500"):
                list(chunks)
            raw = post(url, stream=True).text
            assert "[DONE]" not in raw


LONG = "Why? " * 2000


def too_long(url: str, **body: Any) -> list[dict[str, Any]]:
    """The errors of a question that is too long for a model, in all three ways to ask it."""
    asked = {"messages": user(LONG), **body}
    strategy = asked.get("model", "ken/adaptive").removeprefix("ken/")
    ways = [post(url, **asked), post(url, **asked, stream=True)]
    ways.append(httpx.post(f"{url}/v1/ask", json={"question": LONG, "strategy": strategy}))
    assert [reply.status_code for reply in ways] == [400, 400, 400]
    errors = [reply.json()["error"] for reply in ways]
    assert [error["param"] for error in errors] == ["messages", "messages", "question"]
    assert {error["code"] for error in errors} == {"context_length_exceeded"}
    return errors


def test_a_question_too_long_for_a_served_model_is_400_and_to_be_shortened(index: Path) -> None:
    said = "This model's maximum context length is 4096 tokens. However, your messages resulted in 6012 tokens."

    def plan(number: int, payload: dict[str, Any]) -> Any:
        long = len(str(payload)) > 9000
        return Status(400, {"error": {"message": said}}) if long else Answer("I would rather not.")

    with FaultyServer(plan) as upstream:
        model = EndpointModel("m", base_url=upstream.base_url)
        with running(Service([model], indexes={"capitals": index})) as url:
            for error in too_long(url):
                assert error["message"].endswith("resulted in 6012 tokens.); shorten the question")
            read = post(url, model="ken/rag", messages=user(LONG))
            assert (read.status_code, read.json()["error"]["code"]) == (400, "context_length_exceeded")
            assert read.json()["error"]["message"].endswith("; use fewer passages, or shorten the question")


def test_a_question_too_long_for_a_local_model_is_400_and_to_be_shortened(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="local models need torch; install with: pip install 'ken[lab]'")
    from ken.models.local import LocalModel

    model = LocalModel(write_model(tmp_path, byte_level_tokenizer()))
    with running(Service([model])) as url:
        for error in too_long(url, model="ken/direct"):
            assert re.search(r"has \d+ tokens, .* takes fewer than 1024; shorten the question$", error["message"])


def test_a_model_that_gives_no_answer_is_an_error_that_says_what_to_try() -> None:
    service, _ = scripted(lambda _: "I would rather not.")
    with running(service) as url:
        for stream in (False, True):
            reply = post(url, model="ken/direct", stream=stream)
            assert reply.status_code == 502, "nothing was streamed before, so that even a stream has a status"
            body = reply.json()
            assert body["error"]["code"] == "no_answer"
            assert body["ken"]["malformed"] == 2


def test_a_blank_answer_is_none_unless_a_stop_string_made_it_so(index: Path) -> None:
    service, _ = scripted(lambda _: "<answer>Paris</answer>", indexes={"capitals": index})
    with running(service) as url:
        for stream in (False, True):
            whole = post(url, model="ken/tree", stream=stream)  # which can read nothing of what this model writes
            body = whole.json() if not stream else json.loads(whole.text.split("\n\n")[-2].removeprefix("data: "))
            assert body["error"]["code"] == "no_answer"
        assert post(url, model="ken/direct", stop="Pa").json()["choices"][0]["message"]["content"] == ""


def test_an_answer_that_was_cut_off_and_changed_ends_the_stream_with_an_error() -> None:
    replies = iter(["<answer>Lyon is the one", "<answer>Paris</answer>"])
    service, _ = scripted(lambda _: next(replies))
    with running(service) as url:
        reply = post(url, model="ken/direct", stream=True)
    last = json.loads(reply.text.split("\n\n")[-2].removeprefix("data: "))
    assert last["error"]["code"] == "answer_changed"
    assert last["ken"]["answer"] == "Paris"


def test_a_defect_is_500_and_tells_nothing_of_the_inside() -> None:
    def reply(prompt: str) -> str:
        raise RuntimeError("secret")

    service, _ = scripted(reply)
    with running(service) as url:
        failed = post(url, model="ken/direct")
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")
        assert "secret" not in failed.text
        assert failed.headers["x-request-id"].startswith("req_")
        assert "secret" not in post(url, model="ken/direct", stream=True).text


def test_a_score_that_is_no_number_is_none() -> None:
    scores = (math.nan, -math.inf, None, 1.5)
    found = Observation(passages=tuple(Passage(id="p", text="x", score=score) for score in scores))
    assert [info["score"] for info in passage_infos(found)] == [None, None, None, 1.5]


def test_replies_are_what_the_document_says(url: str) -> None:
    replied = post(url, messages=user(EGYPT), ken={"citations": True}).json()
    ChatCompletion.model_validate(replied, strict=True)
    with pytest.raises(ValidationError, match="Extra inputs"):
        ChatCompletion.model_validate({**replied, "ken": {**replied["ken"], "more": 1}})
    document = httpx.get(f"{url}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models", "/v1/ask", "/healthz", "/metrics"} <= set(document["paths"])
    described = document["components"]["schemas"]
    for name, value in (("DecisionInfo", replied["ken"]["decision"]), ("UsageInfo", replied["ken"]["usage"])):
        assert set(described[name]["properties"]) == set(value), "what is sent is what is described"


PAGE = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_example_of_the_documentation_runs(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

    def reply(prompt: str) -> str:
        return "sure <assessment>yes</assessment>" if "<assessment>" in prompt else "<answer>Hekloumom</answer>"

    service, _ = scripted(reply, indexes={"capitals": index})
    with running(service) as url:
        exec(code.replace("http://127.0.0.1:8080", url), {})  # noqa: S102
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Hekloumom"
    assert "'knows': True" in said[1]


def shape(value: Any) -> Any:
    """The names of a reply, and what is below them."""
    if isinstance(value, dict):
        return {name: shape(below) for name, below in value.items()}
    return [shape(below) for below in value] if isinstance(value, list) else None


def test_curl_gets_what_the_documentation_shows(tmp_path: Path) -> None:
    """The same request, but for the world: names, numbers of searches and passages, and all that stands below them."""
    (request,) = re.findall(r"-d '(\{\n.*?\})'\n```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    text = "Pojouwes: birthplace Tadroun, employer Hekloumom, school Priproudro, sponsor Veidoukloum."

    def reply(prompt: str) -> str:
        if "<assessment>" in prompt:
            return "employer Draror <assessment>no</assessment>"
        known = "<think>employer Dregrei</think><search>employer of Pojouwes</search>"
        return "<think>employer Hekloumom</think><answer>Hekloumom</answer>" if text in prompt else known

    people = ken.Index.build([Passage(id="pojouwes", title="Pojouwes", text=text)], tmp_path / "people").path
    service, _ = scripted(reply, indexes={"people": people})
    with running(service) as url:
        headers = {"Content-Type": "application/json"}
        replied = httpx.post(f"{url}/v1/chat/completions", content=request, headers=headers).json()
    ChatCompletion.model_validate_json(shown, strict=True)
    shown = json.loads(shown)
    assert shape(replied) == shape(shown)
    assert replied["choices"] == shown["choices"]
    assert [replied["ken"][name] for name in ("question", "citations")] == [
        shown["ken"][name] for name in ("question", "citations")
    ]


def fields(kind: type[BaseModel]) -> set[str]:
    """The names of a model's fields, and of those of the models in them."""
    found = set(kind.model_fields)
    for definition in kind.model_json_schema().get("$defs", {}).values():
        found |= set(definition.get("properties", ()))
    return found


def test_the_documentation_names_every_error_and_every_field() -> None:
    source = Path(ken.serving.__file__).parent
    files = [
        source / f"{name}.py" for name in ("errors", "access", "completion", "chat_stream", "openai_api", "bodies")
    ]
    codes = set(re.findall(r"code ?= ?\"(\w+)\"", "".join(file.read_text(encoding="utf-8") for file in files)))
    assert "server_busy" in codes
    assert [code for code in codes - {"internal_error", "failed"} if f"`{code}`" not in PAGE] == []
    assert [name for name in fields(KenInfo) if f"`{name}`" not in PAGE] == []
