"""`ken mcp`, the real process, as clients of the official SDK meet it: over stdin and stdout, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from capitals import build_index, command, environment, run_ken, serve
from faulty_server import FaultyServer, Hang, Status, Stream
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

KEY = "a-key-of-the-tests"
INDEX = "our docs"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyServer]:
    with FaultyServer(serve) as server:
        yield server


@pytest.fixture(scope="module")
def arguments(upstream: FaultyServer, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("index")
    results = tmp_path_factory.mktemp("results")
    committed = Path(__file__).parent.parent / "results" / "adasearch.json"
    (results / committed.name).write_bytes(committed.read_bytes())
    (results / "ikea.json").write_text("{}")
    index = f"{INDEX}={build_index(folder / 'documents')}"
    return command(
        "mcp", "--model", "openai/m", "--base-url", upstream.base_url, "--index", index, "--results", results
    )


@contextmanager
def listening(arguments: list[str], *more: str, cwd: Path | None = None) -> Iterator[str]:
    """The address of a process that serves HTTP."""
    process = subprocess.Popen(
        [*arguments, "--http", "--port", "0", *more], env=environment(), stdout=subprocess.PIPE, text=True, cwd=cwd
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().partition("at ")[2].partition(" (")[0]
    finally:
        process.terminate()
        assert process.wait(20) is not None


@pytest.fixture(scope="module")
def address(arguments: list[str]) -> Iterator[str]:
    with listening(arguments) as url:
        yield url


Connect = Callable[[], Any]


@pytest.fixture
def over_http(address: str) -> Connect:
    return lambda: Client(address)


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest, arguments: list[str], address: str) -> Connect:
    @asynccontextmanager
    async def client() -> AsyncIterator[Client]:
        stdio = StdioServerParameters(command=arguments[0], args=arguments[1:], env=environment())
        async with Client(stdio if request.param == "stdio" else address) as connected:
            yield connected

    return client


def within(connect: Connect, body: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(120), connect() as client:
            await body(client)

    asyncio.run(run())


def text_of(result: Any) -> str:
    (block,) = result.content
    return str(block.text)


def test_a_client_asks_searches_and_audits(connect: Connect) -> None:
    async def body(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"ask", "search", "audit_question"}
        assert all(tool.description and tool.output_schema for tool in tools.values())

        known = (await client.call_tool("ask", {"question": "What is the capital of Kenya?"})).structured_content
        assert known is not None
        assert (known["answer"], known["knows"], known["searches"]) == ("Nairobi", True, [])
        assert known["rationale"] == "I recall maps."

        told: list[str | None] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append(message)

        result = await client.call_tool(
            "ask", {"question": "What is the capital of Cuba?", "top_k": 2}, progress_callback=progress
        )
        looked_up = result.structured_content
        assert looked_up is not None
        assert (looked_up["answer"], looked_up["knows"]) == ("Havana", False)
        (search,) = looked_up["searches"]
        assert search["query"] == "capital of Cuba"
        assert search["passages"] == [source["id"] for source in looked_up["sources"]]
        assert looked_up["sources"][0]["text"] == "The capital of Cuba is Havana."
        assert looked_up["citations"] == ["cuba"]
        assert len(looked_up["sources"]) == 2
        assert json.loads(text_of(result)) == looked_up, "for clients that read only text"
        assert told[:3] == ["the model does not know", "searches for capital of Cuba", "2 passages found"]

        found = (await client.call_tool("search", {"query": "Peru", "top_k": 1})).structured_content
        assert found is not None
        assert [passage["title"] for passage in found["passages"]] == ["Peru"]

        audits = [
            (await client.call_tool("audit_question", {"question": q, "answers": a, "samples": 3})).structured_content
            for q, a in (
                ("What is the capital of Kenya?", ["Nairobi"]),
                ("What is the capital of Cuba?", ["La Habana", "Havana"]),
            )
        ]
        assert [audit and (audit["known"], audit["solve_rate"], audit["samples"]) for audit in audits] == [
            (True, 1.0, ["Nairobi"] * 3),
            (False, 0.0, ["Atlantis"] * 3),
        ]
        told.clear()
        asked = {"question": "What is the capital of Peru?", "answers": ["Lima"], "samples": 2, "strategies": ["rag"]}
        await client.call_tool("audit_question", asked, progress_callback=progress)
        assert sorted(map(str, told)) == ["closed-book sample 1", "closed-book sample 2", "direct", "rag"]
        uses = [{s["strategy"]: s["search_use"] for s in audit["strategies"]} for audit in audits if audit]
        assert uses == [
            {"direct": "saved", "rag": "wasted", "search": "wasted", "adaptive": "saved"},
            {"direct": "missed", "rag": "needed", "search": "needed", "adaptive": "needed"},
        ]

    within(connect, body)


def test_a_client_reads_indexes_and_papers(connect: Connect) -> None:
    async def read(client: Client, uri: str) -> Any:
        (content,) = (await client.read_resource(uri)).contents
        assert content.mime_type == "application/json"
        return json.loads(content.text)  # type: ignore[union-attr]

    async def body(client: Client) -> None:
        listed = {str(resource.uri) for resource in (await client.list_resources()).resources}
        assert listed == {"ken://indexes", "ken://papers"}
        (index,) = await read(client, "ken://indexes")
        assert index["name"] == INDEX
        about = await read(client, index["uri"])
        assert (about["documents"], about["kind"]) == (8, "index")
        assert not any("/" in str(value) for value in about.values()), "where it lies is nobody's business"

        papers = await read(client, "ken://papers")
        assert len(papers) == 60
        judged = await read(client, "ken://papers/adasearch")
        assert judged["runs"] is True
        assert {claim["verdict"] for claim in judged["last_results"]["claims"]} <= {"holds", "fails", "inconclusive"}
        planned = next(paper for paper in papers if not paper["runs"])
        assert (await read(client, planned["uri"]))["last_results"] is None

        for uri, problem in (
            ("ken://papers/adaserch", "did you mean adasearch"),
            ("ken://papers/ikea", "ikea.json cannot be read as results"),
            ("ken://indexes/other", "there is no index 'other'; there are our docs"),
        ):
            with pytest.raises(MCPError, match=problem):
                await client.read_resource(uri)

    within(connect, body)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("ask", {"question": " "}, "the question is empty; ask something"),
    ("ask", {}, "the argument 'question' is wrong: Field required"),
    (
        "ask",
        {"question": "x", "topk": 3},
        "there is no argument 'topk'; ask takes question, strategy, model, index, top_k",
    ),
    (
        "ask",
        {"question": "x" * 20_001},
        "wrong: String should have at most 20000 characters",
    ),
    ("ask", {"question": "x", "strategy": "magic"}, "no strategy 'magic'"),
    ("ask", {"question": "x", "model": "openai/other"}, "this server has no model 'openai/other'; it has openai/m"),
    ("ask", {"question": "x", "index": "other"}, "this server has no index 'other'; it has our docs"),
    ("ask", {"question": "x", "top_k": 0}, "the argument 'top_k' is wrong: Input should be greater than or equal to 1"),
    ("search", {"query": "\n"}, "the query is empty; say what to look for"),
    (
        "audit_question",
        {"question": "x", "answers": []},
        "'answers' is wrong: List should have at least 1",
    ),
    ("audit_question", {"question": "x", "answers": [" "]}, "the answers are empty"),
    ("audit_question", {"question": "x", "answers": ["y"], "samples": 33}, "less than or equal to 32"),
    ("audit_question", {"question": "x", "answers": ["y"], "strategies": ["magic"]}, "no strategy 'magic'"),
    ("nothing", {}, "Unknown tool: nothing"),
]


def test_what_cannot_work_is_a_tool_error_of_one_sentence(over_http: Connect) -> None:
    async def body(client: Client) -> None:
        for name, given, problem in WRONG:
            result = await client.call_tool(name, given)
            assert result.is_error, given
            assert problem in text_of(result)
            assert "\n" not in text_of(result)
            assert "Error executing" not in text_of(result)

    within(over_http, body)


def test_questions_asked_at_once_are_not_mixed_up(over_http: Connect) -> None:
    async def body(client: Client) -> None:
        lands = ["Kenya", "Cuba", "Norway", "Nepal", "Peru", "Ghana", "Japan", "Egypt"]
        asked = [client.call_tool("ask", {"question": f"What is the capital of {land}?"}) for land in lands]
        answers = [(result.structured_content or {}).get("answer") for result in await asyncio.gather(*asked)]
        assert answers == ["Nairobi", "Havana", "Oslo", "Kathmandu", "Lima", "Accra", "Tokyo", "Cairo"]

    within(over_http, body)


def test_a_model_that_is_down_is_a_tool_error_and_one_that_is_given_up_is_left_alone(
    connect: Connect, upstream: FaultyServer
) -> None:
    async def body(client: Client) -> None:
        upstream.plan = lambda number, payload: Status(401, {"error": {"message": "no such key"}})
        for tool, given in (("ask", {}), ("audit_question", {"answers": ["Lima"], "samples": 1})):
            result = await client.call_tool(tool, {"question": "What is the capital of Peru?", **given})
            assert result.is_error
            assert "answered 401 (no such key); the API key is wrong or missing" in text_of(result)

        upstream.plan = lambda number, payload: Stream(("<assess",), then="hang") if payload.get("stream") else Hang()
        before, asked = upstream.disconnects, len(upstream.requests)
        call = asyncio.create_task(client.call_tool("ask", {"question": "What is the capital of Peru?"}))
        assert await asyncio.to_thread(upstream.wait_until, lambda: len(upstream.requests) > asked)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gone = lambda: upstream.disconnects == before + 1 and upstream.in_flight == 0  # noqa: E731
        assert await asyncio.to_thread(upstream.wait_until, gone)

    try:
        within(connect, body)
    finally:
        upstream.plan = serve


def test_without_an_index_it_answers_from_the_model_alone(upstream: FaultyServer) -> None:
    alone = command("mcp", "--model", "openai/m", "--base-url", upstream.base_url)

    async def body(client: Client) -> None:
        result = await client.call_tool("ask", {"question": "What is the capital of Peru?", "strategy": "direct"})
        assert (result.structured_content or {})["answer"] == "Lima"
        question = {"question": "What is the capital of Peru?"}
        for name, given in (("ask", question), ("search", {"query": "Peru"})):
            assert "this server has no index" in text_of(await client.call_tool(name, given))
        audit = await client.call_tool("audit_question", {**question, "answers": ["Lima"], "samples": 1})
        assert [s["strategy"] for s in (audit.structured_content or {})["strategies"]] == ["direct"]
        asked = {**question, "answers": ["Lima"], "strategies": ["rag"]}
        assert "has no index, and 'rag' needs one" in text_of(await client.call_tool("audit_question", asked))

    within(lambda: Client(StdioServerParameters(command=alone[0], args=alone[1:], env=environment())), body)


def test_a_server_without_a_model_searches(tmp_path: Path) -> None:
    only = command("mcp", "--index", build_index(tmp_path / "documents"))

    async def body(client: Client) -> None:
        found = await client.call_tool("search", {"query": "Peru"})
        assert (found.structured_content or {})["passages"][0]["title"] == "Peru"
        assert text_of(await client.call_tool("ask", {"question": "Who?"})).startswith("this server has no model")

    within(lambda: Client(StdioServerParameters(command=only[0], args=only[1:], env=environment())), body)


def test_over_stdio_it_ends_with_its_client_and_writes_nothing_but_messages(arguments: list[str]) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
    }
    done = subprocess.run(
        arguments,
        input="not JSON at all\n" + json.dumps(hello) + "\n",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(message.get("id") == 1 and message["result"]["serverInfo"]["name"] == "ken" for message in messages)


def test_ctrl_c_ends_it_while_its_client_is_silent(arguments: list[str]) -> None:
    process = subprocess.Popen(
        arguments, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write('{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["result"] == {}
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    assert process.communicate()[1] == ""


def post(url: str, **headers: str) -> int:
    headers = {"Accept": "application/json, text/event-stream", **{k.replace("_", "-"): v for k, v in headers.items()}}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    return httpx2.post(url, json=ping, headers=headers, trust_env=False).status_code


def test_pages_of_other_sites_are_refused(address: str) -> None:
    assert post(address, Host="evil.example") == 403
    assert post(address, Origin="http://evil.example") == 403
    assert post(address, Origin="null") == 403


def test_a_key_opens_it_and_nothing_else_does(arguments: list[str]) -> None:
    async def body(client: Client) -> None:
        result = await client.call_tool("search", {"query": "Peru", "top_k": 1})
        assert not result.is_error

    with listening(arguments, "--api-key", KEY, "--host", "0.0.0.0") as shown:
        url = shown.replace("0.0.0.0", "127.0.0.1")
        wrong = (None, "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}")
        for given in wrong:
            assert post(url, **({} if given is None else {"Authorization": given})) == 401

        @asynccontextmanager
        async def with_key() -> AsyncIterator[Client]:
            async with (
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as http,
                Client(streamable_http_client(url, http_client=http)) as client,
            ):
                yield client

        within(with_key, body)


def test_the_key_of_the_model_in_the_settings_is_sent_to_the_model_and_not_asked_of_clients(
    upstream: FaultyServer, tmp_path: Path
) -> None:
    settings = f'model = "openai/m"\nbase_url = "{upstream.base_url}"\napi_key = "of-the-model"\n'
    (tmp_path / "ken.toml").write_text(settings)

    async def body(client: Client) -> None:
        result = await client.call_tool("ask", {"question": "What is the capital of Peru?", "strategy": "direct"})
        assert not result.is_error

    with listening(command("mcp"), cwd=tmp_path) as url:
        within(lambda: Client(url), body)
    assert upstream.requests[-1].headers["authorization"] == "Bearer of-the-model"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "there is nothing to serve"),
        (["--index", "http://localhost:1", "--http", "--host", "0.0.0.0"], "without a key only this machine may ask"),
        (["--index", "http://localhost:1", "--http", "--api-key", ""], "an API key has at least 8 characters"),
        (["--index", "nowhere"], "nowhere"),
        (["--model", "openai"], "openai"),
        (["--index", "name="], "names nothing"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(options: list[str], problem: str, tmp_path: Path) -> None:
    done = run_ken("mcp", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
