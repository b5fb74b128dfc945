"""Models tell what they write while they write it, and what they return does not depend on who listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from faulty_server import (
    ERROR_200,
    GARBAGE,
    HTML,
    Action,
    Answer,
    Body,
    Drop,
    FaultyServer,
    Hang,
    Status,
    Stream,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_fallback_tokenizer, byte_level_tokenizer, says, write_model

from ken.agents import load_strategy
from ken.agents.watch import Watch
from ken.core import BadInput, ModelError, Question, Sampling
from ken.models import Generation, Message, Model
from ken.models.chat_chunks import StreamedReply
from ken.models.chat_completions import complete
from ken.models.endpoint import EndpointModel
from ken.models.local import LocalModel
from ken.models.scripted import ScriptedModel
from ken.sources import Sources

TAGGED = "<think> it is in the atlas </think> <search> capital of Peru </search> Lima, I say </answer> and more"


async def heard(model: Model, text: str = "hello", **sampling: Any) -> tuple[Generation, list[str]]:
    pieces: list[str] = []
    conversation = [Message("user", text)]
    (generation,) = await model.generate(conversation, sampling=Sampling(**sampling), on_text=pieces.append)
    return generation, pieces


def timeless(generation: Generation) -> Generation:
    """All of it but the time that it took."""
    return replace(generation, usage=generation.usage.model_copy(update={"seconds": 0.0}))


# --- endpoints -------------------------------------------------------------------------------------------------------


def model_of(server: FaultyServer, **options: Any) -> EndpointModel:
    options = {"timeout": 30, "backoff_base": 0.005, "backoff_cap": 0.02, **options}
    return EndpointModel("m", base_url=server.base_url, **options)


def both(plan: Callable[[int, dict[str, Any]], Action], **sampling: Any) -> tuple[Generation, list[str]]:
    """What is returned and told, after checking that the same is returned when nobody listens."""

    async def run() -> tuple[Generation, list[str]]:
        listened, alone = model_of(server), model_of(server)
        generation, pieces = await heard(listened, **sampling)
        (unheard,) = await alone.generate([Message("user", "hello")], sampling=Sampling(**sampling))
        assert timeless(generation) == timeless(unheard)
        await asyncio.gather(listened.close(), alone.close())
        return generation, pieces

    with FaultyServer(plan) as server:
        generation, pieces = asyncio.run(run())
    assert "".join(pieces) == generation.text
    assert all(pieces)
    return generation, pieces


LOGPROBS = [("Lima", -0.5), (" is", -0.25), (" it", -0.1), ("<|end|>", -0.01)]
REPLIES: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "plain": (Answer("Lima is it"), ()),
    "no text": (Answer(""), ()),
    "cut by the limit": (Answer("Lima is", finish_reason="length"), ()),
    "log-probabilities": (Answer("Lima is it", logprobs=LOGPROBS), ()),
    "not stopped by the server": (Answer(TAGGED), ("</search>", "</answer>")),
    "stopped, named": (Answer("<search> Peru ", choice={"stop_reason": "</search>"}), ("</search>",)),
    "stopped, not named": (Answer("<search> Peru "), ("</search>",)),
    "stop string kept": (Answer("<search> Peru </search>"), ("</search>", "</answer>")),
    "no usage": (Answer("Lima", usage=None), ()),
    "a refusal": (Answer("", message={"refusal": "I will not say", "content": None}), ()),
    "thoughts given apart": (Answer("Lima", message={"reasoning_content": "<answer> Quito </answer>"}), ("</answer>",)),
    "line separators": (Answer("one\u2028two\x85three\x0bfour"), ()),
    "not ASCII": (Answer("日本語 🙂 té"), ()),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_streamed_reply_is_the_reply_of_one_piece(name: str) -> None:
    answer, stops = REPLIES[name]
    generation, _ = both(lambda number, payload: answer, stop=stops)
    assert generation.usage.completion_tokens == (0 if name == "no usage" else 3)
    assert (generation.logprobs is not None) == (name == "log-probabilities")


def test_the_server_is_asked_to_stream_only_when_somebody_listens() -> None:
    with FaultyServer() as server:
        model = model_of(server)

        async def run() -> None:
            await heard(model)
            await model.generate([Message("user", "hello")])

        asyncio.run(run())
    streamed, whole = (request.payload for request in server.requests)
    assert streamed.pop("stream") is True
    assert streamed.pop("stream_options") == {"include_usage": True}
    assert streamed == whole


def test_pieces_come_before_the_reply_is_complete_and_a_cancelled_call_lets_the_server_go() -> None:
    async def run() -> list[str]:
        pieces: list[str] = []
        begun = asyncio.Event()

        def tell(piece: str) -> None:
            pieces.append(piece)
            begun.set()

        task = asyncio.create_task(model_of(server).generate([Message("user", "x")], on_text=tell))
        await asyncio.wait_for(begun.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.wait_until(lambda: server.disconnects == 1 and server.in_flight == 0)
        return pieces

    with FaultyServer(lambda number, payload: Stream(("Li",), then="hang")) as server:
        assert asyncio.run(run()) == ["Li"]
    assert len(server.requests) == 1


BREAKS: dict[str, tuple[Action, str]] = {
    "drops": (Stream(("Lima", " is"), then="drop"), "the connection to .* broke"),
    "ends early": (Stream(("Lima", " is"), then="end"), "the stream ended before the reply was complete; ask again"),
    "stalls": (Stream(("Lima", " is"), then="hang"), "no complete reply within 1 s; raise --timeout"),
    "drips": (Stream(("Lima", " is"), then="drip"), "no complete reply within 1 s; raise --timeout"),
    "sends garbage": (Stream(("Lima", " is"), then=b"data: \x00\xff{\n\n"), "the stream holds what is not JSON"),
    "sends a list": (Stream(("Lima", " is"), then=b"data: [1]\n\n"), "no chunk of a reply"),
    "sends strange choices": (Stream(("Lima", " is"), then=b'data: {"choices": [7]}\n\n'), "a choice that is none"),
    "sends an error": (
        Stream(("Lima", " is"), then=b'data: {"error": {"message": "out of memory"}}\n\n'),
        r"reported an error \(out of memory\); see the server's log",
    ),
    "sends an error event": (Stream(("Lima", " is"), then=b"event: error\ndata: overloaded\n\n"), "overloaded"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_server_that_breaks_off_ends_the_call_with_one_sentence_and_is_not_asked_again(name: str) -> None:
    action, said = BREAKS[name]
    pieces: list[str] = []
    with FaultyServer(lambda number, payload: action) as server:
        model = model_of(server, timeout=1.0 if name in {"stalls", "drips"} else 30.0)
        with pytest.raises(ModelError, match=said) as caught:
            asyncio.run(model.generate([Message("user", "x")], on_text=pieces.append))
        assert len(server.requests) == 1
    assert pieces == ["Lima", " is"]
    message = str(caught.value)
    assert message.startswith("openai/m broke off in its answer: ")
    assert "\n" not in message
    assert len(message) < 400


BEFORE: dict[str, Action] = {
    "503": Status(503),
    "a page": HTML,
    "garbage": GARBAGE,
    "an error with status 200": ERROR_200,
    "dropped": Drop(),
    "dropped in the headers": Drop(20),
    "hangs": Hang(),
    "stream drops": Stream(then="drop"),
    "stream ends": Stream(),
    "stream of garbage": Stream(then=b"\x00\xff\xfe not\na stream\n\n"),
    "stream is an error": Stream(then=b'event: error\ndata: {"message": "overloaded"}\n\n'),
    "stream hangs": Stream(then="hang"),
    "stream of a page": Body(b"data: <html>\n\n", "text/event-stream"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_fault_before_the_first_piece_is_survived_as_ever(name: str) -> None:
    with FaultyServer(lambda number, payload: BEFORE[name] if number < 2 else Answer("Lima is it")) as server:
        model = model_of(server, timeout=0.5 if "hangs" in name else 30.0)
        generation, pieces = asyncio.run(heard(model))
        assert len(server.requests) == 3
    assert generation.text == "Lima is it"
    assert pieces == ["Lima", " is", " it"]


def chunk(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {}, **choice}]}).encode() + b"\n\n"


@pytest.mark.parametrize("then", [b"", b"data: oh no\n\n", b'data: {"error": "late"}\n\n'])
def test_a_reply_that_is_complete_counts_however_the_stream_ends(then: bytes) -> None:
    with FaultyServer(lambda number, payload: Stream(("Lima",), then=chunk(finish_reason="stop") + then)) as server:
        generation, pieces = asyncio.run(heard(model_of(server)))
    assert (generation.text, generation.ended, pieces) == ("Lima", "end", ["Lima"])


def test_a_server_that_ignores_that_it_should_stream_tells_all_at_once() -> None:
    whole = {"choices": [{"message": {"content": "Lima is it"}, "finish_reason": "stop"}]}
    _, pieces = both(lambda number, payload: Body(json.dumps(whole).encode()))
    assert pieces == ["Lima is it"]


@pytest.mark.parametrize("unknown", ["stream", "stream_options"])
def test_a_server_that_does_not_know_how_to_stream_is_asked_without(unknown: str) -> None:
    def plan(number: int, payload: dict[str, Any]) -> Action:
        refusal = {"error": {"message": f"Unrecognized request argument supplied: {unknown}", "param": unknown}}
        return Status(400, refusal) if unknown in payload else Answer("Lima is it", usage=None)

    generation, pieces = both(plan)
    assert generation.text == "Lima is it"
    assert len(pieces) == (1 if unknown == "stream" else 3)


def test_a_content_filter_is_reported_as_ever() -> None:
    answer = Answer("", finish_reason="content_filter", message={"content": None})
    with FaultyServer(lambda number, payload: answer) as server, pytest.raises(ModelError, match="content filter"):
        asyncio.run(heard(model_of(server)))


def test_connections_are_used_again() -> None:
    async def run() -> None:
        model = model_of(server)
        for _ in range(5):
            await heard(model)
        await model.close()

    with FaultyServer() as server:
        asyncio.run(run())
        assert server.connections == 1


@settings(deadline=None, max_examples=300)
@given(
    text=st.lists(
        st.sampled_from([*"</a>", "</a>", "\u2028", "é🙂", "\ud83d", "\ude42", "\ud83d\ude42", "\n", "b"])
    ).map("".join),
    stops=st.lists(st.sampled_from(["</a>", "</", "a>b", "é🙂", "\n"]), max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    byte_cuts=st.lists(st.integers(0, 4000), max_size=12),
)
def test_however_a_text_is_cut_into_chunks_and_packets_what_is_told_is_what_is_returned(
    text: str, stops: list[str], cuts: list[int], byte_cuts: list[int]
) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    stream = b"".join(chunk(delta={"content": text[a:b]}) for a, b in pairwise(places))
    stream += chunk(finish_reason="length") + b"data: [DONE]\n\n"
    pieces: list[str] = []
    reply = StreamedReply(pieces.append, stops)
    marks = sorted({0, len(stream), *(cut for cut in byte_cuts if cut < len(stream))})
    for a, b in pairwise(marks):
        reply.feed(stream[a:b])
    done = complete(reply.reply().choices[0], stops)
    told = "".join(pieces)
    assert all(pieces)
    assert reply.told == len(told)
    assert done.text.startswith(told)
    assert len(done.text) - len(told) <= 1, "at most half a character is told late"


# --- models in this process ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["byte-level", "byte-fallback"])
def local(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    tokenizer = byte_level_tokenizer() if request.param == "byte-level" else byte_fallback_tokenizer()
    folder: Path = tmp_path_factory.mktemp("model")
    return LocalModel(write_model(folder, tokenizer))


@pytest.mark.parametrize(
    "how",
    [
        Sampling(max_tokens=40),
        Sampling(max_tokens=40, temperature=1.0, seed=3),
        Sampling(max_tokens=60, temperature=1.0, seed=5, stop=("e", "<s")),
    ],
)
def test_a_local_model_tells_its_tokens_on_the_callers_loop(local: LocalModel, how: Sampling) -> None:
    async def run() -> None:
        pieces: list[str] = []
        loops = set()

        def tell(piece: str) -> None:
            pieces.append(piece)
            loops.add(asyncio.get_running_loop())

        (listened,) = await local.generate(says("Elbe"), sampling=how, on_text=tell)
        (alone,) = await local.generate(says("Elbe"), sampling=how)
        assert timeless(listened) == timeless(alone)
        assert listened.tokens is not None
        assert pieces == [token for token in listened.tokens if token]
        assert loops == {asyncio.get_running_loop()}

    asyncio.run(run())


def test_listeners_of_one_batch_hear_each_their_own(local: LocalModel) -> None:
    async def run() -> None:
        prompts = ["Elbe", "Elbe", "Where?", "a", "Elbe"]
        told: list[list[str]] = [[] for _ in prompts]
        hows = [Sampling(max_tokens=30, temperature=1.0, seed=i) for i in range(len(prompts))]
        done = await asyncio.gather(
            *(
                local.generate(says(prompt), sampling=how, on_text=pieces.append)
                for prompt, how, pieces in zip(prompts, hows, told, strict=True)
            )
        )
        assert ["".join(pieces) for pieces in told] == [generation.text for (generation,) in done]
        assert len({generation.text for (generation,) in done}) == len(prompts)

    asyncio.run(run())


def test_a_cancelled_listener_hears_no_more(local: LocalModel) -> None:
    async def run() -> None:
        pieces: list[str] = []
        begun = asyncio.Event()

        def tell(piece: str) -> None:
            pieces.append(piece)
            begun.set()

        task = asyncio.create_task(
            local.generate(says("Elbe"), sampling=Sampling(max_tokens=900, temperature=1.0), on_text=tell)
        )
        await asyncio.wait_for(begun.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        count = len(pieces)
        await local.generate(says("a"), sampling=Sampling(max_tokens=3))  # the batch before has ended
        assert len(pieces) == count

    asyncio.run(run())


def test_a_scripted_model_tells_its_words() -> None:
    model = ScriptedModel(lambda prompt: TAGGED)
    generation, pieces = asyncio.run(heard(model, stop=("</search>",)))
    assert generation.text == TAGGED[: TAGGED.index(" Lima")]
    assert "".join(pieces) == generation.text
    assert len(pieces) == len(generation.text.split())


def test_one_continuation_at_a_time_can_be_heard(local: LocalModel) -> None:
    for model in (local, ScriptedModel(lambda prompt: "x"), EndpointModel("m", base_url="http://localhost:1/v1")):
        with pytest.raises(BadInput, match="on_text"):
            asyncio.run(model.generate([Message("user", "x")], n=2, on_text=print))


# --- attempts --------------------------------------------------------------------------------------------------------

QUESTION = Question(id="q", text="Where does the Elbe end?")


class Notes(Watch):
    def __init__(self) -> None:
        self.turns: list[list[str]] = []

    def turn(self) -> None:
        self.turns.append([])

    def wrote(self, text: str) -> None:
        self.turns[-1].append(text)


class Unstreamed(ScriptedModel):
    """A model written before models could tell."""

    async def generate(self, conversation: Any, *, n: int = 1, sampling: Sampling = Sampling()) -> list[Generation]:  # type: ignore[override]
        return await super().generate(conversation, n=n, sampling=sampling)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("kind", [ScriptedModel, Unstreamed])
def test_who_watches_an_attempt_hears_all_that_the_model_writes(kind: type[ScriptedModel], greedy: bool) -> None:
    thought, answer = "<think> a river </think>", " <answer> the North Sea </answer>"

    def reply(prompt: str) -> str:
        return answer if thought in prompt else thought + answer

    notes = Notes()
    sampling = Sampling(temperature=1.0, greedy_thoughts=greedy)
    attempt = load_strategy("direct").run(QUESTION, kind(reply), Sources(), sampling=sampling, watch=notes)
    written = [segment.text for segment in asyncio.run(attempt).segments if segment.role == "policy"]
    assert ["".join(turn) for turn in notes.turns] == written == [thought + answer]
    calls = 2 if greedy else 1
    assert len(notes.turns[0]) == (calls if kind is Unstreamed else len(written[0].split()))


def test_nobody_watching_the_model_is_called_as_ever() -> None:
    told: list[Any] = []

    class Asked(ScriptedModel):
        async def generate(self, *args: Any, on_text: Any = None, **kwargs: Any) -> list[Generation]:
            told.append(on_text)
            return await super().generate(*args, **kwargs)

    model = Asked(lambda prompt: "<answer> the North Sea </answer>")
    asyncio.run(load_strategy("direct").run(QUESTION, model, Sources()))
    assert told == [None]
