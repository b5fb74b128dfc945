"""A completion that comes as server-sent events (the streamed form of the chat-completions API), put together again.

The chunks are joined to the reply that the server would have sent in one piece, and that is read as any other: so a
streamed answer and one that is not are understood by the same code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ken.models.chat_completions import BrokenReply, Reply, content_of, encodable, excerpt, understand

DONE = b"[DONE]"


class ReportedError(Exception):
    """The server ended the stream with an error event; `data` is what it said, as JSON."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class StreamedReply:
    """A reply for one sample, growing by the bytes of its stream.

    on_text: told the text as it grows, up to the end of the first of `stops`; a server that does not stop there goes on
    unheard. told: how many characters it was told. finished: the server said why the text ends; usage and the end of
    the stream may still come.
    """

    def __init__(self, on_text: Callable[[str], None], stops: Sequence[str]) -> None:
        self.told = 0
        self.finished = self.done = False
        self._on_text = on_text
        self._stops = tuple(filter(None, stops))
        self._longest = max(map(len, self._stops), default=0)
        self._tail = ""  # of what was told: a stop string may begin in it
        self._stopped = False
        self._line = b""
        self._data: list[bytes] = []
        self._error = False  # the event being read is called "error"
        self._text: list[str] = []
        self._held = ""  # half of a surrogate pair; the other may be in the next chunk
        self._logprobs: list[Any] = []
        self._choice: dict[str, Any] = {}
        self._usage: Any = None

    def feed(self, data: bytes) -> None:
        """Read on. Raises `BrokenReply` for what is no chunk, `ReportedError` for an error event."""
        for event, error in self._events(data):
            if self.done:
                return
            if event.strip() == DONE:
                self.done = True
            else:
                self._chunk(event, error)

    def reply(self) -> Reply:
        """What was read, once the stream has ended. Raises `BrokenReply` when that was too early, or `ModelError` when
        a content filter kept the text."""
        if not self.finished:
            self.feed(b"\n\n")  # some servers leave out the blank line that ends the last event
        if not self.finished:
            raise BrokenReply("the stream ended before the reply was complete")
        text = "".join(self._text)
        withheld = not text and self._choice["finish_reason"] == "content_filter"
        message = {"content": None if withheld else text}
        choice = {**self._choice, "message": message, "logprobs": {"content": self._logprobs}}
        return understand({"choices": [choice], "usage": self._usage})

    def _events(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The data of every event that `data` completes, and whether it is called "error" (WHATWG HTML, 9.2.6)."""
        # Not str.splitlines: JSON may hold U+2028 and other ends of lines as they are.
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            field, _, value = line.removesuffix(b"\r").partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            elif field == b"event":
                self._error = value.strip() == b"error"
            elif not field and not value and self._data:
                event, error = b"\n".join(self._data), self._error
                self._data, self._error = [], False
                yield event, error

    def _chunk(self, event: bytes, error: bool) -> None:
        try:
            chunk = json.loads(event)
        except (ValueError, RecursionError):
            if error:
                raise ReportedError(event) from None
            raise BrokenReply(f"the stream holds what is not JSON: {excerpt(event)}") from None
        if error or (isinstance(chunk, dict) and chunk.get("error")):
            raise ReportedError(event)
        if not isinstance(chunk, dict):
            raise BrokenReply(f"the stream holds what is no chunk of a reply: {excerpt(event)}")
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                raise BrokenReply("a chunk holds a choice that is none")
            if choice.get("index", 0) in (0, None):  # others were not asked for
                self._grow(choice)

    def _grow(self, choice: dict[str, Any]) -> None:
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
            self._logprobs += logprobs["content"]
        delta = choice.get("delta")
        if isinstance(delta, dict) and (text := content_of(delta) or content_of({"refusal": delta.get("refusal")})):
            self._text.append(text)
            self._hear(text)
        for key in ("finish_reason", "stop_reason", "matched_stop"):
            if choice.get(key) is not None:
                self._choice[key] = choice[key]
        self.finished = self.finished or bool(choice.get("finish_reason"))

    def _hear(self, text: str) -> None:
        """Tell of `text` what stands before the end of the first stop string."""
        text = self._held + text
        self._held = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        text = encodable(text.removesuffix(self._held) if self._held else text)
        if self._stopped or not text:
            return
        seen = self._tail + text
        if ends := [seen.index(stop) + len(stop) for stop in self._stops if stop in seen]:
            self._stopped = True
            text = text[: min(ends) - len(self._tail)]
        self._tail = seen[-self._longest :] if self._longest else ""
        self.told += len(text)
        self._on_text(text)
