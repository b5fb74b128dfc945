"""Whatever a server does, every question is answered or reported, none is lost, and the run ends."""

from __future__ import annotations

import asyncio
import email.utils
import time
from typing import Any

import pytest
from faulty_server import (
    ERROR_200,
    GARBAGE,
    HTML,
    NO_CHOICES,
    NULL_CONTENT,
    TRUNCATED,
    Action,
    Answer,
    Body,
    Drip,
    Drop,
    FaultyServer,
    Hang,
    Status,
    refused_url,
)

from ken.core import ModelError, Sampling
from ken.models import Generation, Message
from ken.models.endpoint import EndpointModel
from ken.models.failures import retry_after

FAULTS: dict[str, Action] = {
    "408": Status(408),
    "409": Status(409),
    "429": Status(429, {"error": {"message": "slow down"}}),
    "429 with Retry-After": Status(429, headers={"Retry-After": "0.05"}),
    "500": Status(500, "Internal Server Error"),
    "502 with a page": Status(502, "<html><title>Bad Gateway</title></html>"),
    "503": Status(503),
    "529": Status(529),
    "a page instead of a reply": HTML,
    "garbage": GARBAGE,
    "an empty body": Body(b""),
    "JSON that is no object": Body(b"[1, 2]"),
    "JSON nested too deeply": Body(b"[" * 100_000),
    "truncated JSON": TRUNCATED,
    "no choices": NO_CHOICES,
    "choices of the wrong kind": Body(b'{"choices": [null]}'),
    "null content": NULL_CONTENT,
    "an error with status 200": ERROR_200,
    "dropped before the reply": Drop(),
    "dropped in the headers": Drop(20),
    "dropped in the body": Drop(150),
    "hangs": Hang(),
    "drips": Drip(),
}
HTTP = ["httpx"]  # the client of the test at hand


@pytest.fixture(params=["httpx", "aiohttp"], autouse=True)
def http(request: pytest.FixtureRequest) -> str:
    """Both clients survive and report the same."""
    if request.param == "aiohttp":
        pytest.importorskip("aiohttp", reason="the faster client needs it")
    HTTP[0] = request.param
    return str(request.param)


SILENT = {"hangs", "drips"}  # these end by our own timeout, which is then short


def model_of(server: FaultyServer, **options: Any) -> EndpointModel:
    options = {"timeout": 30, "backoff_base": 0.005, "backoff_cap": 0.02, **options}
    return EndpointModel("m", base_url=server.base_url, http=HTTP[0], **options)  # type: ignore[arg-type]


async def answer(model: EndpointModel, text: str = "hello", **sampling: Any) -> Generation:
    [generation] = await model.generate([Message("user", text)], sampling=Sampling(**sampling))
    return generation


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_is_survived(name):
    with FaultyServer(lambda number, payload: FAULTS[name] if number < 2 else Answer()) as server:
        model = model_of(server, timeout=1.0) if name in SILENT else model_of(server)
        generation = asyncio.run(answer(model, "still there?"))
    assert generation.text == "still there?"
    assert len(server.requests) == 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_is_reported_after_all_retries_in_one_sentence(name):
    with FaultyServer(lambda number, payload: FAULTS[name]) as server:
        timeout = 0.2 if name in SILENT else 30
        with pytest.raises(ModelError) as caught:
            asyncio.run(answer(model_of(server, retries=2, timeout=timeout)))
        assert len(server.requests) == 3
    message = str(caught.value)
    assert message.startswith("openai/m gave no answer in 3 attempts: ")
    assert "; " in message, "the remedy"
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "options"),
        (401, "OPENAI_API_KEY"),
        (403, "permissions"),
        (404, "model name 'm' and the base URL"),
        (405, "base URL"),
        (413, "fewer passages"),
        (422, "options"),
    ],
)
def test_a_request_that_is_wrong_is_never_repeated_and_the_error_says_what_to_do(status, remedy):
    with FaultyServer(lambda number, payload: Status(status, {"error": {"message": "because"}})) as server:
        with pytest.raises(ModelError) as caught:
            asyncio.run(answer(model_of(server)))
        assert len(server.requests) == 1
    assert "because" in str(caught.value)
    assert remedy in str(caught.value)
    assert server.base_url in str(caught.value)


def test_an_account_without_quota_is_not_asked_again():
    body = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with FaultyServer(lambda number, payload: Status(429, body)) as server:
        with pytest.raises(ModelError, match="no quota"):
            asyncio.run(answer(model_of(server)))
        assert len(server.requests) == 1


def test_a_content_filter_is_reported_and_not_asked_again():
    filtered = Answer(finish_reason="content_filter", message={"content": None})
    with FaultyServer(lambda number, payload: filtered) as server:
        with pytest.raises(ModelError, match="content filter"):
            asyncio.run(answer(model_of(server)))
        assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_reported_soon():
    url = refused_url()
    started = time.perf_counter()
    with pytest.raises(ModelError, match="check that the server is running") as caught:
        asyncio.run(answer(EndpointModel("m", base_url=url, backoff_base=0.01, http=HTTP[0])))
    assert url in str(caught.value)
    assert time.perf_counter() - started < 10


def test_retry_after_is_honoured_by_all_questions():
    """The pause is the server's word to all of us: no request arrives before it is over."""
    arrived: list[float] = []

    def plan(number: int, payload: dict[str, Any]) -> Action:
        arrived.append(time.perf_counter())
        return Status(429, headers={"Retry-After": "0.4"}) if number == 0 else Answer()

    async def run(model: EndpointModel) -> list[str]:
        first = asyncio.create_task(answer(model, "first"))
        others = [asyncio.create_task(answer(model, str(i))) for i in range(5)]
        return [g.text for g in await asyncio.gather(first, *others)]

    with FaultyServer(plan) as server:
        texts = asyncio.run(run(model_of(server, concurrency=1, timeout=5)))
    assert texts == ["first", "0", "1", "2", "3", "4"]
    assert arrived[1] - arrived[0] >= 0.4


def test_a_server_that_asks_for_a_pause_of_an_hour_is_not_waited_for():
    with (
        FaultyServer(lambda number, payload: Status(429, headers={"Retry-After": "3600"})) as server,
        pytest.raises(ModelError, match="3600 s"),
    ):
        asyncio.run(answer(model_of(server)))


def test_retry_after_is_read_as_seconds_milliseconds_or_date():
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert 25 < (retry_after({"retry-after": date}) or 0) <= 31
    assert retry_after({"retry-after": email.utils.formatdate(0, usegmt=True)}) == 0.0
    for nonsense in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": "inf"}):
        assert retry_after(nonsense) is None


def test_the_number_of_requests_in_flight_reaches_the_limit_and_never_exceeds_it():
    # Every reply waits until eight requests were in flight at once: the limit is used in full, or nothing is answered.
    with FaultyServer(lambda number, payload: Answer(together=8)) as server:
        model = model_of(server, concurrency=8, timeout=30)

        async def run() -> list[Generation]:
            return await asyncio.gather(*(answer(model, str(i)) for i in range(60)))

        assert [g.text for g in asyncio.run(run())] == [str(i) for i in range(60)]
    assert server.most_in_flight == 8


def test_samples_of_one_call_count_against_the_same_limit():
    with FaultyServer(lambda number, payload: Answer(choices=1)) as server:
        model = model_of(server, concurrency=3, timeout=30)
        generations = asyncio.run(model.generate([Message("user", "x")], n=20))
    assert len(generations) == 20
    assert server.most_in_flight <= 3


def test_five_hundred_concurrent_questions_are_all_answered_and_never_mixed_up():
    with FaultyServer() as server:
        model = model_of(server, concurrency=32, timeout=60)

        async def run() -> list[Generation]:
            return await asyncio.gather(*(answer(model, f"question {i}") for i in range(500)))

        generations = asyncio.run(run())
    assert [g.text for g in generations] == [f"question {i}" for i in range(500)]
    assert sum(g.usage.completion_tokens for g in generations) == 500 * 3
    assert len(server.requests) == 500
    assert server.most_in_flight <= 32


def test_under_every_fault_at_once_each_question_is_answered_or_reported():
    """Two of three attempts fail, in every way in turn, and some questions never get an answer."""
    faults = [fault for name, fault in FAULTS.items() if name not in SILENT]

    def plan(number: int, payload: dict[str, Any]) -> Action:
        question = int(payload["messages"][-1]["content"])
        if question % 50 == 7:
            return Hang() if question == 7 else Status(500)
        return Answer() if number % 3 == 0 else faults[number % len(faults)]

    with FaultyServer(plan) as server:
        model = model_of(server, concurrency=16, retries=60)
        model_giving_up = model_of(server, concurrency=16, retries=1, timeout=0.5)

        async def run() -> list[Generation | BaseException]:
            return await asyncio.gather(
                *(answer(model_giving_up if i % 50 == 7 else model, str(i)) for i in range(150)),
                return_exceptions=True,
            )

        results = asyncio.run(run())
    for i, result in enumerate(results):
        if i % 50 == 7:
            assert isinstance(result, ModelError), i
        else:
            assert isinstance(result, Generation), (i, result)
            assert result.text == str(i)


def test_one_failing_sample_fails_the_call_with_its_own_error_and_frees_the_others():
    def plan(number: int, payload: dict[str, Any]) -> Action:
        return Answer(choices=1) if number == 0 else Status(401) if number == 3 else Hang()

    with FaultyServer(plan) as server:
        model = model_of(server, timeout=30)
        with pytest.raises(ModelError, match="401"):
            asyncio.run(model.generate([Message("user", "x")], n=6))
        assert server.wait_until(lambda: server.in_flight == 0)


def test_a_cancelled_question_closes_its_connection_and_frees_its_slot():
    with FaultyServer(lambda number, payload: Hang() if number == 0 else Answer()) as server:
        model = model_of(server, concurrency=1, timeout=30)

        async def run() -> str:
            waiting = asyncio.create_task(answer(model, "first"))
            assert await asyncio.to_thread(server.wait_until, lambda: len(server.requests) == 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return (await answer(model, "second")).text

        assert asyncio.run(run()) == "second"
        assert server.wait_until(lambda: server.disconnects == 1 and server.in_flight == 0)
