"""One attempt at one question: the conversation so far, and the record that becomes a trajectory."""

from __future__ import annotations

import inspect
import time
from dataclasses import replace

from ken.agents.watch import Watch, WatchedSteps
from ken.core import (
    ModelError,
    Observation,
    Passage,
    Question,
    Sampling,
    Search,
    Segment,
    SourceError,
    Step,
    Trajectory,
    Usage,
)
from ken.core.seeding import derive_seed
from ken.models import Generation, Instruction, Message, Model
from ken.sources import Sources

THOUGHT_ENDS = "</think>"


class Attempt:
    """What a strategy works with: it says, hears, searches and notes steps; the attempt keeps the books.

    Segments are exact by construction: what the environment added before a call is the model's own prompt ids minus
    those already recorded, so nothing is ever encoded twice (tokens in, tokens out).
    """

    def __init__(
        self,
        question: Question,
        model: Model,
        sources: Sources,
        *,
        strategy: str,
        sampling: Sampling,
        sample: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.question, self.model, self.sources = question, model, sources
        self.strategy, self.sampling, self.sample = strategy, sampling, sample
        self.steps: list[Step] = [] if watch is None else WatchedSteps(watch.noted)
        self.error: str | None = None
        self._segments: list[Segment | list[Segment]] = []  # a list: those of a question aside, which may be under way
        self._messages: list[Message] = []
        self._ids: list[int] = []  # everything the model has seen or said in this conversation
        self._pending: list[str | Instruction] = []  # observation text not yet shown to the model
        self._before: tuple[list[int], list[str | Instruction]] = ([], [])  # both, as they were before it last wrote
        self._usage = Usage()
        self._calls = 0  # of the model, those under way included
        self._watch = watch
        self._started = time.perf_counter()

    def begin(self, instruction: Instruction, text: str) -> None:
        """Start a new conversation: an instruction for the model, then the user's text. What went before is not carried
        over.
        """
        self._messages = [Message("system", instruction), Message("user", text)]
        self._ids, self._pending = [], []

    async def generate(self, *, stop: tuple[str, ...]) -> Generation:
        """Let the model write until one of `stop`, and record what it wrote. Raises `ModelError`."""
        if self._watch is not None:
            self._watch.turn()
        if not (self.sampling.greedy_thoughts and self.sampling.temperature):
            return await self._generate(stop, self.sampling)
        thought = await self._generate((THOUGHT_ENDS, *stop), self.sampling.but(temperature=0.0))
        if not thought.text.endswith(THOUGHT_ENDS):
            return thought
        whole = _joined(thought, await self._generate(stop, self.sampling))
        # One turn is one segment and one message, however often the model was called for it.
        self._segments[-3:] = [_policy(whole)]
        self._messages[-2:] = [Message("policy", whole.text, whole.token_ids)]
        return whole

    async def aside(
        self,
        instruction: Instruction,
        text: str,
        *,
        stop: tuple[str, ...] = (),
        sampling: Sampling | None = None,
        model: Model | None = None,
    ) -> Generation:
        """Ask the model something in a conversation of its own: the running one does not see it. Many may be awaited
        at once; the record holds them in the order in which they were begun. sampling, model: instead of the
        attempt's. Raises `ModelError`."""
        record: list[Segment] = []
        self._segments.append(record)
        messages = [Message("system", instruction), Message("user", text)]
        generation = await self._call(messages, self._seeded(sampling or self.sampling, stop), model)
        self._usage += generation.usage
        record.append(Segment(role="prompt", text=generation.prompt_text, token_ids=generation.prompt_token_ids))
        record.append(_policy(generation))
        if self._watch is not None:  # all at once, since pieces of several would run into each other
            self._watch.turn()
            self._watch.wrote(generation.text)
        return generation

    def _seeded(self, sampling: Sampling, stop: tuple[str, ...]) -> Sampling:
        """The sampling of the next call of the model."""
        seed = derive_seed(self.sampling.seed, self.question.id, self.strategy, self.sample, self._calls)
        self._calls += 1
        return sampling.but(stop=stop, seed=seed)

    async def _generate(self, stop: tuple[str, ...], sampling: Sampling) -> Generation:
        sampling = self._seeded(sampling, stop)
        generation = await (
            self._call(self._messages, sampling) if self._watch is None else self._watched_call(sampling, self._watch)
        )
        self._usage += generation.usage
        self._before = (list(self._ids), list(self._pending))
        self._record_context(generation)
        self._segments.append(_policy(generation))
        self._ids.extend(generation.token_ids or ())
        self._messages.append(Message("policy", generation.text, generation.token_ids))
        return generation

    async def _call(self, messages: list[Message], sampling: Sampling, model: Model | None = None) -> Generation:
        (generation,) = await (model or self.model).generate(messages, sampling=sampling)
        return _encodable(generation)

    async def _watched_call(self, sampling: Sampling, watch: Watch) -> Generation:
        if "on_text" not in inspect.signature(self.model.generate).parameters:  # a model that does not stream
            generation = await self._call(self._messages, sampling)
            watch.wrote(generation.text)
            return generation
        (generation,) = await self.model.generate(
            self._messages, sampling=sampling, on_text=lambda piece: watch.wrote(_encodable_text(piece))
        )
        return _encodable(generation)

    def retract(self) -> None:
        """Throw away what the model wrote last, so that it can write again from where it stood; nothing may have been
        observed since. It is not in the trajectory, but its cost is.
        """
        del self._segments[-2:]  # what it wrote, and what it had been shown before that
        self._messages.pop()
        self._ids, self._pending = self._before
        if self._watch is not None:
            self._watch.retracted()

    def observe(self, content: str | Instruction) -> None:
        """Put text from the environment into the model's context."""
        self._messages.append(Message("observation", content))
        self._pending.append(content)

    async def search(
        self, query: str, *, k: int | None = None, steps: list[Step] | None = None
    ) -> tuple[Passage, ...] | None:
        """Search and note both steps. None when the search engine failed, which is noted as an error observation.

        k: passages, by default `top_k` of the sources. steps: where they are noted, for searches that run at once and
        would come between each other's steps; by default in the record.
        Raises `SourceError` when there is no search engine.
        """
        retriever = self.sources.search
        if retriever is None:
            raise SourceError(f"the strategy {self.strategy!r} searches, but there is no index; give one with --index")
        steps = self.steps if steps is None else steps
        steps.append(Search(query=query))
        self._usage += Usage(search_calls=1)
        try:
            passages = tuple(await retriever.search(query, k or self.sources.top_k))
        except SourceError as error:
            steps.append(Observation(note=str(error), error=True))
            return None
        steps.append(Observation(passages=passages))
        return passages

    @property
    def consulted(self) -> bool:
        """Whether anything was looked up."""
        looked_up = self._usage.search_calls + self._usage.graph_calls
        return looked_up > 0 or any(isinstance(step, Observation) for step in self.steps)

    def count(self, usage: Usage) -> None:
        """Add what a source cost to what the attempt costs."""
        self._usage += usage

    def trajectory(self) -> Trajectory:
        """The record so far."""
        seconds = time.perf_counter() - self._started
        return Trajectory(
            question=self.question,
            strategy=self.strategy,
            model=self.model.spec,
            sample=self.sample,
            sampling=self.sampling,
            steps=tuple(self.steps),
            segments=tuple(s for one in self._segments for s in (one if isinstance(one, list) else (one,))),
            usage=self._usage.model_copy(update={"seconds": seconds}),
            error=self.error,
        )

    def _record_context(self, generation: Generation) -> None:
        """Record what the model saw since it last wrote: the prompt of a new conversation, or observations."""
        first = not any(message.role == "policy" for message in self._messages)
        text = generation.prompt_text if first else "".join(_shown(c, generation.prompt_text) for c in self._pending)
        seen = generation.prompt_token_ids
        if seen is None:
            ids = None
        else:
            if list(seen[: len(self._ids)]) != self._ids:  # what was seen or sampled before has been cut or re-encoded
                raise ModelError(
                    "the conversation outgrew the model's context; use fewer passages (--top-k) or a model with more"
                )
            ids = tuple(seen[len(self._ids) :])
            self._ids = list(seen)
        self._segments.append(Segment(role="prompt" if first else "observation", text=text, token_ids=ids))
        self._pending = []


def _policy(generation: Generation) -> Segment:
    return Segment(role="policy", text=generation.text, token_ids=generation.token_ids, logprobs=generation.logprobs)


def _joined(first: Generation, then: Generation) -> Generation:
    """Two stretches of writing as the one turn that they are."""
    return replace(
        then,
        text=first.text + then.text,
        tokens=None if first.tokens is None or then.tokens is None else first.tokens + then.tokens,
        logprobs=None if first.logprobs is None or then.logprobs is None else first.logprobs + then.logprobs,
        token_ids=None if first.token_ids is None or then.token_ids is None else first.token_ids + then.token_ids,
        prompt_token_ids=first.prompt_token_ids,
        prompt_text=first.prompt_text,
        usage=first.usage + then.usage,
    )


def _shown(content: str | Instruction, prompt: str) -> str:
    """An observation as this model saw it: of an instruction, the text or the control token."""
    if isinstance(content, str):
        return content
    return content.text if content.text in prompt else content.token


def _encodable(generation: Generation) -> Generation:
    """The generation without lone surrogates, which a server can send as JSON escapes and no file can hold."""
    text = _encodable_text(generation.text)
    return generation if text == generation.text else replace(generation, text=text)


def _encodable_text(text: str) -> str:
    return text.encode(errors="replace").decode()
