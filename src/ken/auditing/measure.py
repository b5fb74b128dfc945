"""From trajectories to numbers. Nothing here calls a model: `ken audit rescore` runs exactly this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median

from ken.auditing.run import DIRECT, AuditSettings
from ken.core import Question, Trajectory
from ken.core.frozen import Frozen
from ken.metrics import (
    AwareScores,
    Interval,
    ReliabilityBin,
    SearchUseCounts,
    answer_in_passages,
    auroc,
    bootstrap_difference,
    brier_score,
    count_search_use,
    decision_of,
    exact_match,
    expected_calibration_error,
    f1_aware,
    f1_aware_interval,
    normalize_answer,
    oracle_greedy,
    oracle_ksample,
    recall_at_k,
    reliability,
    risk_coverage,
    substring_match,
    token_f1,
)

BINS = 10


class Cost(Frozen):
    """Means per question that was answered; seconds are wall time under the audit's concurrency, waiting included."""

    searches: float
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


class StrategyReport(Frozen):
    """One strategy on all questions. Accuracy is over questions with golds (`scored`); an attempt without an answer is
    wrong, a failed one (model or search engine did not answer) is not scored but counted in `failed`. Fields are None
    where nothing can be measured."""

    strategy: str
    questions: int
    answered: int
    failed: int
    unfinished: int
    malformed: int
    search_errors: int
    scored: int
    em: float | None
    sub_em: float | None
    f1: float | None
    em_gain: Interval | None
    recall: float | None
    answer_found: float | None
    cost: Cost | None
    boundaries: tuple[Boundary, ...]


class Calibration(Frozen):
    """How well one confidence tells right from wrong. `what` says which confidence, and what counts as right."""

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
    """A question worth looking at. `kind` is a class of `SearchUse`, "malformed" or "failed"; `solve_rate` the share of
    right samples.
    """

    kind: str
    strategy: str
    question_id: str
    solve_rate: float | None


class AuditReport(Frozen):
    """Everything an audit measured. Written to `audit.json`."""

    settings: AuditSettings
    questions: int
    with_golds: int
    known: float | None
    known_interval: tuple[float, float] | None
    strategies: tuple[StrategyReport, ...]
    calibration: tuple[Calibration, ...]
    examples: tuple[Example, ...]
    failures: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Attempts that failed, closed-book samples included."""
        return len(self.failures)


def measure(trajectories: Iterable[Trajectory], settings: AuditSettings, *, examples: int = 5) -> AuditReport:
    """Measure an audit. `examples`: most questions listed per strategy and kind."""
    everything = list(trajectories)
    questions = {t.question.id: t.question for t in everything}
    ok = [t for t in everything if t.error is None]
    samples: dict[str, list[Trajectory]] = {}
    greedy: dict[str, dict[str, Trajectory]] = {name: {} for name in settings.strategies}
    for t in ok:
        if t.sample is not None:
            samples.setdefault(t.question.id, []).append(t)
        elif t.strategy in greedy:
            greedy[t.strategy][t.question.id] = t
    oracles = _oracles(questions, samples, greedy.get(DIRECT, {}), settings)
    rates = {
        i: fmean(substring_match(t.answer, questions[i].answers) for t in ts)
        for i, ts in samples.items()
        if questions[i].answers
    }
    reports = [
        _strategy(name, greedy[name], everything, oracles, greedy.get(DIRECT, {})) for name in settings.strategies
    ]
    known = next(iter(oracles.values()), {})
    return AuditReport(
        settings=settings,
        questions=len(questions),
        with_golds=sum(bool(q.answers) for q in questions.values()),
        known=fmean(known.values()) if known else None,
        known_interval=_wilson(known.values()),
        strategies=tuple(reports),
        calibration=tuple(_calibrations(questions, samples, greedy, oracles)),
        examples=tuple(_examples(greedy, oracles, rates, everything, examples)),
        failures=tuple((t.question.id, _label(t), str(t.error)) for t in everything if t.error is not None),
        notes=tuple(_notes(questions, settings, reports)),
    )


def _wilson(known: Iterable[bool]) -> tuple[float, float] | None:
    from ken.metrics import wilson

    values = list(known)
    if not values:
        return None
    interval = wilson(sum(values), len(values))
    return interval.low, interval.high


Oracles = dict[str, dict[str, bool]]
"""Per oracle: can the model answer this question alone?"""


def _oracles(
    questions: dict[str, Question],
    samples: dict[str, list[Trajectory]],
    direct: dict[str, Trajectory],
    settings: AuditSettings,
) -> Oracles:
    """The oracles there is data for, the best first. A question counts only when all its samples were answered."""
    by_samples = {
        i: oracle_ksample([t.answer for t in ts], questions[i].answers, settings.threshold)
        for i, ts in samples.items()
        if questions[i].answers and len(ts) == settings.samples
    }
    by_greedy = {i: oracle_greedy(t.answer, questions[i].answers) for i, t in direct.items() if questions[i].answers}
    return {name: known for name, known in (("samples", by_samples), ("greedy", by_greedy)) if known}


def _strategy(
    name: str,
    attempts: dict[str, Trajectory],
    everything: Sequence[Trajectory],
    oracles: Oracles,
    direct: dict[str, Trajectory],
) -> StrategyReport:
    ts = list(attempts.values())
    scored = [t for t in ts if t.question.answers]
    supported = [t for t in ts if t.question.supporting_ids and t.searches]
    looked = [t for t in scored if t.searches]
    paired = [t for t in scored if t.question.id in direct]
    return StrategyReport(
        strategy=name,
        questions=sum(t.strategy == name and t.sample is None for t in everything),
        answered=sum(not t.unfinished for t in ts),
        failed=sum(t.strategy == name and t.sample is None and t.error is not None for t in everything),
        unfinished=sum(t.unfinished for t in ts),
        malformed=sum(t.malformed > 0 for t in ts),
        search_errors=sum(any(s.kind == "observation" and s.error for s in t.steps) for t in ts),
        scored=len(scored),
        em=_mean(_em(t) for t in scored),
        sub_em=_mean(substring_match(t.answer, t.question.answers) for t in scored),
        f1=_mean(token_f1(t.answer, t.question.answers) for t in scored),
        em_gain=bootstrap_difference([_em(t) for t in paired], [_em(direct[t.question.id]) for t in paired])
        if name != DIRECT and paired
        else None,
        recall=_mean(_recall(t) for t in supported),
        answer_found=_mean(answer_in_passages(t.passages, t.question.answers) for t in looked),
        cost=_cost(ts) if ts else None,
        boundaries=tuple(
            _boundary(oracle, known, attempts) for oracle, known in oracles.items() if known.keys() & attempts.keys()
        ),
    )


def _boundary(oracle: str, known: dict[str, bool], attempts: dict[str, Trajectory]) -> Boundary:
    ids = [i for i in attempts if i in known]
    decisions = [decision_of(attempts[i]) for i in ids]
    solvable = [known[i] for i in ids]
    right = [exact_match(attempts[i].answer, attempts[i].question.answers) for i in ids]
    return Boundary(
        oracle=oracle,
        questions=len(ids),
        aware=f1_aware(decisions, solvable),
        aware_interval=f1_aware_interval(decisions, solvable),
        use=count_search_use([len(attempts[i].searches) for i in ids], solvable, right),
    )


def _cost(ts: Sequence[Trajectory]) -> Cost:
    return Cost(
        searches=fmean(len(t.searches) for t in ts),
        model_calls=fmean(t.usage.model_calls for t in ts),
        prompt_tokens=fmean(t.usage.prompt_tokens for t in ts),
        completion_tokens=fmean(t.usage.completion_tokens for t in ts),
        seconds_median=median(t.usage.seconds for t in ts),
    )


def _calibrations(
    questions: dict[str, Question],
    samples: dict[str, list[Trajectory]],
    greedy: dict[str, dict[str, Trajectory]],
    oracles: Oracles,
) -> Iterable[Calibration]:
    direct = {i: t for i, t in greedy.get(DIRECT, {}).items() if questions[i].answers}
    agreeing = {i: _agreement(t.answer, samples[i]) for i, t in direct.items() if i in samples}
    if agreeing:
        right = [bool(_em(direct[i])) for i in agreeing]
        what = (
            "share of closed-book samples that agree with the greedy answer; right: the greedy answer is an exact match"
        )
        yield _calibration("self-consistency", what, list(agreeing.values()), right)
    sure = {i: t.answer_confidence for i, t in direct.items() if t.answer_confidence is not None}
    if sure:
        right = [bool(_em(direct[i])) for i in sure]
        what = (
            "probability of the closed-book answer after the model's own reasoning; right: the answer is an exact match"
        )
        yield _calibration("answer probability", what, [float(c) for c in sure.values()], right)
    known = next(iter(oracles.values()), {})
    for name, attempts in greedy.items():
        verdicts = {
            i: t.decision.confidence
            for i, t in attempts.items()
            if t.decision is not None and t.decision.confidence is not None and i in known
        }
        if verdicts:
            what = f"probability of the verdict that it knows, before any search ({name}); right: it can answer alone"
            yield _calibration("verdict", what, [float(c) for c in verdicts.values()], [known[i] for i in verdicts])


def _calibration(name: str, what: str, confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    curve = risk_coverage(confidences, right)
    return Calibration(
        name=name,
        what=what,
        questions=len(right),
        accuracy=fmean(right),
        auroc=auroc(confidences, right),
        ece=expected_calibration_error(confidences, right, bins=BINS),
        brier=brier_score(confidences, right),
        aurc=curve.aurc,
        bins=reliability(confidences, right, bins=BINS),
        coverage=curve.coverage,
        risk=curve.risk,
    )


def _agreement(answer: str | None, samples: Sequence[Trajectory]) -> float:
    """Share of samples with the same normalised answer; an attempt without an answer agrees with nothing."""
    if answer is None:
        return 0.0
    wanted = normalize_answer(answer)
    return fmean(t.answer is not None and normalize_answer(t.answer) == wanted for t in samples)


def _examples(
    greedy: dict[str, dict[str, Trajectory]],
    oracles: Oracles,
    rates: dict[str, float],
    everything: Sequence[Trajectory],
    most: int,
) -> Iterable[Example]:
    """The worst first: searches that did harm, then missed, then wasted ones, then outputs that broke the protocol."""
    known = next(iter(oracles.values()), {})
    for name, attempts in greedy.items():
        if name == DIRECT:
            continue
        for kind, belongs in _KINDS.items():
            ids = [i for i, t in attempts.items() if belongs(t, known.get(i))]
            # The clearer the oracle, the worse the mistake: most known first where a search was too much, least where
            # it was missed.
            ids.sort(key=lambda i: rates.get(i, 0.5) * (1 if kind == "missed" else -1))
            yield from (Example(kind=kind, strategy=name, question_id=i, solve_rate=rates.get(i)) for i in ids[:most])


_KINDS: dict[str, Callable[[Trajectory, bool | None], bool]] = {
    "harmful": lambda t, known: known is True and bool(t.searches) and not _em(t),
    "missed": lambda t, known: known is False and not t.searches and not _em(t),
    "wasted": lambda t, known: known is True and bool(t.searches) and bool(_em(t)),
    "malformed": lambda t, known: t.malformed > 0,
}


def _notes(questions: dict[str, Question], settings: AuditSettings, reports: Sequence[StrategyReport]) -> Iterable[str]:
    bare = sum(not q.answers for q in questions.values())
    if bare == len(questions):
        yield (
            "No question has an accepted answer (golden_answers), so accuracy, F1_aware, calibration and the use of "
            "searches cannot be measured; decisions, searches and cost can."
        )
    elif bare:
        yield f"{bare} of {len(questions)} questions have no accepted answer; they count only for searches and cost."
    if not settings.samples and bare < len(questions):
        yield "Without closed-book samples (--samples 0) what the model knows is judged by its one greedy answer."
    for report in reports:
        if report.search_errors:
            yield f"{report.strategy}: the search engine failed in {report.search_errors} attempts, and the model was told."


def _label(t: Trajectory) -> str:
    return t.strategy if t.sample is None else f"{t.strategy}, sample {t.sample}"


def _em(t: Trajectory) -> float:
    return float(exact_match(t.answer, t.question.answers))


def _recall(t: Trajectory) -> float:
    """Recall of the gold documents among all passages that the attempt saw."""
    seen = [p.document_id for p in t.passages]
    return recall_at_k(seen, t.question.supporting_ids, len(seen)) if seen else 0.0


def _mean(values: Iterable[float]) -> float | None:
    items = list(values)
    return fmean(items) if items else None
