"""HTTP endpoints as tools: described in a file, called with what a model wrote, which is data in every place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, ValidationError

from ken.core import BadInput
from ken.core.frozen import Frozen
from ken.sources.tools.schema import is_schema, misfit, validator
from ken.sources.tools.tool import ERROR, Arguments, ErrorKind, Tool, ToolResult, cut

MOST_BYTES = 2**20  # of a reply
MOST_CHARACTERS = 100_000
_PLACE = re.compile(r"\{(\w+)\}")
_KINDS: dict[int, ErrorKind] = {
    408: "timeout",
    425: "unavailable",
    429: "rate_limit",
    401: "not_allowed",
    403: "not_allowed",
}


class Endpoint(Frozen):
    """An HTTP endpoint as a file tells of it.

    url: its address; `{name}` in the path or query is filled with an argument. Other arguments are the query of a GET
    or DELETE, and the JSON body else. parameters: JSON schema of the arguments. returns: of the reply. headers: sent
    with every call (keys belong here: a model never sees them). A method other than GET has a side effect, unless
    `side_effect` says otherwise.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    description: str
    url: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    returns: dict[str, Any] | None = None
    headers: dict[str, str] = {}
    cost: float = Field(default=0.0, ge=0)
    side_effect: bool | None = None


class HttpTool(Tool):
    """An endpoint as a tool. seconds: of a call. Redirects are not followed, a reply may have 1 MB.

    The reply's text is the result; a status of 400 and more is an error of its kind, with what the server said.
    Raises `BadInput` for an address that is none or has places outside of path and query, and for what is no schema.
    """

    def __init__(self, endpoint: Endpoint, *, seconds: float = 20.0, transport: Any = None) -> None:
        self.endpoint, self.seconds = endpoint, seconds
        self.name, self.description, self.parameters = endpoint.name, endpoint.description, endpoint.parameters  # type: ignore[misc]
        self.returns, self.cost = endpoint.returns, endpoint.cost
        self.side_effect = endpoint.method != "GET" if endpoint.side_effect is None else endpoint.side_effect
        parts = urlsplit(endpoint.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or _PLACE.search(parts.netloc):
            raise BadInput(f"{endpoint.url!r} is no address of a tool; it looks like https://host/path/{{argument}}")
        if not is_schema(endpoint.parameters) or endpoint.parameters.get("type") != "object":
            raise BadInput(f"the parameters of the tool {endpoint.name!r} are no JSON schema of an object")
        places = set(_PLACE.findall(endpoint.url))
        if unknown := sorted(places - set(endpoint.parameters.get("properties", {}))):
            raise BadInput(
                f"the address of {endpoint.name!r} has a place for {unknown[0]!r}, which is no parameter of it"
            )
        self._places = places
        self._validator = validator(endpoint.parameters)
        self._transport = transport
        self._client: Any = None

    def misfit(self, arguments: Arguments) -> str:
        """By the whole JSON schema; a place in the path cannot be left empty."""
        if problem := misfit(arguments, self._validator):
            return problem
        missing = [name for name in sorted(self._places) if str(arguments.get(name, "")) in {"", ".", ".."}]
        return f"the argument {missing[0]!r} is missing" if missing else ""

    async def call(self, arguments: Arguments) -> ToolResult:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self.seconds, follow_redirects=False, transport=self._transport)
        url = _PLACE.sub(lambda place: quote(_text(arguments[place[1]]), safe=""), self.endpoint.url)
        rest = {name: value for name, value in arguments.items() if name not in self._places}
        sent: dict[str, Any] = {"headers": self.endpoint.headers}
        if self.endpoint.method in {"GET", "DELETE"}:
            if rest:
                given: list[tuple[str, str | int | float | bool | None]] = [
                    (name, _text(v))
                    for name, value in rest.items()
                    for v in (value if isinstance(value, list) else [value])
                ]
                sent["params"] = httpx.URL(url).params.merge(given)
        else:
            sent["json"] = rest
        try:
            async with self._client.stream(self.endpoint.method, url, **sent) as response:
                data = b""
                async for piece in response.aiter_bytes():
                    data += piece
                    if len(data) > MOST_BYTES:
                        return _failed("failed", f"{self.name} sent more than {MOST_BYTES // 2**20} MB")
        except httpx.TimeoutException:
            return _failed("timeout", f"{self.name} did not answer within {self.seconds:g} s", down=True)
        except httpx.HTTPError as error:
            return _failed("unavailable", f"{self.name} could not be reached ({type(error).__name__})", down=True)
        text = cut(data.decode(response.encoding or "utf-8", errors="replace"), MOST_CHARACTERS)
        if response.status_code < 300:
            return ToolResult(text)
        return self._refused(response.status_code, text, response.headers.get("retry-after", ""))

    def _refused(self, status: int, text: str, after: str) -> ToolResult:
        if status < 400:
            return _failed("failed", f"{self.name} answered with a redirect ({status}), which is not followed")
        kind = _KINDS.get(status, "unavailable" if status >= 500 else "failed")
        said = f"{self.name} answered with status {status}: {cut(' '.join(text.split()), 500)}"
        seconds = float(after) if after.strip().isdecimal() else None
        return _failed(kind, said, down=status >= 500 or status == 429, after=seconds)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def load_http_tools(path: Path | str, **options: Any) -> list[HttpTool]:
    """The endpoints of a JSON file, a list of objects as `Endpoint` has them. options: of `HttpTool`. Raises `BadInput`
    that says what is wrong with which."""
    try:
        listed = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(
            f"the tools in {path} cannot be read ({error}); give a JSON file with a list of endpoints"
        ) from error
    if not isinstance(listed, list):
        raise BadInput(f"{path} holds no list of endpoints")
    tools = []
    for number, entry in enumerate(listed, start=1):
        try:
            tools.append(HttpTool(Endpoint.model_validate(entry), **options))
        except ValidationError as error:
            first = error.errors()[0]
            raise BadInput(
                f"{path}, tool {number}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
            ) from error
    return tools


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _failed(kind: ErrorKind, text: str, *, down: bool = False, after: float | None = None) -> ToolResult:
    return ToolResult(f"{ERROR} {text}", ok=False, down=down, error=kind, after=after)
