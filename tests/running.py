"""Servers for tests: the application in a thread of this process, or the real `ken serve` in a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any

import uvicorn
from capitals import command, environment

from ken.serving.app import create_app
from ken.serving.service import Service

SECONDS = 60  # most that anything may take on a busy machine; all waits end as soon as they can


@contextmanager
def running(service: Service, **options: Any) -> Iterator[str]:
    """The application over `service`, with options of `create_app`, on loopback; yields its address."""
    with loopback(create_app(service, **options)) as address:
        yield address


@contextmanager
def loopback(app: Any) -> Iterator[str]:
    """An ASGI application in a thread of this process; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="critical",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=3,  # for event streams that a test leaves open
                lifespan="on",
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()  # the socket listens already: what is asked before the server is up waits there
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive(), "the server did not end"


@contextmanager
def sparql_endpoint(store: Any, instead: Callable[[int, str], Any] = lambda number, query: None) -> Iterator[Asked]:
    """A SPARQL 1.1 endpoint over a store of pyoxigraph.

    instead: given the number of the request (from 0) and the query, the Starlette response to send, or None for the
    store's; it may be a coroutine.
    """
    import pyoxigraph
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    asked = Asked()

    async def answer(request: Request) -> Response:
        query = str((await request.form())["query"])
        asked.queries.append(query)
        asked.headers.append(dict(request.headers))
        reply = instead(len(asked.queries) - 1, query)
        if (reply := await reply if isawaitable(reply) else reply) is not None:
            return reply
        try:
            results = store.query(query).serialize(format=pyoxigraph.QueryResultsFormat.JSON)
        except SyntaxError as error:
            return PlainTextResponse(str(error), 400)
        return Response(results, media_type="application/sparql-results+json")

    with loopback(Starlette(routes=[Route("/sparql", answer, methods=["POST"])])) as address:
        asked.url = f"{address}/sparql"
        yield asked


class Asked:
    """An endpoint's address, and what it was asked."""

    url = ""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.headers: list[dict[str, str]] = []


class KenServe:
    """A running `ken serve`. `log` is its standard error so far, complete once it has ended."""

    def __init__(self, process: subprocess.Popen[str], address: str, said: list[str], log: Path) -> None:
        self.process, self.address, self.said, self._log = process, address, said, log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def ken_serve(*arguments: object, folder: Path, **changes: str) -> Iterator[KenServe]:
    """`ken serve` on a free port of loopback."""
    log = folder / "serve.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command("serve", "--port", 0, *arguments),
            cwd=folder,
            env=environment(PYTHONUNBUFFERED="1", **changes),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        found = re.search(r"http://\S+(?=/ )", first)
        assert found, f"it said {first!r} and {log.read_text()}"
        yield KenServe(process, found[0], [first], log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(SECONDS)
        process.stdout.close()
