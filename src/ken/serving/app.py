"""`ken serve`: one web application out of its doors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

import ken
from ken.serving import access as door
from ken.serving import ask_api, openai_api
from ken.serving.access import Access, Door
from ken.serving.bodies import REFERENCE, schemas
from ken.serving.disconnect import Gone
from ken.serving.errors import ErrorReply, handle_errors
from ken.serving.keys import Keys
from ken.serving.limits import RateLimit
from ken.serving.logs import Log
from ken.serving.metrics import Metrics
from ken.serving.openai_types import ChatRequest
from ken.serving.requests import GONE, Requests
from ken.serving.service import Ask, Service


def create_app(service: Service, *, access: Access | None = None, log: Log | None = None) -> FastAPI:
    """The application over `service`, which it closes when it ends. Handlers find the service at
    `request.app.state.service`.

    access: who may come in; None: programs of this machine that call it by a name of this machine. log: where
    requests are written down; None: nowhere.

    Raises `BadInput` for keys or a rate that cannot be used.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await app.state.jobs.close()
            await app.state.rows.close()
            await service.close()

    app = FastAPI(title="Ken", version=ken.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    access = access or Access()
    app.state.access = access
    metrics = Metrics(service)
    keys = Keys(access.keys)
    limit = None if access.rate is None else RateLimit(access.rate)
    handle_errors(app)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=GONE)

    app.add_exception_handler(Gone, gone)
    app.add_exception_handler(ClientDisconnect, gone)  # before it had sent all of its request

    @app.get("/healthz", responses={503: {"description": "It is shutting down."}})
    def healthz() -> Response:
        """Whether the server takes questions; names of models and indexes are for those who have a key."""
        if service.queue.closing:
            return JSONResponse({"status": "shutting down"}, 503)
        return JSONResponse({"status": "ok"})

    metrics.mount(app)
    app.include_router(openai_api.router)
    app.include_router(ask_api.router)

    from ken.serving import feed
    from ken.serving.web import pages, papers_pages, runs_pages

    door.mount(app, keys)
    pages.mount(app)
    papers_pages.mount(app)
    runs_pages.mount(app)
    feed.mount(app)

    app.add_middleware(Door, access=access, keys=keys, limit=limit)  # the last one added is the first to see a request
    app.add_middleware(Requests, counted=metrics.requested, log=log)
    app.openapi = lambda: _document(app, keys)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI, keys: Keys) -> dict[str, Any]:
    """The OpenAPI document: with the bodies that are read by `bodies`, and errors as they are."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=__doc__)
        components = document.setdefault("components", {})
        described: dict[str, Any] = components.setdefault("schemas", {})
        described |= schemas(ChatRequest, Ask, ErrorReply)
        described.pop("HTTPValidationError", None)
        described.pop("ValidationError", None)
        error = {"application/json": {"schema": {"$ref": REFERENCE.format(model="ErrorReply")}}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if path.startswith("/v1/"):
                    operation["responses"]["4XX"] = {"description": "What to do instead.", "content": error}
                    operation["responses"]["503"] = {"description": "It is shutting down.", "content": error}
        if keys:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
