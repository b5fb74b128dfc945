"""How far apart two distributions or two states are (card 57, unit tests).

All take tensors whose last axis is the vocabulary (or the width) and broadcast over the others. Distributions come as
natural logarithms of probabilities (`log_softmax`), since probabilities of a large vocabulary underflow.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) = Σ p (log p − log q), in nats, ≥ 0; infinite where q is 0 and p is not."""
    terms = log_p.exp() * (log_p - log_q)
    # 0 · (−∞) is 0 here: what p never says costs nothing.
    return torch.where(log_p == -math.inf, torch.zeros_like(terms), terms).sum(-1).clamp(min=0)


def jsd(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2, in nats: symmetric, from 0 to ln 2."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (0.5 * (kl(log_p, log_m) + kl(log_q, log_m))).clamp(max=math.log(2))


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosine of the angle between two states, in [−1, 1]; 0 where one of them is zero."""
    return functional.cosine_similarity(one, other, dim=-1)


def dola_compat(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """What the released codes of DoLa (`dola.py`) and ReDeEP call JSD: half the sum of KL(m ‖ p) and KL(m ‖ q), divided
    by the size of the vocabulary. The arguments are the other way round than in `jsd`, so it has no upper bound; for
    results to be compared with theirs."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (kl(log_m, log_p) + kl(log_m, log_q)) / log_p.shape[-1]
