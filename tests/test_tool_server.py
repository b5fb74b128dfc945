"""Tools as they are served: functions and endpoints with schemas, leave, rates, costs, recordings, failures on purpose,
algebra and units."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ken.core import BadInput
from ken.sources.tools.faults import UNAVAILABLE, Flaky
from ken.sources.tools.function import FunctionTool
from ken.sources.tools.http import Endpoint, HttpTool, load_http_tools
from ken.sources.tools.recording import Recording
from ken.sources.tools.tool import Rate, Toolbox, ToolResult
from ken.sources.tools.units import UnitTool


def double(n: int, unit: Literal["cm", "m"] = "cm") -> str:
    """Twice a length.

    Not for the model.
    """
    return f"{2 * n} {unit}"


class Place(BaseModel):
    """Where somebody lives."""

    city: str
    size: int | None = None


def call(box: Toolbox, tool: str, **arguments: Any) -> ToolResult:
    return asyncio.run(box.call(tool, arguments))


# --- functions ---


def test_a_typed_function_is_a_tool_with_a_schema() -> None:
    tool = FunctionTool(double)
    assert (tool.name, tool.description) == ("double", "Twice a length.")
    assert tool.parameters["properties"]["n"] == {"type": "integer"}
    assert tool.parameters["properties"]["unit"]["enum"] == ["cm", "m"]
    assert tool.parameters["required"] == ["n"]
    assert call(Toolbox([tool]), "double", n=3) == ToolResult("6 cm")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "'n' does not fit: field required"),
        ({"n": "3"}, "'n' does not fit: input should be a valid integer"),
        ({"n": 3.5}, "'n' does not fit: input should be a valid integer"),
        ({"n": True}, "'n' does not fit: input should be a valid integer"),
        ({"n": 3, "unit": "km"}, "'unit' does not fit: input should be 'cm' or 'm'"),
        ({"n": 3, "m": 1}, "'m' does not fit: extra inputs are not permitted"),
    ],
)
def test_arguments_of_a_function_must_have_its_types(arguments: dict[str, Any], says: str) -> None:
    result = call(Toolbox([FunctionTool(double)]), "double", **arguments)
    assert says in result.text
    assert result.problem == "bad_arguments"


def test_what_a_function_gives_back_is_written_as_json_and_its_schema_is_known() -> None:
    async def home(who: str) -> Place:
        return Place(city=f"{who}burg")

    tool = FunctionTool(home)
    assert tool.returns is not None
    assert tool.returns["required"] == ["city"]
    assert json.loads(call(Toolbox([tool]), "home", who="Ann").text) == {"city": "Annburg", "size": None}


def test_functions_that_cannot_be_tools_are_refused() -> None:
    def rest(*numbers: int) -> int:
        return sum(numbers)

    def untyped(n):  # type: ignore[no-untyped-def]
        return n

    def unknown(n: Nothing) -> None:  # type: ignore[name-defined]  # noqa: F821
        return n

    for function in (rest, untyped, unknown):
        with pytest.raises(BadInput):
            FunctionTool(function)


# --- leave, rates, costs ---


def test_a_tool_with_a_side_effect_needs_leave() -> None:
    sent: list[str] = []

    def send(text: str) -> str:
        """Send a message."""
        sent.append(text)
        return "sent"

    tool = FunctionTool(send, side_effect=True)
    refused = call(Toolbox([tool]), "send", text="hi")
    assert (refused.problem, sent) == ("not_allowed", [])
    for allow in (["send"], True):
        assert call(Toolbox([tool], allow=allow), "send", text="hi").ok
    assert sent == ["hi", "hi"]
    with pytest.raises(BadInput, match="no tool 'sned'"):
        Toolbox([tool], allow=["sned"])


def test_more_calls_than_the_rate_are_refused_with_the_time_to_wait() -> None:
    now = [0.0]
    box = Toolbox([FunctionTool(double)], rates={"double": Rate(2, 10.0)}, clock=lambda: now[0])
    assert [call(box, "double", n=1).ok for _ in range(2)] == [True, True]
    now[0] = 4.0
    refused = call(box, "double", n=1)
    assert (refused.problem, refused.after) == ("rate_limit", 6.0)
    now[0] = 10.0
    assert call(box, "double", n=1).ok
    with pytest.raises(BadInput):
        Rate(0, 1.0)


def test_calls_cost_and_end_with_the_budget() -> None:
    box = Toolbox([FunctionTool(double, cost=2.0)], most_cost=5.0)
    assert [call(box, "double", n=1).problem for _ in range(3)] == [None, None, "over_budget"]
    assert box.cost == 4.0
    call(box, "double", n="x")
    assert dict(box.counts["double"].kinds) == {"over_budget": 1, "bad_arguments": 1}


# --- failures on purpose, recordings ---


def test_failures_come_at_their_rate_by_the_seed_and_pass() -> None:
    def failed(rate: float, seed: int) -> list[bool]:
        box = Toolbox([Flaky(FunctionTool(double), rate, seed=seed)])
        results = [call(box, "double", n=n) for n in range(120)]
        assert all(r.ok or (r.problem == "unavailable" and UNAVAILABLE in r.text) for r in results)
        return [not r.ok for r in results]

    assert failed(0.3, 1) == failed(0.3, 1) != failed(0.3, 2)
    assert 20 <= sum(failed(0.3, 1)) <= 52
    assert not any(failed(0.0, 1))
    assert all(failed(1.0, 1))
    box = Toolbox([Flaky(FunctionTool(double), 0.5, seed=0)])
    assert len({call(box, "double", n=1).ok for _ in range(20)}) == 2, "the same call has another chance"
    with pytest.raises(BadInput):
        Flaky(FunctionTool(double), 1.5)


def test_what_was_recorded_is_answered_again_without_a_call(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    calls: list[int] = []

    def count(n: int) -> int:
        calls.append(n)
        return len(calls)

    box = Toolbox([FunctionTool(count, side_effect=True)], allow=True, recording=Recording(path))
    first = [call(box, "count", n=n).text for n in (1, 1, 2)]
    again = Toolbox([FunctionTool(count, side_effect=True)], allow=True, recording=Recording(path, replays=True))
    assert [call(again, "count", n=n).text for n in (1, 1, 2)] == first == ["1", "2", "3"]
    assert call(again, "count", n=1).text == "2", "and the last answer for ever after"
    assert call(again, "count", n=9).problem == "not_recorded"
    assert calls == [1, 1, 2]
    assert Recording().rewind().replay("count", {}).problem == "not_recorded"


@pytest.mark.parametrize(
    "text", ["nonsense", '{"tool": 1}', "[]", '{"tool":"a","arguments":{},"text":"x","error":"odd"}']
)
def test_a_recording_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "calls").write_text(text)
    with pytest.raises(BadInput, match="line 1"):
        Recording(tmp_path / "calls", replays=True)
    with pytest.raises(BadInput, match="cannot be read"):
        Recording(tmp_path / "none", replays=True)


# --- endpoints ---


class Server(BaseHTTPRequestHandler):
    """Tells what it was asked; misbehaves by path."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        status = next((int(part) for part in self.path.split("/") if part.isdecimal() and len(part) == 3), 200)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "2")
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        if "flood" in self.path:
            try:
                for _ in range(40):
                    self.wfile.write(b"x" * 100_000)
            except OSError:
                return
        told = {"method": self.command, "path": self.path, "body": body, "key": self.headers.get("x-key", "")}
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
Make = Callable[..., HttpTool]


@pytest.fixture
def weather(address: str) -> Make:
    def make(path: str = "/weather/{city}", **fields: Any) -> HttpTool:
        described = {"name": "weather", "description": "The weather.", "url": address + path, "parameters": PLACE}
        return HttpTool(Endpoint.model_validate({**described, **fields}))

    return make


def test_an_endpoint_gets_its_arguments_in_path_query_or_body_and_nowhere_else(weather: Make) -> None:
    def told(tool: HttpTool, **arguments: Any) -> dict[str, str]:
        async def once() -> ToolResult:
            box = Toolbox([tool], allow=True)
            try:
                return await box.call("weather", arguments)
            finally:
                await box.close()

        return json.loads(asyncio.run(once()).text)

    assert told(weather(headers={"x-key": "k"}), city="Lisbon", days=2) == {
        "method": "GET",
        "path": "/weather/Lisbon?days=2",
        "body": "",
        "key": "k",
    }
    assert told(weather(), city="../../admin?x=1#y")["path"] == "/weather/..%2F..%2Fadmin%3Fx%3D1%23y"
    assert json.loads(told(weather("/weather", method="POST"), city="Lisbon")["body"]) == {"city": "Lisbon"}
    assert told(weather("/weather?v=1"), city="a b&c")["path"] == "/weather?v=1&city=a+b%26c"


@pytest.mark.parametrize(
    ("path", "arguments", "kind", "says"),
    [
        ("/weather/{city}", {}, "bad_arguments", "'city' is a required property"),
        ("/weather/{city}", {"city": 3}, "bad_arguments", "is not of type 'string'"),
        ("/weather/{city}", {"city": ".."}, "bad_arguments", "'city' is missing"),
        ("/weather/{city}", {"city": "x", "days": 0}, "bad_arguments", "less than the minimum"),
        ("/429/{city}", {"city": "x"}, "rate_limit", "status 429"),
        ("/403/{city}", {"city": "x"}, "not_allowed", "status 403"),
        ("/404/{city}", {"city": "x"}, "failed", "status 404"),
        ("/503/{city}", {"city": "x"}, "unavailable", "status 503"),
        ("/302/{city}", {"city": "x"}, "failed", "redirect"),
        ("/flood/{city}", {"city": "x"}, "failed", "more than 1 MB"),
    ],
)
def test_what_goes_wrong_at_an_endpoint_has_a_kind(
    weather: Make, path: str, arguments: dict[str, Any], kind: str, says: str
) -> None:
    result = call(Toolbox([weather(path)]), "weather", **arguments)
    assert result.problem == kind
    assert says in result.text
    assert result.after == (2.0 if kind == "rate_limit" else None)


def test_a_server_that_is_away_and_a_post_without_leave(weather: Make) -> None:
    gone = HttpTool(Endpoint(name="gone", description="", url="http://127.0.0.1:1/x"))
    assert call(Toolbox([gone]), "gone").problem == "unavailable"
    assert call(Toolbox([weather(method="POST")]), "weather", city="x").problem == "not_allowed"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "cannot be read"),
        ("{}", "no list"),
        ('[{"name": "a b", "description": "", "url": "http://x"}]', "tool 1: name"),
        ('[{"name": "a", "description": "", "url": "file:///etc/passwd"}]', "no address"),
        ('[{"name": "a", "description": "", "url": "http://{host}/x"}]', "no address"),
        ('[{"name": "a", "description": "", "url": "http://x/{city}"}]', "a place for 'city'"),
        ('[{"name": "a", "description": "", "url": "http://x", "parameters": {"type": "odd"}}]', "no JSON schema"),
    ],
)
def test_a_file_of_endpoints_says_what_is_wrong_with_it(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(text)
    with pytest.raises(BadInput, match=says):
        load_http_tools(tmp_path / "tools.json")


# --- algebra and units ---


def test_algebra_runs_in_the_sandbox() -> None:
    pytest.importorskip("sympy")
    from ken.sources.tools.algebra import AlgebraTool

    box = Toolbox([AlgebraTool()])
    assert call(box, "algebra", operation="solve", expression="x^2 - 4 = 0").text == "[-2, 2]"
    assert call(box, "algebra", operation="equal", expression="(x + 1)^2", other="x^2 + 2x + 1").text == "True"
    broken = call(box, "algebra", operation="simplify", expression="((")
    assert (broken.ok, broken.text.count("[ERROR]")) == (False, 1)
    assert call(box, "algebra", operation="guess", expression="x").problem == "bad_arguments"


@pytest.mark.parametrize(
    ("amount", "unit", "to", "value"),
    [
        (60, "mile / hour", "m/s", "26.8224 m/s"),
        (20, "degC", "degF", "68 degF"),
        (2, "kg m^2 / s^2", "J", "2 J"),
        (1, "%", "ppm", "10000 ppm"),
    ],
)
def test_units_are_converted(amount: float, unit: str, to: str, value: str) -> None:
    pytest.importorskip("pint")
    assert call(UNITS, "convert", amount=amount, unit=unit, to=to) == ToolResult(value)


UNITS = Toolbox([UnitTool()])


@pytest.mark.parametrize(
    "unit", ["", "foo", "kg", "m**9999", "m^9^9^9", "m" * 61, "__import__('os')", "m; n", "(m)", "\0"]
)
def test_what_is_no_unit_is_an_error_at_once(unit: str) -> None:
    pytest.importorskip("pint")
    assert call(UNITS, "convert", amount=1, unit=unit, to="m").problem == "failed"


@given(st.text(alphabet="mkgs*^/-12 9.%()µ_·", max_size=20), st.text(max_size=8))
def test_no_text_breaks_the_converter(unit: str, to: str) -> None:
    pytest.importorskip("pint")
    result = call(UNITS, "convert", amount=1, unit=unit, to=to)
    assert result.text
    assert not result.down
