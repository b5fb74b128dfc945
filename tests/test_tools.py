"""Tools behind one interface: the box that calls and counts them, the calculator, and search with its cache."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.core import BadInput, Passage, SourceError, Unsupported
from ken.sources.search.protocol import Retriever
from ken.sources.tools.arithmetic import Arithmetic, evaluate
from ken.sources.tools.search_tool import NOTHING, CachedRetriever, SearchTool
from ken.sources.tools.tool import Arguments, Tool, Toolbox, ToolCount, ToolResult, cut, misfit


class Greeter(Tool):
    """Greets, or does as its argument says."""

    name: ClassVar[str] = "greet"
    description: ClassVar[str] = "Say hello."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {
            "who": {"type": "string"},
            "times": {"type": "integer"},
            "tone": {"type": ["string", "null"], "enum": ["warm", "cold", None]},
        },
        "required": ["who"],
    }

    async def call(self, arguments: Arguments) -> ToolResult:
        match arguments["who"]:
            case "raise":
                raise ValueError("no\nway")
            case "down":
                raise SourceError("the greeter is away")
            case "hang":
                await asyncio.sleep(60)
            case "unable":
                raise Unsupported("not on this machine")
        return ToolResult(f"hello {arguments['who']}")


def call(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return asyncio.run(box.call(name, arguments))


# --- the box ---


def test_a_call_reaches_its_tool_and_is_counted_under_its_name_alone() -> None:
    box = Toolbox([Greeter(), Arithmetic()])
    assert call(box, "greet", who="Ann") == ToolResult("hello Ann")
    assert call(box, "code", code="6 * 7") == ToolResult("42")
    assert call(box, "code", code="6 *").ok is False
    assert [(c.calls, c.errors, c.down) for c in (box.counts["greet"], box.counts["code"])] == [(1, 0, 0), (2, 1, 0)]


@pytest.mark.parametrize(
    ("name", "arguments", "says", "down"),
    [
        ("sing", {}, "[ERROR] there is no tool 'sing'; tools: greet", False),
        ("greet", {}, "[ERROR] the argument 'who' is missing", False),
        ("greet", {"who": 3}, "[ERROR] the argument 'who' must be of type string", False),
        ("greet", {"who": "x", "times": "3"}, "[ERROR] the argument 'times' must be of type integer", False),
        ("greet", {"who": "x", "times": True}, "[ERROR] the argument 'times' must be of type integer", False),
        ("greet", {"who": "x", "tone": "rude"}, "[ERROR] the argument 'tone' must be one of warm, cold, None", False),
        ("greet", {"who": "x", "y": 1}, "[ERROR] there is no argument 'y'; arguments: who, times, tone", False),
        ("greet", {"who": "raise"}, "[ERROR] greet failed: ValueError: no\nway", True),
        ("greet", {"who": "down"}, "[ERROR] the greeter is away", True),
        ("greet", {"who": "hang"}, "[ERROR] greet did not answer within 0.05 s", True),
    ],
)
def test_whatever_goes_wrong_is_an_observation(name: str, arguments: dict[str, Any], says: str, down: bool) -> None:
    result = call(Toolbox([Greeter()], seconds=0.05), name, **arguments)
    assert (result.text, result.ok, result.down) == (says, False, down)


def test_a_tool_that_this_machine_cannot_run_is_no_fault_of_the_model() -> None:
    with pytest.raises(Unsupported):
        call(Toolbox([Greeter()]), "greet", who="unable")


def test_two_tools_cannot_share_a_name() -> None:
    with pytest.raises(BadInput, match="'code'"):
        Toolbox([Arithmetic(), Arithmetic()])


def test_training_stops_when_a_tool_is_down_in_more_than_a_twentieth_of_its_calls() -> None:
    box = Toolbox([Greeter()])
    box.counts["greet"] = ToolCount(calls=100, errors=50, down=5)
    box.check()
    box.counts["greet"].down += 1
    with pytest.raises(SourceError, match="'greet' was down in 6 of 100 calls"):
        box.check()
    box.counts["greet"] = ToolCount(calls=19, errors=19, down=19)
    box.check()


def test_a_schema_is_what_function_calling_models_are_told() -> None:
    schema = Arithmetic().schema
    assert schema["function"]["name"] == "code"
    assert schema["function"]["parameters"]["required"] == [Arithmetic().content] == ["code"]


@given(st.text(max_size=300), st.integers(50, 100))
def test_a_cut_keeps_to_its_limit_and_short_texts_as_they_are(text: str, limit: int) -> None:
    short = cut(text, limit)
    assert len(short) <= limit
    assert short == text if len(text) <= limit else (text.startswith(short[:5]) and text.endswith(short[-5:]))


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=3)))
def test_fitting_arguments_are_exactly_those_the_schema_allows(arguments: dict[str, Any]) -> None:
    fits = set(arguments) <= {"x"} and isinstance(arguments.get("x"), str)
    assert (misfit(arguments, {"properties": {"x": {"type": "string"}}, "required": ["x"]}) == "") == fits


# --- arithmetic ---


@pytest.mark.parametrize(
    ("expression", "value"),
    [("482 * 317", 152794), ("482 - 317", 165), ("7 // 2", 3), ("-(2 + 3) % 4", 3), ("1/4", 0.25), ("  (12)\n", 12)],
)
def test_expressions_have_pythons_values(expression: str, value: float) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("print(12 * 34)", "408"),
        ("print( 2 / 3 )", "0.666666666667"),
        ("2 ** 9", "[ERROR] only numbers, + - * / // % and parentheses can be worked out"),
        ("9 ** 9 ** 9 ** 9", "[ERROR] only numbers, + - * / // % and parentheses can be worked out"),
        ("__import__('os')", "[ERROR] only numbers, + - * / // % and parentheses can be worked out"),
        ("1 +", "[ERROR] the expression cannot be read"),
        ("007", "[ERROR] the expression cannot be read"),
        ("", "[ERROR] only numbers, + - * / // % and parentheses can be worked out"),
        ("1()", "[ERROR] only numbers, + - * / // % and parentheses can be worked out"),
        ("5 // (3 - 3)", "[ERROR] division by zero"),
        ("9" * 31, "[ERROR] the value is too large"),
        ("9" * 30 + "*" + "9" * 30, "[ERROR] the value is too large"),
        ("1" * 201, "[ERROR] the expression is longer than 200 characters"),
        ("(" * 100 + "1" + ")" * 99, "[ERROR] the expression cannot be read"),
    ],
)
def test_the_calculator_answers_or_says_why_not(code: str, says: str) -> None:
    assert call(Toolbox([Arithmetic()]), "code", code=code).text == says


@given(st.text(alphabet="0123456789+-*/%() .e\n_", max_size=220))
def test_no_text_breaks_the_calculator(text: str) -> None:
    result = call(Toolbox([Arithmetic()]), "code", code=text)
    assert not result.down
    assert result.text


# --- search ---


class Engine:
    """Finds a passage that repeats the query; fails when told."""

    name = "engine"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.fails = False

    async def search(self, query: str, k: int) -> list[Passage]:
        self.asked.append((query, k))
        if self.fails:
            raise SourceError("the engine is away")
        return [Passage(id=f"{query}/{i}", title="Elbe", text=f"about {query}") for i in range(k)]

    async def close(self) -> None:
        pass


def ask(cache: CachedRetriever, *queries: str, k: int = 1) -> list[str]:
    async def all_of_them() -> list[Sequence[Passage]]:
        return [await cache.search(query, k) for query in queries]

    return [passages[0].id for passages in asyncio.run(all_of_them())]


def test_a_query_asked_before_is_not_sent_again() -> None:
    engine = Engine()
    cache = CachedRetriever(engine, fuzzy=None)
    assert isinstance(cache, Retriever)
    assert ask(cache, "mouth of the Elbe", "Mouth  of the elbe", "mouth of the Elbe?") == [
        "mouth of the Elbe/0",
        "mouth of the Elbe/0",
        "mouth of the Elbe?/0",
    ]
    assert (cache.count.exact, cache.count.fuzzy, cache.count.missed) == (1, 0, 2)
    ask(cache, "mouth of the Elbe", k=2)
    assert len(engine.asked) == 3, "another k is another question"


def test_a_query_that_resembles_one_with_seven_tenths_is_answered_like_it() -> None:
    engine = Engine()
    cache = CachedRetriever(engine)
    assert ask(cache, "population of Germany", "the population of Germany", "river Elbe") == [
        "population of Germany/0",
        "population of Germany/0",
        "river Elbe/0",
    ]
    assert (cache.count.exact, cache.count.fuzzy, cache.count.missed) == (0, 1, 2)


def test_the_most_similar_query_wins_and_only_the_latest_are_compared() -> None:
    cache = CachedRetriever(Engine(), candidates=2)
    assert ask(cache, "abcdefgh", "abcdefxy", "abcdefxz") == ["abcdefgh/0", "abcdefgh/0", "abcdefgh/0"]
    cache = CachedRetriever(Engine(), candidates=1)
    assert ask(cache, "abcdefgh", "0123456789", "abcdefgx") == ["abcdefgh/0", "0123456789/0", "abcdefgx/0"]


def test_entries_grow_old_and_leave() -> None:
    now = [0.0]
    engine = Engine()
    cache = CachedRetriever(engine, fuzzy=None, seconds=10, size=2, clock=lambda: now[0])
    ask(cache, "a", "b", "a")
    assert len(engine.asked) == 2
    ask(cache, "c")  # b, least recently used, leaves
    ask(cache, "a", "b")
    assert [query for query, _ in engine.asked] == ["a", "b", "c", "b"]
    now[0] = 11.0
    ask(cache, "b")
    assert len(engine.asked) == 5


class Gate(Engine):
    """Answers when the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def search(self, query: str, k: int) -> list[Passage]:
        await self.open.wait()
        return await super().search(query, k)


@pytest.mark.parametrize("fails", [False, True])
def test_who_asks_the_same_at_the_same_time_waits_for_one_search(fails: bool) -> None:
    async def three() -> None:
        engine = Gate()
        cache = CachedRetriever(engine, fuzzy=None)
        engine.fails = fails
        asking = [asyncio.create_task(cache.search("Elbe", 1)) for _ in range(3)]
        await asyncio.sleep(0)
        engine.open.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(f, SourceError) if fails else f[0].id == "Elbe/0" for f in found)
        assert len({id(f) for f in found if not fails}) == 3 * (not fails), "nobody can change another's list"
        if not fails:
            assert engine.asked == [("Elbe", 1)]
            assert (cache.count.exact, cache.count.missed) == (2, 1)

    asyncio.run(three())


def test_whoever_waits_searches_itself_when_the_one_who_began_is_cancelled() -> None:
    async def two() -> None:
        engine = Gate()
        cache = CachedRetriever(engine, fuzzy=None)
        first, second, third = (asyncio.create_task(cache.search("Elbe", 1)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        third.cancel()  # and waiting can be given up as well
        await asyncio.gather(first, third, return_exceptions=True)
        engine.open.set()
        assert (await second)[0].id == "Elbe/0"
        assert first.cancelled()
        assert third.cancelled()
        assert len(engine.asked) == 1, "the search that was given up never got as far as the engine"

    asyncio.run(two())


def test_a_failed_search_is_not_remembered() -> None:
    engine = Engine()
    cache = CachedRetriever(engine)
    engine.fails = True
    with pytest.raises(SourceError):
        ask(cache, "Elbe")
    engine.fails = False
    assert ask(cache, "Elbe") == ["Elbe/0"]


@pytest.mark.parametrize("fuzzy", [0.0, -1.0, 1.1])
def test_a_ratio_that_makes_no_sense_is_refused(fuzzy: float) -> None:
    with pytest.raises(BadInput, match="fuzzy"):
        CachedRetriever(Engine(), fuzzy=fuzzy)


def test_search_is_a_tool_like_others() -> None:
    engine = Engine()
    box = Toolbox([SearchTool(engine, top_k=2)])
    result = call(box, "search", query="Elbe")
    assert result.text == "Elbe: about Elbe\nElbe: about Elbe"
    assert [p.id for p in result.passages] == ["Elbe/0", "Elbe/1"]
    assert call(box, "search", query=" ") == ToolResult(NOTHING)
    engine.fails = True
    assert call(box, "search", query="Elbe") == ToolResult("[ERROR] the engine is away", ok=False, down=True)
