"""The page Ask: a question, its answer as it comes, and beside it how it came about; and files into a new index."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from ken.agents.watch import Watch
from ken.auditing.html import inert
from ken.core import KenError, Step
from ken.serving.bodies import body_of
from ken.serving.disconnect import ended
from ken.serving.errors import ApiError
from ken.serving.service import Ask, Service
from ken.serving.sse import EventStream, event
from ken.serving.uploads import MAX_FILES, SUFFIXES, Build, Uploads
from ken.serving.web.pages import page
from ken.serving.web.trace import step_view, trace_view

# By what they do with inside and outside, in the words of README.md and docs/ask.md. What is in none of these groups is
# offered all the same, without words.
STRATEGY_WORDS = {
    "from the model alone": {
        "direct": "closed book: from the model's weights alone",
        "io": "closed book, the answer at once, without a thought first",
        "sc": "closed book five times; the majority answers",
        "choose": "closed book; picks among the candidates of a question that has some",
    },
    "searches": {
        "rag": "retrieves once, whatever the model knows",
        "search": "thinks, searches and reads in turns",
        "ircot": "makes every thought the next query",
        "self-ask": "asks itself follow-up questions",
        "stepwise": "plans one retrieval a step",
        "tree": "splits the question, and trusts the likeliest answer to each part",
    },
    "decides whether to look outside": {
        "adaptive": "says first whether it knows, and searches only if not",
        "adaptive-tools": "says first whether it knows; if not, whether to search or to run Python",
    },
    "reads whole documents": {
        "long-context": "finds the best document and reads all of it",
        "router": "reads the whole document or retrieves from it, by the question and the document's length",
        "read-all": "reads all documents of a folder, or all that it finds",
        "clusters": "clusters many documents and reads a summary of each cluster",
    },
    "uses tools": {
        "tools": "searches, and runs Python in a sandbox",
        "tool-stages": "plans all sub-questions, and calls a tool for each",
        "tool-stages-iterative": "plans and calls one sub-question after the other",
    },
    "walks a knowledge graph": {
        "graph": "walks a knowledge graph by relations and entities",
        "graph-relations": "walks a knowledge graph by chains of relations",
        "solver": "walks a knowledge graph, one entity at a time",
        "triple-dump": "reads all triples of what the question is about",
    },
    "asks itself about the background": {
        "self-questioning": "notes background questions and its own answers to them, then answers",
        "self-questioning-search": "notes background questions and answers to them from passages, then answers",
        "self-questioning-questions": "notes background questions without answers, then answers",
        "self-questioning-placebo": "notes background questions with words of a passage for answers: to compare with",
        "self-questioning-cot": "reasons step by step without background questions: to compare with",
        "self-questioning-raw": "answers without background questions: to compare with",
    },
}
FORM = 1 << 20  # bytes that `--max-upload` leaves for what a form puts around its files


def mount(app: FastAPI) -> None:
    """Put the page on an application."""
    service: Service = app.state.service
    uploads = Uploads(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await uploads.close()

    router = APIRouter(include_in_schema=False, lifespan=lifespan)

    @router.get("/ask")
    def ask(request: Request) -> HTMLResponse:
        most = max(1, app.state.access.upload_bytes - FORM)
        return page(request, "ask.html", **choices(service), suffixes=SUFFIXES, most_bytes=most, most_files=MAX_FILES)

    @router.post("/ask/stream")
    async def stream(request: Request, asked: Annotated[Ask, Depends(body_of(Ask))]) -> Response:
        request.state.log |= {"strategy": asked.strategy}
        request.state.log_texts["question"] = asked.question
        return EventStream(_answer(service, asked))

    @router.post("/ask/indexes")
    async def upload(request: Request) -> Response:
        build = await uploads.receive(request)
        return JSONResponse({"name": build.name, "events": f"/ask/indexes/{build.name}/events"}, status_code=202)

    @router.get("/ask/indexes/{name}/events")
    async def progress(name: str) -> Response:
        return EventStream(_progress(found(name)))

    @router.delete("/ask/indexes/{name}")
    async def cancel(name: str) -> Response:
        await found(name).cancel()
        return Response(status_code=204)

    def found(name: str) -> Build:
        if name not in uploads.builds:
            raise ApiError(404, f"there is no upload {name!r}")
        return uploads.builds[name]

    app.include_router(router)


def choices(service: Service) -> dict[str, Any]:
    """What the pickers of a page offer; strategies as [(group, [name, words, searches]), …]."""
    offered = [n for n in service.strategies if service.graph is not None or not service.strategy(n).needs_graph]
    rest = [name for name in offered if not any(name in words for words in STRATEGY_WORDS.values())]
    groups = {**STRATEGY_WORDS, "others": dict.fromkeys(rest, "")}
    strategies = [
        (
            group,
            [
                {"name": name, "words": said, "searches": service.strategy(name).needs_search}
                for name, said in words.items()
                if name in offered
            ],
        )
        for group, words in groups.items()
    ]
    return {
        "strategies": [(group, members) for group, members in strategies if members],
        "models": list(service.models),
        "indexes": list(service.indexes),
        "top_k": service.top_k,
    }


class _Telling(Watch):
    """Puts what happens on a queue, as events."""

    def __init__(self, events: asyncio.Queue[str | None]) -> None:
        self.events = events

    def turn(self) -> None:
        self.events.put_nowait(event({}, "turn"))

    def wrote(self, text: str) -> None:
        self.events.put_nowait(event({"text": inert(text)}, "text"))

    def retracted(self) -> None:
        self.events.put_nowait(event({}, "retracted"))

    def noted(self, step: Step) -> None:
        self.events.put_nowait(event(step_view(step), "step"))


async def _answer(service: Service, asked: Ask) -> AsyncIterator[str]:
    """The events of an attempt; whoever stops listening stops it."""
    events: asyncio.Queue[str | None] = asyncio.Queue()

    async def attempt() -> None:
        try:
            trajectory = await service.attempt(asked, _Telling(events))
            events.put_nowait(event(trace_view(trajectory), "done"))
        except KenError as error:
            events.put_nowait(event({"message": str(error)}, "failed"))
        except Exception:
            events.put_nowait(event({"message": "something went wrong in the server; its log says what"}, "failed"))
            raise
        finally:
            events.put_nowait(None)

    work = asyncio.create_task(attempt())
    try:
        while (told := await events.get()) is not None:
            yield told
        await work
    finally:
        await ended(work)


async def _progress(build: Build) -> AsyncIterator[str]:
    async for state in build.states():
        yield event(state.model_dump(), state.stage)
