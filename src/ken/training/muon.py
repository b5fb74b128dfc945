"""Muon: momentum whose every matrix is made orthogonal before it is applied (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon; step size of Liu et al. 2025, arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# Odd polynomial that drives singular values towards 1, the fastest for five steps (the post's "Newton-Schulz").
_CUBIC = (3.4445, -4.7750, 2.0315)
_LIKE_ADAMW = 0.2  # root mean square of an AdamW update, so that both take the same learning rate


class Muon(torch.optim.Optimizer):
    """For the hidden matrices of a small model; embeddings and norms belong to AdamW.

    An orthogonal update moves rare directions as far as frequent ones, which is what facts seen a few times need.
    Unlike `torch.optim.Muon` (2.9 and later) it works in float32 and on all matrices of a shape at once, which is what
    a processor is fast at.

    lr, weight_decay: as for AdamW. momentum: Nesterov's. Raises `ValueError` for a parameter that is not a matrix.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        *,
        lr: float = 3e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        steps: int = 5,
    ) -> None:
        shapes: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for parameter in parameters:
            if parameter.ndim != 2:
                raise ValueError(f"Muon takes matrices, not a parameter of shape {tuple(parameter.shape)}")
            shapes.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
        super().__init__([{"params": group} for group in shapes.values()], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters; every one must have a gradient."""
        assert closure is None
        for group in self.param_groups:
            matrices = group["params"]
            updates = torch.stack([_wide(self._nesterov(p, group["momentum"])) for p in matrices])
            for parameter, update in zip(matrices, orthogonal(updates, group["steps"]), strict=True):
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(
                    update if rows <= columns else update.T,
                    alpha=-group["lr"] * _LIKE_ADAMW * max(rows, columns) ** 0.5,
                )

    def _nesterov(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        assert parameter.grad is not None
        average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly: singular values between 0.7 and 1.2. matrices: [n, rows, columns], rows
    at most columns.
    """
    a, b, c = _CUBIC
    matrices = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = matrices @ matrices.mT
        matrices = a * matrices + (b * gram + c * gram @ gram) @ matrices
    return matrices


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
