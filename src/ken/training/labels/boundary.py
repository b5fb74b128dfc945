"""Training questions from both sides of what a model knows (IKEA, arXiv 2505.07596, "boundary-aware data")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ken.core import BadInput, Question
from ken.core.seeding import derive_seed

Rule = Callable[[float], bool]
"""Is a question of this solve rate easy?"""


def ever_solved(rate: float) -> bool:
    """Easy: solved at least once (IKEA's rule, of N = 16 samples)."""
    return rate > 0


def solved_at_least(threshold: float) -> Rule:
    """Easy: a solve rate of `threshold` or more. Raises `BadInput` outside (0, 1]."""
    if not 0 < threshold <= 1:
        raise BadInput(f"the threshold of easy questions is {threshold}; it must lie in (0, 1]")
    return lambda rate: rate >= threshold


@dataclass(frozen=True, slots=True)
class BoundaryQuestions:
    """Questions that the model can answer by itself (`easy`) and that it cannot (`hard`).

    `questions` are both, shuffled: what is trained on. The two sides stay apart for evaluation: an average over them
    hides the point.
    """

    easy: tuple[Question, ...]
    hard: tuple[Question, ...]
    questions: tuple[Question, ...]


def boundary_questions(
    questions: Iterable[Question],
    rates: Mapping[str, float],
    *,
    n: int | None = None,
    ratio: float = 0.5,
    rule: Rule = ever_solved,
    seed: int = 0,
) -> BoundaryQuestions:
    """Draw `n` questions without replacement, a share `ratio` of them easy.

    rates: question id → solve rate in [0, 1], of the model that is to be trained. n: ≥ 1; by default as many as there
    are at this ratio. ratio: 0 is hard only, 1 easy only; the number of easy ones is rounded.

    The draw depends on seed and ids, not on the order of `questions`; at the same seed a smaller set is part of a
    larger one. Raises `BadInput` when a question has no rate, when there are no easy or no hard questions at all
    (there is no boundary then), and when there are fewer than asked for.
    """
    if not 0 <= ratio <= 1:
        raise BadInput(f"the ratio of easy questions is {ratio}; it must lie in [0, 1]")
    if n is not None and n < 1:
        raise BadInput(f"n is {n}; ask for at least one question")
    easy, hard = _sides(questions, rates, rule)
    found = f"the probe found {len(easy)} easy and {len(hard)} hard questions"
    if not easy or not hard:
        lacking = "hard" if easy else "easy"
        raise BadInput(
            f"{found}, so there is no boundary to learn; add {lacking} questions, change the rule of what is easy, "
            "or probe with more samples"
        )
    most = _most(len(easy), len(hard), ratio)
    n = most if n is None else n
    wanted = round(n * ratio)
    if wanted > len(easy) or n - wanted > len(hard):
        raise BadInput(
            f"{wanted} easy and {n - wanted} hard questions are asked for, but {found}; ask for at most {most} in all, "
            "or probe more questions"
        )
    chosen = _draw(easy, wanted, "easy", seed), _draw(hard, n - wanted, "hard", seed)
    return BoundaryQuestions(*chosen, questions=_draw([*chosen[0], *chosen[1]], n, "mixed", seed))


def _sides(
    questions: Iterable[Question], rates: Mapping[str, float], rule: Rule
) -> tuple[list[Question], list[Question]]:
    easy: list[Question] = []
    hard: list[Question] = []
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise BadInput(f"the question {question.id!r} is given twice; ids must be unique")
        seen.add(question.id)
        if question.id not in rates:
            raise BadInput(f"the question {question.id!r} has no solve rate; probe it first, or leave it out")
        if not 0 <= (rate := rates[question.id]) <= 1:
            raise BadInput(f"the solve rate of {question.id!r} is {rate}; it must lie in [0, 1]")
        (easy if rule(rate) else hard).append(question)
    return easy, hard


def _most(easy: int, hard: int, ratio: float) -> int:
    """The largest n with round(n·ratio) ≤ easy and n − round(n·ratio) ≤ hard. Both grow with n."""
    low, high = 0, easy + hard
    while low < high:
        n = (low + high + 1) // 2
        if round(n * ratio) <= easy and n - round(n * ratio) <= hard:
            low = n
        else:
            high = n - 1
    return low


def _draw(pool: Sequence[Question], count: int, what: str, seed: int) -> tuple[Question, ...]:
    ordered = sorted(pool, key=lambda question: question.id)
    order = np.random.default_rng(derive_seed("boundary", what, seed)).permutation(len(ordered))
    return tuple(ordered[int(i)] for i in order[:count])
