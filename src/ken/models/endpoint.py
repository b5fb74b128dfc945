"""A language model behind a server of the chat-completions API: vLLM, Ollama, llama.cpp, Transformers, hosted ones."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from ken.core import BadInput, ModelError, Sampling, Unsupported, Usage
from ken.core.errors import PromptTooLong
from ken.core.seeding import derive_seed
from ken.models.chat_chunks import ReportedError, StreamedReply
from ken.models.chat_completions import (
    BrokenReply,
    Choice,
    Reply,
    as_text,
    chat_messages,
    complete,
    read_reply,
)
from ken.models.conversation import Conversation, Generation, Score
from ken.models.failures import (
    GIVE_KEY,
    Failure,
    of_connection,
    of_event,
    of_reply,
    of_status,
    of_timeout,
    rejected_parameters,
)
from ken.models.protocol import check_call

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai._response import AsyncAPIResponse

OPENAI_URL = "https://api.openai.com/v1"

CONNECT_SECONDS = 10.0  # a server that is there accepts a connection long before that, however busy it is
IDLE_CONNECTIONS = 16  # kept open; before every request the HTTP client looks whether each of them still is
CLOSING_SECONDS = 2.0  # for what follows the text of a stream: usage, and the end that lets a connection be used again

Message = dict[str, str]


@dataclass(slots=True)
class _LoopState:
    """What belongs to one event loop: connections, the slots of the concurrency limit, and a pause that the server
    asked for.
    """

    client: AsyncOpenAI
    slots: asyncio.Semaphore
    resume_at: float = 0.0
    clock: Any = field(default_factory=lambda: asyncio.get_running_loop().time)

    async def pause(self) -> None:
        """Wait until the server wants to hear from us again."""
        while (wait := self.resume_at - self.clock()) > 0:  # noqa: ASYNC110 (a clock, which others may move on)
            await asyncio.sleep(wait)


class EndpointModel:
    """The model `name` of an OpenAI-compatible server.

    base_url, api_key: by default from OPENAI_BASE_URL and OPENAI_API_KEY. A server of one's own usually needs no key.
    concurrency: requests in flight at once, over all calls.
    retries: how often a failed attempt is repeated, after the time that the server asks for and a full-jitter
        exponential backoff (uniform in 0 … `backoff_base`·2^i, at most `backoff_cap` seconds). Repeated are the
        statuses 408, 409, 429 and 5xx, timeouts, dropped connections, and replies that are no completion.
    timeout: seconds for one attempt, from sending to the last byte.
    logprobs: ask for log-probabilities. They are the server's own, in general those before temperature and top-p.
    control_tokens: send the control token of an instruction and not its text; for a model of the lab behind a server.
    http: "aiohttp" takes a third less of the processor for a call, needs the extra `serve`, and warns when the model is
        never closed; for servers.

    `dropped` names the sampling parameters that this server was found not to take and that are therefore no longer
    sent: with "stop" texts are cut here, with "n" samples are drawn by single requests, with "stream" texts are told
    in one piece, with "stream_options" streamed texts cost no tokens, the others are without effect.
    It is safe to use one object from many coroutines, and from several event loops one after another.

    Raises `BadInput` for options that cannot be used.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        retries: int = 5,
        timeout: float = 60.0,
        logprobs: bool = True,
        control_tokens: bool = False,
        http: Literal["httpx", "aiohttp"] = "httpx",
        backoff_base: float = 0.5,
        backoff_cap: float = 30.0,
    ) -> None:
        if not name.strip():
            raise BadInput("a model needs a name, for example openai/gpt-4o-mini")
        if http not in ("httpx", "aiohttp"):
            raise BadInput(f"http is {http!r}; it is 'httpx' or 'aiohttp'")
        if concurrency < 1 or retries < 0 or timeout <= 0 or backoff_base < 0 or backoff_cap < 0:
            raise BadInput("concurrency must be at least 1, timeout more than 0, retries and backoff not negative")
        self.name = name.strip()
        self.spec = f"openai/{self.name}"
        self.base_url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        self.concurrency = concurrency
        self.retries = retries
        self.timeout = timeout
        self.dropped: set[str] = set()
        self._key = _checked_key(api_key or os.environ.get("OPENAI_API_KEY"), self.base_url)
        self._logprobs = logprobs
        self._control_tokens = control_tokens
        self._http = http
        self._backoff = (backoff_base, backoff_cap)
        self._limit_name = "max_tokens"
        self._reached = False
        self._closed = False
        self._states: dict[asyncio.AbstractEventLoop, _LoopState] = {}

    def __repr__(self) -> str:
        return f"EndpointModel({self.name!r}, base_url={self._shown_url!r})"

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """Continue a conversation `n` times.

        The tokens of one request are shared evenly among its samples, so that usage adds up; `seconds` is the wall time
        of the call. With `on_text` (n = 1) the server is asked to stream, and a failure after the first piece is final.
        Raises `ModelError` when the server cannot be reached, refuses the request, or gives no completion after all
        retries; `PromptTooLong` when it says so.
        """
        check_call(n, on_text)
        told = 0

        def tell(piece: str) -> None:
            nonlocal told
            told += len(piece)
            if on_text is not None:
                on_text(piece)

        started = time.perf_counter()
        messages = chat_messages(conversation, control_tokens=self._control_tokens)
        drawn: list[tuple[Choice, Usage]] = []
        if n > 1 and "n" not in self.dropped:
            drawn = _shared(await self._ask(messages, sampling, n=n), at_most=n)
            if len(drawn) < n:
                self.dropped.add("n")
        drawn += await self._one_by_one(messages, sampling, range(len(drawn), n), tell if on_text else None)
        seconds = Usage(seconds=time.perf_counter() - started)
        prompt = as_text(messages)
        generations = []
        for choice, usage in drawn:
            done = complete(choice, sampling.stop)
            if on_text is not None and told < len(done.text):  # not streamed, or without its stop string
                tell(done.text[told:])
            generations.append(
                Generation(
                    text=done.text,
                    ended=done.ended,
                    tokens=done.tokens,
                    logprobs=done.logprobs,
                    prompt_text=prompt,
                    usage=usage + seconds,
                )
            )
        return generations

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        """Raises `Unsupported`: the chat-completions API gives no log-probabilities of a text that it did not write."""
        raise Unsupported(
            f"{self.spec} cannot score a given continuation, because the chat-completions API cannot; "
            "load the model with hf/NAME_OR_PATH, or compare samples of it"
        )

    async def close(self) -> None:
        self._closed = True
        state = self._states.pop(asyncio.get_running_loop(), None)
        self._states.clear()  # connections of other event loops end with those loops
        if state is not None:
            await state.client.close()

    # --- one request -----------------------------------------------------------------------------------------------

    async def _one_by_one(
        self, messages: list[Message], sampling: Sampling, samples: range, on_text: Callable[[str], None] | None
    ) -> list[tuple[Choice, Usage]]:
        """One request for each sample, at once, each with a seed of its own (sample 0 has that of `sampling`). on_text:
        of a single one."""
        seeds = [derive_seed(sampling.seed, "sample", i) if i else sampling.seed for i in samples]
        if len(seeds) == 1:  # no group: in Python 3.11 one can swallow a cancellation that meets a failing request
            reply = await self._ask(messages, sampling.but(seed=seeds[0]), n=1, on_text=on_text)
            return _shared(reply, at_most=1)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(messages, sampling.but(seed=seed), n=1)) for seed in seeds]
        except (
            BaseExceptionGroup
        ) as failed:  # the first failure cancels the others; it is what the caller needs to know
            raise failed.exceptions[0] from None
        return [drawn for task in tasks for drawn in _shared(task.result(), at_most=1)]

    async def _ask(
        self,
        messages: list[Message],
        sampling: Sampling,
        *,
        n: int,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Send one request until there is an answer to it, or something of it was told."""
        failures = 0
        while True:
            state = self._state()
            parameters = self._parameters(sampling, n, stream=on_text is not None)
            heard = StreamedReply(on_text, sampling.stop) if on_text and "stream" in parameters else None
            try:
                async with state.slots:
                    await state.pause()
                    return await self._attempt(state.client, messages, parameters, heard)
            except Failure as failure:
                if heard is not None and heard.finished:  # it broke off after the text
                    return heard.reply()
                if heard is not None and heard.told:
                    sentence = f"{self.spec} broke off in its answer: {failure}; {failure.remedy}"
                    raise ModelError(self._without_key(sentence)) from None
                if failure.rejected and self._drop(rejected_parameters(failure.rejected, set(parameters))):
                    continue  # ends, because every round sends fewer parameters
                failures += 1
                # Before the server was ever reached, a refused connection is most likely a wrong address: say so soon.
                allowed = min(self.retries, 1) if failure.unreachable and not self._reached else self.retries
                if not failure.passing or failures > allowed:
                    tries = "" if failures == 1 else f" in {failures} attempts"
                    problem = self._without_key(f"{self.spec} gave no answer{tries}: {failure}")
                    raise (
                        PromptTooLong(problem) if failure.too_long else ModelError(f"{problem}; {failure.remedy}")
                    ) from None
                base, cap = self._backoff
                wait = random.uniform(0.0, min(cap, base * 2 ** (failures - 1)))
                if failure.retry_after is not None:
                    state.resume_at = max(state.resume_at, state.clock() + failure.retry_after)
            await asyncio.sleep(wait)

    async def _attempt(
        self, client: AsyncOpenAI, messages: list[Message], parameters: dict[str, Any], heard: StreamedReply | None
    ) -> Reply:
        """Send one request once. heard: what becomes of a reply that is streamed. Raises `Failure`."""
        import openai

        completions = client.chat.completions  # imports more of openai; not on the server's time
        request = {"model": self.name, "messages": cast(Any, messages), **parameters}
        try:
            # The limits of the HTTP client are per read; only a clock over all of it ends a reply that drips.
            async with asyncio.timeout(self.timeout) as clock:
                if heard is None:
                    # Not `create`, which walks through every field of the request: a third of the time of a call.
                    whole = await client.post("/chat/completions", cast_to=_response_class(client), body=request)
                    self._reached = True
                    return read_reply(whole.content)
                async with completions.with_streaming_response.create(**request) as response:
                    self._reached = True
                    if "text/event-stream" not in response.headers.get("content-type", ""):
                        return read_reply(await response.read())  # it does not stream
                    async for data in _read(response):
                        heard.feed(data)
                        if heard.finished:
                            closing = asyncio.get_running_loop().time() + CLOSING_SECONDS
                            clock.reschedule(min(closing, clock.when() or closing))
            return heard.reply()
        except BrokenReply as error:
            raise of_reply(error, begun=heard is not None and heard.told > 0) from None
        except ReportedError as error:
            raise of_event(error.data, self._shown_url) from None
        except openai.APIStatusError as error:
            self._reached = True
            refusal = error.response
            raise of_status(error.status_code, refusal.headers, refusal.content, self.name, self._shown_url) from None
        except (TimeoutError, openai.APITimeoutError) as error:
            raise of_timeout(error, self.timeout, self._shown_url) from None
        except openai.OpenAIError as error:
            raise of_connection(error, self._shown_url) from None

    def _parameters(self, sampling: Sampling, n: int, *, stream: bool) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._limit_name: sampling.max_tokens,
            "seed": sampling.seed & 0x7FFFFFFF,  # some servers keep it in 32 bits
        }
        if sampling.stop:
            parameters["stop"] = list(sampling.stop)
        if self._logprobs:
            parameters["logprobs"] = True
        if n > 1:
            parameters["n"] = n
        if stream and "stream" not in self.dropped:
            parameters |= {"stream": True, "stream_options": {"include_usage": True}}
        return {key: value for key, value in parameters.items() if key not in self.dropped}

    def _drop(self, names: set[str]) -> bool:
        """Take note that the server does not take these parameters; False if there is nothing to leave out."""
        if "max_tokens" in names:
            self._limit_name = "max_completion_tokens"  # the name that newer OpenAI models want
        self.dropped |= names - {"max_tokens"}
        return bool(names)

    # --- state -----------------------------------------------------------------------------------------------------

    def _state(self) -> _LoopState:
        if self._closed:
            raise ModelError(f"{self.spec} was closed; load the model again")
        loop = asyncio.get_running_loop()
        if loop not in self._states:
            self._states = {other: state for other, state in self._states.items() if not other.is_closed()}
            self._states[loop] = _LoopState(self._client(), asyncio.Semaphore(self.concurrency))
        return self._states[loop]

    def _client(self) -> AsyncOpenAI:
        import openai

        timeout = openai.Timeout(self.timeout, connect=min(CONNECT_SECONDS, self.timeout))
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(
            max_connections=self.concurrency, max_keepalive_connections=IDLE_CONNECTIONS
        )
        http = openai.DefaultAioHttpClient if self._http == "aiohttp" else openai.DefaultAsyncHttpxClient
        loopback = urlsplit(self.base_url).hostname in {"localhost", "127.0.0.1", "::1"}
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",  # the client insists on one
            max_retries=0,  # ours are the only ones
            timeout=timeout,
            # A proxy set for the internet cannot reach this machine's own servers.
            http_client=http(timeout=timeout, limits=limits, trust_env=not loopback),
        )

    @property
    def _shown_url(self) -> str:
        """The base URL without a password in it."""
        parts = urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    def _without_key(self, text: str) -> str:
        """Servers quote the key in their errors; ours must not."""
        return text.replace(self._key, "***") if self._key else text


def _response_class(client: AsyncOpenAI) -> Any:
    """The class of replies of the HTTP client in use, httpx or httpx2, by which openai gives a reply as it came."""
    kinds = type(client._client).__mro__
    return next(sys.modules[c.__module__.partition(".")[0]].Response for c in kinds if c.__module__.startswith("httpx"))


async def _read(response: AsyncAPIResponse[Any]) -> AsyncIterator[bytes]:
    """The bytes of a streamed body. Raises the errors of openai, which does not wrap those of its HTTP client here."""
    import openai

    try:
        async for data in response.iter_bytes():
            yield data
    except TimeoutError:
        raise
    except Exception as error:  # httpx or httpx2, whichever this openai uses; their errors share no base
        kind = openai.APITimeoutError if "Timeout" in type(error).__name__ else openai.APIConnectionError
        raise kind(request=cast(Any, response.http_request)) from error


def _shared(reply: Reply, *, at_most: int) -> list[tuple[Choice, Usage]]:
    """The choices of a reply, each with its share of the tokens."""
    choices = reply.choices[:at_most]

    def share(total: int, i: int) -> int:
        return total // len(choices) + (i < total % len(choices))

    return [
        (
            choice,
            Usage(
                prompt_tokens=share(reply.prompt_tokens, i),
                completion_tokens=share(reply.completion_tokens, i),
                model_calls=1,
            ),
        )
        for i, choice in enumerate(choices)
    ]


def _checked_url(url: str) -> str:
    url = url.strip()
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(f"the base URL {url!r} is not an address; it looks like http://localhost:8000/v1")
    return url


def _checked_key(key: str | None, base_url: str) -> str:
    key = (key or "").strip()
    if not key and base_url == OPENAI_URL:
        raise BadInput(f"there is no API key; {GIVE_KEY}, or name a server of your own with --base-url")
    if not all("!" <= character <= "~" for character in key):
        raise BadInput("the API key holds characters that a key cannot have; copy it again")
    return key
