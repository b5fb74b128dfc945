"""A transformers model in this process, shared by any number of coroutines.

Lockstep batching: every `generate` that is pending when the model is free goes into one batch, so strategies written
for one question at a time fill the hardware without knowing of each other.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ken.core import BadInput, ModelError, Sampling, Usage
from ken.core.errors import PromptTooLong
from ken.models.conversation import Conversation, Generation, Instruction, Message, Score
from ken.models.protocol import check_call

if TYPE_CHECKING:
    import numpy as np

    from ken.models.decoder import Decoder
    from ken.models.decoding import Memory, Row

T = TypeVar("T")
LAB_MANIFEST = "ken-lab.json"  # stands beside the weights of a lab model
CACHED_OPENINGS = 1024  # rendered prompts kept: the samples of one question share theirs


@dataclass(slots=True)
class _Request:
    prompt: tuple[int, ...]
    text: str
    n: int
    sampling: Sampling
    future: asyncio.Future[list[Generation]]
    known: int  # tokens of the prompt that were processed when the model last wrote
    on_text: Callable[[str], None] | None = None  # called in the model's thread
    contrast: tuple[int, ...] | None = None


class LocalModel:
    """A decoder-only language model from a folder or hub name.

    device: "cpu", "cuda", …; by default a GPU if there is one. dtype: a torch dtype name; by default the checkpoint's
    own on a GPU and float32 on a CPU. batch_size: most sequences decoded at once. kept_bytes: most memory for what one
    turn of a conversation computed and the next one needs; 0 computes it again. control_tokens: instructions are given
    as one token; by default for models of the lab, which a `ken-lab.json` in their folder tells. decoder: what tokens
    are chosen from, if not from the model's own logits; its name then stands in `spec`, and every generation has a
    `trace`. `seconds` counts the time spent generating; `writer`, when set, writes the rows of a batch instead of this
    model (vLLM).

    Raises `ModelError` when the model cannot be loaded, `BadInput` for an unknown dtype, a batch_size below 1 or
    negative kept_bytes, `Unsupported` for a model that the decoder cannot read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        spec: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 64,
        kept_bytes: int = 2**28,
        control_tokens: bool | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; at least one sequence must be decoded at once")
        if kept_bytes < 0:
            raise BadInput(f"kept_bytes is {kept_bytes}; give 0 to keep nothing between turns")
        self.model, self.tokenizer = _load(path, device, dtype)
        from ken.models.kept_turns import KeptTurns

        self._turns = KeptTurns(kept_bytes) if kept_bytes else None
        self._texts: Memory = {}
        self.path, self.spec, self.batch_size = Path(path), spec or f"hf/{path}", batch_size
        self.control_tokens = (self.path / LAB_MANIFEST).is_file() if control_tokens is None else control_tokens
        self.seconds = 0.0
        self.writer: Callable[[Sequence[Row]], None] | None = None
        self.decoder: Decoder | None = None
        self.end_ids = _end_ids(self.model, self.tokenizer)
        self._pad_id = (
            self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.end_ids, default=0)
        )
        config = self.model.config.get_text_config(decoder=True)
        self.limit: int = getattr(config, "max_position_embeddings", None) or 2**31
        self._special = _any_of([t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special])
        self._opening = lru_cache(CACHED_OPENINGS)(self._render_opening)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ken-local")
        self._closed = False
        self._encoding = threading.Lock()  # how special tokens are read is a setting of the shared tokenizer
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane] = weakref.WeakKeyDictionary()
        if decoder is not None:
            with decoder.open(self.model, [(self._pad_id,)], self._pad_id):  # can it read this model?
                pass
            self.decoder, self.spec = decoder, f"{self.spec}+{decoder.name}"

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """Continue a conversation `n` times; sample i > 0 draws with seed + i. `on_text` (n = 1) is told each token's
        text.

        Raises `PromptTooLong` when the conversation exceeds the context, `ModelError` for all who share a batch when
        the model fails; `BadInput` for n < 1.
        """
        check_call(n, on_text)
        contrast = None
        if self.decoder is not None:
            conversation = self.decoder.prompt(conversation)
            if (second := self.decoder.contrast(conversation)) is not None:
                contrast = tuple(self._rendered(second)[1])
        text, prompt, known = self._rendered(conversation)
        self._check(prompt)
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop) or self._lanes.setdefault(loop, _Lane(self))
        future: asyncio.Future[list[Generation]] = loop.create_future()
        told = None if on_text is None else _on_loop(on_text, future)
        request = _Request(tuple(prompt), text, n, sampling, future, known, told, contrast)
        lane.submit(request)
        return await request.future

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        """Log-probabilities of `continuation`, encoded on its own, after `conversation`. Raises `ModelError`."""
        _, prompt = self.render(conversation)
        ids = self._encode(continuation)
        self._check([*prompt, *ids[:-1]])
        return await self._alone(self._score, prompt, ids) if ids else Score((), ())

    async def hidden_states(self, conversation: Conversation, continuation: str = "") -> np.ndarray:
        """Hidden states over the rendered conversation and continuation: float32 [layers + 1, tokens, width]; layer 0
        is the embedding, the last one is after the final normalisation. Raises `ModelError`.
        """
        _, prompt = self.render(conversation)
        ids = [*prompt, *self._encode(continuation)]
        self._check(ids[:-1])
        return await self._alone(self._hidden_states, ids)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as it stands in a conversation, special tokens read as ordinary text."""
        return len(self._encode(text, plain=True))

    def forget(self) -> None:
        """To be called after the weights were changed: what earlier turns computed is no longer true."""
        if self._turns is not None:
            self._turns.forget()

    async def close(self) -> None:
        """Refuse further calls; those under way end as usual."""
        self._closed = True
        self._thread.shutdown(wait=False)

    def _check(self, ids: Sequence[int]) -> None:
        """Raise `ModelError` or `PromptTooLong` unless these ids can stand before a token that is to be predicted."""
        if self._closed:
            raise ModelError(f"{self.spec} has been closed; load it again")
        if not ids:
            raise ModelError(f"the prompt is empty for {self.spec}; its chat template or tokenizer gives no tokens")
        if len(ids) >= self.limit:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens, {self.spec} takes fewer than {self.limit}")

    async def _alone(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` in the model's thread, between batches."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> ModelError:
        """What went wrong inside the model, in one line."""
        if isinstance(error, ModelError):
            return ModelError(f"{self.spec}: {error}")
        return ModelError(f"{self.spec} failed: {type(error).__name__}: {_first_line(error)}")

    # --- prompts
    # -----------------------------------------------------------------------------------------------------------------

    def render(self, conversation: Conversation) -> tuple[str, list[int]]:
        """(text, token ids) of everything the model sees: the opening through the chat template, then policy and
        observation text as one running assistant turn. Policy ids are taken as sampled; observations are encoded with
        special tokens as plain text, so that a document cannot smuggle in a control token."""
        text, ids, _ = self._rendered(conversation)
        return text, ids

    def _rendered(self, conversation: Conversation) -> tuple[str, list[int], int]:
        """Also how many of the ids the model had processed when it last wrote: all but its last token and what came
        after."""
        opening = [m for m in conversation if m.role in {"system", "user"}]
        text, opened = self._opening(tuple((m.role, self._content(m)) for m in opening))
        ids = list(opened)
        pieces = [text]
        known = 0
        for message in conversation[len(opening) :]:
            content = self._content(message)
            pieces.append(content)
            if message.token_ids is not None:
                ids.extend(message.token_ids)
                known = len(ids) - 1
            else:
                plain = message.role == "observation" and not isinstance(message.content, Instruction)
                ids.extend(self._encode(content, plain=plain))
        return "".join(pieces), ids, known

    def _render_opening(self, messages: tuple[tuple[str, str], ...]) -> tuple[str, tuple[int, ...]]:
        turns = [{"role": role, "content": content} for role, content in messages]
        merged = "\n\n".join(turn["content"] for turn in turns)
        if not self.tokenizer.chat_template:
            text = merged + "\n\n"
            return text, tuple(self._encode(text, begin=True))
        try:
            try:
                text = self._template(turns)
            except Exception:  # a template may refuse a system turn (Gemma); jinja raises its own kinds
                text = self._template([{"role": "user", "content": merged}])
        except Exception as error:
            raise ModelError(f"the chat template of {self.spec} failed: {_first_line(error)}") from error
        return text, tuple(self._encode(text))

    def _template(self, turns: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _content(self, message: Message) -> str:
        if isinstance(message.content, Instruction):
            return message.content.token if self.control_tokens else message.content.text
        return self._without_special(message.content) if message.role == "user" else message.content

    def _without_special(self, text: str) -> str:
        """Untrusted text that goes through the chat template, its special tokens broken by a space: `< |im_end|>`.

        They cannot be encoded as plain text there, because the template's own must not be.
        """
        while self._special and self._special.search(text):
            text = self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}".strip(), text)
        return text

    def _encode(self, text: str, *, plain: bool = False, begin: bool = False) -> list[int]:
        """Token ids. plain: special tokens are read as ordinary text. begin: with the marks that begin a sequence."""
        backend = self.tokenizer.backend_tokenizer
        with self._encoding:
            backend.encode_special_tokens = plain
            return list(backend.encode(text, add_special_tokens=begin).ids)

    # --- work in the model's thread
    # --------------------------------------------------------------------------------------------

    def _run(self, requests: Sequence[_Request]) -> list[list[Generation]]:
        from ken.models.decoding import Row, decode

        rows = [
            [
                Row(
                    r.prompt,
                    r.sampling.but(seed=r.sampling.seed + i) if i else r.sampling,
                    r.future.done,
                    known=r.known,
                    memory=self._texts,
                    on_text=r.on_text,
                    contrast=r.contrast,
                )
                for i in range(r.n)
            ]
            for r in requests
        ]
        started = time.perf_counter()
        everything = [row for group in rows for row in group]
        if self.writer is not None:
            self.writer(everything)
        else:
            decode(
                self.model,
                self.tokenizer.backend_tokenizer,
                everything,
                end_ids=self.end_ids,
                pad_id=self._pad_id,
                limit=self.limit,
                turns=self._turns,
                decoder=self.decoder,
            )
        seconds = time.perf_counter() - started
        self.seconds += seconds
        return [
            [_generation(request, row, i, seconds) for i, row in enumerate(group)]
            for request, group in zip(requests, rows, strict=True)
        ]

    def _score(self, prompt: list[int], ids: list[int]) -> Score:
        import torch

        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([[*prompt, *ids]], device=self.model.device)).logits[0].float()
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
        chosen = logprobs.gather(-1, torch.tensor(ids, device=logprobs.device)[:, None])[:, 0]
        return Score(tuple(ids), tuple(chosen.tolist()))

    def _hidden_states(self, ids: list[int]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            output = self.model(input_ids=torch.tensor([ids], device=self.model.device), output_hidden_states=True)
        return torch.cat(output.hidden_states).float().cpu().numpy()


class _Lane:
    """The pending requests of one event loop."""

    def __init__(self, model: LocalModel) -> None:
        self._model = weakref.ref(model)
        self._pending: deque[_Request] = deque()
        self._worker: asyncio.Task[None] | None = None

    def submit(self, request: _Request) -> None:
        self._pending.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            size = -1
            while size != len(self._pending):  # let every coroutine that is about to ask do so first
                size = len(self._pending)
                await asyncio.sleep(0)
            model = self._model()
            if model is None or not self._pending:
                return
            batch = self._take(model.batch_size)
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(model._thread, model._run, batch)
            except Exception as error:
                _fail(batch, model.failure(error), error)
            except BaseException as error:  # this worker was cancelled: nobody may wait for it for ever
                _fail([*batch, *self._pending], ModelError("the event loop was stopped while generating"), error)
                raise
            else:
                for request, result in zip(batch, results, strict=True):
                    if not request.future.done():
                        request.future.set_result(result)

    def _take(self, most: int) -> list[_Request]:
        """Pending requests of up to `most` sequences (at least one request), those given up by their caller left
        out.
        """
        batch: list[_Request] = []
        rows = 0
        while self._pending and (not batch or rows + self._pending[0].n <= most):
            request = self._pending.popleft()
            if not request.future.done():
                batch.append(request)
                rows += request.n
        return batch


def _on_loop(on_text: Callable[[str], None], future: asyncio.Future[Any]) -> Callable[[str], None]:
    """`on_text`, to be called in another thread: it is then told on the loop of `future`, until that is done. Callbacks
    of a loop run in the order in which they came, so the last piece comes before the result."""
    loop = future.get_loop()

    def tell(piece: str) -> None:
        if not future.done():
            on_text(piece)

    def send(piece: str) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody listens
            loop.call_soon_threadsafe(tell, piece)

    return send


def _fail(requests: Iterable[_Request], failure: ModelError, cause: BaseException) -> None:
    failure.__cause__ = cause
    for request in requests:
        if not request.future.done():
            request.future.set_exception(failure)


def _generation(request: _Request, row: Any, index: int, seconds: float) -> Generation:
    usage = Usage(
        prompt_tokens=0 if index else len(request.prompt),
        completion_tokens=len(row.ids),
        model_calls=0 if index else 1,
        seconds=0.0 if index else seconds,
    )
    return Generation(
        text="".join(row.tokens),
        ended=row.ended,
        tokens=tuple(row.tokens),
        logprobs=tuple(row.logprobs),
        token_ids=tuple(row.ids),
        prompt_token_ids=request.prompt,
        prompt_text=request.text,
        usage=usage,
        trace=tuple(row.trace) or None,
    )


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _load(path: str | Path, device: str | None, dtype: str | None) -> tuple[Any, Any]:
    """The model, in eval mode, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = getattr(torch, dtype, None) if dtype else (torch.float32 if device == "cpu" else "auto")
    if dtype and not isinstance(kind, torch.dtype):
        raise BadInput(f"there is no dtype {dtype!r}; choose float32, bfloat16 or float16")
    logging.disable_progress_bar()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=kind, output_loading_info=True)
        model, report = loaded
        model.to(device).eval()
    except Exception as error:  # a folder can be broken in any way, and each library below has errors of its own
        raise ModelError(
            f"the model {str(path)!r} cannot be loaded ({_first_line(error)}); name a folder or a model of the hub"
        ) from error
    if missing := sorted(report["missing_keys"]):  # transformers fills them with random numbers and only warns
        raise ModelError(f"the model {str(path)!r} lacks weights ({', '.join(missing[:3])}); get a complete copy")
    if not tokenizer.is_fast:
        raise ModelError(
            f"the model {str(path)!r} has no fast tokenizer (tokenizer.json); convert it with transformers first"
        )
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _any_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern for any of the tokens, the longest first; None when there are none."""
    ordered = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None
