"""A server under load, with clients that leave, models that hang, and an end in the middle of work."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import capitals
import httpx
import openai
import pytest
from faulty_server import Action, Answer, FaultyServer, Hang
from running import ken_serve, running

from ken.core import BadInput
from ken.models.conversation import Conversation, Generation
from ken.models.endpoint import EndpointModel
from ken.models.scripted import ScriptedModel
from ken.serving.queue import Busy, Closing, Queue
from ken.serving.service import Service
from ken.serving.sse import EventStream

ANSWER = "<answer>x</answer>"


class HeldModel(ScriptedModel):
    """Answers when it is told to. `asked` counts questions, `cancelled` those that nobody waited for any more."""

    def __init__(self) -> None:
        super().__init__(lambda prompt: f"<answer>{re.findall(r'[0-9]+', prompt + ' 0')[0]}</answer>")
        self.asked = self.cancelled = 0
        self.changed = threading.Condition()
        self._let: list[asyncio.Event] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = False

    async def generate(self, conversation: Conversation, **given: Any) -> list[Generation]:
        self._loop, event = asyncio.get_running_loop(), asyncio.Event()
        self._let.append(event)
        self._count("asked")
        try:
            if not self._free:
                await event.wait()
        except asyncio.CancelledError:
            self._count("cancelled")
            raise
        return await super().generate(conversation, **given)

    def _count(self, what: str) -> None:
        with self.changed:
            setattr(self, what, getattr(self, what) + 1)
            self.changed.notify_all()

    def wait_until(self, happened: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(happened, timeout=30)

    def release(self) -> None:
        """Everything that waits, and all that comes, is answered."""
        self._free = True
        assert self._loop is not None
        for event in self._let:
            self._loop.call_soon_threadsafe(event.set)


def ask(url: str, number: int = 0, **more: Any) -> httpx.Response:
    body = {"model": "ken/direct", "messages": [{"role": "user", "content": f"number {number}?"}], **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def gauge(url: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def until(condition: Callable[[], bool]) -> None:
    """Wait for what only the server's own numbers tell."""
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


# --- the queue ---


def test_a_full_queue_sends_away_at_once_and_loses_nobody_who_waits() -> None:
    model = HeldModel()
    with running(Service([model], queue=Queue(2, 3))) as url, ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(ask, url, number) for number in range(5)]
        until(lambda: gauge(url, "ken_attempts_running") == 2 and gauge(url, "ken_attempts_queued") == 3)
        for stream in (False, True):
            refused = ask(url, 9, stream=stream)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "server_busy")
            assert int(refused.headers["retry-after"]) >= 1
        assert httpx.post(f"{url}/v1/ask", json={"question": "x", "strategy": "direct"}).status_code == 429
        assert model.asked == 2, "no more run at once than the limit"
        model.release()
        replies = [future.result().json() for future in waiting]
    assert [reply["choices"][0]["message"]["content"] for reply in replies] == ["0", "1", "2", "3", "4"]


def test_the_official_client_comes_back_when_it_is_told_to() -> None:
    model = HeldModel()
    with running(Service([model], queue=Queue(1, 0))) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, url, 1)
        model.wait_until(lambda: model.asked == 1)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=5)
        second = pool.submit(
            client.chat.completions.create, model="ken/direct", messages=[{"role": "user", "content": "number 2?"}]
        )
        until(lambda: 'status="429"' in httpx.get(f"{url}/metrics").text)
        model.release()
        assert first.result().status_code == 200
        assert second.result().choices[0].message.content == "2"


def test_places_are_given_in_order_and_given_back() -> None:
    async def run() -> None:
        queue, order = Queue(1, 10), []

        async def enter(number: int) -> None:
            async with queue.place():
                order.append(number)
                await asyncio.sleep(0)
                if number == 3:
                    raise ValueError

        tasks = [asyncio.ensure_future(enter(number)) for number in range(8)]
        await asyncio.sleep(0)
        tasks[5].cancel()  # it waits
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2, 3, 4, 6, 7]
        assert (queue.running, queue.queued) == (0, 0)
        queue.close()
        with pytest.raises(Closing):
            async with queue.place():
                pass
        await queue.drained()

    asyncio.run(run())
    with pytest.raises(BadInput):
        Queue(0)


def test_those_who_are_sent_away_are_told_how_long_by_what_the_others_take() -> None:
    async def run() -> None:
        queue = Queue(1, 0)
        async with queue.place():
            with pytest.raises(Busy) as refused:
                async with queue.place():
                    pass
            assert refused.value.retry_after == 1
            queue._seconds = 1e9
            assert queue.retry_after() == 60

    asyncio.run(run())


# --- clients that leave ---


@pytest.fixture
def hanging() -> Iterator[tuple[FaultyServer, str]]:
    with (
        FaultyServer(lambda number, payload: Hang()) as upstream,
        running(Service([EndpointModel("m", base_url=upstream.base_url, retries=0)])) as url,
    ):
        yield upstream, url


@pytest.mark.parametrize("path", ["chat/completions", "ask"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_model_s_call_ends_when_the_client_leaves(
    hanging: tuple[FaultyServer, str], path: str, stream: bool
) -> None:
    upstream, url = hanging
    body: dict[str, Any] = {"question": "x", "strategy": "direct"}
    if path != "ask":
        body = {"model": "ken/direct", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        assert upstream.wait_until(lambda: upstream.in_flight == 1)
    assert upstream.wait_until(lambda: upstream.disconnects == 1), "the connection to the model was closed"
    until(lambda: gauge(url, "ken_attempts_running") == 0)
    until(lambda: 'status="499"' in httpx.get(f"{url}/metrics").text)
    assert 'ken_attempts_total{outcome="cut off",strategy="direct"} 1.0' in httpx.get(f"{url}/metrics").text


def test_a_client_that_leaves_in_mid_stream_ends_the_attempt(tmp_path: Path) -> None:
    def plan(number: int, payload: dict[str, Any]) -> Action:
        return Hang() if number else Answer("Hm. <assessment>no</assessment>")

    index = capitals.build_index(tmp_path / "capitals")
    with FaultyServer(plan) as upstream:
        model = EndpointModel("m", base_url=upstream.base_url, retries=0)
        with running(Service([model], indexes={"capitals": index})) as url:
            body = {"model": "ken/adaptive", "messages": [{"role": "user", "content": "Why?"}], "stream": True}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
                lines = (line for line in reply.iter_lines() if "decision" in line)
                assert "Hm." in next(lines), "what happened is told while it happens"
                assert upstream.wait_until(lambda: upstream.in_flight == 1)
            assert upstream.wait_until(lambda: upstream.disconnects == 1)
            until(lambda: gauge(url, "ken_attempts_running") == 0)


def test_a_client_that_leaves_before_it_has_asked_is_no_defect(tmp_path: Path) -> None:
    with ken_serve(folder=tmp_path) as served:
        host, port = served.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = (
                "POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
            )
            client.sendall(f'{head}\r\n{{"question'.encode())
            until(lambda: gauge(served.address, "ken_attempts_running") == 0)  # it has been read
        until(lambda: "499" in served.log)
        served.end()
        assert "raceback" not in served.log


def test_a_client_that_leaves_the_queue_gives_its_place_up() -> None:
    model = HeldModel()
    with running(Service([model], queue=Queue(1, 1))) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, url, 1)
        model.wait_until(lambda: model.asked == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/ask", json={"question": "2", "strategy": "direct"}, timeout=0.3)
        until(lambda: gauge(url, "ken_attempts_queued") == 0)
        second = pool.submit(ask, url, 3)
        until(lambda: gauge(url, "ken_attempts_queued") == 1)
        model.release()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
    assert model.asked == 2, "nobody asked the model for one who had left"


# --- time ---


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_that_takes_too_long_is_504(stream: bool) -> None:
    model = HeldModel()
    with running(Service([model], seconds=0.2)) as url:
        late = ask(url, stream=stream)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        assert late.headers["x-should-retry"] == "false"
        assert "--request-timeout" in late.json()["error"]["message"]
    assert model.cancelled == 1


def test_a_stream_that_takes_too_long_ends_with_an_error(tmp_path: Path) -> None:
    def plan(number: int, payload: dict[str, Any]) -> Action:
        return Hang() if number else Answer("Hm. <assessment>no</assessment>")

    index = capitals.build_index(tmp_path / "capitals")
    with FaultyServer(plan) as upstream:
        model = EndpointModel("m", base_url=upstream.base_url, retries=0)
        with running(Service([model], indexes={"capitals": index}, seconds=2.0)) as url:
            body = {"model": "ken/adaptive", "messages": [{"role": "user", "content": "Why?"}], "stream": True}
            reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            last = json.loads(reply.text.split("\n\n")[-2].removeprefix("data: "))
            assert last["error"]["code"] == "timeout"


# --- the end ---


def test_what_has_begun_is_finished_and_nothing_new_is_taken(tmp_path: Path) -> None:
    ready = threading.Event()

    def plan(number: int, payload: dict[str, Any]) -> Action:
        ready.wait(30)
        return Answer(ANSWER)

    with FaultyServer(plan) as upstream, ThreadPoolExecutor(2) as pool:
        arguments = ("--model", "openai/m", "--base-url", upstream.base_url)
        with ken_serve(*arguments, folder=tmp_path) as served:
            whole = pool.submit(ask, served.address)
            stream = pool.submit(ask, served.address, stream=True)
            until(lambda: gauge(served.address, "ken_attempts_running") == 2)
            served.process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{served.address}/healthz").status_code == 503)
            late = ask(served.address)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
            assert "retry-after" in late.headers
            ready.set()
            assert whole.result().json()["choices"][0]["message"]["content"] == "x"
            assert stream.result().text.endswith("data: [DONE]\n\n")
            assert served.process.wait(30) in {0, -signal.SIGTERM}
        assert len(upstream.requests) == 2


@pytest.mark.parametrize("asked_to_end", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]], ids=["grace", "ctrl-c"])
def test_what_is_not_finished_at_the_end_of_the_grace_is_told_so(
    tmp_path: Path, asked_to_end: list[signal.Signals]
) -> None:
    """Also by a second ctrl-c: a reply has OpenAI's shape, and a stream ends with an error."""

    def plan(number: int, payload: dict[str, Any]) -> Action:
        return Answer("Hm. <assessment>no</assessment>") if "<assessment>" in str(payload) else Hang()

    index = capitals.build_index(tmp_path / "capitals")
    grace = 0.2 if len(asked_to_end) == 1 else 600
    with FaultyServer(plan) as upstream, ThreadPoolExecutor(3) as pool:
        arguments = ("--model", "openai/m", "--base-url", upstream.base_url, "--index", index, "--concurrency", 2)
        with ken_serve(*arguments, "--grace", grace, folder=tmp_path) as served:
            whole = pool.submit(ask, served.address)
            stream = pool.submit(ask, served.address, model="ken/adaptive", stream=True)
            assert upstream.wait_until(lambda: upstream.in_flight == 2)
            waiting = pool.submit(ask, served.address)
            until(lambda: gauge(served.address, "ken_attempts_queued") == 1)
            for number in asked_to_end:
                served.process.send_signal(number)
                until(lambda: served.process.poll() is not None or says_503(served.address))
            served.process.wait(30)
            for reply in (whole.result(), waiting.result()):
                assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
            begun, last = stream.result(), json.loads(stream.result().text.split("\n\n")[-2].removeprefix("data: "))
            assert (begun.status_code, last["error"]["code"]) == (200, "shutting_down")
            lines = [json.loads(line) for line in served.log.splitlines() if line != "ken: interrupted"]
            assert {line["event"] for line in lines} == {"request"}, "and no traceback"
        assert upstream.wait_until(lambda: upstream.in_flight == 0), "the model's calls ended with the server"


def test_a_page_s_stream_that_is_still_open_at_the_end_is_ended_and_not_broken_off() -> None:
    async def run() -> list[Any]:
        sent: list[Any] = []
        begun, never = asyncio.Event(), asyncio.Event()

        async def events() -> AsyncIterator[str]:
            yield "data: {}\n\n"
            begun.set()
            await never.wait()

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            await never.wait()

        stream = asyncio.ensure_future(EventStream(events())({"type": "http", "asgi": {}}, receive, send))
        await begun.wait()
        stream.cancel()
        await stream
        return sent

    start, first, last = asyncio.run(run())
    assert (start["status"], first["more_body"], last["more_body"], last["body"]) == (200, True, False, b"")


def says_503(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 503
    except httpx.HTTPError:  # it has ended
        return False


# --- many at once ---


def test_hundreds_of_answers_go_to_those_who_asked() -> None:
    """Each answer carries the number of its question, through a model, a queue and connections that all share."""

    def plan(number: int, payload: dict[str, Any]) -> Action:
        (asked,) = re.findall(r"number (\d+)", payload["messages"][-1]["content"])
        return Answer(f"<answer>{asked}</answer>")

    async def run(url: str) -> list[str]:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=50)) as client:

            async def one(number: int) -> str:
                body = {"model": "ken/direct", "messages": [{"role": "user", "content": f"number {number}"}]}
                reply = await client.post(f"{url}/v1/chat/completions", json=body)
                return str(reply.json()["choices"][0]["message"]["content"])

            return await asyncio.gather(*map(one, range(300)))

    with FaultyServer(plan) as upstream:
        model = EndpointModel("m", base_url=upstream.base_url, concurrency=20)
        with running(Service([model], queue=Queue(20, 100))) as url:
            assert asyncio.run(run(url)) == [str(number) for number in range(300)]
            assert upstream.most_in_flight <= 20
