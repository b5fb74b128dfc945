"""The page Audit: order one, watch it, read its report, look at every attempt, and compare two."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from ken.auditing.api import STRATEGIES, checked
from ken.auditing.compare import compare
from ken.auditing.html import MEANINGS, render_body
from ken.auditing.outcomes import Outcome
from ken.auditing.report import AS_BEFORE
from ken.core import BadInput, KenError
from ken.core.files import write_whole
from ken.metrics import SearchUse
from ken.serving.audits import QUESTION_SUFFIXES, Audits, Order, Shown, standings
from ken.serving.errors import ApiError
from ken.serving.service import Service
from ken.serving.sse import EventStream, event
from ken.serving.uploads import UploadForm, file_name
from ken.serving.web.ask_pages import choices
from ken.serving.web.pages import page
from ken.serving.web.trace import trace_view

PER_PAGE = 50
MAX_QUESTIONS = 64 << 20  # bytes of an uploaded file

AGAIN = "Try the failed attempts again"

# What the list of attempts can be narrowed to, beside the uses of searches.
MORE_FILTERS = {
    "wrong": "its answer is wrong",
    "right": "its answer is right",
    "malformed": MEANINGS["malformed"],
    "failed": "the model or the search engine did not answer",
}


def mount(app: FastAPI) -> None:
    """Put the pages on an application."""
    service: Service = app.state.service
    audits = Audits(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await audits.resume_all()
        try:
            yield
        finally:
            await audits.close()

    router = APIRouter(include_in_schema=False, lifespan=lifespan)

    @router.get("/audit")
    def overview(request: Request) -> HTMLResponse:
        return _overview(request, audits)

    @router.post("/audit")
    async def start(request: Request) -> Response:
        given: dict[str, Any] = {}
        try:
            async with UploadForm(request) as form:
                given = {key: form.getlist(key) if key == "strategies" else form.get(key) for key in form}
                order, source = await _ordered(service, audits, given)
                name = str(given.get("name") or "")
                await audits.start(name, source, order)
        except KenError as error:
            # Files go by their names here; where the server keeps them is of no use to who uploads one.
            problem = str(error).replace(f"{audits.questions}{os.sep}", "")
            return _overview(request, audits, given=given, problem=problem, status=400)
        return _to(f"/audit/{quote(name.strip())}")

    @router.get("/audit/compare")
    async def compared(request: Request) -> HTMLResponse:
        return await _compared(request, audits)

    @router.get("/audit/{name}")
    async def one(request: Request, name: str) -> HTMLResponse:
        return await _one(request, audits, name)

    @router.get("/audit/{name}/events")
    async def events(name: str) -> Response:
        standing = audits.running(name)
        if standing is None:
            raise ApiError(404, f"the audit {name!r} does not run")

        async def told() -> AsyncIterator[str]:
            async for now in standings(standing):
                yield event(now.model_dump(), "standing")

        return EventStream(told())

    @router.post("/audit/{name}/cancel")
    async def cancel(name: str) -> Response:
        with _missing():
            await audits.cancel(name)
        return _to(f"/audit/{quote(name)}")

    @router.post("/audit/{name}/resume")
    async def resume(name: str) -> Response:
        try:
            audits.resume(name)
        except BadInput as error:
            raise ApiError(409, str(error)) from error
        return _to(f"/audit/{quote(name)}")

    @router.get("/audit/{name}/questions")
    async def questions(request: Request, name: str) -> HTMLResponse:
        return await _questions(request, audits, name)

    @router.get("/audit/{name}/question")
    async def question(request: Request, name: str, id: str = "") -> HTMLResponse:
        return await _question(request, audits, name, id)

    app.include_router(router)


def _to(address: str) -> RedirectResponse:
    return RedirectResponse(address, status_code=303)


@contextmanager
def _missing() -> Iterator[None]:
    """An audit that is not there, or cannot be read, is an address that leads nowhere."""
    try:
        yield
    except BadInput as error:
        raise ApiError(404, str(error)) from error


# --- all audits, and a new one ---


def _overview(
    request: Request, audits: Audits, *, given: Mapping[str, Any] | None = None, problem: str = "", status: int = 200
) -> HTMLResponse:
    rows = []
    for name in audits.names():
        standing = audits.running(name)
        try:
            order = audits.order(name)
            state, message = _state(order, standing is not None)
            about = f"{order.model} · {order.source}" if order else "made by `ken audit`"
        except BadInput as error:
            state, message, about = "broken", str(error), ""
        rows.append({"name": name, "state": state, "message": message, "about": about})
    files = audits.question_files()
    defaults = {
        "name": _free_name(audits.names()),
        "questions": files[0] if files else "",
        "strategies": [s for s in STRATEGIES if s in audits.service.strategies and audits.service.able(s)],
        "samples": "8",
        "limit": "",
        "model": "",
        "index": next(iter(audits.service.indexes), ""),
        "top_k": str(audits.service.top_k),
    }
    return page(
        request,
        "audits.html",
        status=status,
        rows=rows,
        files=files,
        given={**defaults, **(given or {})},
        problem=problem,
        suffixes=QUESTION_SUFFIXES,
        folder=str(audits.questions),
        **choices(audits.service),
    )


def _free_name(taken: Sequence[str]) -> str:
    return next(name for name in (f"audit-{number}" for number in range(1, len(taken) + 2)) if name not in taken)


def _state(order: Order | None, runs: bool) -> tuple[str, str]:
    """How an audit stands, in a word and a sentence."""
    if runs:
        return "running", ""
    if order is None:
        return "done", ""
    if order.state == "running":
        return "interrupted", "it ended with the server; go on with it"
    return order.state, order.message


async def _ordered(service: Service, audits: Audits, given: Mapping[str, Any]) -> tuple[Order, Path]:
    """The order of a form, and the file of its questions. Raises `BadInput`."""
    upload = given.get("upload")
    if isinstance(upload, UploadFile) and upload.filename:
        source = await _kept(audits, upload)
    else:
        picked = str(given.get("questions") or "")
        if picked not in audits.question_files():
            raise BadInput("choose a file of questions, or upload one")
        source = audits.questions / picked
    try:
        order = Order(
            questions=f"questions{source.suffix.lower()}",
            source=source.name,
            model=service.model(str(given.get("model") or "") or None).spec,
            index=str(given.get("index") or "") or None,
            strategies=tuple(service.strategy(name).name for name in given.get("strategies") or ()),
            samples=_number(given, "samples", 8),
            top_k=_number(given, "top_k", service.top_k, least=1),
            limit=_number(given, "limit", 0) or None,
            sampling=service.sampling,
        )
    except ValidationError as error:
        raise BadInput(str(error.errors()[0]["msg"])) from error
    return order, source


async def _kept(audits: Audits, upload: UploadFile) -> Path:
    """An uploaded file of questions, kept to be picked again once they can be read. Raises `BadInput`."""
    name = file_name(str(upload.filename))
    if Path(name).suffix.lower() not in QUESTION_SUFFIXES:
        raise BadInput(f"{name!r} is no file of questions; upload one ending in {', '.join(QUESTION_SUFFIXES)}")
    content = await upload.read(MAX_QUESTIONS + 1)
    if len(content) > MAX_QUESTIONS:
        raise BadInput(f"{name!r} has more than {MAX_QUESTIONS >> 20} MB; split it")
    await asyncio.to_thread(_check, name, content)
    path = audits.questions / name
    try:
        if not path.exists():
            audits.questions.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(write_whole, path, content)
        elif path.read_bytes() != content:
            raise BadInput(f"there is another file {name!r} already; rename yours")
    except OSError as error:
        raise BadInput(f"{name!r} could not be kept ({error.strerror or error})") from error
    return path


def _check(name: str, content: bytes) -> None:
    """Raises `BadInput` for questions that cannot be asked: were they kept, they would be in the way of better ones of
    the same name."""
    with TemporaryDirectory() as folder:
        try:
            write_whole(Path(folder) / name, content)
            checked(Path(folder) / name, STRATEGIES[:1], samples=0, threshold=0.0)
        except BadInput as error:
            raise BadInput(str(error).replace(f"{folder}{os.sep}", "")) from error


def _number(given: Mapping[str, Any], name: str, default: int, *, least: int = 0, most: int = 1_000_000) -> int:
    text = str(given.get(name) or "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise BadInput(f"{name.replace('_', ' ')} is {text[:20]!r}; give a whole number from {least}")
    return int(text)


# --- one audit ---


async def _one(request: Request, audits: Audits, name: str) -> HTMLResponse:
    with _missing():
        order, standing = audits.order(name), audits.running(name)
        shown = None if standing is not None else await audits.shown(name)
    state, message = _state(order, standing is not None)
    failed = shown.report.failed if shown else 0
    go_on = "" if order is None or standing is not None else "Go on" if state != "done" else AGAIN if failed else ""
    style = body = None
    if shown is not None:
        again = f"“{go_on}”" if go_on else AS_BEFORE
        style, body = await asyncio.to_thread(lambda: render_body(shown.report, shown.examples(), again=again))
    return page(
        request,
        "audit.html",
        name=name,
        order=order,
        state=state,
        message=message,
        standing=None if standing is None else standing.value,
        model=order.model if order else shown.settings.model if shown else "",
        go_on=go_on,
        style=style,
        body=body,
        others=[other for other in audits.names() if other != name],
    )


async def _questions(request: Request, audits: Audits, name: str) -> HTMLResponse:
    with _missing():
        shown = await audits.shown(name)
        if shown is None:
            raise BadInput(f"the audit {name!r} has no answers yet")
    query = request.query_params
    wanted = {key: query.get(key, "") for key in ("strategy", "use", "q")}
    if wanted["strategy"] not in shown.settings.strategies:
        wanted["strategy"] = ""
    of_strategy = [o for o in shown.outcomes if not wanted["strategy"] or o.strategy == wanted["strategy"]]
    counts = Counter(kind for o in of_strategy for kind in _kinds(o))
    text = wanted["q"].casefold()
    found = [
        o
        for o in of_strategy
        if (not wanted["use"] or wanted["use"] in _kinds(o))
        and (not text or text in f"{o.question}\n{o.answer or ''}\n{o.question_id}".casefold())
    ]
    return page(
        request,
        "audit_questions.html",
        name=name,
        wanted=wanted,
        strategies=shown.settings.strategies,
        filters={**{use.value: MEANINGS[use.value] for use in SearchUse}, **MORE_FILTERS},
        counts=counts,
        all=len(of_strategy),
        **_paged(request, found, wanted),
    )


def _kinds(outcome: Outcome) -> list[str]:
    """The filters that an attempt falls under."""
    if outcome.error is not None:
        return ["failed"]
    kinds = [outcome.use.value] if outcome.use else []
    if outcome.right is not None:
        kinds.append("right" if outcome.right else "wrong")
    return [*kinds, *(["malformed"] if outcome.malformed else [])]


def _paged(request: Request, found: Sequence[Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    """One page of a list, and the addresses of those beside it."""
    pages = max(1, ceil(len(found) / PER_PAGE))
    asked = request.query_params.get("page", "1")
    here = min(max(int(asked[:9]) if asked.isascii() and asked.isdigit() else 1, 1), pages)

    def address(number: int) -> str | None:
        given = {key: value for key, value in wanted.items() if value}
        return f"?{urlencode({**given, 'page': number})}" if 1 <= number <= pages and number != here else None

    return {
        "found": found[(here - 1) * PER_PAGE : here * PER_PAGE],
        "total": len(found),
        "number": here,
        "last_page": pages,
        "before": address(here - 1),
        "after": address(here + 1),
    }


async def _question(request: Request, audits: Audits, name: str, identifier: str) -> HTMLResponse:
    with _missing():
        shown = await audits.shown(name)
        attempts = [] if shown is None else await asyncio.to_thread(shown.attempts, identifier)
        if shown is None or not attempts:
            raise BadInput(f"the audit {name!r} has no question {identifier[:80]!r}")
    found = {o.strategy: o for o in shown.outcomes if o.question_id == identifier}
    return page(
        request,
        "audit_question.html",
        name=name,
        question=attempts[0].question,
        outcomes=found,
        any=next(iter(found.values()), None),
        samples=Counter(t.answer if t.error is None else None for t in attempts if t.sample is not None).most_common(),
        meanings=MEANINGS,
        traces={t.strategy: trace_view(t) for t in attempts if t.sample is None},
        **_beside(shown, identifier),
    )


def _beside(shown: Shown, identifier: str) -> dict[str, Any]:
    ids = list(dict.fromkeys(o.question_id for o in shown.outcomes))
    at = ids.index(identifier) if identifier in ids else 0

    def address(place: int) -> str | None:
        return f"?{urlencode({'id': ids[place]})}" if 0 <= place < len(ids) and ids[place] != identifier else None

    return {"before": address(at - 1), "after": address(at + 1)}


# --- two audits ---


async def _compared(request: Request, audits: Audits) -> HTMLResponse:
    names = audits.names()
    query = request.query_params
    a, b, strategy = (query.get(key, "") for key in ("a", "b", "strategy"))
    result, problem, changed = None, "", []
    if a and b:
        try:
            shown = [await audits.shown(name) for name in (a, b)]
            if missing := next((name for name, s in zip((a, b), shown, strict=True) if s is None), None):
                raise BadInput(f"the audit {missing!r} has no answers yet")
            if a == b:
                raise BadInput("these are the same audit; choose another one")
            first, second = (s.outcomes for s in shown if s is not None)
            result = await asyncio.to_thread(compare, first, second)
            changed = [c for c in result.changed if not strategy or c.first.strategy == strategy]
        except KenError as error:
            problem = str(error)
    return page(
        request,
        "audit_compare.html",
        status=400 if problem else 200,
        names=names,
        a=a,
        b=b,
        strategy=strategy,
        result=result,
        problem=problem,
        **_paged(request, changed, {"a": a, "b": b, "strategy": strategy}),
    )
