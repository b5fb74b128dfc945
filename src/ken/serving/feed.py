"""What is new in the catalogue, to follow: an Atom feed, and the digest by mail.

Links in mails lead to a page with a button, and only the button does something: programs that open every link in a
mail to look for harm neither confirm nor unsubscribe anybody. Mail programs that unsubscribe by themselves send what
the button sends (RFC 8058).
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from email.message import EmailMessage
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from ken.core.errors import BadInput, KenError
from ken.papers.feed import Journal, atom
from ken.papers.mail import Mailer, Refused, Smtp, letter
from ken.serving.errors import ApiError
from ken.serving.service import Service
from ken.serving.subscriptions import CONFIRM_WITHIN, HOUR, Asked, Subscriptions, TooMany
from ken.serving.web.pages import page

router = APIRouter(include_in_schema=False)


def mount(app: FastAPI) -> None:
    """Put the feed and the pages of subscriptions on an application over a `Service`."""
    app.state.letterbox = Letterbox(app.state.service)
    app.include_router(router)


class Letterbox:
    """The service's journal and its list of subscribers, made when they are first needed."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._making = threading.Lock()
        self._journal: Journal | None = None
        self._subscriptions: Subscriptions | None = None

    @property
    def journal(self) -> Journal:
        """Raises as `Journal` does."""
        with self._making:
            self._journal = self._journal or Journal(self.service.data)
            return self._journal

    @property
    def subscriptions(self) -> Subscriptions:
        """Raises as `Subscriptions` does."""
        with self._making:
            self._subscriptions = self._subscriptions or Subscriptions(self.service.data)
            return self._subscriptions

    def subscribe(self, address: str, client: str, smtp: Smtp) -> str:
        """Take a request and send the letter that belongs to it; what became of it, for the log.

        Raises `BadInput`, `TooMany`, `MailError`.
        """
        asked = self.subscriptions.request(address, client)
        if asked.token is None:
            return "held back"
        try:
            with Mailer(smtp, timeout=15.0) as mailer:
                mailer.send(_invitation(asked, smtp))
        except Refused:  # the caller learns nothing about the address, nor does the log
            return "refused"
        return "sent"

    def unsubscribe(self, token: str) -> bool:
        """Whether somebody was taken off the list."""
        address = self.subscriptions.unsubscribe(token)
        if address is None:
            return False
        self.journal.forget(address)
        return True


@router.api_route("/feed.xml", methods=["GET", "HEAD"])
def feed(request: Request) -> Response:
    """Papers and changed verdicts as Atom. Answers 304 to who has the latest."""
    box: Letterbox = request.app.state.letterbox
    home = box.service.mail.url if box.service.mail else str(request.base_url).rstrip("/")
    try:
        text = atom(box.journal.news(box.service.results), id=box.journal.id, home=home)
    except KenError as error:
        raise ApiError(503, f"the feed cannot be made: {error}", headers={"Retry-After": "300"}) from error
    headers = {"ETag": f'"{hashlib.sha256(text).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
    held = request.headers.get("if-none-match", "").split(",")
    if {headers["ETag"], "*"} & {tag.strip().removeprefix("W/") for tag in held}:  # RFC 9110, 13.1.2
        return Response(status_code=304, headers=headers)
    headers["X-Content-Type-Options"] = "nosniff"
    return Response(text, media_type="application/atom+xml", headers=headers)


@router.get("/subscribe")
def subscribe_page(request: Request) -> HTMLResponse:
    """The form."""
    return _page(request, "subscribe.html", address="", problem="")


@router.post("/subscribe")
async def subscribe(request: Request) -> HTMLResponse:
    """Take an address and send it a link. The reply is the same for those on the list and those who are not."""
    box: Letterbox = request.app.state.letterbox
    address = (await _form(request)).get("address", "")
    if (smtp := box.service.mail) is None:
        return _page(request, "subscribe.html", status=503, address=address, problem="")
    client = request.client.host if request.client else ""
    try:
        request.state.log["letter"] = await asyncio.to_thread(box.subscribe, address, client, smtp)
    except BadInput as error:
        return _page(request, "subscribe.html", status=400, address=address, problem=str(error))
    except TooMany as error:
        reply = _page(request, "subscribe.html", status=429, address=address, problem=str(error))
        reply.headers["Retry-After"] = str(error.seconds)
        return reply
    except KenError as error:  # the mail server, or the disk: nothing that the visitor can mend
        request.state.log["message"] = str(error)
        problem = "the mail cannot be sent now; try again later"
        return _page(request, "subscribe.html", status=503, address=address, problem=problem)
    return _page(request, "subscribed.html", hours=round(CONFIRM_WITHIN / HOUR))


@router.get("/confirm")
def confirm_page(request: Request, token: str = "") -> HTMLResponse:
    """A button. That it was opened does nothing, and nothing is looked up."""
    return _page(request, "press.html", what="confirm", token=token[:200])


@router.post("/confirm")
async def confirm(request: Request) -> HTMLResponse:
    """Put the address of a link on the list."""
    box: Letterbox = request.app.state.letterbox
    token = (await _form(request)).get("token", "")
    done = await asyncio.to_thread(box.subscriptions.confirm, token)
    return _page(request, "pressed.html", status=200 if done else 410, what="confirm", done=done)


@router.get("/unsubscribe")
def unsubscribe_page(request: Request, token: str = "") -> HTMLResponse:
    """A button, as for `confirm_page`."""
    return _page(request, "press.html", what="unsubscribe", token=token[:200])


@router.post("/unsubscribe")
async def unsubscribe(request: Request, token: str = "") -> HTMLResponse:
    """Take the address of a link off the list: pressed on the page, or by a mail program."""
    box: Letterbox = request.app.state.letterbox
    token = (await _form(request)).get("token", token)
    done = await asyncio.to_thread(box.unsubscribe, token)
    return _page(request, "pressed.html", status=200 if done else 410, what="unsubscribe", done=done)


def _page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page that no cache keeps: it may hold an address or a token."""
    reply = page(request, template, status=status, sends=request.app.state.service.mail is not None, **values)
    reply.headers["Cache-Control"] = "no-store"
    return reply


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form, of either encoding: mail programs may choose."""
    form = await request.form(max_files=0, max_fields=20)
    return {name: str(value) for name, value in form.items()}


def _invitation(asked: Asked, smtp: Smtp) -> EmailMessage:
    """The letter with the link, or to one who is on the list already."""
    if asked.known:
        subject = "Ken: you are subscribed already"
        said = (
            "Somebody, perhaps you, asked for Ken's digest of papers and verdicts to be sent to this address.\n"
            "It is sent here already, and there is nothing to do.\n\n"
            "To get no more of it, open this and press the button:\n\n"
            f"{smtp.url}/unsubscribe?token={asked.token}\n"
        )
    else:
        subject = "Ken: please confirm your address"
        said = (
            "Somebody, perhaps you, asked for Ken's digest of papers and verdicts to be sent to this address.\n\n"
            "If it was you, open this and press the button:\n\n"
            f"{smtp.url}/confirm?token={asked.token}\n\n"
            f"The link works once, for {round(CONFIRM_WITHIN / HOUR)} hours. If it was not you, there is nothing\n"
            "to do: without it no digest is sent.\n"
        )
    return letter(to=asked.address, sender=smtp.sender, subject=subject, text=said)
