"""From trajectories to the tensors of one update. Tokens in, tokens out: ids are taken as seen and sampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from ken.core import BadInput, Trajectory


@dataclass(frozen=True, slots=True)
class TokenRow:
    """The token sequence of one attempt.

    ids: everything the model saw or wrote. policy: which of them it wrote. logprobs: of those, under the sampling
    distribution; 0 elsewhere. turn: for policy tokens, the number of the policy segment (0, 1, …); −1 elsewhere.
    """

    ids: tuple[int, ...]
    policy: tuple[bool, ...]
    logprobs: tuple[float, ...]
    turn: tuple[int, ...]

    @property
    def start(self) -> int:
        """Position of the first token the model wrote; the length when it wrote none."""
        return self.policy.index(True) if True in self.policy else len(self.ids)


def token_row(trajectory: Trajectory) -> TokenRow:
    """The segments of an attempt, joined; observations that nothing was written after are left out.

    Raises `BadInput` when the model gives no token ids, or when the attempt is more than one conversation, whose tokens
    do not form one sequence (train the parts of such a strategy apart).
    """
    segments = list(trajectory.segments)
    while segments and segments[-1].role != "policy":
        segments.pop()
    if sum(segment.role == "prompt" for segment in segments) > 1:
        raise BadInput(
            f"an attempt of the strategy {trajectory.strategy!r} is several conversations, which cannot be trained as "
            "one sequence; make a task of each of its parts"
        )
    if any(s.token_ids is None or (s.role == "policy" and s.logprobs is None) for s in segments):
        raise BadInput(f"the model {trajectory.model!r} gives no token ids to train on; train a local model (hf/…)")
    written = [s.role == "policy" for s in segments]
    turns = [sum(written[:i]) if own else -1 for i, own in enumerate(written)]
    ids = [s.token_ids or () for s in segments]
    return TokenRow(
        ids=tuple(chain.from_iterable(ids)),
        policy=tuple(own for own, part in zip(written, ids, strict=True) for _ in part),
        logprobs=tuple(
            chain.from_iterable(
                (s.logprobs or ()) if s.role == "policy" else (0.0,) * len(s.token_ids or ()) for s in segments
            )
        ),
        turn=tuple(turn for turn, part in zip(turns, ids, strict=True) for _ in part),
    )


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows as tensors. There is no padding on the left: `opening` holds the first tokens of all rows, as many as the
    shortest prompt has, and `rest` everything after, padded on the right. So every token stands at the position at
    which it was sampled, also for models with absolute positions.

    opening: int64 [B, P]. rest: int64 [B, T]. real: bool [B, T], False for padding. policy: bool [B, T]. logprobs:
    float32 [B, T]. turn: int64 [B, T], −1 for tokens the model did not write.
    """

    opening: torch.Tensor
    rest: torch.Tensor
    real: torch.Tensor
    policy: torch.Tensor
    logprobs: torch.Tensor
    turn: torch.Tensor

    @property
    def last(self) -> torch.Tensor:
        """Position in `rest` of each row's last policy token, int64 [B]; 0 for rows without any."""
        places = torch.arange(self.rest.shape[1], device=self.rest.device)
        return torch.where(self.policy, places, 0).amax(1)


def token_batch(rows: Sequence[TokenRow], pad_id: int, device: torch.device | str = "cpu") -> TokenBatch:
    """Stack rows. A row in which the model wrote nothing becomes padding that no loss sees."""
    prompt = min((row.start for row in rows if True in row.policy), default=1)
    prompt = max(prompt, 1)
    length = max(1, *(len(row.ids) - prompt for row in rows))
    written = np.array([True in row.policy for row in rows])
    ends = np.where(written, [len(row.ids) for row in rows], prompt + 1)  # attention needs something to look at
    real = np.arange(prompt + length) < ends[:, None]
    filled = real & written[:, None]

    def stacked(values: Iterable[Sequence[float]], empty: float, kind: Any) -> torch.Tensor:
        table = np.full(filled.shape, empty, kind)
        table[filled] = np.fromiter(chain.from_iterable(v for v, own in zip(values, written, strict=True) if own), kind)
        return torch.from_numpy(table)

    ids = stacked((row.ids for row in rows), pad_id, np.int64)
    rest = (
        ids,
        torch.from_numpy(real),
        stacked((row.policy for row in rows), False, np.bool_),
        stacked((row.logprobs for row in rows), 0.0, np.float32),
        stacked((row.turn for row in rows), -1, np.int64),
    )
    return TokenBatch(ids[:, :prompt].to(device), *(part[:, prompt:].to(device) for part in rest))
