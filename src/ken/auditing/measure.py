"""From trajectories to numbers. Nothing here calls a model: `ken audit rescore` runs exactly this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median

from ken.auditing.folder import AuditSettings
from ken.auditing.grouped import Grouped, Oracles, grouped
from ken.auditing.judged import judge_notes, judged_accuracies
from ken.auditing.report import (
    AS_BEFORE,
    AuditReport,
    Boundary,
    Calibration,
    Cost,
    Example,
    JudgedAccuracy,
    StrategyReport,
)
from ken.auditing.run import DIRECT
from ken.auditing.sourced import source_needs
from ken.auditing.tradeoff import tradeoffs
from ken.auditing.verdicts import NO_VERDICTS, Verdicts
from ken.core import Question, Trajectory
from ken.metrics import (
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
    recall_at_k,
    reliability,
    risk_coverage,
    substring_match,
    token_f1,
    wilson,
)

BINS = 10


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
    judged = judged_accuracies(greedy, verdicts) if settings.judge else {}
    reports = [_strategy(name, found, judged.get(name)) for name in settings.strategies]
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
        notes=(*_notes(questions, settings, oracles, unasked), *judge_notes(judged.values(), settings.judge, verdicts)),
        tradeoffs=tradeoffs(found),
        sources=source_needs(found),
    )


def _wilson(known: Iterable[bool]) -> tuple[float, float] | None:
    values = list(known)
    if not values:
        return None
    interval = wilson(sum(values), len(values))
    return interval.low, interval.high


def _strategy(name: str, found: Grouped, judged: JudgedAccuracy | None) -> StrategyReport:
    attempts, direct, everything = found.greedy[name], found.greedy.get(DIRECT, {}), found.everything
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
        judged=judged,
        recall=_mean(_recall(t) for t in supported),
        answer_found=_mean(answer_in_passages(t.passages, t.question.answers) for t in looked),
        cost=_cost(ts) if ts else None,
        boundaries=tuple(
            _boundary(oracle, known, attempts)
            for oracle, known in found.oracles.items()
            if known.keys() & attempts.keys()
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
        use=count_search_use([attempts[i].lookups for i in ids], solvable, right),
    )


def _cost(ts: Sequence[Trajectory]) -> Cost:
    return Cost(
        searches=fmean(len(t.searches) for t in ts),
        lookups=fmean(t.lookups for t in ts),
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
    "harmful": lambda t, known: known is True and bool(t.lookups) and not _em(t),
    "missed": lambda t, known: known is False and not t.lookups and not _em(t),
    "wasted": lambda t, known: known is True and bool(t.lookups) and bool(_em(t)),
    "malformed": lambda t, known: t.malformed > 0,
}


def _notes(questions: dict[str, Question], settings: AuditSettings, oracles: Oracles, unasked: int) -> Iterable[str]:
    """What a reader must know to read the numbers."""
    if unasked:
        why = f": {settings.stopped}" if settings.stopped else ""
        yield f"{unasked} of {settings.attempts} attempts were not made{why}; {AS_BEFORE} goes on from here."
    golds = {i for i, q in questions.items() if q.answers}
    if not golds:
        yield (
            "No question has an accepted answer (golden_answers), so accuracy, F1_aware, calibration and the use of "
            "searches cannot be measured; decisions, searches and cost can."
        )
    elif bare := len(questions) - len(golds):
        have, they = ("has", "it counts") if bare == 1 else ("have", "they count")
        yield f"{bare} of {len(questions)} questions {have} no accepted answer; {they} only for searches and cost."
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
        lack = "lacks" if left_out == 1 else "lack"
        yield (
            f"{left_out} of {len(golds)} questions {lack} closed-book attempts (failed or not made); what the model "
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
