"""The wire format of the chat-completions API: messages as a server reads them, replies as servers really send them.

Servers differ in what they leave out of a reply, so everything here reads defensively; what cannot be used is a
`BrokenReply`, which the endpoint treats like any other failed attempt.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ken.core import ModelError
from ken.models.conversation import Conversation, Instruction

ROLES = {"system": "system", "user": "user", "policy": "assistant", "observation": "user"}

LEAST_LOGPROB = -9999.0  # what the API itself writes for "next to impossible"; JSON has no minus infinity


class BrokenReply(Exception):
    """A reply with status 200 that is no completion; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion as it came. `stop_reason` is the stop string that ended it, where the server names it (vLLM,
    SGLang).
    """

    text: str
    finish_reason: str
    stop_reason: str | None = None
    tokens: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """All completions of one request and the tokens they cost together (0 where the server does not count)."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A choice as Ken understands it: with the stop string that ended it, and nothing after it."""

    text: str
    ended: Literal["stop", "end", "length"]
    tokens: tuple[str, ...] | None
    logprobs: tuple[float, ...] | None


def chat_messages(conversation: Conversation, *, control_tokens: bool = False) -> list[dict[str, str]]:
    """The conversation as chat messages. Neighbours of one role are merged with a blank line between them, because some
    chat templates demand that user and assistant take turns."""
    messages: list[dict[str, str]] = []
    for message in conversation:
        content = message.content
        if isinstance(content, Instruction):
            content = content.token if control_tokens else content.text
        role = ROLES[message.role]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages


def as_text(messages: Sequence[dict[str, str]]) -> str:
    """The messages as one text for logs. How the server's chat template renders them is not known here."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


# --- reading -------------------------------------------------------------------------------------------------------


def read_reply(body: bytes) -> Reply:
    """Read the body of a reply. Raises `BrokenReply`, or `ModelError` when a content filter kept the text."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise BrokenReply(f"the reply is not JSON: {excerpt(body)}") from None
    if not isinstance(reply, dict):
        raise BrokenReply("the reply is not a JSON object")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BrokenReply(f"the reply holds no choices: {excerpt(body)}")
    return understand(reply)


def understand(reply: dict[str, Any]) -> Reply:
    """A reply whose `choices` are a list. Raises as `read_reply` does."""
    choices = reply["choices"]
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        choices=tuple(_choice(choice) for choice in choices),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def excerpt(body: bytes, limit: int = 160) -> str:
    """The beginning of a body on one line, for error messages."""
    text = " ".join(body[: 4 * limit].decode("utf-8", "replace").split())
    if re.match(r"(?i)<(!doctype|html)", text):
        title = re.search(r"(?i)<title>(.*?)</title>", text)
        return f"an HTML page ({title[1].strip()})" if title else "an HTML page"
    return repr(text if len(text) <= limit else text[:limit] + "…") if text else "an empty body"


def _choice(choice: Any) -> Choice:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise BrokenReply("a choice holds no message")
    finish_reason = str(choice.get("finish_reason") or "")
    text = content_of(message)
    if text is None:
        if finish_reason == "content_filter":
            raise ModelError(
                "the content filter of the server withheld the reply; rephrase the question or use another model"
            )
        if not any(isinstance(message.get(key), str) for key in ("reasoning_content", "reasoning")):
            raise BrokenReply("the message has no content")
        text = ""  # a reasoning model that spent all its tokens before it began to answer; asking again would not help
    stop_reason = choice.get("stop_reason") or choice.get("matched_stop")
    tokens, logprobs = _tokens(choice.get("logprobs"))
    return Choice(
        text=encodable(text),
        finish_reason=finish_reason,
        stop_reason=stop_reason if isinstance(stop_reason, str) else None,
        tokens=tokens,
        logprobs=logprobs,
    )


def content_of(message: dict[str, Any]) -> str | None:
    """The text of a message. What a reasoning model thought, where the server gives it apart, is not part of it: a tag
    that was only thought of must not be taken for one that was written."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else None


def _tokens(logprobs: Any) -> tuple[tuple[str, ...] | None, tuple[float, ...] | None]:
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(entries, list) or not entries:
        return None, None
    # A token may end inside a character, which decoding on then gives to the token that completes it.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tokens, values = [], []
    for entry in entries:
        value = entry.get("logprob") if isinstance(entry, dict) else None
        if not isinstance(value, int | float) or math.isnan(value) or not isinstance(entry.get("token"), str):
            return None, None
        try:
            tokens.append(
                encodable(entry["token"]) if entry.get("bytes") is None else decoder.decode(bytes(entry["bytes"]))
            )
        except (TypeError, ValueError):
            return None, None
        values.append(min(max(float(value), LEAST_LOGPROB), 0.0))
    return tuple(tokens), tuple(values)


def encodable(text: str) -> str:
    """`text` without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


# --- understanding -------------------------------------------------------------------------------------------------


def complete(choice: Choice, stops: Sequence[str]) -> Completion:
    """The completion with its stop string, as local models give it.

    Three kinds of server are met: those that keep the stop string in the text (Transformers), those that strip it
    (OpenAI, vLLM, Ollama; it is put back when the server names it, or when it is a closing tag whose opening tag stands
    open), and those that do not stop (the text is cut).

    `tokens` concatenate to `text`, or are None where they cannot be made to. The log-probability of a stop string that
    the server stripped with its tokens is not known; it is given as 0, so that it changes no sum.
    """
    text, added = choice.text, ""
    ended: Literal["stop", "end", "length"] = "length" if choice.finish_reason == "length" else "end"
    if ends := [text.index(stop) + len(stop) for stop in stops if stop and stop in text]:
        text, ended = text[: min(ends)], "stop"
    elif choice.finish_reason == "stop" and (added := _stripped_stop(choice, stops)):
        text, ended = text + added, "stop"
    tokens, logprobs = _aligned(choice, text, added)
    return Completion(text, ended, tokens, logprobs)


def _stripped_stop(choice: Choice, stops: Sequence[str]) -> str:
    """The stop string that the server took off the end of the text, or "" if the model ended by itself."""
    if choice.stop_reason in stops and choice.stop_reason:
        return choice.stop_reason
    opened: dict[int, str] = {}
    for stop in stops:
        if tag := re.fullmatch(r"\s*</([\w-]+)>\s*", stop):
            start = choice.text.rfind(f"<{tag[1]}>")
            if start > choice.text.rfind(f"</{tag[1]}>"):
                opened.setdefault(start, stop)
    return opened[max(opened)] if opened else ""


def _aligned(choice: Choice, text: str, added: str) -> tuple[tuple[str, ...] | None, tuple[float, ...] | None]:
    """Tokens and log-probabilities of exactly `text`, of which the last `added` may be missing from the tokens; None if
    impossible.

    Tokens may run on after the text (a stop or end-of-sequence token, or text that was cut) and begin before it (white
    space that was stripped, or the thoughts of a reasoning model).
    """
    if choice.tokens is None or choice.logprobs is None:
        return None, None
    written = "".join(choice.tokens)
    start = 0 if written.startswith(choice.text) else written.rfind(choice.text)
    if start < 0:
        return None, None
    missing = ""
    if not written.startswith(text, start):
        missing = text[len(written) - start :]
        if not missing or not added.endswith(missing) or written[start:] + missing != text:
            return None, None
    end = start + len(text) - len(missing)
    tokens, logprobs, position = [], [], 0
    for token, logprob in zip(choice.tokens, choice.logprobs, strict=True):
        piece = token[max(start - position, 0) : max(end - position, 0)]
        # A token of no characters (the first bytes of one) belongs to the text when it stands inside it.
        if piece or (not token and start <= position < end):
            tokens.append(piece)
            logprobs.append(logprob)
        position += len(token)
    if missing:
        tokens.append(missing)
        logprobs.append(0.0)
    return tuple(tokens), tuple(logprobs)
