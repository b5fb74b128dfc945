"""A rank service: where does a search put the passage that answers?

Rewriters are trained on nothing but this number (ConvSearch-R1, arXiv 2505.15776; card 17). Gold ids stay here and with
the data: what is asked is a batch of queries, what comes back is one rank each.

BM25 has the constants of our engine, k1 = 1.2 and b = 0.75: tantivy's Python package gives no way to set them. Where
the paper's are needed (0.9, 0.4 for TopiOCQA; 0.82, 0.68 for QReCC), put a server that has them behind the `/retrieve`
protocol and give its address.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ken.core import BadInput, Passage
from ken.core.conversation import ConversationTurn
from ken.metrics.retrieval import ranks_of
from ken.sources.search.index import Index, Mode
from ken.sources.search.protocol import Retriever


@dataclass(slots=True)
class RankCounts:
    """What a rank service has done so far: queries it was asked, how many of them it cut, how many were blank."""

    queries: int = 0
    truncated: int = 0
    blank: int = 0


class RankService:
    """Best ranks of gold passages in the results of one search engine.

    engine: an `Index`, or any `Retriever` (a `/retrieve` service). top_k: how deep it looks; what lies below counts as
    not found. mode: "bm25", "dense" or "hybrid", for an index. max_words: longer queries are cut (512 in the paper's
    evaluation, 1024 in its training) and counted. Safe to use from several threads.

    Raises `BadInput` for top_k or max_words below 1, or a mode for an engine that is no index.
    """

    def __init__(
        self, engine: Index | Retriever, *, top_k: int = 100, mode: Mode | None = None, max_words: int = 512
    ) -> None:
        if top_k < 1 or max_words < 1:
            raise BadInput(f"a rank service needs top_k and max_words of at least 1, not {top_k} and {max_words}")
        if mode is not None and not isinstance(engine, Index):
            raise BadInput(f"mode {mode!r} is for an index of Ken; a remote retriever searches in its own way")
        self.engine, self.top_k, self.mode, self.max_words = engine, top_k, mode, max_words
        self.counts = RankCounts()
        self._lock = threading.Lock()

    def best_ranks(self, queries: Sequence[str], golds: Sequence[Collection[str]]) -> list[int | None]:
        """For each query the rank, from 1, of the best of its gold documents, or None when none is in the top k.

        Arguments and errors as for `gold_ranks`.
        """
        return [ranks[0] if ranks else None for ranks in self.gold_ranks(queries, golds)]

    def gold_ranks(self, queries: Sequence[str], golds: Sequence[Collection[str]]) -> list[tuple[int, ...]]:
        """For each query the ranks, from 1 and best first, of those of its gold documents that are in the top k.

        golds: one collection of document ids per query, none of them empty. A blank query finds nothing. Raises
        `SourceError` when the engine does not answer, after its own retries: a failed search is not a rank.
        """
        if len(queries) != len(golds):
            raise BadInput(f"{len(queries)} queries but {len(golds)} collections of gold passages; give one of each")
        if any(isinstance(ids, str) or not ids for ids in golds):
            raise BadInput("a query has no gold passages to be ranked by; leave out turns without them")
        asked: list[str] = []
        places: list[int] = []
        cut = 0
        for place, query in enumerate(queries):
            words = query.split()
            if words:
                places.append(place)
                asked.append(" ".join(words[: self.max_words]) if len(words) > self.max_words else query)
                cut += len(words) > self.max_words
        with self._lock:
            self.counts.queries += len(queries)
            self.counts.truncated += cut
            self.counts.blank += len(queries) - len(asked)
        ranks: list[tuple[int, ...]] = [()] * len(queries)
        for place, found in zip(places, self._ranks(asked, [golds[place] for place in places]), strict=True):
            ranks[place] = found
        return ranks

    def _ranks(self, queries: list[str], golds: list[Collection[str]]) -> list[tuple[int, ...]]:
        if not queries:
            return []
        if isinstance(self.engine, Index):
            return self.engine.gold_ranks(queries, golds, self.top_k, mode=self.mode)
        results = _ask(self.engine, queries, self.top_k)
        return [ranks_of((p.document_id for p in found), ids) for found, ids in zip(results, golds, strict=True)]


def admit(
    turns: Iterable[ConversationTurn], index: Index, *, bad: list[BadInput] | None = None
) -> Iterator[ConversationTurn]:
    """The turns that `index` can judge, in order: those whose gold passages are all in it.

    A turn without gold passages, or with one that the index lacks, raises `BadInput` with the ids of both, or is left
    out and collected in `bad`: in training it would teach that every rewrite is wrong.
    """
    for turn in turns:
        if (problem := _problem(turn, index)) is None:
            yield turn
        elif bad is None:
            raise BadInput(problem)
        else:
            bad.append(BadInput(problem))


@dataclass(frozen=True, slots=True)
class Sorted:
    """turns: those that can be ranked, in order. left_out: the ids of the others, and why."""

    turns: tuple[ConversationTurn, ...]
    left_out: dict[str, str]


def left_out_note(left_out: Mapping[str, str], kept: int) -> str:
    """How many turns are left out, which, and why the first of them; "" when none is. kept: turns that are not."""
    if not left_out:
        return ""
    ids = list(left_out)
    more = ", …" if len(ids) > 10 else ""
    return (
        f"{len(ids):,} of {kept + len(ids):,} turns are left out ({', '.join(ids[:10])}{more}); the first: "
        f"{left_out[ids[0]]}"
    )


def sort_out(turns: Iterable[ConversationTurn], index: Index | None) -> Sorted:
    """The turns that `index` can judge, and why it cannot judge the others. None is for a search engine whose ids
    cannot be looked up: gold passages are believed then.

    Raises `BadInput` when none can be.
    """
    fit: list[ConversationTurn] = []
    left_out: dict[str, str] = {}
    named = False
    for turn in turns:
        named = named or bool(turn.gold)
        if (problem := _problem(turn, index)) is None:
            fit.append(turn)
        else:
            left_out[turn.id] = problem
    if not named:
        raise BadInput(
            f"none of {len(left_out)} turns names a gold passage, and they can only be ranked by it; TopiOCQA keeps "
            "them in a file of its own (--gold FILE)"
        )
    if not fit:
        raise BadInput(f"none of {len(left_out)} turns can be ranked; the first: {next(iter(left_out.values()))}")
    return Sorted(tuple(fit), left_out)


def _problem(turn: ConversationTurn, index: Index | None) -> str | None:
    missing = [gold for gold in turn.gold if index is not None and gold not in index]
    if turn.gold and not missing:
        return None
    problem = "it has no gold passage"
    if index is not None and missing:
        problem = f"its gold passage {missing[0]!r} is not in {index.path}; index the collection it was made for"
    return f"the turn {turn.id!r} cannot be ranked: {problem}"


def _ask(retriever: Retriever, queries: Sequence[str], k: int) -> list[list[Passage]]:
    """All queries at once, from ordinary code, whether or not an event loop runs in this thread."""

    async def search() -> list[list[Passage]]:
        try:
            return list(await asyncio.gather(*(retriever.search(query, k) for query in queries)))
        finally:
            await retriever.close()  # its connections belong to this loop, which ends here

    results: list[list[list[Passage]]] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(asyncio.run(search()))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="ken-ranks", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def open_ranks(spec: str | Path, *, top_k: int = 100, mode: Mode | None = None, max_words: int = 512) -> RankService:
    """The rank service over the index in the folder `spec`, or the `/retrieve` service at the http(s) address `spec`.

    Raises `SourceError` when there is no index in the folder.
    """
    if str(spec).startswith(("http://", "https://")):
        from ken.sources.search.remote import RemoteRetriever

        return RankService(RemoteRetriever(str(spec)), top_k=top_k, mode=mode, max_words=max_words)
    return RankService(Index.open(spec), top_k=top_k, mode=mode, max_words=max_words)
