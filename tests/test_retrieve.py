"""The /retrieve protocol: client and server against each other, the shapes of card 00, and broken servers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from ken.core import BadInput, ModelError, Passage, SourceError
from ken.models.scripted import ScriptedModel
from ken.serving.retrieve import MAX_QUERIES, MAX_TOPK, create_app
from ken.sources import Retriever
from ken.sources.search.index import Index
from ken.sources.search.remote import RemoteRetriever
from ken.sources.search.retriever import IndexRetriever, open_retriever

DOCUMENTS = [
    Passage(id="curie", title="Marie\nCurie", text="She discovered radium\nand polonium."),
    Passage(id="bohr", title="", text="He founded the institute in Copenhagen. She visited."),
    Passage(id="quote", title='The "best" title', text="She said so."),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(DOCUMENTS, tmp_path_factory.mktemp("retrieve") / "index")


@contextmanager
def running(app: Any) -> Iterator[str]:
    """A real server on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def url(index: Index) -> Iterator[str]:
    with running(create_app(index)) as address:
        yield address


def ask(retriever: Retriever, *queries: str, k: int = 3) -> list[list[Passage]]:
    async def run() -> list[list[Passage]]:
        try:
            return await asyncio.gather(*(retriever.search(query, k) for query in queries))
        finally:
            await retriever.close()

    return asyncio.run(run())


# --- client and server ---


def test_the_client_gets_from_the_server_what_the_index_gives(index: Index, url: str) -> None:
    remote, local = (ask(retriever, "she", "radium", k=2) for retriever in (open_retriever(url), IndexRetriever(index)))
    for ours, theirs in zip(local, remote, strict=True):
        assert [(p.id, p.text, p.score) for p in ours] == [(p.id, p.text, p.score) for p in theirs]
        assert [" ".join(p.title.split()) for p in ours] == [p.title for p in theirs]
    assert remote[0][0].source.startswith(url)


def test_the_server_speaks_the_shapes_of_card_00(url: str) -> None:
    request = {"queries": ["radium", "copenhagen"], "topk": 1, "return_scores": True}
    reply = httpx.post(f"{url}/retrieve", json=request).json()
    assert list(reply) == ["result"]
    ((first,), (second,)) = reply["result"]
    assert first["document"] == {"id": "curie", "contents": '"Marie Curie"\nShe discovered radium\nand polonium.'}
    assert isinstance(first["score"], float)
    assert second["document"]["contents"] == "He founded the institute in Copenhagen. She visited."
    bare = httpx.post(f"{url}/retrieve", json={"queries": ["radium"]}).json()["result"][0][0]
    assert bare == first["document"], "without return_scores the original server sends the documents themselves"


def test_the_server_says_that_it_is_well(url: str) -> None:
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok", "documents": 3}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"queries": []}, 422),
        ({"queries": ["x"] * (MAX_QUERIES + 1)}, 422),
        ({"queries": "radium"}, 422),
        ({"queries": ["x" * 20_001]}, 422),
        ({"queries": ["x"], "topk": 0}, 422),
        ({"queries": ["x"], "topk": MAX_TOPK + 1}, 422),
        ({}, 422),
        ({"queries": ["x", " "]}, 400),
    ],
)
def test_requests_over_the_limits_are_refused_with_a_reason(url: str, request_: dict[str, Any], status: int) -> None:
    reply = httpx.post(f"{url}/retrieve", json=request_)
    assert reply.status_code == status
    assert reply.json()["detail"]


def test_many_clients_at_once_are_all_answered(url: str) -> None:
    remote = RemoteRetriever(url, max_batch=8)
    results = ask(remote, *["radium", "copenhagen institute"] * 100, k=1)
    assert [found[0].id for found in results] == ["curie", "bohr"] * 100


# --- batching ---


class Counting(IndexRetriever):
    """Counts the batches."""

    batches: list[int]

    async def _search_batch(self, queries: list[str], k: int) -> list[list[Passage]]:
        self.batches.append(len(queries))
        return await super()._search_batch(queries, k)


def test_concurrent_searches_run_as_one_batch(index: Index) -> None:
    retriever = Counting(index)
    retriever.batches = []
    ask(retriever, *(f"radium {i}" for i in range(100)))
    assert retriever.batches == [100]
    ask(retriever, *(f"radium {i}" for i in range(300)))
    assert retriever.batches == [100, 256, 44], "and the retriever can be used again in another event loop"


def test_the_same_query_is_searched_once_in_a_batch_and_everyone_has_a_list_of_their_own(index: Index) -> None:
    retriever = Counting(index)
    retriever.batches = []
    found = ask(retriever, *["radium", "uranium"] * 50)
    assert retriever.batches == [2]
    assert found[::2] == [index.search("radium", 3)] * 50
    assert found[1::2] == [index.search("uranium", 3)] * 50
    assert len({id(one) for one in found}) == 100


def test_an_empty_query_fails_alone(index: Index) -> None:
    async def run() -> list[Any]:
        retriever = IndexRetriever(index)
        calls = [
            retriever.search("radium", 1),
            retriever.search(" ", 1),
            retriever.search("she", 0),
            retriever.search("she", 2),
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    good, empty, none, two = asyncio.run(run())
    assert [p.id for p in good] == ["curie"]
    assert isinstance(empty, BadInput)
    assert isinstance(none, BadInput)
    assert len(two) == 2


def test_a_caller_that_gives_up_does_not_disturb_the_others(index: Index) -> None:
    async def run() -> list[Passage]:
        retriever = IndexRetriever(index)
        first = asyncio.create_task(retriever.search("radium", 1))
        second = asyncio.create_task(retriever.search("she", 1))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert len(asyncio.run(run())) == 1


def test_closing_ends_searches_that_wait(index: Index) -> None:
    async def run() -> None:
        retriever = IndexRetriever(index)
        waiting = asyncio.create_task(retriever.search("radium", 1))
        await asyncio.sleep(0)
        await retriever.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(run())


def test_an_error_of_the_engine_reaches_every_caller() -> None:
    async def run() -> list[Any]:
        retriever = RemoteRetriever(free_address(), retries=0)
        return await asyncio.gather(*(retriever.search("x", 1) for _ in range(5)), return_exceptions=True)

    assert all(isinstance(error, SourceError) for error in asyncio.run(run()))


# --- servers that others wrote, and broken ones ---


Script = Callable[[int, dict[str, Any]], tuple[int, bytes] | None]


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """A server that answers the n-th request with what `script(n, request)` says; None drops the connection."""
    count = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal count
            count += 1
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = script(count, request)
            if answer is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


CARD_00 = b'{"result": [[{"document": {"contents": "\\"Aspirin\\"\\nA common drug."}, "score": 12.5}, ' \
          b'{"document": {"id": 7, "contents": "No title."}, "score": 3}]]}'  # fmt: skip


def test_the_literal_reply_of_card_00_is_read() -> None:
    seen: list[dict[str, Any]] = []

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes]:
        seen.append(request)
        return 200, CARD_00

    with scripted(script) as url:
        ((first, second),) = ask(RemoteRetriever(f"{url}/retrieve"), "what is aspirin?", k=2)
    assert seen == [{"queries": ["what is aspirin?"], "topk": 2, "return_scores": True}]
    assert (first.title, first.text, first.score) == ("Aspirin", "A common drug.", 12.5)
    assert first.id, "a document without an id gets one from its text"
    assert (second.id, second.title, second.text, second.score) == ("7", "", "No title.", 3.0)


@pytest.mark.parametrize(
    "entry",
    [
        {"document": {"id": "1", "title": "T", "text": "X"}, "score": 1.0},
        {"document": {"id": "1", "title": "T", "text": "X"}},
        {"id": "1", "title": "T", "text": "X"},
        {"_id": "1", "contents": '"T"\nX'},
        {"id": "1", "title": "T", "contents": "X", "extra": [1, 2]},
        {"id": 1, "title": "T", "text": "X", "score": 2},
    ],
)
def test_other_servers_shapes_are_read(entry: dict[str, Any]) -> None:
    with scripted(lambda *_: (200, json.dumps({"result": [[entry]]}).encode())) as url:
        ((passage,),) = ask(RemoteRetriever(url), "x")
    assert (passage.id, passage.title, passage.text) == ("1", "T", "X")


def test_text_that_is_not_unicode_is_repaired_on_both_ways() -> None:
    def echo(_: int, request: dict[str, Any]) -> tuple[int, bytes]:
        return 200, json.dumps({"result": [[{"contents": f"{request['queries'][0]} \ud800"}]]}).encode()

    with scripted(echo) as url:
        ((passage,),) = ask(RemoteRetriever(url), "caf\udcff é")
    assert passage.text == "caf? é ?"


def test_a_server_that_stumbles_is_asked_again() -> None:
    answers: list[tuple[int, bytes] | None] = [(503, b""), None, (429, b"slow down"), (200, CARD_00)]
    with scripted(lambda n, _: answers[n - 1]) as url:
        ((first, _),) = ask(RemoteRetriever(url, backoff=0.001), "x")
    assert first.title == "Aspirin"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, b"", r"did not answer after 3 attempts \(it answered 500\).*ken retrieve serve"),
        (404, b"not here", r"refused the request \(404: not here\); check the address"),
        (422, b'{"detail": "topk"}', r"refused the request \(422"),
        (200, b"<html>", "the reply is not JSON"),
        (200, b"[" * 100_000, "the reply is not JSON"),
        (200, b"[]", "does not speak the /retrieve protocol.*one list per query"),
        (200, b'{"result": []}', "for 1 queries"),
        (200, b'{"result": [{}]}', "expected a list of documents"),
        (200, b'{"result": [["text"]]}', "object with 'document'"),
        (200, b'{"result": [[{"document": {"id": 1}}]]}', "'contents', or 'title' and 'text'"),
        (200, b'{"result": [[{"document": {"contents": "x"}, "score": "high"}]]}', "'score' to be a number"),
    ],
)
def test_a_reply_that_cannot_be_used_is_one_error_with_address_and_remedy(
    status: int, body: bytes, message: str
) -> None:
    with scripted(lambda *_: (status, body)) as url:
        with pytest.raises(SourceError, match=message) as raised:
            ask(RemoteRetriever(url, retries=2, backoff=0.001), "x")
        assert url in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_server_that_hangs_or_is_not_there_is_given_up() -> None:
    release = threading.Event()

    def hang(*_: object) -> tuple[int, bytes]:
        release.wait(30)
        return 200, b""

    with scripted(hang) as url:
        with pytest.raises(SourceError, match=r"did not answer after 2 attempts.*Timeout"):
            ask(RemoteRetriever(url, timeout=0.05, retries=1, backoff=0.001), "x")
        release.set()
    with pytest.raises(SourceError, match="check that it runs"):
        ask(RemoteRetriever(free_address(), retries=1, backoff=0.001), "x")


def test_a_retriever_is_opened_by_folder_or_address(index: Index, tmp_path: Path) -> None:
    assert open_retriever(index.path).name == str(index.path)
    assert open_retriever("http://localhost:1/retrieve").name == "http://localhost:1/retrieve"
    assert open_retriever("https://example.org/").name == "https://example.org/retrieve"
    assert isinstance(open_retriever(index.path), Retriever)
    with pytest.raises(SourceError, match="there is no index"):
        open_retriever(tmp_path / "nowhere")


# --- rewriting


def test_a_query_of_a_conversation_is_rewritten_and_searched_for(index: Index, url: str) -> None:
    def says(prompt: str) -> str:
        if "Copenhagen" in prompt:
            raise ModelError("the model is asleep; wake it")
        query = "radium polonium" if "Curie" in prompt else "best"
        return f"<think> Curie is meant</think>\n<rewrite> {query}</rewrite>"

    said = [{"query": "Who was Marie Curie?", "answer": "A physicist <rewrite> x</rewrite>."}]
    asked = {"history": said, "query": "what did she discover?", "topk": 1}
    with running(create_app(index, rewriter=ScriptedModel(says))) as address:
        answer = httpx.post(f"{address}/rewrite", json=asked)
        assert answer.status_code == 200
        body = answer.json()
        assert (body["thinking"], body["rewrite"]) == ("Curie is meant", "radium polonium")
        (hit,) = body["hits"]
        assert hit["document"]["id"] == "curie"
        assert hit["score"] > 0
        alone = httpx.post(f"{address}/rewrite", json={"query": "which title?"}).json()
        assert alone["rewrite"] == "best"
        assert alone["hits"][0]["document"]["id"] == "quote"

        for broken, status, message in (
            ({"query": "  "}, 400, "the query is empty"),
            ({"query": "in Copenhagen?"}, 503, "the model is asleep; wake it"),
            ({"history": said}, 422, "query"),
            ({"query": "x", "history": [{"query": "y"}]}, 422, "answer"),
            ({"query": "x", "topk": 0}, 422, "topk"),
        ):
            answer = httpx.post(f"{address}/rewrite", json=broken)
            assert answer.status_code == status
            assert message in answer.text
        assert httpx.post(f"{address}/retrieve", json={"queries": ["radium"]}).status_code == 200
    assert httpx.post(f"{url}/rewrite", json=asked).status_code == 404, "without a rewriter there is none"
