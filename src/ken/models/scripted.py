"""A model whose replies are a function of the prompt. For tests only: nothing it says is a measurement of anything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ken.core import Sampling, Unsupported, Usage
from ken.models.conversation import Conversation, Generation, Instruction, Score
from ken.models.protocol import check_call


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `ScriptedModel.generate`, as it was received."""

    prompt: str
    conversation: Conversation
    n: int
    sampling: Sampling


class ScriptedModel:
    """Replies with `reply(prompt)`; the prompt is the contents of the messages joined by blank lines, oldest first.

    `reply` is called once per sample. A string is the reply; of a sequence, sample i takes entry i (counted round). It
    may raise, and what it raises reaches the caller of `generate`. Like a model, it ends after the first stop string
    (kept in the text) or after `max_tokens` words, and tells who listens word by word. `calls` holds every call in
    order. `logprob` gives a log-probability to each token (a word with the space before it); without it generations
    carry no tokens. Usage counts words.
    """

    def __init__(
        self,
        reply: Callable[[str], str | Sequence[str]],
        *,
        spec: str = "scripted",
        logprob: Callable[[str], float] | None = None,
        control_tokens: bool = False,
    ) -> None:
        self.spec = spec
        self.calls: list[Call] = []
        self._reply = reply
        self._logprob = logprob
        self._control_tokens = control_tokens

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """`n` replies to the conversation."""
        check_call(n, on_text)
        prompt = "\n\n".join(self._text(message.content) for message in conversation)
        self.calls.append(Call(prompt, tuple(conversation), n, sampling))
        await asyncio.sleep(0)  # concurrent questions take turns, as they do with a real model
        generations = []
        for sample in range(n):
            reply = self._reply(prompt)
            text = reply if isinstance(reply, str) else reply[sample % len(reply)]
            generation = self._generation(prompt, text, sampling)
            if on_text is not None:
                for word in _words(generation.text):
                    on_text(word)
                    await asyncio.sleep(0)
            generations.append(generation)
        return generations

    def count_tokens(self, text: str) -> int:
        """Words, as its usage counts them."""
        return len(text.split())

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        raise Unsupported("a scripted model has no probabilities; use a local model to score a continuation")

    async def close(self) -> None:
        pass

    def _text(self, content: str | Instruction) -> str:
        if isinstance(content, Instruction):
            return content.token if self._control_tokens else content.text
        return content

    def _generation(self, prompt: str, text: str, sampling: Sampling) -> Generation:
        ended: Literal["stop", "end", "length"] = "end"
        ends = [text.index(stop) + len(stop) for stop in sampling.stop if stop and stop in text]
        if ends:
            text, ended = text[: min(ends)], "stop"
        tokens = _words(text)
        if len(tokens) > sampling.max_tokens:
            tokens, ended = tokens[: sampling.max_tokens], "length"
        return Generation(
            text="".join(tokens),
            ended=ended,
            tokens=None if self._logprob is None else tuple(tokens),
            logprobs=None if self._logprob is None else tuple(map(self._logprob, tokens)),
            prompt_text=prompt,
            usage=Usage(prompt_tokens=len(prompt.split()), completion_tokens=len(tokens), model_calls=1),
        )


def _words(text: str) -> list[str]:
    """The words, each with the white space before it; joined they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)
