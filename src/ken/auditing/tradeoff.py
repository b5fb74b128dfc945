"""What accuracy costs: all strategies on the same questions."""

from __future__ import annotations

from statistics import fmean, median

from ken.auditing.grouped import Grouped
from ken.auditing.report import Tradeoff
from ken.core import Trajectory
from ken.metrics import exact_match
from ken.metrics.pareto import pareto_front


def tradeoffs(found: Grouped) -> tuple[Tradeoff, ...]:
    """One for each strategy that was asked anything, over the questions with golds that all of them attempted; empty
    when there is none such."""
    asked = {name: attempts for name, attempts in found.greedy.items() if attempts}
    shared = [i for i, q in found.questions.items() if q.answers and all(i in attempts for attempts in asked.values())]
    if not asked or not shared:
        return ()
    measured = [_measured(name, [attempts[i] for i in shared]) for name, attempts in asked.items()]
    best = set(pareto_front([(one.tokens, one.accuracy) for one in measured]))
    return tuple(one.model_copy(update={"best": place in best}) for place, one in enumerate(measured))


def _measured(strategy: str, ts: list[Trajectory]) -> Tradeoff:
    return Tradeoff(
        strategy=strategy,
        questions=len(ts),
        accuracy=fmean(exact_match(t.answer, t.question.answers) for t in ts),
        tokens=fmean(t.usage.prompt_tokens + t.usage.completion_tokens for t in ts),
        seconds_median=median(t.usage.seconds for t in ts),
        best=False,
    )
