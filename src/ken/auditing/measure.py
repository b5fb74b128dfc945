"""From trajectories to numbers. Nothing here calls a model: `ken audit rescore` runs exactly this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from ken.auditing.folder import AuditSettings
from ken.auditing.run import DIRECT
from ken.auditing.verdicts import NO_VERDICTS, Verdicts, answer_key, to_judge
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
    wilson,
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

    @property
    def failed(self) -> int:
        """Attempts that failed, closed-book samples included."""
        return len(self.failures)

    @property
    def unjudged(self) -> int:
        """Answers that a judge should have judged and did not."""
        return sum(s.judged.unjudged for s in self.strategies if s.judged)


def measure(
    trajectories: Iterable[Trajectory],
    settings: AuditSettings,
    verdicts: Verdicts = NO_VERDICTS,
    *,
    examples: int = 5,
) -> AuditReport:
    """Measure an audit. verdicts: of `settings.judge`. `examples`: most questions listed per strategy and kind."""
    found = grouped(trajectories, settings)
    everything, questions, samples, greedy = found.everything, found.questions, found.samples, found.greedy
    oracles, rates = found.oracles, found.rates
    reports = [
        _strategy(name, greedy[name], everything, oracles, greedy.get(DIRECT, {})) for name in settings.strategies
    ]
    if settings.judge:
        judged = {
            name: {i: judged_right(t, verdicts) for i, t in ts.items() if t.question.answers}
            for name, ts in greedy.items()
        }
        reports = [
            report.model_copy(update={"judged": _judged(report.strategy, judged)})
            if judged[report.strategy]
            else report
            for report in reports
        ]
    oracle, known = next(iter(oracles.items()), (None, {}))
    unasked = max(0, settings.attempts - len(everything))
    return AuditReport(
        settings=settings,
        questions=len(questions),
        with_golds=sum(bool(q.answers) for q in questions.values()),
        unasked=unasked,
        oracle=oracle,
        known=fmean(known.values()) if known else None,
        known_interval=_wilson(known.values()),
        strategies=tuple(reports),
        calibration=tuple(_calibrations(questions, samples, greedy, oracles)),
        examples=tuple(_examples(greedy, oracles, rates, everything, examples)),
        failures=tuple((t.question.id, _label(t), str(t.error)) for t in everything if t.error is not None),
        notes=(*_notes(questions, settings, oracles, unasked), *_judge_notes(reports, settings, verdicts)),
    )


@dataclass(frozen=True)
class Grouped:
    """The attempts of an audit by what they are for. everything: all of them, in the order of question ids. Without
    those that failed: samples, the closed-book ones by question; greedy, those that count by strategy and question.
    oracles: what the model can answer alone, the best oracle first. rates: share of right closed-book samples."""

    everything: list[Trajectory]
    questions: dict[str, Question]
    samples: dict[str, list[Trajectory]]
    greedy: dict[str, dict[str, Trajectory]]
    oracles: Oracles
    rates: dict[str, float]

    @property
    def known(self) -> dict[str, bool]:
        """Per question, whether the model can answer it alone, by the best oracle; without those it cannot be said
        of."""
        return next(iter(self.oracles.values()), {})


def grouped(trajectories: Iterable[Trajectory], settings: AuditSettings) -> Grouped:
    """The attempts of an audit, sorted out."""
    # In the order of ids, so that bootstrap intervals do not depend on which attempt finished first.
    everything = sorted(trajectories, key=lambda t: (t.question.id, t.sample is not None, t.sample or 0))
    questions = {t.question.id: t.question for t in everything}
    samples: dict[str, list[Trajectory]] = {}
    greedy: dict[str, dict[str, Trajectory]] = {name: {} for name in settings.strategies}
    for t in everything:
        if t.error is not None:
            continue
        if t.sample is not None:
            samples.setdefault(t.question.id, []).append(t)
        elif t.strategy in greedy:
            greedy[t.strategy][t.question.id] = t
    rates = {
        i: fmean(substring_match(t.answer, questions[i].answers) for t in ts)
        for i, ts in samples.items()
        if questions[i].answers
    }
    oracles = _oracles(questions, samples, greedy.get(DIRECT, {}), settings)
    return Grouped(everything, questions, samples, greedy, oracles, rates)


def _wilson(known: Iterable[bool]) -> tuple[float, float] | None:
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


Judgement = bool | Literal["unreadable", "unjudged"]


def judged_right(t: Trajectory, verdicts: Verdicts) -> Judgement:
    """Whether an attempt is right by a judge, or why that is not known."""
    if t.answer is None or not to_judge(t):
        return bool(_em(t))
    verdict = verdicts.said.get(answer_key(t.question, t.answer), "unjudged")
    return "unreadable" if verdict is None else verdict  # type: ignore[return-value]


def _judged(name: str, judged: dict[str, dict[str, Judgement]]) -> JudgedAccuracy:
    known = {i: float(said) for i, said in judged[name].items() if isinstance(said, bool)}
    direct = {i: float(said) for i, said in judged.get(DIRECT, {}).items() if isinstance(said, bool)}
    paired = [i for i in known if i in direct]
    said = list(judged[name].values())
    return JudgedAccuracy(
        accuracy=_mean(known.values()),
        interval=wilson(round(sum(known.values())), len(known)) if known else None,
        gain=bootstrap_difference([known[i] for i in paired], [direct[i] for i in paired])
        if name != DIRECT and paired
        else None,
        answers=len(known),
        unreadable=said.count("unreadable"),
        unjudged=said.count("unjudged"),
    )


def _judge_notes(reports: Sequence[StrategyReport], settings: AuditSettings, verdicts: Verdicts) -> Iterable[str]:
    judged = [report.judged for report in reports if report.judged]
    if unreadable := sum(j.unreadable for j in judged):
        yield f"The judge {settings.judge} said nothing readable about {unreadable} answers; they are left out."
    if unjudged := sum(j.unjudged for j in judged):
        why = f" ({verdicts.error.rstrip('.')})" if verdicts.error else ""
        yield (
            f"{unjudged} answers have no verdict of the judge {settings.judge}{why} and are left out; `ken audit` as "
            "before asks about them again."
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
            "share of closed-book samples that agree with the closed-book answer; right: that answer is an exact match"
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
    for kind, belongs in _KINDS.items():
        for name, attempts in greedy.items():
            if name == DIRECT and kind != "malformed":  # closed book cannot search
                continue
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


def _notes(questions: dict[str, Question], settings: AuditSettings, oracles: Oracles, unasked: int) -> Iterable[str]:
    """What a reader must know to read the numbers."""
    if unasked:
        why = f": {settings.stopped}" if settings.stopped else ""
        yield f"{unasked} of {settings.attempts} attempts were not made{why}; `ken audit` as before goes on from here."
    golds = {i for i, q in questions.items() if q.answers}
    if not golds:
        yield (
            "No question has an accepted answer (golden_answers), so accuracy, F1_aware, calibration and the use of "
            "searches cannot be measured; decisions, searches and cost can."
        )
    elif bare := len(questions) - len(golds):
        yield f"{bare} of {len(questions)} questions have no accepted answer; they count only for searches and cost."
    if golds and not settings.samples:
        yield "Without closed-book samples (--samples 0) what the model knows is judged by its one closed-book answer."
    elif golds and "greedy" in oracles and "samples" not in oracles:
        yield (
            "No question has all its closed-book samples, so what the model knows is judged by its one closed-book "
            "answer."
        )
    if golds and not oracles:
        yield "No closed-book attempt was answered, so what the model knows cannot be measured."
    elif left_out := len(golds - next(iter(oracles.values()), {}).keys()):
        yield (
            f"{left_out} of {len(golds)} questions lack closed-book attempts (failed or not made); what the model "
            "knows, and which searches it needs, is measured on the others."
        )
    for name in settings.dropped:
        yield f"The server does not take the parameter {name}: {_WITHOUT.get(name, 'it was left out')}."


_WITHOUT = {
    "temperature": "all answers, closed-book samples too, were drawn at the temperature that it chose",
    "top_p": "it drew with its own top_p",
    "seed": "another audit would draw other samples",
    "logprobs": "answers and verdicts have no probability",
    "n": "samples were asked for one by one",
    "stop": "answers were cut at the stop strings here, but what it wrote beyond them was paid for",
}
"""What the lack of a sampling parameter means for the numbers."""


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
