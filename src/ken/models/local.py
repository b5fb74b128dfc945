"""A transformers model in this process, shared by any number of coroutines.

Lockstep batching: every `generate` that is pending when the model is free goes into one batch, so strategies written
for one question at a time fill the hardware without knowing of each other.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ken.core import ModelError, Sampling, Usage
from ken.models.conversation import Conversation, Generation, Instruction, Message, Score

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class _Request:
    prompt: tuple[int, ...]
    text: str
    n: int
    sampling: Sampling
    future: asyncio.Future[list[Generation]]


class LocalModel:
    """A decoder-only language model from a folder or hub name.

    device: "cpu", "cuda", …; by default a GPU if there is one. dtype: a torch dtype name; by default the checkpoint's
    own on a GPU and float32 on a CPU. batch_size: most sequences decoded at once. control_tokens: instructions are
    given as one token (lab models).

    Raises `ModelError` when the model cannot be loaded.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        spec: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 64,
        control_tokens: bool = False,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            kind = getattr(torch, dtype) if dtype else (torch.float32 if device == "cpu" else "auto")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=kind)
            model.to(device).eval()
        except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"the model {str(path)!r} cannot be loaded ({reason}); name a folder or a model of the hub"
            ) from error
        self.model = model
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"the model {str(path)!r} has no fast tokenizer (tokenizer.json); convert it with transformers first"
            )
        self.spec = spec or f"hf/{path}"
        self.batch_size, self.control_tokens = batch_size, control_tokens
        self._end_ids = _end_ids(self.model, self.tokenizer)
        self._pad_id = (
            self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self._end_ids, default=0)
        )
        self._limit: int = getattr(self.model.config, "max_position_embeddings", None) or 2**31
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ken-local")
        self._lock = threading.Lock()  # one forward pass at a time, also when two event loops share the model
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane] = weakref.WeakKeyDictionary()

    async def generate(
        self, conversation: Conversation, *, n: int = 1, sampling: Sampling = Sampling()
    ) -> list[Generation]:
        """Continue a conversation `n` times; sample i > 0 draws with seed + i. Raises `ModelError` when it exceeds the
        context.
        """
        text, prompt = self.render(conversation)
        if len(prompt) >= self._limit:
            raise ModelError(
                f"the prompt has {len(prompt)} tokens, {self.spec} takes fewer than {self._limit}; use fewer passages"
            )
        loop = asyncio.get_running_loop()
        lane = self._lanes.setdefault(loop, _Lane(self))
        request = _Request(tuple(prompt), text, n, sampling, loop.create_future())
        lane.submit(request)
        return await request.future

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        """Log-probabilities of `continuation`, encoded on its own, after `conversation`."""
        _, prompt = self.render(conversation)
        ids = self._encode(continuation)
        if not ids:
            return Score((), ())
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._score, prompt, ids)

    async def hidden_states(self, conversation: Conversation, continuation: str = "") -> np.ndarray:
        """Hidden states over the rendered conversation and continuation: float32 [layers + 1, tokens, width]; layer 0
        is the embedding.
        """
        _, prompt = self.render(conversation)
        ids = [*prompt, *self._encode(continuation)]
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._hidden_states, ids)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- prompts
    # -----------------------------------------------------------------------------------------------------------------

    def render(self, conversation: Conversation) -> tuple[str, list[int]]:
        """(text, token ids) of everything the model sees: the opening through the chat template, then policy and
        observation text as one running assistant turn. Policy ids are taken as sampled; observations are encoded with
        special tokens as plain text, so that a document cannot smuggle in a control token."""
        opening = [m for m in conversation if m.role in {"system", "user"}]
        text, ids = self._render_opening(opening)
        pieces = [text]
        for message in conversation[len(opening) :]:
            content = self._content(message)
            pieces.append(content)
            if message.token_ids is not None:
                ids.extend(message.token_ids)
            else:
                plain = message.role == "observation" and not isinstance(message.content, Instruction)
                ids.extend(self._encode(content, plain=plain))
        return "".join(pieces), ids

    def _render_opening(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        turns = [{"role": m.role, "content": self._content(m)} for m in messages]
        if not self.tokenizer.chat_template:
            text = "\n\n".join(turn["content"] for turn in turns) + "\n\n"
            return text, list(self.tokenizer(text)["input_ids"])
        try:
            text = self._template(turns)
        except Exception as error:  # a template may refuse a system turn (Gemma); jinja raises its own kinds
            if turns[0]["role"] != "system":
                raise ModelError(f"the chat template of {self.spec} failed: {error}") from error
            merged = "\n\n".join(turn["content"] for turn in turns)
            text = self._template([{"role": "user", "content": merged}])
        return text, self._encode(text)

    def _template(self, turns: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _content(self, message: Message) -> str:
        if isinstance(message.content, Instruction):
            return message.content.token if self.control_tokens else message.content.text
        return message.content

    def _encode(self, text: str, *, plain: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"])

    # --- work in the model's thread
    # --------------------------------------------------------------------------------------------

    def _run(self, requests: Sequence[_Request]) -> list[list[Generation]]:
        from ken.models.decoding import Row, decode

        rows = [
            [Row(r.prompt, r.sampling.but(seed=r.sampling.seed + i) if i else r.sampling) for i in range(r.n)]
            for r in requests
        ]
        started = time.perf_counter()
        with self._lock:
            decode(
                self.model,
                self.tokenizer.backend_tokenizer,
                [row for group in rows for row in group],
                end_ids=self._end_ids,
                pad_id=self._pad_id,
                limit=self._limit,
            )
        seconds = time.perf_counter() - started
        return [
            [_generation(request, row, i, seconds) for i, row in enumerate(group)]
            for request, group in zip(requests, rows, strict=True)
        ]

    def _score(self, prompt: list[int], ids: list[int]) -> Score:
        import torch

        with self._lock, torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([[*prompt, *ids]], device=self.model.device)).logits[0].float()
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
        chosen = logprobs.gather(-1, torch.tensor(ids, device=logprobs.device)[:, None])[:, 0]
        return Score(tuple(ids), tuple(chosen.tolist()))

    def _hidden_states(self, ids: list[int]) -> np.ndarray:
        import torch

        with self._lock, torch.inference_mode():
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
                failure = ModelError(f"{model.spec} failed while generating: {type(error).__name__}: {error}")
                failure.__cause__ = error
                for request in batch:
                    if not request.future.done():
                        request.future.set_exception(failure)
            else:
                for request, result in zip(batch, results, strict=True):
                    if not request.future.done():
                        request.future.set_result(result)

    def _take(self, rows: int) -> list[_Request]:
        """Pending requests of up to `rows` sequences (at least one request), those given up by their caller left
        out.
        """
        batch: list[_Request] = []
        while self._pending and (not batch or sum(r.n for r in batch) + self._pending[0].n <= rows):
            request = self._pending.popleft()
            if not request.future.done():
                batch.append(request)
        return batch


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
    )


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
