"""A linear adapter between questions and tools, learnt by contrast (card 49, Arm A; the semantic stage of COLT, arXiv
2405.16089, with vectors that stay as they are)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ken.core import BadInput
from ken.core.frozen import Frozen


class AdapterConfig(Frozen):
    """epochs over all pairs of question and needed tool; batch: pairs a step; lr: of AdamW, decayed to zero;
    temperature of the contrast; seed: order of the pairs."""

    epochs: int = 15
    batch: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.01
    temperature: float = 0.05
    seed: int = 0


def learn_adapter(
    questions: NDArray[np.float32],
    tools: NDArray[np.float32],
    needed: Sequence[Collection[int]],
    config: AdapterConfig | None = None,
) -> NDArray[np.float32]:
    """The matrix A, shape (d, d), for which question @ A points to the tools that it needs.

    questions: shape (n, d); tools: (m, d); needed: of each question, the rows of its tools. The loss of a pair is the
    multiple-negatives ranking loss against all m tools, those aside that the question needs too. A begins as the
    identity. Raises `BadInput` without pairs.
    """
    config = config or AdapterConfig()
    pairs = [(i, tool) for i, those in enumerate(needed) for tool in those]
    if not pairs:
        raise BadInput("there are no pairs of question and tool to learn from")
    torch.manual_seed(config.seed)
    q, t = torch.from_numpy(questions), torch.from_numpy(tools)
    also = torch.zeros((len(questions), len(tools)), dtype=torch.bool)
    for i, tool in pairs:
        also[i, tool] = True
    matrix = torch.eye(q.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([matrix], lr=config.lr, weight_decay=0.0)
    steps = config.epochs * -(-len(pairs) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    places = torch.tensor(pairs)
    identity = torch.eye(q.shape[1])
    for _ in range(config.epochs):
        for part in torch.randperm(len(pairs)).split(config.batch):
            which, right = places[part].T
            scores = functional.normalize(q[which] @ matrix, dim=1) @ t.T / config.temperature
            others = also[which].clone()
            others[torch.arange(len(part)), right] = False
            loss = functional.cross_entropy(scores.masked_fill(others, -torch.inf), right)
            # pulled towards the identity, so that tools without questions stay where they were
            (loss + config.weight_decay * (matrix - identity).square().sum() / len(matrix)).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return np.asarray(matrix.detach().numpy(), dtype=np.float32)
