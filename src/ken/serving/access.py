"""Who may come in: keys, logins, names of this machine, pages of other sites."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ken.core import BadInput
from ken.serving.errors import ApiError, error_response, wants_page
from ken.serving.keys import COOKIE, COOKIE_SECONDS, Keys
from ken.serving.limits import MEBIBYTE, RateLimit, TooLarge, limited

SAFE = {"GET", "HEAD", "OPTIONS"}

# Open without a key: whether the server lives, how to log in and how that page looks, and what mail programs and
# feed readers follow, which hold tokens of their own.
PUBLIC = {"/healthz", "/login", "/feed.xml", "/confirm", "/unsubscribe"}
PUBLIC_FOLDERS = ("/static/",)


@dataclass(frozen=True)
class Access:
    """The rules of the door.

    keys: any of them opens it. rate: requests a minute that one key (or address) may make to /v1/ and to whatever
    changes something; None: any number. request_bytes, upload_bytes: the largest body, and the largest form with files.
    seconds: in which a body, or every MiB of a larger one, must arrive.
    """

    keys: Sequence[str] = ()
    rate: float | None = None
    request_bytes: int = MEBIBYTE
    upload_bytes: int = 257 * MEBIBYTE  # with what a form puts around its files
    seconds: float = 300.0


def keys_of(given: Sequence[str] | None) -> tuple[str, ...]:
    """The keys on the command line, or else those in $KEN_API_KEY, with spaces between."""
    return tuple(given or os.environ.get("KEN_API_KEY", "").split())


def check_host(host: str, keys: Sequence[str]) -> None:
    """Raises `BadInput` for an address that others can reach when there is no key."""
    if not keys and not is_loopback(host):
        raise BadInput(
            f"without a key only this machine may ask, so Ken does not listen on {host}; give --api-key KEY (or "
            "$KEN_API_KEY), or leave --host at 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port, can only mean this machine."""
    host = host.removeprefix("[").removesuffix("]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """ASGI middleware that applies `Access` to every request, before anything reads it."""

    def __init__(self, app: ASGIApp, access: Access, keys: Keys, limit: RateLimit | None) -> None:
        self.app, self.access, self.keys, self._rate = app, access, keys, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            self._check(request)
            most = self._most(request)
        except (ApiError, TooLarge) as error:
            if isinstance(error, ApiError) and error.status == 401 and self._may_log_in(request):
                here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                await RedirectResponse(f"/login?next={quote(here, safe='')}", 303)(scope, receive, send)
            else:
                await error_response(request, error)(scope, receive, send)
            return
        await self.app(scope, limited(receive, most, self.access.seconds), send)

    def _check(self, request: Request) -> None:
        headers = request.headers
        path, host = request.url.path, headers.get("host", "")
        address = request.client.host if request.client else "unknown"
        request.state.client = address
        if not self.keys and not is_loopback(_host_name(host)):
            # A page of another site can give its own name this machine's address, and so pass for us to the browser.
            raise ApiError(
                403,
                "this server is for its own machine only: ask for it as localhost or 127.0.0.1, or start it with "
                "--api-key",
                code="wrong_host",
            )
        by_header = self.keys.of_bearer(headers.get("authorization", ""))
        if not by_header and request.method not in SAFE and _foreign(request):
            raise ApiError(403, "a page of another site sent this; open Ken itself", code="foreign_origin")
        number = by_header or self.keys.of_cookie(request.cookies.get(COOKIE, ""))
        public = path in PUBLIC or path.startswith(PUBLIC_FOLDERS)
        if number:
            request.state.client = f"key {number}"
        elif self.keys and not public:
            self._spend(request)
            given = "is wrong" if headers.get("authorization") else "is missing"
            raise ApiError(
                401,
                f"the API key {given}; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": 'Bearer realm="Ken"'},
            )
        if path.startswith("/v1/") or request.method not in SAFE:
            self._spend(request)

    def _spend(self, request: Request) -> None:
        if self._rate is not None and (seconds := self._rate.wait(request.state.client)):
            raise ApiError(
                429,
                f"too many requests: at most {self.access.rate:g} a minute; wait {seconds} s",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )

    def _most(self, request: Request) -> int:
        """The largest body that this request may have. Raises `TooLarge` if it announces more."""
        uploads = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        most = self.access.upload_bytes if uploads else self.access.request_bytes
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > most:
            raise TooLarge(most)
        return most

    def _may_log_in(self, request: Request) -> bool:
        return request.method in {"GET", "HEAD"} and wants_page(request.url.path, request.headers.get("accept", ""))


def _host_name(header: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _foreign(request: Request) -> bool:
    """Whether a browser says that a page of another origin made this request. Programs say nothing."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:  # pages cannot set it, and it is right behind proxies that change the name
        return site not in {"same-origin", "none"}
    origin = request.headers.get("origin")
    if origin is None:
        return False
    return urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower()


def mount(app: FastAPI, keys: Keys) -> None:
    """The login page for people. `keys` are those of the door; with none, everybody is in already."""
    from ken.serving.web.pages import page

    @app.get("/login", include_in_schema=False)
    def ask(request: Request, next: str = "/") -> Response:
        if not keys:
            return RedirectResponse(_local(next), 303)
        return page(request, "login.html", next=_local(next), problem="")

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        form: Any = await request.form(max_files=0, max_fields=4)
        key, after = str(form.get("key", "")), _local(str(form.get("next", "/")))
        number = keys.find(key.strip())
        if number is None:
            if not keys:
                return RedirectResponse(after, 303)
            return page(request, "login.html", status=401, next=after, problem="This is none of the keys.")
        reply = RedirectResponse(after, 303)
        secure = request.url.scheme == "https"
        reply.set_cookie(
            COOKIE, keys.cookie(number), max_age=COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure
        )
        return reply

    @app.post("/logout", include_in_schema=False)
    def log_out() -> Response:
        reply = RedirectResponse("/login", 303)
        reply.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return reply


def _local(address: str) -> str:
    """An address of this server, or its start: a link to the login page must not lead elsewhere."""
    plain = address.startswith("/") and all("!" <= c <= "~" and c != "\\" for c in address)
    return address if plain and not address.startswith("//") else "/"
