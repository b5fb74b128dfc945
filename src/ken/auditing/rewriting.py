"""How well does a model rewrite the queries of conversations for a search engine? ConvSearch-R1's evaluation (arXiv
2505.15776; card 17, Inference), of any model, over a user's own conversations and passages.

The folder holds settings.json, rewrites.jsonl (a line per turn, so that nothing is asked twice) and rewriting.json with
the tables, which the command prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import ken
from ken.agents.background import run
from ken.agents.rewrite import Rewrite
from ken.auditing.asking import Asking, Record
from ken.auditing.folder import check_keepable, claim, digest_of, save
from ken.core import BadInput, Sampling
from ken.core.conversation import ConversationTurn, read_turns
from ken.core.frozen import Frozen
from ken.metrics import Interval, RankScores, bootstrap_difference
from ken.metrics.ranks import MEASURES
from ken.models import Model
from ken.probing.loading import load_model
from ken.sources import Retriever, Sources
from ken.sources.search.index import Index, Mode
from ken.sources.search.ranks import RankService, open_ranks, sort_out

SETTINGS, REWRITES, REPORT = "settings.json", "rewrites.jsonl", "rewriting.json"
SAMPLING = Sampling(max_tokens=1024)
DEPTH = 100  # how far down a result list passages are looked for
MAX_WORDS = 512  # of a query (card 17, Inference)
RESAMPLES = 2_000  # of the bootstrap: there are many intervals, one per measure, query and depth
SEARCHES = 256  # at once

Kind = Literal["raw", "history", "rewrite", "human"]


class RewritingSettings(Frozen):
    """What was asked for; a run is resumed only under equal settings. samples: rewrites of a turn. mode: how an index
    is searched, None for its own way. version: of Ken that began."""

    model: str
    index: str
    mode: Mode | None
    samples: int
    sampling: Sampling
    questions_digest: str
    questions_count: int
    version: str = ken.__version__


class Scored(Frozen):
    """Mean scores over `turns` turns. gain: scores minus those of the raw query on the same turns, by measure, with the
    paired bootstrap interval at 95%; empty for the raw query itself."""

    turns: int
    scores: RankScores
    gain: dict[str, Interval] = {}


class QueryReport(Frozen):
    """What one way to make a query comes to. kind: "raw", the query as it was asked; "history", everything that was
    said and the query; "rewrite", the model's; "human", a person's, where the file has one. by_depth: by place in the
    conversation, the first turn being 1. words: mean length. cut: queries that were longer than `MAX_WORDS`."""

    kind: Kind
    whole: Scored
    by_depth: dict[int, Scored]
    words: float
    cut: int


class RewritingReport(Frozen):
    """queries: of each kind that there is, in the order of `Kind`. left_out: ids of the turns that cannot be ranked,
    and why. rewrites: made, of which `malformed` broke the form of the answer and `without` held no rewrite at all, so
    that the query itself was searched. failed: turns with a call that got no reply, which are missing from the model's
    rows; error: the first one's."""

    settings: RewritingSettings
    turns: int
    left_out: dict[str, str]
    queries: tuple[QueryReport, ...]
    rewrites: int
    malformed: int
    without: int
    failed: int
    error: str

    def of(self, kind: Kind) -> QueryReport | None:
        """The report of one kind of query, None where there is none."""
        return next((query for query in self.queries if query.kind == kind), None)


def audit_rewriting(
    conversations: str | Path | Iterable[ConversationTurn],
    *,
    model: str | Model,
    index: str | Path | Index | Retriever,
    out: str | Path,
    gold: str | Path | None = None,
    mode: Mode | None = None,
    samples: int = 1,
    sampling: Sampling = SAMPLING,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **model_options: Any,
) -> RewritingReport:
    """Have a model rewrite the query of every turn, search with it, and measure where the gold passages come.

    conversations, gold: files of TopiOCQA or QReCC (see `ken.core.conversation.read_turns`), or turns. index: a folder,
    the address of a /retrieve service, an `Index` or a `Retriever`; mode: "bm25", "dense" or "hybrid", for an index.
    samples: ≥ 1 rewrites of a turn, whose scores are averaged; several need a temperature. model, model_options: as for
    `ken.ask`. on_progress: told of turns rewritten and queries searched, of how many; from any thread.

    Turns without gold passages, or whose gold passages the index lacks, are left out and listed in the report. An
    interrupted run goes on where it stopped when called again with the same arguments, and tries failed turns again.
    Raises `BadInput` before anything is asked or written when the arguments cannot work; `ModelError` or `SourceError`
    when model or search engine do not answer.
    """
    if samples < 1:
        raise BadInput(f"samples is {samples}; it must be at least 1")
    if samples > 1 and not sampling.temperature:
        raise BadInput(
            f"{samples} rewrites at temperature 0 are all the same; give a temperature above 0, or one sample"
        )
    given = list(read_turns(conversations, gold=gold) if isinstance(conversations, str | Path) else conversations)
    if not given:
        raise BadInput("there are no turns to rewrite; give at least one")
    check_keepable(turn.question() for turn in given)
    ranks = _open(index, mode)
    turns = sort_out(given, ranks.engine if isinstance(ranks.engine, Index) else None)
    ranks.gold_ranks([turns.turns[0].query], [turns.turns[0].gold])  # the mode fits, and the service answers
    loaded = load_model(model, **model_options) if isinstance(model, str) else model
    folder = Path(out)
    settings = RewritingSettings(
        model=loaded.spec,
        index=_name(ranks.engine),
        mode=mode,
        samples=samples,
        sampling=sampling,
        questions_digest=digest_of(turn.model_dump(mode="json") for turn in given),
        questions_count=len(given),
    )
    baselines = _baselines(turns.turns)
    searches = sum(map(len, baselines.values())) + samples * len(turns.turns)
    asking: list[Asking] = []

    async def work() -> dict[str, Record]:
        try:
            claim(folder, settings, SETTINGS, one="an audit of rewriting", none="no audit of rewriting")
            asking.append(Asking(loaded.spec, folder / REWRITES, on_progress, len(turns.turns) + searches))
            return await asking[0].each("rewrite", {t.id: t for t in turns.turns}, rewritten, calls=samples)
        finally:
            for one in asking:
                one.close()
            if loaded is not model:
                await loaded.close()

    async def rewritten(turn: ConversationTurn) -> Record:
        made = [
            await Rewrite().run(turn.question(), loaded, Sources(), sampling=sampling, sample=sample)
            for sample in range(samples)
        ]
        return {
            "rewrites": [t.answer for t in made],
            "formed": [not t.malformed for t in made],
            "errors": [t.error for t in made if t.error is not None],
        }

    found = run(work())
    whole = {turn.id: turn for turn in turns.turns if not found[turn.id]["errors"]}
    errors = [found[turn.id]["errors"][0] for turn in turns.turns if turn.id not in whole]
    rewrites = {i: [text or turn.query for text in found[i]["rewrites"]] for i, turn in whole.items()}
    queries: dict[Kind, Mapping[str, Sequence[str]]] = {**baselines, "rewrite": rewrites}
    scored = {kind: _search(ranks, turns.turns, queries[kind], asking[0].tell) for kind in get_args(Kind)}
    report = RewritingReport(
        settings=settings,
        turns=len(turns.turns),
        left_out=turns.left_out,
        queries=tuple(
            _report(kind, turns.turns, queries[kind], scores, scored["raw"])
            for kind, scores in scored.items()
            if scores
        ),
        rewrites=sum(map(len, rewrites.values())),
        malformed=sum(not formed for i in whole for formed in found[i]["formed"]),
        without=sum(text is None for i in whole for text in found[i]["rewrites"]),
        failed=len(errors),
        error=errors[0] if errors else "",
    )
    save(folder / REPORT, report.model_dump_json(indent=2) + "\n")
    return report


def _open(index: str | Path | Index | Retriever, mode: Mode | None) -> RankService:
    if isinstance(index, str | Path):
        return open_ranks(index, top_k=DEPTH, mode=mode, max_words=MAX_WORDS)
    return RankService(index, top_k=DEPTH, mode=mode, max_words=MAX_WORDS)


def _name(engine: Index | Retriever) -> str:
    return str(engine.path) if isinstance(engine, Index) else engine.name


def _baselines(turns: Sequence[ConversationTurn]) -> dict[Kind, Mapping[str, Sequence[str]]]:
    """The queries that need no model, by turn."""
    return {
        "raw": {turn.id: [turn.query] for turn in turns},
        # What is too long loses its beginning: the query stands at the end.
        "history": {turn.id: [" ".join(turn.said.split()[-MAX_WORDS:])] for turn in turns},
        "human": {turn.id: [turn.rewrite] for turn in turns if turn.rewrite},
    }


Scores = dict[str, RankScores]
"""By turn; means over the queries of a turn."""


def _search(
    ranks: RankService,
    turns: Sequence[ConversationTurn],
    queries: Mapping[str, Sequence[str]],
    tell: Callable[[int], None],
) -> Scores:
    asked = [(turn, query) for turn in turns for query in queries.get(turn.id, ())]
    found: dict[str, list[RankScores]] = {}
    for start in range(0, len(asked), SEARCHES):
        some = asked[start : start + SEARCHES]
        places = ranks.gold_ranks([query for _, query in some], [turn.gold for turn, _ in some])
        for (turn, _), place in zip(some, places, strict=True):
            found.setdefault(turn.id, []).append(RankScores.of(place, len(set(turn.gold))))
        tell(len(some))
    return {i: RankScores.mean(scores) for i, scores in found.items()}


def _report(
    kind: Kind,
    turns: Sequence[ConversationTurn],
    queries: Mapping[str, Sequence[str]],
    scores: Scores,
    raw: Scores,
) -> QueryReport:
    against = {} if kind == "raw" else raw
    asked = [turn for turn in turns if turn.id in scores]
    texts = [text for turn in asked for text in queries[turn.id]]
    depths = {depth: [t.id for t in asked if t.depth == depth] for depth in sorted({t.depth for t in asked})}
    said = {turn.id: turn.said for turn in asked} if kind == "history" else {}
    return QueryReport(
        kind=kind,
        whole=_scored([turn.id for turn in asked], scores, against),
        by_depth={depth: _scored(ids, scores, against) for depth, ids in depths.items()},
        words=fmean(len(text.split()) for text in texts),
        cut=sum(len(text.split()) > MAX_WORDS for text in (said.values() or texts)),
    )


def _scored(ids: Sequence[str], scores: Scores, raw: Scores) -> Scored:
    def values(of: Scores, measure: str) -> list[float]:
        return [getattr(of[i], measure) for i in ids]

    gain = {
        measure: bootstrap_difference(values(scores, measure), values(raw, measure), resamples=RESAMPLES)
        for measure in (MEASURES if raw else ())
    }
    return Scored(turns=len(ids), scores=RankScores.mean([scores[i] for i in ids]), gain=gain)
