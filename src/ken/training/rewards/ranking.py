"""How high does the rewritten query bring the gold passage? Rewards of a rank.

Ranks are 1-based; None, and whatever is below 1 (the rank service says −1), mean that the gold passage was not found.
Source: ConvSearch-R1 (arXiv 2505.15776; card 17, Stage 2: reward).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeGuard

from ken.core import BadInput, Observation, Trajectory
from ken.metrics import ranks, ranks_of
from ken.training.rewards.completion import written

Rank = int | None

_REWRITE = re.compile(
    r"<think>(?:(?!</?(?:think|rewrite)>).)*</think>\n<rewrite>(?:(?!</?(?:think|rewrite)>).)*</rewrite>", re.DOTALL
)


def rank_incentive(rank: Rank) -> float:
    """Rank-incentive reward shaping (RIRS), in [0, 2]: from 2 at rank 1 to 1 at rank 10, then (100 − rank) / 90, which
    is 0 at rank 100; 0 beyond and when not found."""
    if not _found(rank, 100):
        return 0.0
    return 2.0 - (rank - 1) / 9 if rank <= 10 else (100 - rank) / 90


def ndcg(rank: Rank, k: int = 10) -> float:
    """NDCG@k with one gold passage, in [0, 1]: 1 / log2(1 + rank) up to rank k. Raises `BadInput` for k < 1."""
    return ranks.ndcg(_ranks(rank), 1, _checked(k))


def mrr(rank: Rank, k: int = 10) -> float:
    """MRR@k, in [0, 1]: 1 / rank up to rank k. Raises `BadInput` for k < 1."""
    return ranks.reciprocal(_ranks(rank, _checked(k)))


def recall(rank: Rank, k: int = 10) -> float:
    """Recall@k of the best gold passage: 1 up to rank k, else 0. Raises `BadInput` for k < 1."""
    return ranks.recall(_ranks(rank), 1, _checked(k))


RankMeasure = Literal["rank-incentive", "ndcg", "mrr", "recall"]


def rank_measure(name: RankMeasure, k: int = 10) -> Callable[[Rank], float]:
    """The measure of a rank called `name`, at `k` where it has one. Raises `BadInput` for k < 1."""
    if name == "rank-incentive":
        return rank_incentive
    return partial({"ndcg": ndcg, "mrr": mrr, "recall": recall}[name], k=_checked(k))


def curriculum(rank: Rank, step: int, steps: int) -> float:
    """In the first quarter of `steps` 1 − (rank − 1) / 99 for ranks 1 to 100, then only for ranks 1 to 10 (0 for 11 to
    100); −0.2 when not found within 100. In the authors' code, but not used by them.

    Raises `BadInput` unless 0 ≤ step and 1 ≤ steps.
    """
    if step < 0 or steps < 1:
        raise BadInput(f"step {step} of {steps} is no place in a training; give 0 ≤ step and at least one step")
    if not _found(rank, 100):
        return -0.2
    return 1.0 - (rank - 1) / 99 if step <= steps // 4 or rank <= 10 else 0.0


def well_formed(text: str) -> bool:
    """Whether the whole response is `<think>…</think>`, one line break, `<rewrite>…</rewrite>`, and nothing else; even
    white space at the end is something else."""
    return _REWRITE.fullmatch(text) is not None


def composed(text: str, reward: float, *, penalty: float = -0.1) -> float:
    """`reward`, or `penalty` in its place when the response is not `well_formed`."""
    return reward if well_formed(text) else penalty


def gold_rank(trajectory: Trajectory) -> Rank:
    """Rank of the best gold document in the last search of an attempt, counting every document once; None when it was
    not found or nothing was searched. Raises `BadInput` when the question does not name its gold documents."""
    gold = set(trajectory.question.supporting_ids)
    if not gold:
        raise BadInput(
            f"question {trajectory.question.id!r} does not name its gold passages; list their ids under "
            "'supporting_ids' in its metadata, or leave it out of training"
        )
    results = [step.passages for step in trajectory.steps if isinstance(step, Observation)]
    return next(iter(ranks_of((passage.document_id for passage in results[-1]), gold)), None) if results else None


def rewriting(
    trajectory: Trajectory,
    *,
    measure: Callable[[Rank], float] = rank_incentive,
    rank: Callable[[Trajectory], Rank] = gold_rank,
    penalty: float = -0.1,
) -> float:
    """`measure` of the gold rank, or `penalty` when what the policy wrote is not `well_formed`.

    0 after an error, which says nothing about the rewrite: a trainer drops such groups.
    """
    if trajectory.error is not None:
        return 0.0
    return composed(written(trajectory), measure(rank(trajectory)), penalty=penalty)


def _ranks(rank: Rank, most: int = sys.maxsize) -> tuple[int, ...]:
    return (rank,) if _found(rank, most) else ()


def _found(rank: Rank, most: int) -> TypeGuard[int]:
    return rank is not None and 1 <= rank <= most


def _checked(k: int) -> int:
    if k < 1:
        raise BadInput(f"k is {k}; it must be at least 1")
    return k
