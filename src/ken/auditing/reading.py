"""Should this model read these documents whole, or in retrieved pieces? LaRA's benchmark (arXiv 2502.09977; card 51) of
any model, on LaRA's data or on a user's own documents.

The folder holds settings.json, answers.jsonl (a line per question and mode, so that nothing is asked twice),
verdicts.jsonl where a model judged, predictions/MODEL/ (the answers as LaRA writes them down, which `ken replay lara`
reads), indexes/, routing.json (what `--strategy router:FILE` goes by) and reading.json with the tables.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ken
from ken.agents.background import run
from ken.agents.long_context import LongContext, window_of
from ken.agents.rag import Rag
from ken.agents.router import fit_routing
from ken.agents.strategy import Strategy
from ken.auditing.asking import TOGETHER, Asking, Record
from ken.auditing.folder import check_keepable, claim, digest, save
from ken.auditing.reading_report import Answered, ReadingReport, Variant, compared, pairs_of, report_of
from ken.core import BadInput, ModelError, Observation, Passage, Question, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.core.long_documents import MODES, TASKS, Mode, Prediction, predictions_name, question_record, task_of
from ken.metrics.long_documents import right
from ken.models import Model, load_model
from ken.models.tokens import TokenCounter
from ken.sources import Sources
from ken.sources.search.mixed import CrossEncoderReranker, index_document
from ken.training.judges import CORRECTNESS, REFUSAL, LLMJudge
from ken.training.question_generator import ModelWriter, Plan, QuestionGenerator, QuestionWriter, Written

SETTINGS, ANSWERS, VERDICTS, REPORT = "settings.json", "answers.jsonl", "verdicts.jsonl", "reading.json"
ROUTING, PREDICTIONS, INDEXES = "routing.json", "predictions", "indexes"
SAMPLING = Sampling(max_tokens=1024)
CHUNK_WORDS, OVERLAP, CHUNKS = 450, 75, 5  # LaRA's 600 and 100 tokens, at three words to four tokens
TOKENS_AT_ONCE = 2**18  # of whole documents that a model in this process is given together


class ReadingSettings(Frozen):
    """What was asked for; a run is resumed only under equal settings. chunks: how many are shown, the first in the main
    table and all in the sweep; chunk_words likewise. share: of vectors among them, by the model `dense`. version: of
    Ken that began."""

    model: str
    modes: tuple[Mode, ...]
    chunks: tuple[int, ...]
    chunk_words: tuple[int, ...]
    overlap: int
    dense: str
    share: float
    reranker: str
    sampling: Sampling
    documents_digest: str
    questions_digest: str
    questions_count: int
    version: str = ken.__version__


class Estimate(Frozen):
    """What asking everything costs: model calls, and tokens of prompts (roughly; `exact` where the model's own
    tokenizer counted). truncated: questions whose document does not fit."""

    calls: int
    tokens: int
    exact: bool
    truncated: int


def audit_reading(
    questions: Iterable[Question],
    documents: Mapping[str, Passage],
    *,
    model: str | Model,
    out: str | Path,
    modes: Sequence[Mode] = MODES,
    chunks: Sequence[int] = (CHUNKS,),
    chunk_words: Sequence[int] = (CHUNK_WORDS,),
    overlap: int = OVERLAP,
    dense: str | None = None,
    share: float = 0.5,
    reranker: str | None = None,
    judge: str | Model | None = None,
    judge_options: Mapping[str, Any] | None = None,
    sampling: Sampling = SAMPLING,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **model_options: Any,
) -> ReadingReport:
    """Ask every question about its document, with the whole document ("lc") and with retrieved chunks of it ("rag").

    questions: with the metadata of LaRA's records (`ken.core.long_documents.read_long_questions`) and one gold each.
    documents: by the question's `file`, or by "LENGTH/TYPE/FILE" where files of one name differ. chunks, chunk_words:
    several make a sweep of retrieval. dense: a sentence-transformers model, by which `share` of the chunks are found.
    judge: a model that says which answers are right, beside the deterministic judge. model, model_options: as for
    `ken.ask`. on_progress: told of answers and verdicts, of how many; from any thread.

    A document that is longer than the model's window loses its middle, and the share of such answers is reported. An
    interrupted run goes on where it stopped, and tries failed calls again. Raises `BadInput` before anything is asked
    or written when the arguments cannot work; `ModelError` when the model does not answer.
    """
    asked = _checked(questions, documents)
    if not modes or any(mode not in MODES for mode in modes) or len(set(modes)) < len(modes):
        raise BadInput(f"modes are {', '.join(map(str, modes)) or 'none'}; choose from {', '.join(MODES)}, each once")
    if not chunks or min(chunks) < 1 or not chunk_words or min(chunk_words) <= overlap or overlap < 0:
        raise BadInput("give at least one number of chunks (≥ 1) and one size of chunks, which must exceed the overlap")
    loaded = load_model(model, **model_options) if isinstance(model, str) else model
    folder = Path(out)
    settings = ReadingSettings(
        model=loaded.spec,
        modes=tuple(modes),
        chunks=tuple(chunks),
        chunk_words=tuple(chunk_words),
        overlap=overlap,
        dense=dense or "",
        share=share,
        reranker=reranker or "",
        sampling=sampling,
        documents_digest=_digest(documents[_file(q, documents)] for q in asked),
        questions_digest=digest(asked),
        questions_count=len(asked),
    )
    variants = _variants(settings)
    total = len(asked) * len(variants)

    async def work() -> ReadingReport:
        judging = load_model(judge, **(judge_options or {})) if isinstance(judge, str) else judge
        asking = None
        try:
            claim(folder, settings, SETTINGS, one="an audit of reading", none="no audit of reading")
            asking = Asking(loaded.spec, folder / ANSWERS, on_progress, total * (1 if judging is None else 2))
            reader = _Reader(loaded, settings, documents, folder)
            answered: list[Answered] = []
            for variant in variants:
                by_id = {question.id: question for question in asked}
                records = await asking.each(variant.name, by_id, partial(reader.answer, variant), calls=1)
                first = next(v for v in variants if v.mode == variant.mode)
                name = _folder_name(loaded.spec) + ("" if variant == first else variant.suffix)
                answered += [_answered(name, q, variant, records[q.id]) for q in asked]
            if judging is not None:
                answered = await _judged(judging, answered, folder, asking)
            return _finish(settings, answered, judging.spec if judging else "", folder)
        finally:
            if asking is not None:
                asking.close()
            if loaded is not model:
                await loaded.close()
            if judging is not None and judging is not judge:
                await judging.close()

    return run(work())


def estimate(
    questions: Iterable[Question],
    documents: Mapping[str, Passage],
    *,
    model: Model,
    modes: Sequence[Mode] = MODES,
    chunks: Sequence[int] = (CHUNKS,),
    chunk_words: Sequence[int] = (CHUNK_WORDS,),
) -> Estimate:
    """What `audit_reading` would cost, before it is paid. Raises `BadInput` as it does."""
    asked, count = _checked(questions, documents), TokenCounter(model)
    sizes = {file: count(documents[file].text) for file in {_file(q, documents) for q in asked}}
    most = min(LongContext().max_tokens, window_of(model) or LongContext().max_tokens)
    whole = [sizes[_file(q, documents)] for q in asked] if "lc" in modes else []
    pairs = [(k, words) for k in chunks for words in chunk_words] if "rag" in modes else []
    retrieved = sum(min(round(k * words * 4 / 3), size) for k, words in pairs for size in map(sizes.get, sizes) if size)
    per_document = len(asked) / max(1, len(sizes))
    return Estimate(
        calls=len(asked) * (len(pairs) + ("lc" in modes)),
        tokens=sum(min(size, most) for size in whole) + round(retrieved * per_document),
        exact=count.exact,
        truncated=sum(size > most for size in whole),
    )


def _variants(settings: ReadingSettings) -> list[Variant]:
    made = [Variant("lc")] if "lc" in settings.modes else []
    if "rag" in settings.modes:
        made += [Variant("rag", k, words) for words in settings.chunk_words for k in settings.chunks]
    return made


class _Reader:
    """Answers questions about documents, whole or in chunks."""

    def __init__(self, model: Model, settings: ReadingSettings, documents: Mapping[str, Passage], folder: Path) -> None:
        self.model, self.settings, self.documents, self.folder = model, settings, documents, folder
        self._sources: dict[tuple[str, int], Any] = {}
        self._reranker = CrossEncoderReranker(settings.reranker) if settings.reranker else None
        at_once = TOGETHER
        if window_of(model) is not None:  # in this process: whole documents take its memory
            longest = max((TokenCounter(model)(d.text) for d in documents.values()), default=1)
            at_once = max(1, min(TOGETHER, TOKENS_AT_ONCE // max(1, longest)))
        self._room = asyncio.Semaphore(at_once)

    async def answer(self, variant: Variant, question: Question) -> Record:
        strategy: Strategy = LongContext()
        if variant.mode == "rag":
            strategy = Rag(max_words=variant.chunks * (variant.words + 1))
        sources = Sources(search=await self._source(question, variant), top_k=max(1, variant.chunks))
        async with self._room:
            made = await strategy.run(question, self.model, sources, sampling=self.settings.sampling)
        return {
            "answer": made.answer,
            "left_out": max((s.left_out for s in made.steps if isinstance(s, Observation)), default=0.0),
            "tokens": made.usage.prompt_tokens + made.usage.completion_tokens,
            "seconds": round(made.usage.seconds, 3),
            "document_tokens": TokenCounter(self.model)(self.documents[_file(question, self.documents)].text),
            "shown": [] if variant.mode == "lc" else _shown(made),
            "errors": [] if made.error is None else [made.error],
        }

    async def _source(self, question: Question, variant: Variant) -> Any:
        s, file = self.settings, _file(question, self.documents)
        words = variant.words or s.chunk_words[0]
        if (file, words) not in self._sources:
            name = hashlib.blake2b(f"{file}\x1f{words}".encode(errors="replace"), digest_size=8).hexdigest()
            # In a thread, but one after another: two questions about one document build one index.
            self._sources[file, words] = asyncio.create_task(
                asyncio.to_thread(
                    index_document,
                    self.documents[file],
                    self.folder / INDEXES / name,
                    chunk_words=words,
                    overlap=s.overlap,
                    dense=s.dense or None,
                    share=s.share,
                    reranker=self._reranker,
                )
            )
        return await self._sources[file, words]


def _shown(made: Trajectory) -> list[str]:
    return [passage.id for passage in made.passages]


def _answered(model: str, question: Question, variant: Variant, record: Record) -> Answered:
    """model: as LaRA's files name it; every way of retrieval of a sweep but the first is a model of its own there."""
    m = question.meta
    order, parts = m.get("context_order"), m.get("comp_parts")
    said = record.get("answer")
    prediction = Prediction(
        model=model,
        mode=variant.mode,
        length=str(m.get("length", "any")),
        kind=str(m.get("type", "document")),
        task=task_of(str(m["level"])),
        file=str(m["file"]),
        question=question.text,
        gold=question.answers[0],
        prediction=said if isinstance(said, str) else None,
        context_order=order if isinstance(order, int) or order == "full" else None,
        comp_parts=tuple(p for p in parts if isinstance(p, int)) if isinstance(parts, list) else (),
        left_out=record.get("left_out", 0.0),
        tokens=record.get("tokens", 0),
        seconds=record.get("seconds", 0.0),
        error="; ".join(record.get("errors", ())),
    )
    return Answered(
        question=question.id,
        variant=variant,
        prediction=prediction,
        document_tokens=record.get("document_tokens", 0),
        right=right(prediction.task, prediction.prediction, prediction.gold),
    )


async def _judged(model: Model, answered: Sequence[Answered], folder: Path, asking: Asking) -> list[Answered]:
    """The answers with a judge's verdicts. What it says nothing readable about, after retries, is wrong and counted, as
    LaRA has it; so is an empty answer, without asking."""
    answers, refusals = LLMJudge(model, instruction=CORRECTNESS), LLMJudge(model, instruction=REFUSAL)
    things = {f"{a.variant.name}/{a.question}": a for a in answered if a.prediction.prediction}

    async def verdict(one: Answered) -> Record:
        p = one.prediction
        judge = refusals if p.task == "hallucination" else answers
        try:
            said = await judge.right(Question(id=one.question, text=p.question, answers=(p.gold,)), p.prediction or "")
        except ModelError as error:
            return {"said": None, "errors": [str(error)]}
        return {"said": said, "answer": p.prediction, "errors": []}

    verdicts = Asking(model.spec, folder / VERDICTS, lambda done, total: None, len(things))
    try:
        records = await verdicts.each(f"{model.spec}", things, verdict, calls=1)
    finally:
        verdicts.close()
    asking.tell(len(answered))
    made = []
    for one in answered:
        record = records.get(f"{one.variant.name}/{one.question}", {"said": False})
        said = record["said"]
        made.append(one.model_copy(update={"judged": bool(said), "unreadable": said is None}))
    return made


def _finish(settings: ReadingSettings, answered: Sequence[Answered], judge: str, folder: Path) -> ReadingReport:
    """Write down what was answered, as LaRA does, what a router can learn of it, and the tables."""
    report = report_of(answered, model=settings.model, judge=judge)
    files: dict[Path, list[str]] = {}
    for one in answered:
        p = one.prediction
        name = predictions_name(p.model, p.mode, p.length, p.kind, p.task)
        line = json.dumps(p.record(), ensure_ascii=False)
        files.setdefault(folder / PREDICTIONS / p.model / name, []).append(line)
    for path, lines in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, "".join(f"{line}\n" for line in lines))
    if pairs := pairs_of(answered):
        routing = fit_routing((compared(*pair) for pair in pairs), source=f"measured for {settings.model}")
        save(folder / ROUTING, routing.model_dump_json(indent=2) + "\n")
    save(folder / REPORT, report.model_dump_json(indent=2) + "\n")
    return report


def _checked(questions: Iterable[Question], documents: Mapping[str, Passage]) -> list[Question]:
    asked = list(questions)
    if not asked:
        raise BadInput("there are no questions about these documents; give at least one")
    check_keepable(asked)
    for question in asked:
        if not question.answers or "level" not in question.meta or "file" not in question.meta:
            raise BadInput(f"the question {question.id!r} lacks a gold, a task or a file; see docs/audit.md")
        task_of(str(question.meta["level"]))
        _file(question, documents)
    return asked


def _file(question: Question, documents: Mapping[str, Passage]) -> str:
    """The key of a question's document. Raises `BadInput` when it is not there."""
    m = question.meta
    for key in (f"{m.get('length')}/{m.get('type')}/{m['file']}", str(m["file"])):
        if key in documents:
            return key
    raise BadInput(f"the question {question.id!r} is about {m['file']!r}, and there is no such document")


def _digest(documents: Iterable[Passage]) -> str:
    hasher = hashlib.blake2b(digest_size=8)
    for text in sorted({document.text for document in documents}):
        hasher.update(text.encode(errors="replace"))
    return hasher.hexdigest()


def _folder_name(spec: str) -> str:
    """A model's name as that of a folder and of files."""
    return re.sub(r"[^\w.+-]+", "-", spec.partition("/")[2] or spec).strip("-.") or "model"


def written_questions(
    documents: Sequence[Passage],
    writer: Model | QuestionWriter,
    path: Path,
    *,
    per_task: int = 40,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Have a model write questions about documents into `path`, LaRA's format, `per_task` of each task over all of
    them; what came of it, in sentences. Several papers that are one context should be one document. Raises `BadInput`
    when no question came of it, `ModelError` when the model does not answer; then nothing is written."""
    if not documents:
        raise BadInput("there are no documents to ask about; give at least one")
    generator = QuestionGenerator(ModelWriter(writer) if isinstance(writer, Model) else writer, seed=seed)
    counter = TokenCounter(writer) if isinstance(writer, Model) else None

    async def work() -> list[Written]:
        made = []
        for number, document in enumerate(documents):
            plan = Plan.for_tokens(counter(document.text) if counter else 0)
            each = per_task // len(documents) + (number < per_task % len(documents))
            if each:
                length = "short" if plan == Plan() else "long"
                made.append(await generator.write(document, plan, length=length, per_task=each))
            on_progress(number + 1, len(documents))
        return made

    written = run(work())
    questions = [question for one in written for question in one.questions]
    if not questions:
        raise BadInput("the model wrote no question that passed its check; take a stronger one with --writer")
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, "".join(json.dumps(question_record(q), ensure_ascii=False) + "\n" for q in questions))
    lines = []
    for task in TASKS:
        checked, passed = (sum(counts[task] for counts in found) for found in _counts(written))
        kept = sum(q.meta["level"] == task for q in questions)
        lines.append(f"{task}: {kept} questions; at the first try {passed} of {checked} passed the check")
    return lines


def _counts(written: Sequence[Written]) -> tuple[list[Mapping[str, int]], list[Mapping[str, int]]]:
    return [one.checked for one in written], [one.passed for one in written]
