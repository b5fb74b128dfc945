"""What went wrong with a request to a server, whether it may pass, and what the user can do about it."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping, Set
from typing import Any

from ken.models.chat_completions import BrokenReply, excerpt

OPTIONAL = {"temperature", "top_p", "max_tokens", "seed", "stop", "logprobs", "n", "stream", "stream_options"}

GIVE_KEY = "set OPENAI_API_KEY or pass --api-key (--upstream-key where clients have keys of their own)"

PASSING = {408, 409, 429}  # and all of 5xx

LONGEST_PAUSE = 60.0  # seconds; a server that asks for more will not answer this run


class Failure(Exception):
    """One failed attempt. The message says what happened, `remedy` what to do if it stays so.

    passing: asking again may help. retry_after: seconds that the server asks to wait first. unreachable: there was no
    connection.
    too_long: the server cannot take as long a prompt.
    rejected: the body of a reply that calls the request wrong, in which a parameter may be named.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        passing: bool = True,
        retry_after: float | None = None,
        unreachable: bool = False,
        too_long: bool = False,
        rejected: bytes = b"",
    ) -> None:
        super().__init__(problem)
        self.remedy = remedy
        self.passing = passing
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.too_long = too_long
        self.rejected = rejected


def of_reply(error: BrokenReply, *, begun: bool = False) -> Failure:
    """begun: some of its text has come, so that the address is the right one."""
    remedy = "ask again" if begun else "check that the base URL is that of a chat-completions server"
    return Failure(str(error), remedy)


def of_event(data: bytes, url: str) -> Failure:
    """Of an error that a server reports in the stream of its reply."""
    return Failure(f"{url} reported an error ({_said(data)})", "see the server's log")


def of_timeout(error: Exception, seconds: float, url: str) -> Failure:
    cause = error.__cause__
    if cause is not None and type(cause.__cause__).__name__ in {"ServerDisconnectedError", "ClientOSError"}:
        return of_connection(error, url)  # on top of aiohttp a connection that was dropped is called a timeout
    if type(cause).__name__ == "ConnectTimeout":  # by name: httpx or httpx2, whichever this openai uses
        return Failure(f"cannot reach {url}", "check that the server is running at this base URL", unreachable=True)
    return Failure(
        f"no complete reply within {seconds:g} s",
        "raise --timeout, or lower --concurrency if the server is busy",
    )


def of_connection(error: Exception, url: str) -> Failure:
    cause = error.__cause__ or error
    detail = " ".join(str(cause).split()) or type(cause).__name__
    if type(cause).__name__ == "ConnectError":
        return Failure(
            f"cannot reach {url} ({detail})", "check that the server is running at this base URL", unreachable=True
        )
    return Failure(f"the connection to {url} broke ({detail})", "see the server's log")


def of_status(status: int, headers: Mapping[str, str], body: bytes, model: str, url: str) -> Failure:
    said = _said(body)
    answer = f"{url} answered {status}" + (f" ({said})" if said else "")
    if status == 429 and "insufficient_quota" in said + _code(body):
        return Failure(answer, "the account has no quota left; add credit or use another key", passing=False)
    if status in PASSING or status >= 500:
        remedy = "see the server's log" if status >= 500 else "try again later, or lower --concurrency"
        wait = retry_after(headers)
        if wait is not None and wait > LONGEST_PAUSE:
            return Failure(answer, f"the server asks to wait {wait:.0f} s; try again later", passing=False)
        return Failure(answer, remedy, retry_after=wait)
    remedies = {
        401: f"the API key is wrong or missing; {GIVE_KEY}",
        403: f"this API key may not use {model}; check its permissions and the model name",
        404: f"check the model name {model!r} and the base URL (most end in /v1)",
        405: "check the base URL (most end in /v1)",
    }
    remedy = remedies.get(status, "check the model name and the options of this run")
    about_length = status == 413 or (status == 400 and _about_length(said))
    if about_length and (too_many := re.search(r"max_(completion_)?tokens", said)):  # what is asked may be short
        remedy = f"lower {too_many[0]}, or use fewer passages"
    too_long = about_length and not too_many
    return Failure(answer, remedy, passing=False, too_long=too_long, rejected=body if status in {400, 422} else b"")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3: a number or a date), or None."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(date.timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def rejected_parameters(body: bytes, sent: Set[str]) -> set[str]:
    """Which of the parameters `sent` a reply with status 400 or 422 complains of.

    >>> body = b'{"error": {"message": "Unsupported parameter: \\'seed\\'", "param": "seed"}}'
    >>> rejected_parameters(body, {"seed", "stop"})
    {'seed'}
    """
    optional = sent & OPTIONAL
    error = _error(body)
    parameter = error.get("param") if isinstance(error, dict) else None
    said = _said(body, limit=4000)
    if _about_length(said):  # "max_tokens is too large: …" is about its value
        optional -= {"max_tokens"}
    if isinstance(parameter, str) and parameter in optional:
        return {parameter}
    return {name for name in optional if _names(said, name)}


def _names(said: str, name: str) -> bool:
    """Whether the message speaks of the parameter `name`. Those that are also plain words must be in quotes or judged
    by it.
    """
    verdict = r"(is|are|must|should|not|un\w+|parameter|sequences?)\b"
    if name in {"n", "stop", "seed", "temperature", "stream"}:
        return bool(re.search(rf"['\"`]{name}['\"`]|(?<![\w</]){name}\s*({verdict}|[>=])", said))
    return bool(re.search(rf"(?<![\w</]){name}(?![\w>])", said))


def _about_length(said: str) -> bool:
    return bool(re.search(r"(?i)context.{0,10}(length|window|size)|too (large|long)|maximum.{0,20}tokens", said))


def _error(body: bytes) -> Any:
    """The `error` object of a reply, or what the server puts in its place; None if the body is not JSON."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict):
        return reply
    return next((reply[key] for key in ("error", "detail", "message") if reply.get(key)), reply)


def _code(body: bytes) -> str:
    error = _error(body)
    return f"{error.get('code')} {error.get('type')}" if isinstance(error, dict) else ""


def _said(body: bytes, limit: int = 240) -> str:
    """What the server says is wrong, on one line."""
    error = _error(body)
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        text = error["message"]
    elif isinstance(error, list):  # FastAPI: [{"loc": ["body", "seed"], "msg": …, "input": the whole request}]
        text = "; ".join(
            f"{item.get('loc', ['request'])[-1:]}: {item.get('msg')}" for item in error if isinstance(item, dict)
        )
    elif isinstance(error, str):
        text = error
    else:
        return excerpt(body) if body.strip() else ""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "…"
