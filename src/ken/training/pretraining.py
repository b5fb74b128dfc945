"""Pretrain a small causal language model from scratch on short sequences with a loss mask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from ken.training.muon import Muon

Weigh = Literal["batch", "token"]


@dataclass(frozen=True, slots=True)
class Example:
    """A training sequence: token ids, and for each whether the loss sees it (is to be predicted from what stands
    before).
    """

    ids: tuple[int, ...]
    learn: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class PretrainingConfig:
    """Linear warm-up and cosine decay to zero. batch: sequences a step; lr: peak; seed: order of the examples.

    optimizer: "adamw" for all parameters, or "muon" for the hidden matrices and AdamW for the rest.

    weigh: "batch" takes the mean loss of every batch; "token" lets every learnt token of a stage weigh the same.
    Batches hold examples of similar length, so by batch the tokens of short examples weigh several times those of long
    ones: content is learnt all the same, but choices that make an example short are learnt as likelier than they are.
    """

    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 100
    grad_clip: float = 1.0
    seed: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    weigh: Weigh = "batch"


def pretrain(
    model: Any,
    stages: Sequence[Sequence[Example]],
    config: PretrainingConfig,
    *,
    pad_id: int,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    loss_of: Callable[[Any, Sequence[Example], int], torch.Tensor] | None = None,
    enough: Callable[[int], bool] = lambda step: False,
) -> float:
    """Train `model` in place, stage after stage, each example once and in random order within its stage; returns wall
    seconds. One learning-rate schedule spans all stages.

    on_step is called after every step with (step, steps, loss); the loss is the mean over the tokens learnt, in nats.
    loss_of: (model, batch, pad_id) to what is minimised, `masked_loss` by default. enough: asked after every step;
    training ends where it says so. Parameters that need no gradient stay as they are.
    """
    started = time.perf_counter()
    rng = np.random.default_rng(config.seed)
    batches = [
        (batch, scale)
        for examples in stages
        for batch, scale in _weighed(_batches(examples, config.batch, rng), config)
    ]
    optimizers = _optimizers(model, config)

    def schedule(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, len(batches) - config.warmup)))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]
    model.train()
    for step, (batch, scale) in enumerate(batches, start=1):
        loss = (loss_of or masked_loss)(model, batch, pad_id)
        (loss * scale).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        on_step(step, len(batches), float(loss.detach()))
        if enough(step):
            break
    model.eval()
    return time.perf_counter() - started


def _optimizers(model: Any, config: PretrainingConfig) -> list[torch.optim.Optimizer]:
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        hidden = [p for p in model.model.layers.parameters() if p.ndim == 2 and p.requires_grad]
        optimizers.append(Muon(hidden, lr=config.lr, weight_decay=config.weight_decay))
        taken = {id(parameter) for parameter in hidden}
        rest = [parameter for parameter in rest if id(parameter) not in taken]
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True)
    return [*optimizers, adamw]


def masked_loss(model: Any, batch: Sequence[Example], pad_id: int) -> torch.Tensor:
    """Mean cross-entropy (nats) over the tokens marked `learn`.

    Padding is on the right, where causal attention cannot see it, so no attention mask is needed.
    """
    ids, wanted = padded(batch, pad_id)
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[wanted]
    return functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][wanted])


def padded(batch: Sequence[Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [rows, length], padded on the right; which of ids[:, 1:] are to be predicted)."""
    length = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), length), pad_id)
    learn = torch.zeros((len(batch), length), dtype=torch.bool)
    for row, example in enumerate(batch):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        learn[row, :n] = torch.tensor(example.learn)
    return ids, learn[:, 1:]


def _weighed(batches: Iterator[list[Example]], config: PretrainingConfig) -> list[tuple[list[Example], float]]:
    """The batches of a stage, each with what its mean loss is to be multiplied by."""
    made = list(batches)
    if config.weigh == "batch":
        return [(batch, 1.0) for batch in made]
    learnt = [sum(sum(example.learn[1:]) for example in batch) for batch in made]
    return [(batch, tokens * len(made) / sum(learnt)) for batch, tokens in zip(made, learnt, strict=True)]


def _batches(examples: Sequence[Example], size: int, rng: np.random.Generator) -> Iterator[list[Example]]:
    """Examples in random order, in batches of similar length: sorted only within windows of 64 batches, so that order
    stays random.
    """
    order = rng.permutation(len(examples))
    window = 64 * size
    for start in range(0, len(order), window):
        chunk = sorted(order[start : start + window].tolist(), key=lambda i: len(examples[i].ids))
        batches = [chunk[i : i + size] for i in range(0, len(chunk), size)]
        yield from ([examples[j] for j in batches[int(i)]] for i in rng.permutation(len(batches)))
