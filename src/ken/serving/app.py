"""`ken serve`: one web application out of its doors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

import ken
from ken.serving.service import Service


def create_app(service: Service) -> FastAPI:
    """The application over `service`, which it closes when it ends. Handlers find the service at
    `request.app.state.service`."""

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

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"status": "ok", "models": list(service.models), "indexes": list(service.indexes)}

    from ken.serving.web import pages, papers_pages, runs_pages

    pages.mount(app)
    papers_pages.mount(app)
    runs_pages.mount(app)
    return app
