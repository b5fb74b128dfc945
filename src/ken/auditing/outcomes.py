"""What became of every attempt of an audit that counts, in a line each: for drilling down, and for comparing audits."""

from __future__ import annotations

from collections.abc import Iterable

from ken.auditing.folder import AuditSettings
from ken.auditing.grouped import grouped
from ken.core import Trajectory
from ken.core.frozen import Frozen
from ken.metrics import SearchUse, classify_search, decision_of, exact_match, token_f1


class Outcome(Frozen):
    """One strategy's attempt at one question. None where it cannot be said.

    right, f1: exact match and token F1 of the answer; None without golds. decides: said that it knows, or, of
    strategies that do not say, did not search; None for an unreadable verdict. searches: how often it looked outside,
    in a graph and with tools too. known: the model can answer alone, by the audit's best oracle. solve_rate: share of
    right closed-book samples. use: what its searches were good for.
    tokens: read and written. error: why the attempt failed; what it came to is then empty.
    """

    question_id: str
    question: str
    golds: tuple[str, ...]
    strategy: str
    answer: str | None = None
    right: bool | None = None
    f1: float | None = None
    decides: bool | None = None
    searches: int = 0
    known: bool | None = None
    solve_rate: float | None = None
    use: SearchUse | None = None
    malformed: int = 0
    tokens: int = 0
    error: str | None = None


def outcomes(trajectories: Iterable[Trajectory], settings: AuditSettings) -> list[Outcome]:
    """One outcome for each attempt that counts (closed-book samples are in `known` and `solve_rate`), question by
    question in the order of ids, strategies in the order of the settings."""
    found = grouped(trajectories, settings)
    order = {name: number for number, name in enumerate(settings.strategies)}
    counted = [t for t in found.everything if t.sample is None and t.strategy in order]
    counted.sort(key=lambda t: (t.question.id, order[t.strategy]))
    return [_outcome(t, found.known.get(t.question.id), found.rates.get(t.question.id)) for t in counted]


def _outcome(t: Trajectory, known: bool | None, solve_rate: float | None) -> Outcome:
    about = Outcome(
        question_id=t.question.id,
        question=t.question.text,
        golds=t.question.answers,
        strategy=t.strategy,
        known=known,
        solve_rate=solve_rate,
        error=t.error,
    )
    if t.error is not None:
        return about
    golds = t.question.answers
    right = exact_match(t.answer, golds) if golds else None
    return about.model_copy(
        update={
            "answer": t.answer,
            "right": right,
            "f1": token_f1(t.answer, golds) if golds else None,
            "decides": decision_of(t),
            "searches": t.lookups,
            "use": None if known is None or right is None else classify_search(t.lookups > 0, known, right),
            "malformed": t.malformed,
            "tokens": t.usage.prompt_tokens + t.usage.completion_tokens,
        }
    )
