"""LaRA's released predictions, judged again without a model (card 51, Miniature claim check, part A)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ken.core import BadInput
from ken.core.long_documents import COMES_FROM, TASKS, Prediction, Task, read_predictions
from ken.metrics.long_documents import Paired, gap, overall, position_profile, refuses, right, task_scores
from ken.papers.replay import Cell, Replay, Table

# Those of the card's part A; the repository holds some beyond them.
CARD_MODELS = (
    "llama-3.1-8b", "llama-3.2-3b", "llama-3.3-70b", "qwen2.5-7b-instruct", "qwen2.5-72b-instruct", "mistral-nemo",
    "gpt-4o", "gpt-4o-mini", "claude-3-5-sonnet-20241022", "gemini-1.5-pro",
)  # fmt: skip
RESAMPLES = 1_000  # of the bootstrap of every gap


@dataclass(frozen=True)
class Scored:
    """Answers with their verdicts; `of` looks up those of some model, length, mode, task."""

    predictions: tuple[Prediction, ...]
    verdicts: tuple[bool, ...]

    @property
    def models(self) -> list[str]:
        return sorted({p.model for p in self.predictions})

    @property
    def lengths(self) -> list[str]:
        return sorted({p.length for p in self.predictions}, key=lambda length: (len(length), length))

    def cells(self, model: str, length: str, mode: str) -> dict[tuple[str, str], float]:
        """Accuracy by task and type, in [0, 1]."""
        found: dict[tuple[str, str], list[bool]] = {}
        for p, said in zip(self.predictions, self.verdicts, strict=True):
            if (p.model, p.length, p.mode) == (model, length, mode):
                found.setdefault((p.task, p.kind), []).append(said)
        return {cell: fmean(said) for cell, said in found.items()}

    def paired(self, models: Sequence[str], length: str, task: Task | None = None) -> list[Paired]:
        """Questions of a length (and task) that were answered both ways; the score of one is the mean over models."""
        scores: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        for p, said in zip(self.predictions, self.verdicts, strict=True):
            if p.length == length and p.model in models and task in {None, p.task}:
                scores.setdefault((p.asked, p.task, p.kind), {}).setdefault(p.mode, []).append(float(said))
        return [
            Paired(task, kind, fmean(by["lc"]), fmean(by["rag"]))
            for (_, task, kind), by in scores.items()
            if len(by) > 1
        ]


def read(paths: Sequence[Path]) -> Scored:
    """All answers of these files. Files that are no predictions (LaRA's `result` folder) are passed over, unless there
    are no others."""
    predictions: list[Prediction] = []
    problem: BadInput | None = None
    for path in paths:
        try:
            predictions += read_predictions(path)
        except BadInput as error:
            if not path.name.startswith(("full_preds_", "rag_preds_")):
                problem = problem or error
                continue
            raise
    if not predictions:
        raise problem or BadInput(f"these files hold no predictions. {COMES_FROM}")
    return Scored(tuple(predictions), tuple(right(p.task, p.prediction, p.gold) for p in predictions))


def tables(paths: Sequence[Path], gold: Path | None = None) -> tuple[list[Table], list[str]]:
    """The matrix of accuracies, the mean gaps, the position profile, and the assertions of the card."""
    scored = read(paths)
    both = {
        (model, length): (scored.cells(model, length, "lc"), scored.cells(model, length, "rag"))
        for model in scored.models
        for length in scored.lengths
    }
    made = [_matrix(length, scored, both) for length in scored.lengths]
    made += [_gaps(scored, both), _profile(scored), _assertions(scored, both)]
    empty = sum(p.prediction is None or not p.prediction.strip() for p in scored.predictions)
    refused = [
        fmean(refuses(p.prediction or "") for p in scored.predictions if p.task != "hallucination" and p.mode == mode)
        if any(p.task != "hallucination" and p.mode == mode for p in scored.predictions)
        else math.nan
        for mode in ("lc", "rag")
    ]
    notes = [
        f"{len(scored.predictions):,} predictions of {len(scored.models)} models in {len(paths)} files; {empty} are "
        "empty and count as wrong.",
        "The judge is deterministic (half of the gold's numbers and content words; for hallucination, whether the "
        "answer refuses), where LaRA asked GPT-4o: levels differ from the paper's, gaps are what to compare. Accuracy "
        "in %, macro means over types, then tasks; gaps are LC − RAG with 95% intervals over questions.",
        f"Of questions that have an answer, {refused[0]:.1%} (LC) and {refused[1]:.1%} (RAG) were refused.",
    ]
    return made, notes


Pair = tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]
"""Accuracy by task and type, with the whole text and with chunks."""
Both = Mapping[tuple[str, str], Pair]
"""By model and length."""


def _matrix(length: str, scored: Scored, both: Both) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for model in scored.models:
        lc, rag = both[model, length]
        if not (lc and rag):
            continue
        of_lc, of_rag = task_scores(lc), task_scores(rag)
        cells = [_both(of_lc[t], of_rag[t]) if t in of_lc and t in of_rag else None for t in TASKS]
        rows.append((model, *cells, _both(overall(lc), overall(rag))))
    columns = ("model", *TASKS, "overall")
    return Table(title=f"Accuracy at {length}: LC | RAG, %", columns=columns, rows=tuple(rows))


def _both(lc: float, rag: float) -> str:
    return f"{100 * lc:.1f} | {100 * rag:.1f}"


def _mean_gap(both: Both, length: str, task: Task | None) -> float | None:
    """LC − RAG in points: of every model the macro mean, then the mean over models. None where nothing was answered
    both ways."""
    gaps = [g for (_, at), pair in both.items() if at == length and (g := _model_gap(pair, task)) is not None]
    return 100 * fmean(gaps) if gaps else None


def _model_gap(pair: Pair, task: str | None) -> float | None:
    lc, rag = pair
    shared = {cell for cell in lc.keys() & rag.keys() if task in {None, cell[0]}}
    return overall({c: lc[c] for c in shared}) - overall({c: rag[c] for c in shared}) if shared else None


def _gaps(scored: Scored, both: Both) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for length in scored.lengths:
        for task in (*TASKS, None):
            mean = _mean_gap(both, length, task)
            if mean is None:
                continue
            interval = gap(scored.paired(scored.models, length, task), resamples=RESAMPLES)
            better = sum(g >= 0 for m in scored.models if (g := _model_gap(both[m, length], task)) is not None)
            rows.append((length, task or "overall", mean, 100 * interval.low, 100 * interval.high, better))
    heads = ("length", "task", "LC − RAG", "low", "high", "models with LC ≥ RAG")
    return Table(title=f"Mean gap over {len(scored.models)} models, points", columns=heads, rows=tuple(rows))


def _profile(scored: Scored) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for length in scored.lengths:
        by_mode = [
            position_profile(
                (p.context_order, 100.0 * said)
                for p, said in zip(scored.predictions, scored.verdicts, strict=True)
                if p.length == length
                and p.mode == mode
                and p.task == "location"
                and p.kind != "paper"
                and isinstance(p.context_order, int)
            )
            for mode in ("lc", "rag")
        ]
        for part in sorted(by_mode[0].keys() & by_mode[1].keys()):
            rows.append((length, part, by_mode[0][part], by_mode[1][part]))
    return Table(
        title="Location by the part that was asked about, books and reports, %",
        columns=("length", "part", "LC", "RAG"),
        rows=tuple(rows),
    )


def _assertions(scored: Scored, both: Both) -> Table:
    """Assertions A of the card, over its models, or over all where none of these is there. None where the records lack
    what one is about."""
    models = [m for m in scored.models if m in CARD_MODELS] or scored.models
    both = {(model, length): pair for (model, length), pair in both.items() if model in models}

    def mean(length: str, task: Task) -> float | None:
        return _mean_gap(both, length, task)

    hallu = {length: mean(length, "hallucination") for length in ("32k", "128k")}
    location = {length: mean(length, "location") for length in ("32k", "128k")}
    comparison = {length: mean(length, "comparison") for length in ("32k", "128k")}
    pairs = [g for pair in both.values() if (g := _model_gap(pair, "hallucination")) is not None]
    nemo = both.get(("mistral-nemo", "128k"))
    gain = _model_gap(nemo, "location") if nemo is not None else None
    drop = None if hallu["32k"] is None or hallu["128k"] is None else hallu["32k"] - hallu["128k"]
    wide = None if location["32k"] is None else abs(location["32k"])
    asked: list[tuple[str, float | None, float, bool]] = [  # value, bound, whether the value must be above it
        ("hallucination gap at 32k below −5", hallu["32k"], -5.0, False),
        ("hallucination gap at 128k below −12", hallu["128k"], -12.0, False),
        ("hallucination: 32k gap less 128k gap above 0", drop, 0.0, True),
        ("hallucination: % of (model, length) with RAG ≥ LC, at least 90", _share(g <= 0 for g in pairs), 90.0, True),
        ("location gap at 32k within ±2", wide, 2.0, False),
        ("location gap at 128k at most −3", location["128k"], -3.0, False),
        ("comparison gap at 32k above 0", comparison["32k"], 0.0, True),
        ("comparison gap at 128k above 0", comparison["128k"], 0.0, True),
        ("Mistral-Nemo: RAG − LC of location at 128k, at least 20", None if gain is None else -100 * gain, 20.0, True),
    ]
    rows = [
        (text, value, "–" if value is None else "holds" if _met(value, bound, above) else "fails")
        for text, value, bound, above in asked
    ]
    title = f"What the card asserts, over {len(models)} of its models" if models[0] in CARD_MODELS else "The assertions"
    return Table(title=title, columns=("", "value", "verdict"), rows=tuple(rows))


def _met(value: float, bound: float, above: bool) -> bool:
    return value >= bound if above else value <= bound


def _share(said: Iterable[bool]) -> float | None:
    found = list(said)
    return 100 * fmean(found) if found else None


replay = Replay(
    slug="lara",
    records=(
        "PATH is a folder or files of LaRA's released predictions, full_preds_MODEL_LENGTH_TYPE_TASK.jsonl and "
        "rag_preds_…: the folder evaluation/prediction of https://github.com/Alibaba-NLP/LaRA (git clone it; 36 MB)"
    ),
    golds="",
    tables=tables,
)
