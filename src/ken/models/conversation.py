"""What a model is given and what it gives back.

A conversation is a sequence of messages. How it becomes tokens is the model's business: an endpoint sends chat
messages, a local model renders its own chat template and appends policy and observation text to the same turn, as
Search-R1 does (card 00).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ken.core import Usage
from ken.models.decoder import StepNote


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the model is asked to do: the full `text` for real models, one control `token` for models of the lab."""

    text: str
    token: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `policy` is what the model itself wrote, `observation` what the environment put into its context.

    `token_ids`: for policy messages, the ids as sampled; a local model continues from them and never re-encodes the
    text.
    """

    role: Literal["system", "user", "policy", "observation"]
    content: str | Instruction
    token_ids: tuple[int, ...] | None = None


Conversation = Sequence[Message]


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation of a conversation.

    text: what was written, including the stop string that ended it.
    ended: "stop" (a stop string), "end" (the model's own end of sequence) or "length" (max_tokens or the context
    limit).
    tokens, logprobs: the text token by token and the log-probability of each under the sampling distribution (the
    model's own
        distribution when greedy); None when the model does not give them. Concatenated, `tokens` is `text`.
    token_ids, prompt_token_ids: ids sampled, and ids of everything the model saw before them; None for endpoints.
    prompt_text: everything the model saw, as text.
    trace: what a decoder did, one note a token; None where the model chose from its own logits.
    """

    text: str
    ended: Literal["stop", "end", "length"]
    tokens: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_text: str = ""
    usage: Usage = field(default_factory=Usage)
    trace: tuple[StepNote, ...] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probabilities of a given continuation, one per token; `total` is their sum (natural logarithm)."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.logprobs)
