"""The tables of an audit of reading, computed from its answers: LaRA's matrix and gaps (arXiv 2502.09977; card 51,
Scores), what they advise, and whether a router would be better than either mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ken.agents.router import LARA, Compared, Routing, fit_routing, guess_task
from ken.core.frozen import Frozen
from ken.core.long_documents import TASKS, Mode, Prediction
from ken.core.seeding import derive_seed
from ken.metrics.agreement import cohen_kappa
from ken.metrics.long_documents import Advice, Paired, advise, gap, position_profile, refuses, task_scores
from ken.metrics.statistics import Interval, stratified_bootstrap

RESAMPLES = 4_000


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to show a document. chunks, words: how many chunks and of how many words; 0 for the whole text."""

    mode: Mode
    chunks: int = 0
    words: int = 0

    @property
    def suffix(self) -> str:
        return f"+{self.chunks}x{self.words}"

    @property
    def name(self) -> str:
        return self.mode + (self.suffix if self.mode == "rag" else "")


class Answered(Frozen):
    """An answer and its verdicts. right: the deterministic judge's; judged: a model's, None where none was asked;
    unreadable: it said nothing that could be read, and counts as wrong. document_tokens: of the whole document."""

    question: str
    variant: Variant
    prediction: Prediction
    document_tokens: int
    right: bool
    judged: bool | None = None
    unreadable: bool = False

    @property
    def score(self) -> float:
        """By the model that judged, else by rule."""
        return float(self.right if self.judged is None else self.judged)


class Score(Frozen):
    """Accuracy in [0, 1] of a variant at one length, with its 95% interval over questions: by task (mean over types),
    overall (mean over tasks), and by "TASK/TYPE"."""

    variant: Variant
    length: str
    questions: int
    overall: Interval
    tasks: dict[str, float]
    cells: dict[str, float]


class GapRow(Frozen):
    """LC − RAG at a length, of a task or ("overall") of all, and what it recommends."""

    length: str
    task: str
    gap: Interval
    questions: int
    advice: Advice


class RouterRow(Frozen):
    """Mean accuracy on the questions that no routing was learnt from, by who chooses the mode. whole: share of them
    that were read whole; tokens: a question, of prompt and answer."""

    chooser: str
    accuracy: float
    whole: float
    tokens: float


class ReadingReport(Frozen):
    """scores: of every variant at every length. gaps: of the main retrieval. profile: accuracy of location by mode and
    part, by length. routers: on the half of the questions that nothing was fitted on. kappa: Cohen's, of the two
    judges, None without a second. truncated: share of whole-document answers whose document lost its middle; left_out:
    mean share of the text lost in those. empty: answers that are missing, which count as wrong; failed: of them, calls
    that got no reply (error: the first one's). unreadable: verdicts that could not be read. refused: share of questions
    with an answer that were refused, by mode. tokens, seconds: a question, by mode."""

    model: str
    judge: str
    questions: int
    scores: tuple[Score, ...]
    gaps: tuple[GapRow, ...]
    profile: dict[str, dict[str, dict[int, float]]]
    routers: tuple[RouterRow, ...]
    kappa: float | None
    truncated: float
    left_out: float
    empty: int
    failed: int
    error: str
    unreadable: int
    refused: dict[str, float]
    tokens: dict[str, float]
    seconds: dict[str, float]

    def advise(self, length: str, task: str = "overall") -> GapRow | None:
        """The measured gap at a length, for a task or overall, with the mode it recommends; None where it was not
        measured."""
        return next((row for row in self.gaps if (row.length, row.task) == (length, task)), None)


def report_of(answered: Sequence[Answered], *, model: str, judge: str = "") -> ReadingReport:
    """All tables. Raises `ValueError` without answers."""
    lengths = sorted({a.prediction.length for a in answered}, key=lambda length: (len(length), length))
    variants = list(dict.fromkeys(a.variant for a in answered))
    main = {v.mode: v for v in reversed(variants)}
    shown = [a for a in answered if a.variant == main[a.variant.mode]]
    whole = [a for a in shown if a.variant.mode == "lc"]
    cut = [a.prediction.left_out for a in whole if a.prediction.left_out > 0]
    failed = [a.prediction.error for a in answered if a.prediction.error]
    judged = [a for a in answered if a.judged is not None and not a.unreadable]
    return ReadingReport(
        model=model,
        judge=judge,
        questions=len({a.question for a in answered}),
        scores=tuple(
            _score(v, length, found)
            for v in variants
            for length in lengths
            if (found := [a for a in answered if a.variant == v and a.prediction.length == length])
        ),
        gaps=tuple(_gaps(shown, lengths)),
        profile={length: _profile(shown, length) for length in lengths},
        routers=tuple(routers(shown)),
        kappa=_kappa(judged),
        truncated=len(cut) / len(whole) if whole else 0.0,
        left_out=fmean(cut) if cut else 0.0,
        empty=sum(not (a.prediction.prediction or "").strip() for a in answered),
        failed=len(failed),
        error=failed[0] if failed else "",
        unreadable=sum(a.unreadable for a in answered),
        refused=_by_mode(
            [a for a in shown if a.prediction.task != "hallucination"], lambda a: refuses(a.prediction.prediction or "")
        ),
        tokens=_by_mode(shown, lambda a: a.prediction.tokens),
        seconds=_by_mode(shown, lambda a: a.prediction.seconds),
    )


def _score(variant: Variant, length: str, answered: Sequence[Answered]) -> Score:
    cells: dict[tuple[str, str], list[float]] = {}
    for a in answered:
        cells.setdefault((a.prediction.task, a.prediction.kind), []).append(a.score)
    means = {cell: fmean(scores) for cell, scores in cells.items()}
    tasks = task_scores(means)
    weights = [1 / len(tasks) / sum(t == task for t, _ in cells) for task, _ in cells]
    return Score(
        variant=variant,
        length=length,
        questions=len(answered),
        overall=stratified_bootstrap(list(cells.values()), weights, resamples=RESAMPLES),
        tasks=tasks,
        cells={f"{task}/{kind}": value for (task, kind), value in means.items()},
    )


def pairs_of(answered: Iterable[Answered]) -> list[tuple[Answered, Answered]]:
    """Questions answered in both modes, whole first; of several ways of retrieval the first."""
    by: dict[str, dict[str, Answered]] = {}
    for a in answered:
        by.setdefault(a.question, {}).setdefault(a.variant.mode, a)
    return [(both["lc"], both["rag"]) for both in by.values() if len(both) == 2]


def _gaps(shown: Sequence[Answered], lengths: Sequence[str]) -> Iterable[GapRow]:
    pairs = pairs_of(shown)
    for length in lengths:
        for task in (*TASKS, "overall"):
            found = [
                Paired(lc.prediction.task, lc.prediction.kind, lc.score, rag.score)
                for lc, rag in pairs
                if lc.prediction.length == length and task in {"overall", lc.prediction.task}
            ]
            if found:
                measured = gap(found, resamples=RESAMPLES)
                yield GapRow(length=length, task=task, gap=measured, questions=len(found), advice=advise(measured))


def _profile(shown: Sequence[Answered], length: str) -> dict[str, dict[int, float]]:
    places = [
        (a.variant.mode, a.prediction.context_order, a.score)
        for a in shown
        if a.prediction.length == length and a.prediction.task == "location"
    ]
    found = {
        mode: position_profile((part, score) for m, part, score in places if m == mode and isinstance(part, int))
        for mode in dict.fromkeys(mode for mode, _, _ in places)
    }
    return {mode: profile for mode, profile in found.items() if profile}


def routers(shown: Sequence[Answered]) -> Iterable[RouterRow]:
    """Always whole, always retrieved, the router with LaRA's gaps, the router fitted on one half of the documents, and
    an oracle that always chooses right; all on the other half, so that nothing is measured on what was learnt from."""
    pairs = pairs_of(shown)
    names = sorted({lc.prediction.file for lc, _ in pairs}, key=lambda name: derive_seed("routing split", name))
    dev = set(names[: len(names) // 2])
    learnt = [p for p in pairs if p[0].prediction.file in dev]
    tested = [p for p in pairs if p[0].prediction.file not in dev]
    if not learnt or not tested:
        return
    fitted = fit_routing((compared(*p) for p in learnt), source="fitted")

    def by(routing: Routing) -> Callable[[Answered, Answered], bool]:
        def whole(lc: Answered, _: Answered) -> bool:
            expected = routing.expected(guess_task(lc.prediction.question), max(1, lc.document_tokens))
            return expected is not None and expected > 0

        return whole

    choosers: dict[str, Callable[[Answered, Answered], bool]] = {
        "always whole": lambda lc, rag: True,
        "always retrieved": lambda lc, rag: False,
        "router, LaRA's gaps": by(LARA),
        "router, fitted": by(fitted),
        "oracle": lambda lc, rag: lc.score > rag.score,
    }
    for name, chooses in choosers.items():
        chosen = [lc if chooses(lc, rag) else rag for lc, rag in tested]
        yield RouterRow(
            chooser=name,
            accuracy=fmean(a.score for a in chosen),
            whole=fmean(a.variant.mode == "lc" for a in chosen),
            tokens=fmean(a.prediction.tokens for a in chosen),
        )


def compared(lc: Answered, rag: Answered) -> Compared:
    """A question that was answered both ways, as a router learns from it."""
    return Compared(lc.prediction.question, max(1, lc.document_tokens), lc.score, rag.score)


def _kappa(judged: Sequence[Answered]) -> float | None:
    if not judged:
        return None
    kappa = cohen_kappa([a.right for a in judged], [bool(a.judged) for a in judged])
    return None if math.isnan(kappa) else kappa


def _by_mode(answered: Iterable[Answered], of: Callable[[Answered], float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for a in answered:
        found.setdefault(a.variant.mode, []).append(float(of(a)))
    return {mode: fmean(values) for mode, values in found.items()}
