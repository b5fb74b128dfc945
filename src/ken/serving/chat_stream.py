"""A chat completion as it comes about: server-sent events of OpenAI's chunks.

What the model writes inside its final `<answer>` goes out as content, its thoughts as `reasoning_content`; decisions
and searches as chunks with an empty delta and the field `ken`. The last chunk has the whole field. A failure after the
first event ends the stream with an event that holds `error`, and no `[DONE]`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.types import Receive, Scope, Send

from ken.agents.watch import Watch
from ken.core import Decision, Observation, Search, Step, Trajectory
from ken.serving.answer_text import AnswerText
from ken.serving.citations import appendix, citations
from ken.serving.completion import answered, ken_info, new_id, passage_infos, stops, summary, token_usage
from ken.serving.disconnect import ended, while_there
from ken.serving.errors import ApiError, as_api_error, note
from ken.serving.openai_types import ChatRequest
from ken.serving.service import Ask, Service
from ken.serving.sse import EventStream, event

DONE = "data: [DONE]\n\n"
ALIVE = ": still working\n\n"  # a comment, which clients skip: proxies cut connections that are silent for long
ALIVE_SECONDS = 15.0


class ChatStream(EventStream):
    """The reply. The attempt ends with it, also when the client leaves."""

    def __init__(self, events: AsyncIterator[str], attempt: asyncio.Task[Trajectory]) -> None:
        super().__init__(events)
        self._attempt = attempt

    @classmethod
    async def started(cls, request: Request, service: Service, asked: Ask, body: ChatRequest) -> ChatStream:
        """Begin the attempt and wait a while until something happens: what fails before has a status of its own."""
        told = _Told(AnswerText(service.strategy(asked.strategy).answers_from, stops(body)))
        attempt = asyncio.ensure_future(service.attempt(asked, told))
        attempt.add_done_callback(lambda _: told.events.put_nowait(None))
        try:
            first = await while_there(request, told.next())
            if first is None:
                answered(attempt.result())
        except BaseException:
            await ended(attempt)
            raise
        return cls(_chunks(request, body, told, attempt, first), attempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await ended(self._attempt)


class _Told(Watch):
    """Turns what happens into deltas and fields `ken`, in order; None ends them."""

    def __init__(self, text: AnswerText) -> None:
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.text = text

    async def next(self) -> dict[str, Any] | None:
        """The next event, or an empty one when nothing has happened for a while."""
        try:
            return await asyncio.wait_for(self.events.get(), ALIVE_SECONDS)
        except TimeoutError:
            return {}

    def turn(self) -> None:
        self.text.turn()

    def wrote(self, text: str) -> None:
        shown = self.text.wrote(text)
        if thought := self.text.thought():
            self.events.put_nowait({"delta": {"reasoning_content": thought}})
        if shown:
            self.events.put_nowait({"delta": {"content": shown}})

    def noted(self, step: Step) -> None:
        match step:
            case Decision():
                self._happened("decision", decision=step.model_dump(exclude={"kind"}))
            case Search():
                self._happened("search", query=step.query)
            case Observation() if step.passages or step.error:
                self._happened("found", passages=passage_infos(step), error=step.note if step.error else None)

    def _happened(self, what: str, **fields: Any) -> None:
        self.events.put_nowait({"ken": {"event": what, **fields}})


async def _chunks(
    request: Request,
    body: ChatRequest,
    told: _Told,
    attempt: asyncio.Task[Trajectory],
    happened: dict[str, Any] | None,
) -> AsyncIterator[str]:
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    head = {"id": new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": body.model}
    if with_usage:
        head["usage"] = None

    def chunk(delta: dict[str, Any], finish_reason: str | None = None, **fields: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **fields})

    yield chunk({"role": "assistant", "content": ""})
    while happened is not None:
        if happened:
            yield chunk(happened.get("delta", {}), **({"ken": happened["ken"]} if "ken" in happened else {}))
        else:
            yield ALIVE
        happened = await told.next()
    try:
        trajectory = attempt.result()
        request.state.log |= summary(trajectory)
        request.state.log_texts["answer"] = trajectory.answer
        rest = told.text.end(answered(trajectory))
        if rest is None:
            problem = (
                "the model's answer was cut off, and it gave another one than what was sent until then; the field "
                "`ken` holds it, and a larger max_tokens avoids this"
            )
            told_all = {**ken_info(trajectory, (), error=problem), "answer": trajectory.answer}
            raise ApiError(502, problem, code="answer_changed", extra={"ken": told_all})
    except Exception as error:
        failed = as_api_error(error)
        note(request, failed)
        yield event(failed.body())
        if failed.status == 500:  # a defect; raised here, it would break the reply off instead of ending it
            logging.getLogger("uvicorn.error").error("Exception in a stream", exc_info=error)
        return
    sources = citations(trajectory) if body.ken.citations else ()
    if text := rest + appendix(sources):
        yield chunk({"content": text})
    yield chunk({}, "stop", ken=ken_info(trajectory, sources))
    if with_usage:
        yield event({**head, "choices": [], "usage": token_usage(trajectory)})
    yield DONE
