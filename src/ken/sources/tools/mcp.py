"""Tools of any MCP server as tools of an agent (Model Context Protocol, modelcontextprotocol.io).

A server is a program of somebody else. What it lists and returns is data; it may hang, flood, lie about its schemas or
die, and each of these costs the call that met it, not the run.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ken.core import BadInput, SourceError, Unsupported
from ken.sources.tools.mcp_process import Conduct, process_streams
from ken.sources.tools.schema import is_schema, misfit, validator
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult, cut

if TYPE_CHECKING:
    from mcp import Client

MOST_TOOLS = 32  # of one server: each takes room in every prompt
MOST_PAGES = 20
MOST_CHARACTERS = 100_000  # of a result; what a model is shown is cut again by who runs it
DESCRIPTION = 300  # characters
USAGE = 600
NAME = 64

CALL_SECONDS = 25.0  # below that of a `Toolbox`, so that the reason is known
START_SECONDS = 60.0  # a server may be downloaded when it is first started


class McpTool(Tool):
    """A tool of an MCP server. Its name, description and schema are the server's own words: data."""

    def __init__(self, server: McpServer, remote: str, name: str, description: str, schema: Mapping[str, Any]) -> None:
        self.server, self.remote = server, remote
        self.name, self.description, self.parameters = name, description, schema  # type: ignore[misc]
        self._validator = validator(schema)

    async def call(self, arguments: Arguments) -> ToolResult:
        return await self.server.call(self.remote, arguments)

    def misfit(self, arguments: Arguments) -> str:
        """By the whole JSON schema, without patterns: a pattern of somebody else can take for ever to match."""
        problem = misfit(arguments, self._validator)
        return f"{problem}; {self.usage}" if problem else ""

    def read(self, content: str) -> Arguments:
        """A JSON object is the arguments; other text is the one argument of a tool that needs a single text, and
        nothing is none."""
        if not content and not _required(self.parameters):
            return {}
        try:
            given = json.loads(content)
        except (ValueError, RecursionError):
            given = None
        properties = _properties(self.parameters)
        if isinstance(given, dict) and (not properties or given.keys() <= properties.keys()):
            return given
        return {self._text_parameter: content} if self._text_parameter else {"": content}

    @property
    def usage(self) -> str:
        """How a model writes the content of this tool's tag."""
        properties = _properties(self.parameters)
        if self._text_parameter:
            return f"write the {self._text_parameter}"
        required = _required(self.parameters)
        shown = [
            f"{name} ({_kind(schema)}{'' if name in required else ', optional'})" for name, schema in properties.items()
        ]
        listed = " ".join(", ".join(shown).split())
        listed = listed if len(listed) <= USAGE else listed[:USAGE] + "…"
        return f"write a JSON object with {listed}" if listed else "write {}"

    @property
    def _text_parameter(self) -> str:
        """The parameter that plain text stands for; "" where one is not enough."""
        properties = _properties(self.parameters)
        wanted = _required(self.parameters) or list(properties)
        return wanted[0] if len(wanted) == 1 and _kind(properties.get(wanted[0])) == "string" else ""


class McpServer:
    """A connection to one server, by the command line that starts it or its http(s) address.

    call_seconds: after which a call is given up. start_seconds: to start and answer. A server that died is started
    again by the next call. It belongs to one event loop.

    Raises `BadInput` for what is neither a command nor an address.
    """

    def __init__(self, spec: str, *, call_seconds: float = CALL_SECONDS, start_seconds: float = START_SECONDS) -> None:
        self.spec = spec.strip()
        self.url = self.spec if self.spec.startswith(("http://", "https://")) else ""
        try:
            self.command = [] if self.url else shlex.split(self.spec)
            named = bool(urlsplit(self.url).hostname) if self.url else bool(self.command)
        except ValueError as error:
            raise BadInput(f"the MCP server {spec!r} cannot be read ({error}); quote it as in a shell") from error
        if not named:
            raise BadInput('an MCP server is a command such as "npx some-server" or an http(s) address')
        self.name = urlsplit(self.url).hostname or _command_name(self.command)
        self.call_seconds, self.start_seconds = call_seconds, start_seconds
        self._connection: _Connection | None = None

    async def tools(self) -> list[McpTool]:
        """The tools that it lists, under their own names as far as these can be tags. Those whose schema is none are
        left out. Raises `SourceError` when it does not start or does not answer."""
        connection, client = await self._connected()
        found: list[McpTool] = []
        cursor = None
        try:
            async with asyncio.timeout(self.start_seconds):
                for _ in range(MOST_PAGES):
                    page = await client.list_tools(cursor=cursor)
                    for tool in page.tools[: MOST_TOOLS - len(found)]:
                        schema = tool.input_schema if isinstance(tool.input_schema, dict) else {}
                        if is_schema(schema):
                            description = cut(" ".join((tool.description or "").split()), DESCRIPTION)
                            made = McpTool(self, tool.name, tag_name(tool.name), description, schema)
                            made.side_effect = _changes_something(tool.annotations)
                            found.append(made)
                    cursor = page.next_cursor
                    if not cursor or len(found) >= MOST_TOOLS:
                        break
        except TimeoutError:
            raise await self._down(connection, f"did not list its tools within {self.start_seconds:g} s") from None
        except Exception as error:  # it may answer anything, and the SDK raises what it then meets
            raise await self._down(connection, f"did not list its tools ({_line(error)})") from error
        return found

    async def call(self, name: str, arguments: Arguments) -> ToolResult:
        """Call one of its tools. What went wrong is the result. Raises `SourceError` when the server is down."""
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS

        connection, client = await self._connected()
        connection.conduct.sent = 0
        try:
            async with asyncio.timeout(self.call_seconds):
                result = await client.call_tool(name, dict(arguments))
        except Exception as error:  # it may send anything, and the SDK raises what it then meets
            code = error.code if isinstance(error, MCPError) else None
            if code == CONNECTION_CLOSED or connection.conduct.problem:
                raise await self._down(connection, "ended in the middle of the call") from None
            if code is not None:
                return ToolResult(f"{ERROR} {cut(_line(error), DESCRIPTION)}", ok=False, down=code != INVALID_PARAMS)
            if isinstance(error, TimeoutError):  # it may only be slow, and others may wait for it too
                problem = f"did not answer within {self.call_seconds:g} s"
            else:
                problem = f"sent what is no result ({_line(error)})"
            raise SourceError(f"the MCP server {self.name!r} {problem}") from error
        text = cut(as_text(result), MOST_CHARACTERS)
        return ToolResult(f"{ERROR} {text}", ok=False) if result.is_error else ToolResult(text)

    async def close(self) -> None:
        """End the connection, and with it the process."""
        if self._connection is not None:
            await self._drop(self._connection)

    async def _connected(self) -> tuple[_Connection, Client]:
        """The connection, started if need be. Raises `SourceError`."""
        if self._connection is None:
            self._connection = _Connection(self._streams)
        connection = self._connection
        try:
            async with asyncio.timeout(self.start_seconds):
                return connection, await asyncio.shield(connection.ready)
        except TimeoutError:
            raise await self._down(connection, f"did not start within {self.start_seconds:g} s") from None
        except FileNotFoundError:
            raise await self._down(connection, f"did not start (there is no command {self.command[0]!r})") from None
        except Exception as error:
            raise await self._down(connection, f"did not start ({_line(error)})") from error

    async def _down(self, connection: _Connection, problem: str) -> SourceError:
        """The error of a connection that is of no more use; it is ended, so that the next call starts another."""
        await self._drop(connection)
        account = connection.conduct.account()
        return SourceError(
            f"the MCP server {self.name!r} {problem}" + (f"; {account}" if account and account not in problem else "")
        )

    async def _drop(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None
        await connection.close()

    @asynccontextmanager
    async def _streams(self, conduct: Conduct) -> AsyncIterator[Any]:
        if self.url:
            from mcp.client.streamable_http import streamable_http_client

            from ken.sources.tools.mcp_http import bounded_client

            async with bounded_client(conduct) as http, streamable_http_client(self.url, http_client=http) as streams:
                yield streams
        else:
            async with process_streams(self.command, conduct) as streams:
                yield streams


class _Connection:
    """A client from its start to its end, in a task of its own: the SDK wants both in the same one."""

    def __init__(self, streams: Any) -> None:
        self.conduct = Conduct()
        self.ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # somebody may have left
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._hold(streams))

    async def _hold(self, streams: Any) -> None:
        from mcp import Client

        if not (log := logging.getLogger("mcp")).handlers:
            log.addHandler(logging.NullHandler())  # else its warnings go to the user's terminal
        try:
            async with Client(streams(self.conduct)) as client:
                self.ready.set_result(client)
                await self._over.wait()
        except BaseException as error:
            if not self.ready.done():
                cause = _first(error)
                self.ready.set_exception(cause if isinstance(cause, Exception) else SourceError("it was closed"))
            if not isinstance(error, Exception):
                raise

    async def close(self) -> None:
        self._over.set()
        if not self.ready.done():
            self._task.cancel()
        await asyncio.gather(asyncio.shield(self._task), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class McpTools:
    """The tools of several servers, and why those servers that do not work have none."""

    tools: tuple[McpTool, ...]
    problems: tuple[str, ...]


@asynccontextmanager
async def open_mcp_tools(specs: Iterable[str], *, taken: Iterable[str] = (), **options: Any) -> AsyncIterator[McpTools]:
    """The tools of all servers, started together and ended with the context. taken: names that are not free; a tool
    whose name is taken, or that two servers have, is led by the name of its server. options: of `McpServer`.

    A server that does not start is a problem told, not raised. Raises `BadInput` for what names no server,
    `Unsupported` when the SDK is not installed.
    """
    servers = [McpServer(spec, **options) for spec in specs]
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise Unsupported("tools of MCP servers need its SDK; run `pip install 'ken[serve]'`") from error
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_callback(server.close)
        listed = await asyncio.gather(*(server.tools() for server in servers), return_exceptions=True)
        problems = []
        tools: list[McpTool] = []
        for found in listed:
            if isinstance(found, SourceError):
                problems.append(str(found))
            elif isinstance(found, BaseException):
                raise found
            else:
                tools += found
        yield McpTools(tuple(_named_apart(tools, taken)), tuple(problems))


def _named_apart(tools: Sequence[McpTool], taken: Iterable[str]) -> Iterable[McpTool]:
    wanted = [tool.name for tool in tools]
    used = set(taken)
    for tool in tools:
        if tool.name in used or wanted.count(tool.name) > 1:
            name = base = tag_name(f"{tool.server.name}_{tool.name}")
            number = 1
            while name in used:
                number += 1
                name = f"{base[: NAME - 4]}_{number}"
            tool.name = name  # type: ignore[misc]
        used.add(tool.name)
        yield tool


# --- what a server says ----------------------------------------------------------------------------------------------


def as_text(result: Any) -> str:
    """A result as text: its texts, what stands for what is none, and where there is no text its structured content."""
    parts = []
    for block in result.content:
        match block.type:
            case "text":
                parts.append(block.text)
            case "resource" if getattr(block.resource, "text", None) is not None:
                parts.append(block.resource.text)
            case "resource_link":
                parts.append(f"[{block.name}: {block.uri}]")
            case kind:
                parts.append(f"[{kind}]")
    text = "\n".join(parts)
    if not text.strip() and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    return text.encode(errors="replace").decode()


def tag_name(name: str) -> str:
    """A name that can be a tag.

    >>> tag_name("files/read.all")
    'files_read_all'
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:NAME].strip("_-")
    return plain if plain[:1].isalpha() else f"tool_{plain}"[:NAME].rstrip("_")


def _changes_something(annotations: Any) -> bool:
    """Whether the server says that the tool changes something. What it does not say is left to who named the server."""
    said = [getattr(annotations, name, None) for name in ("read_only_hint", "destructive_hint")]
    return said[0] is False or (said[1] is True and said[0] is not True)


def _properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _required(schema: Mapping[str, Any]) -> list[str]:
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []


def _kind(schema: Any) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return kind if isinstance(kind, str) else "anything"


def _command_name(command: Sequence[str]) -> str:
    """What a command runs: its first word that is no launcher, setting or option, without folder and ending.

    >>> _command_name(["env", "TOKEN=x", "npx", "-y", "@scope/server-files", "/tmp"])
    'server-files'
    """
    names = (PurePath(word).name for word in command if not word.startswith("-") and "=" not in word)
    chosen = next((name for name in names if not _LAUNCHERS.fullmatch(name)), command[0])
    return PurePath(chosen).stem[:NAME] or "server"


_LAUNCHERS = re.compile(r"(env|npx|uvx?|node|(ba|z)?sh|python[\d.]*)(\.exe)?")


def _first(error: BaseException) -> BaseException:
    """The cause within groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _line(error: BaseException) -> str:
    first = str(_first(error)).strip().partition("\n")[0]
    return cut(first or type(error).__name__, DESCRIPTION)
