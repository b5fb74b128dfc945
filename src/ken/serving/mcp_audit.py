"""The MCP tool `audit_question`: an audit of one question, which is kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp.server.mcpserver import Context
from pydantic import BaseModel, Field

from ken.agents.ask import as_question
from ken.auditing.api import STRATEGIES as AUDITED
from ken.auditing.api import settings_of
from ken.auditing.measure import measure
from ken.auditing.report import StrategyReport
from ken.auditing.run import DIRECT, attempt_all, jobs_of
from ken.core import BadInput, Question, SourceError, Trajectory
from ken.metrics import SearchUse, solve_rate
from ken.serving.mcp_progress import reporting
from ken.serving.service import Service


class StrategyAudit(BaseModel):
    """One strategy's attempt at the audited question."""

    strategy: str
    answer: str | None
    correct: bool = Field(description="The answer is one of the accepted ones (exact match after normalisation).")
    knows: bool | None = Field(description="The model's decision, where the strategy asks for one.")
    searches: list[str] = Field(description="The queries.")
    search_use: SearchUse | None = Field(
        description=(
            "needed: it searched for what it does not know; wasted: for what it knows; harmful: and is now wrong; "
            "missed: it did not search for what it does not know; saved: it knows, and did not search. "
            "None: that cannot be told."
        )
    )
    error: str | None = None


class Audited(BaseModel):
    """What the model knows about one question, and what each strategy made of it."""

    model: str
    known: bool | None = Field(description="It can answer without a search; None: that could not be measured.")
    solve_rate: float | None = Field(description="Share of the closed-book samples that hold an accepted answer.")
    samples: list[str | None] = Field(description="The closed-book samples' answers.")
    strategies: list[StrategyAudit]
    notes: list[str] = Field(description="What a reader must know to read the numbers.")


async def audit_one(
    service: Service,
    text: str,
    *,
    context: Context[None, Any],
    answers: Sequence[str],
    strategies: Sequence[str] | None,
    samples: int,
    spec: str | None,
    index: str | None,
    top_k: int | None,
) -> Audited:
    """`ken audit` of one question. Raises `BadInput`, and `ModelError` or `SourceError` when nothing was answered."""
    golds = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not golds:
        raise BadInput("the answers are empty; give at least one that counts as right")
    question = Question(id="audit", text=as_question(text).text, answers=golds)
    model = service.model(spec)
    names = [name for name in AUDITED if service.able(name)] if strategies is None else strategies
    chosen = [service.strategy(name) for name in dict.fromkeys([DIRECT, *names])]
    sources = await service.sources(index, top_k, strategies=chosen)
    settings = settings_of(
        [question],
        chosen,
        model.spec,
        sources,
        samples=samples,
        sampling=service.sampling,
    )
    jobs = list(jobs_of([question], chosen, settings))
    made: list[Trajectory] = []

    async with service.queue.place(), reporting(context, len(jobs)) as tell:

        def keep(trajectory: Trajectory) -> bool:
            made.append(trajectory)
            tell(trajectory.strategy if trajectory.sample is None else f"closed-book sample {trajectory.sample + 1}")
            return True

        await attempt_all(jobs, model, sources, keep)
    errors = [t.error for t in made if t.error is not None]
    if len(errors) == len(made):
        raise SourceError(errors[0])
    report = measure(made, settings)
    drawn = sorted((t for t in made if t.sample is not None and t.error is None), key=lambda t: t.sample or 0)
    greedy = {t.strategy: t for t in made if t.sample is None}
    return Audited(
        model=model.spec,
        known=None if report.known is None else bool(report.known),
        solve_rate=solve_rate([t.answer for t in drawn], golds) if drawn else None,
        samples=[t.answer for t in drawn],
        strategies=[_strategy_audit(s, greedy[s.strategy], report.oracle) for s in report.strategies],
        notes=list(report.notes),
    )


def _strategy_audit(report: StrategyReport, t: Trajectory, oracle: str | None) -> StrategyAudit:
    use = next((b.use for b in report.boundaries if b.oracle == oracle), None)
    return StrategyAudit(
        strategy=report.strategy,
        answer=t.answer,
        correct=bool(report.em),
        knows=t.decision.knows if t.decision else None,
        searches=[step.query for step in t.searches],
        search_use=None if use is None else next(u for u in SearchUse if use.rate(u)),
        error=t.error,
    )
