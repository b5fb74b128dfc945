"""What an audit measured, as it stands in `audit.json`. `ken.auditing.measure` computes it."""

from __future__ import annotations

from ken.auditing.folder import AuditSettings
from ken.core.frozen import Frozen
from ken.metrics import AwareScores, Interval, ReliabilityBin, SearchUseCounts
from ken.metrics.source_use import SourceTable

AS_BEFORE = "`ken audit` as before"
"""Who goes on with an audit, in its notes; where people do that with a button, its page says so instead."""


class Cost(Frozen):
    """Means per question that was answered; lookups are searches, questions to a graph and calls of tools; seconds
    are wall time under the audit's concurrency, waiting included."""

    searches: float
    lookups: float
    model_calls: float
    prompt_tokens: float
    completion_tokens: float
    seconds_median: float


class Boundary(Frozen):
    """How well a strategy's decisions and searches fit what the model can answer alone, by one oracle.

    oracle: "samples" (share of right closed-book samples ≥ threshold, SubEM) or "greedy" (the one closed-book answer,
    EM).
    """

    oracle: str
    questions: int
    aware: AwareScores
    aware_interval: Interval
    use: SearchUseCounts


class JudgedAccuracy(Frozen):
    """Share of the answers that are right by a judge: one that equals a gold is, one that is missing is not, of the
    others the judge says it (card 40).

    answers: those with a verdict, over which `accuracy` is the mean; None without any. interval: Wilson's, at 95%.
    gain: accuracy minus that of closed book on the same questions. unreadable: answers about which the judge said
    nothing that could be read; unjudged: about which it was not asked, or did not answer. Both are left out.
    """

    accuracy: float | None
    interval: Interval | None
    gain: Interval | None
    answers: int
    unreadable: int
    unjudged: int


class Tradeoff(Frozen):
    """What a strategy's accuracy (exact match) costs on the questions that all strategies of the audit attempted: means
    of tokens read and written, median of seconds. best: no other strategy is at least as accurate for as few tokens
    (the Pareto front)."""

    strategy: str
    questions: int
    accuracy: float
    tokens: float
    seconds_median: float
    best: bool


class SourceNeeds(Frozen):
    """Which source was needed, where several outside were consulted.

    A source suffices for a question when a strategy that consulted it alone was right; the model itself ("inside") when
    the oracle says that it can answer alone. needed: questions by what they needed (see `ken.metrics.source_use`).
    strategies: what each chose, against what was needed.
    """

    questions: int
    needed: dict[str, int]
    strategies: dict[str, SourceTable]


class StrategyReport(Frozen):
    """One strategy on all questions. Fields are None where nothing can be measured.

    questions: attempts made; of these `failed` (model or search engine did not answer) are counted and else left out.
    answered, unfinished: attempts with and without an answer. malformed: attempts with output that broke the protocol.
    scored: attempts at questions with golds, over which `em`, `sub_em` and `f1` are means; one without an answer is
    wrong.
    em_gain: exact match minus that of closed book on the same questions. judged: where there was a judge.
    recall: mean share of the gold documents among all passages seen, over attempts that searched and questions that
    name gold documents. answer_found: share of the scored attempts that searched whose passages hold a gold.
    """

    strategy: str
    questions: int
    answered: int
    failed: int
    unfinished: int
    malformed: int
    scored: int
    em: float | None
    sub_em: float | None
    f1: float | None
    em_gain: Interval | None
    judged: JudgedAccuracy | None = None
    recall: float | None
    answer_found: float | None
    cost: Cost | None
    boundaries: tuple[Boundary, ...]


class Calibration(Frozen):
    """How well one confidence tells right from wrong. `what` says which confidence, and what counts as right.

    accuracy: share right. auroc, ece (10 bins of equal width), brier, aurc, bins, coverage, risk: see `ken.metrics`.
    """

    name: str
    what: str
    questions: int
    accuracy: float
    auroc: float | None
    ece: float
    brier: float
    aurc: float
    bins: tuple[ReliabilityBin, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


class Example(Frozen):
    """A question worth looking at. `kind` is "harmful", "missed" or "wasted" (see `SearchUse`), or "malformed";
    `solve_rate` the share of right closed-book samples.
    """

    kind: str
    strategy: str
    question_id: str
    solve_rate: float | None


class AuditReport(Frozen):
    """Everything an audit measured. Written to `audit.json`.

    unasked: attempts that were not made, because the run was interrupted or gave up. known: share of the questions with
    golds that the model can answer alone, by `oracle` ("samples", or "greedy" where there are none), with the Wilson
    interval at 95%. failures: (question id, strategy, error) of each failed attempt.
    """

    settings: AuditSettings
    questions: int
    with_golds: int
    unasked: int
    oracle: str | None
    known: float | None
    known_interval: tuple[float, float] | None
    strategies: tuple[StrategyReport, ...]
    calibration: tuple[Calibration, ...]
    examples: tuple[Example, ...]
    failures: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    tradeoffs: tuple[Tradeoff, ...] = ()
    sources: SourceNeeds | None = None

    @property
    def other_sources(self) -> bool:
        """Whether anything else than a search engine was consulted."""
        return any(s.cost is not None and s.cost.lookups > s.cost.searches for s in self.strategies)

    @property
    def failed(self) -> int:
        """Attempts that failed, closed-book samples included."""
        return len(self.failures)

    @property
    def unjudged(self) -> int:
        """Answers that a judge should have judged and did not."""
        return sum(s.judged.unjudged for s in self.strategies if s.judged)
