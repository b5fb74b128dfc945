"""What went wrong, as clients read it: in the shape of OpenAI's errors for programs, as a page for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ken.core import BadInput, ModelError, SourceError, Unsupported
from ken.core.errors import KenError
from ken.serving.queue import Busy, Closing
from ken.serving.service import TooSlow, Unknown


class ErrorDetail(BaseModel):
    """One sentence that says what to do, and names for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """The body of every reply with a status of 400 or more."""

    error: ErrorDetail


class ApiError(Exception):
    """An error with its status. `param` is the parameter that is at fault, `extra` goes beside `error`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers, self.extra = dict(headers or {}), dict(extra or {})

    def body(self) -> dict[str, Any]:
        """As JSON."""
        error = {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}
        return {"error": error, **self.extra}


def as_api_error(error: BaseException) -> ApiError:
    """Any error as one with a status. What nobody foresaw says nothing of the inside."""
    match error:
        case ApiError():
            return error
        case Busy():
            headers = {"Retry-After": str(error.retry_after)}
            return ApiError(429, str(error), code="server_busy", headers=headers)
        case Closing():
            return ApiError(503, str(error), code="shutting_down", headers={"Retry-After": "5"})
        case TooSlow():
            return ApiError(504, str(error), code="timeout", headers=NO_RETRY)
        case Unknown(kind="model"):
            return ApiError(404, str(error), code="model_not_found", param="model")
        case Unknown(kind=kind):
            return ApiError(400, str(error), code="invalid_value", param=kind)
        case BadInput() | Unsupported():
            return ApiError(400, str(error), code="invalid_value")
        case ModelError() | SourceError():
            return ApiError(502, str(error), code="upstream_error", headers=NO_RETRY)
        case KenError():
            return ApiError(500, str(error), code="failed")
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            return _of_http(error)
    return ApiError(500, "an internal error; the server's log says more", code="internal_error")


# The official client asks again after any 5xx; what Ken has tried already will not get better by that.
NO_RETRY = {"x-should-retry": "false"}

# What a client may send to OpenAI and not to Ken, since silence would mislead: by parameter, what to do instead.
REFUSED = {
    "n": "there is one choice, always; leave it out, and ask again for another",
    "stop": "give up to 16 strings that are not empty",
    "tools": "the strategies use tools of their own, not those of the client; leave it out",
    "functions": "the strategies use tools of their own, not those of the client; leave it out",
    "tool_choice": "there are no tools of the client; leave it out",
    "function_call": "there are no functions of the client; leave it out",
    "response_format": "answers are plain text; leave it out, or read the field `ken` of the reply",
    "logprobs": "there are none; the field `ken` of the reply holds the confidence in the answer",
    "top_logprobs": "there are none; the field `ken` of the reply holds the confidence in the answer",
    "logit_bias": "it is not supported; leave it out",
    "presence_penalty": "it is not supported; leave it out",
    "frequency_penalty": "it is not supported; leave it out",
    "modalities": "answers are text only",
    "audio": "answers are text only; leave it out",
    "web_search_options": "searches go to the server's own indexes; leave it out",
}


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body."""
    problem = error.errors()[0]
    if problem["type"] in {"json_invalid", "json_type"}:
        said = problem.get("ctx", {}).get("error", "")
        return ApiError(400, f"the body is not JSON ({said}); send a JSON object", code="invalid_json")
    place = list(problem["loc"][1:])  # the first says where the parameter was looked for: body, query, path
    param = _named(place)
    top = str(place[0]) if place else ""
    if problem["type"] == "extra_forbidden":
        return ApiError(400, f"there is no parameter {param!r}; leave it out", code="unknown_parameter", param=param)
    if problem["type"] == "missing":
        what = f"{param!r} is missing; add it" if param else "the body is missing; send a JSON object"
        return ApiError(400, what, code="missing_required_parameter", param=param)
    if problem["type"] in {"too_short", "string_too_short"} and problem["ctx"].get("min_length") == 1:
        return ApiError(400, f"{param!r} is empty; it needs something in it", code="invalid_value", param=param)
    said = problem["msg"].removeprefix("Value error, ").replace(" after validation", "")
    if top in REFUSED:
        code = "unsupported_value"
        return ApiError(400, f"{param!r} cannot be used like this: {REFUSED[top]}", code=code, param=param)
    return ApiError(400, f"{param or 'the body'}: {said[:1].lower()}{said[1:]}", code="invalid_value", param=param)


def _named(place: list[Any]) -> str | None:
    """`messages[0].content` from a place in a body; the names that unions add are left out."""
    name = ""
    for part in place:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part.isidentifier() and part not in {"str", "list", "int", "float", "bool", "dict", "none"}:
            name += f".{part}" if name else part
        else:
            break
    return name or None


def _of_http(error: HTTPException) -> ApiError:
    sentences = {
        404: "there is nothing at this address; see /openapi.json",
        405: "this address takes another method; see /openapi.json",
    }
    standard = HTTPStatus(error.status_code).phrase
    said = error.detail if isinstance(error.detail, str) and error.detail != standard else ""
    codes = {404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}
    return ApiError(
        error.status_code,
        said or sentences.get(error.status_code, standard.lower()),
        code=codes.get(error.status_code),
        headers=error.headers,
    )


def _type(status: int) -> str:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    if status in kinds:
        return kinds[status]
    if status >= 500:
        return {502: "upstream_error", 503: "server_error", 504: "timeout_error"}.get(status, "server_error")
    return "invalid_request_error"


def wants_page(path: str, accept: str) -> bool:
    """Whether a person with a browser asked, and not a program."""
    return not path.startswith("/v1/") and "text/html" in accept


def error_response(request: Request, error: BaseException) -> Response:
    """The reply to a request that failed."""
    found = as_api_error(error)
    note(request, found)
    if wants_page(request.url.path, request.headers.get("accept", "")):
        from ken.serving.web.pages import page

        reply: Response = page(
            request,
            "error.html",
            status=found.status,
            code=found.status,
            title=HTTPStatus(found.status).phrase,
            message="there is no page at this address" if found.code == "not_found" else found.message,
        )
    else:
        reply = JSONResponse(found.body(), found.status)
    reply.headers.update(found.headers)
    if identifier := getattr(request.state, "id", None):
        reply.headers["x-request-id"] = identifier
    return reply


def note(request: Request, error: ApiError) -> None:
    """What the log says of it: the kind, and of the server's own failures the sentence. What a model or an index says
    of a failure may hold what it was asked, in whatever form; of that only its status."""
    fields, texts = getattr(request.state, "log", {}), getattr(request.state, "log_texts", {})
    fields["error"] = error.code or _type(error.status)
    if error.code != "upstream_error":
        fields |= {"message": error.message} if error.status >= 500 else {}
        return
    texts["message"] = error.message
    if answered := re.search(r" answered (\d{3})\b", error.message):
        fields["upstream_status"] = int(answered[1])


def handle_errors(app: FastAPI) -> None:
    """Let an application answer every error in one of the two ways."""

    async def answer(request: Request, error: Exception) -> Response:
        return error_response(request, error)

    for kind in (ApiError, KenError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
