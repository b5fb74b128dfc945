"""A critic: how much a policy may expect from here (PPO; card 00, Algorithms)."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ken.training.focused_forward import buckets
from ken.training.sharding import NotFinite
from ken.training.token_rows import TokenBatch


class Critic(nn.Module):
    """A second model, started from the policy's weights, whose head gives one value for every token.

    lr: of its own AdamW. clip: how far a value may move from the old one before the loss no longer rewards it (value
    clipping, as in veRL and the Search-R1 configuration: 0.5).
    """

    def __init__(self, policy: Any, *, lr: float, clip: float, grad_clip: float = 1.0) -> None:
        super().__init__()
        self.backbone = deepcopy(policy.base_model)
        width = policy.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, device=policy.device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.clip, self.grad_clip = clip, grad_clip
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=0.0)

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """Values float32 [B, T] for the tokens of `rest`: what is expected before each of them is written. At padding
        they mean nothing."""
        ids = torch.cat([batch.opening, batch.rest], dim=1)
        mask = torch.cat([torch.ones_like(batch.opening, dtype=torch.bool), batch.real], dim=1)
        start = batch.opening.shape[1] - 1
        lengths = mask.sum(1)
        parts, order = [], []
        for rows in buckets(lengths.tolist()):  # short rows apart from long ones, to compute less padding
            length = int(lengths[rows].max())
            hidden = self.backbone(
                input_ids=ids[rows, :length], attention_mask=mask[rows, :length].long(), use_cache=False
            ).last_hidden_state
            values = self.head(hidden[:, start:-1].float())[..., 0]
            parts.append(nn.functional.pad(values, (0, ids.shape[1] - length)))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    @torch.no_grad()
    def values(self, batch: TokenBatch) -> torch.Tensor:
        """`forward` without a graph, 0 at padding."""
        values: torch.Tensor = self(batch) * batch.real
        return values

    def fit(self, batch: TokenBatch, returns: torch.Tensor, old: torch.Tensor, *, accelerator: Any = None) -> float:
        """One step towards `returns` [B, T], over the tokens of the policy; returns the explained variance before it.

        With several processes the gradients are averaged, so that all critics stay the same. Raises `NotFinite` before
        anything is changed.
        """
        seen = batch.policy
        values = self(batch)
        clipped = old + (values - old).clamp(-self.clip, self.clip)
        loss = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
        loss = 0.5 * (loss * seen).sum() / seen.sum().clamp(min=1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if accelerator is not None and accelerator.num_processes > 1:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
        if not bool(nn.utils.clip_grad_norm_(self.parameters(), self.grad_clip).isfinite()):
            raise NotFinite("the critic's loss is no longer a number; lower critic_lr")
        self.optimizer.step()
        wanted, got = returns[seen], old[seen]
        spread = wanted.var(unbiased=False)
        return float(1 - (wanted - got).var(unbiased=False) / spread) if spread > 0 else 0.0

    def save(self, path: Path) -> None:
        """Weights and optimizer."""
        torch.save({"weights": self.state_dict(), "optimizer": self.optimizer.state_dict()}, path)

    def load(self, path: Path) -> None:
        """What `save` wrote."""
        state = torch.load(path, map_location=self.head.weight.device, weights_only=True)
        self.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
