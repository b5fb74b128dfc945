"""How every page is made: templates, static files, and the list of pages."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from ken.auditing.html import inert

# What the navigation shows: address and name.
PAGES = (("/ask", "Ask"), ("/audit", "Audit"), ("/papers", "Papers"), ("/runs", "Runs"))

# Everything comes from this server; scripts only from files, so that no text on a page can become one.
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

environment = Environment(
    loader=PackageLoader("ken.serving.web", "templates"),
    autoescape=True,
    finalize=inert,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A rendered page. Values are data: the templates escape them."""
    here = next((path for path, _ in PAGES if request.url.path.startswith(path)), "")
    text = environment.get_template(template).render(pages=PAGES, here=here, **values)
    return HTMLResponse(text, status_code=status, headers=SECURITY)


def mount(app: FastAPI) -> None:
    """Put the pages on an application."""

    @app.get("/", include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse(PAGES[0][0])

    with as_file(files("ken.serving.web") / "static") as folder:
        app.mount("/static", StaticFiles(directory=folder), name="static")

    from ken.serving.web import ask_pages, audit_pages

    ask_pages.mount(app)
    audit_pages.mount(app)
