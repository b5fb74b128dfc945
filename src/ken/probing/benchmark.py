"""What decoders cost, side by side: tokens a second and peak memory, over the same prompts and the same model."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ken.core import BadInput, Sampling
from ken.models.conversation import Conversation
from ken.models.decoder import Decoder
from ken.models.decoding import Row, decode
from ken.models.local import LocalModel

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_NOW = re.compile(r"VmRSS:\s+(\d+) kB")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one decoder, medians over rounds. seconds_a_token: wall time over all tokens written by all rows, prompts
    included; peak_bytes: most memory beyond what was there before it began, nan where the system does not tell (other
    than CUDA and Linux)."""

    seconds_a_token: float
    peak_bytes: float

    @property
    def tokens_a_second(self) -> float:
        return 1 / self.seconds_a_token


def costs(
    model: LocalModel,
    decoders: Mapping[str, Decoder | None],
    conversations: Sequence[Conversation],
    *,
    tokens: int = 16,
    rounds: int = 5,
) -> dict[str, Cost]:
    """Every decoder continues all conversations greedily by `tokens` tokens each, in one batch, whatever ends they
    write; None is the model by itself, which may take a faster way (`ken.models.plain_forward`).

    Decoders take turns, `rounds` times after one that is not counted, so that what else the machine does meets all.
    Not to be called while the model generates. Raises `BadInput` for no conversations, tokens or rounds.
    """
    if not conversations or tokens < 1 or rounds < 1:
        raise BadInput("costs are measured over at least one conversation, one token and one round")
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    peaks: dict[str, list[float]] = {name: [] for name in decoders}
    for number in range(rounds + 1):
        for name, decoder in decoders.items():
            rows = [_row(model, decoder, conversation, tokens) for conversation in conversations]
            peak = _Peak(model.model.device)
            started = time.perf_counter()
            decode(
                model.model,
                model.tokenizer.backend_tokenizer,
                rows,
                end_ids=frozenset(),
                pad_id=0,
                limit=model.limit,
                decoder=decoder,
            )
            if model.model.device.type == "cuda":
                torch.cuda.synchronize(model.model.device)
            if number:
                seconds[name].append((time.perf_counter() - started) / sum(len(row.ids) for row in rows))
                peaks[name].append(peak.read())
    return {name: Cost(median(seconds[name]), median(peaks[name])) for name in decoders}


def _row(model: LocalModel, decoder: Decoder | None, conversation: Conversation, tokens: int) -> Row:
    second = None
    if decoder is not None:
        conversation = decoder.prompt(conversation)
        contrast = decoder.contrast(conversation)
        second = None if contrast is None else tuple(model.render(contrast)[1])
    return Row(tuple(model.render(conversation)[1]), Sampling(max_tokens=tokens), contrast=second)


class _Peak:
    """The most memory in use since it was made, beyond what was in use then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = float(torch.cuda.memory_allocated(device))
        else:
            with suppress(OSError):  # only Linux has it
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far (proc(5))
            self.before = _of_process(_NOW)

    def read(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return max(0.0, _of_process(_PEAK) - self.before)


def _of_process(what: re.Pattern[str]) -> float:
    try:
        found = what.search(Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return float("nan")
    return int(found[1]) * 1024.0 if found else float("nan")
