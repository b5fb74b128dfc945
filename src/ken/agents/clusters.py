"""CRAG, Clustered Retrieved Augmented Generation (arXiv 2406.00029; card 38): many documents that say similar things
are clustered, every cluster is summarised, and the question is answered from the summaries. The length of the prompt
then depends on the number of clusters, not on that of the documents.

For questions about opinions and things in aggregate; where one document holds the answer, plain retrieval keeps more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from ken.agents.attempt import Attempt
from ken.agents.protocol import escape
from ken.agents.reading import Context, Reader, Scope
from ken.agents.single_flight import SingleFlight
from ken.agents.summarising import (
    READ_SUMMARIES,
    Shelf,
    Summariser,
    Summary,
    key_of,
    render_lines,
    render_share,
    summaries_folder,
)
from ken.core import BadInput, Observation, Passage
from ken.core.frozen import Frozen
from ken.models import Model
from ken.models.tokens import TokenCounter
from ken.sources import DocumentStore

if TYPE_CHECKING:
    import numpy as np

    from ken.sources.search.clustering import Clustering, K, Method


class ClusterOf(Frozen):
    """A cluster of documents, by the hashes of their texts in the order of the store, nearest to the centroid first in
    `nearest`, with its summary."""

    documents: tuple[str, ...]
    nearest: tuple[str, ...]
    summary: Summary


class Digest(Frozen):
    """What is known of a group of documents: its clusters, the largest first. inertia, silhouette: of the clustering;
    silhouette is None where it is undefined."""

    clusters: tuple[ClusterOf, ...]
    inertia: float
    silhouette: float | None = Field(default=None, ge=-1, le=1)

    @property
    def documents(self) -> set[str]:
        return {one for cluster in self.clusters for one in cluster.documents}


class Clusters(Reader):
    """Cluster documents, summarise each cluster, answer from the summaries.

    k: clusters, or "silhouette" or "elbow" (see `ken.sources.search.clustering.cluster`, also for `method`).
    embedding: the sentence-transformers model whose vectors are clustered; by default the vectors of the index, or,
        where it has none, TF-IDF over words. Vectors are brought to length 1.
    summariser: the model that summarises, if not the one that answers. extractive: no model summarises; the so many
        documents nearest to a centroid stand for it. summary_tokens, part_tokens: see `Summariser`.
    context_tokens: most tokens of all summaries together; when they take more, the long ones are cut.
    counts: say of every summary how many documents it stands for.
    refresh: documents of a group are clustered again once the new ones are more than this share of those that were;
        until then an answer says how many are not yet summarised. Documents that are gone, or changed, count at once.
    cache: the folder where summaries are kept between runs, None for memory only; by default `summaries_folder()`.

    Raises `BadInput` for what cannot be.
    """

    name = "clusters"

    def __init__(
        self,
        k: K = 4,
        *,
        method: Method = "kmeans",
        scope: Scope | None = None,
        top_k: int = 60,
        embedding: str | None = None,
        summariser: Model | None = None,
        extractive: int | None = None,
        summary_tokens: int = 200,
        part_tokens: int | None = None,
        context_tokens: int | None = None,
        counts: bool = True,
        refresh: float = 0.1,
        cache: str | Path | None = "",
        seed: int = 0,
    ) -> None:
        super().__init__(scope=scope, top_k=top_k)
        if context_tokens is not None and context_tokens < 1:
            raise BadInput(f"context_tokens is {context_tokens}; at least one must fit")
        if refresh < 0:
            raise BadInput(f"refresh is {refresh}; it is a share of the documents, 0 or more")
        self.k, self.method, self.embedding, self.seed = k, method, embedding, seed
        self.context_tokens, self.counts, self.refresh = context_tokens, counts, refresh
        self._shelf = Shelf(summaries_folder() if cache == "" else cache)
        self.summariser = Summariser(
            model=summariser,
            summary_tokens=summary_tokens,
            part_tokens=part_tokens,
            extractive=extractive,
            shelf=self._shelf,
        )
        self._flight = SingleFlight()
        self._current: dict[str, Digest] = {}  # by the settings and the documents that were there

    async def context(self, attempt: Attempt, documents: Sequence[Passage], counter: TokenCounter) -> Context:
        digest, now = await self._digest(attempt, documents)
        by_hash = {_hash(document): document for document in documents}
        total = len(digest.documents)
        for number, cluster in enumerate(digest.clusters, start=1):
            how = " (extracted)" if cluster.summary.extractive else ""
            note = f"cluster {number}: {len(cluster.documents)} of {total} documents{how}: {cluster.summary.text}"
            members = tuple(by_hash[one] for one in cluster.nearest if one in by_hash)
            attempt.steps.append(Observation(passages=members, note=note))
        lines = aggregate(digest, counter, cap=self.context_tokens, counts=self.counts)
        if stale := len(set(by_hash) - digest.documents):
            lines.append(f"{stale} newer documents are not yet summarised")
            attempt.steps.append(Observation(note=f"{stale} of {len(by_hash)} documents are not yet summarised"))
        return Context(
            READ_SUMMARIES,
            tuple(lines),
            once_prompt=sum(c.summary.prompt_tokens for c in digest.clusters),
            once_completion=sum(c.summary.completion_tokens for c in digest.clusters),
            now=now,
        )

    async def _digest(self, attempt: Attempt, documents: Sequence[Passage]) -> tuple[Digest, bool]:
        """The digest of these documents, and whether anything was summarised for it now."""
        hashes = [_hash(document) for document in documents]
        store = attempt.sources.search
        group = store.group if isinstance(store, DocumentStore) and self.scope != "retrieved" else ""
        how = [self.k, self.method, self.embedding or "", self.seed, self.summariser.settings(attempt)]
        # Of a group the latest digest is kept, which may miss what is new; of what a search brought, this very one.
        key = key_of(how, [store.name, group] if store is not None and group else hashes)
        now = False

        def find() -> Digest | None:
            digest = self._current.get(key) or _read_digest(self._shelf.find(key))
            if digest is None or not digest.documents <= set(hashes):
                return None
            return digest if len(set(hashes) - digest.documents) <= self.refresh * len(digest.documents) else None

        async def make() -> Digest:
            nonlocal now
            digest, now = await self._make(attempt, documents, hashes)
            if self.summariser.extractive or not any(c.summary.extractive for c in digest.clusters):
                self._current[key] = digest
                self._shelf.put(key, digest.model_dump_json())
            return digest

        return await self._flight.get(key, find, make), now

    async def _make(self, attempt: Attempt, documents: Sequence[Passage], hashes: Sequence[str]) -> tuple[Digest, bool]:
        clustering = await self._clustered(attempt, documents)

        async def one(members: Sequence[int]) -> tuple[ClusterOf, bool]:
            ordered = sorted(members)
            texts, nearest = ([documents[i].text for i in order] for order in (ordered, members))
            summary, made = await self.summariser.summary(attempt, texts, nearest)
            of = ClusterOf(
                documents=tuple(hashes[i] for i in ordered),
                nearest=tuple(hashes[i] for i in members),
                summary=summary,
            )
            return of, made

        summed = await asyncio.gather(*(one(c.members) for c in clustering.clusters), return_exceptions=True)
        clusters: list[ClusterOf] = []
        for result in summed:  # only now, so that those that went well are kept
            if isinstance(result, BaseException):
                raise result
            clusters.append(result[0])
        now = any(not isinstance(result, BaseException) and result[1] for result in summed)
        defined = clustering.silhouette == clustering.silhouette
        silhouette = clustering.silhouette if defined else None
        return Digest(clusters=tuple(clusters), inertia=clustering.inertia, silhouette=silhouette), now

    async def _clustered(self, attempt: Attempt, documents: Sequence[Passage]) -> Clustering:
        from ken.sources.search.clustering import cluster, lexical_vectors

        kept = await self._kept_vectors(attempt, documents)
        texts = [document.text for document in documents]
        vectors = await asyncio.to_thread(lexical_vectors, texts) if kept is None else kept
        found = await asyncio.to_thread(cluster, vectors, self.k, method=self.method, seed=self.seed)
        report = found.report([" ".join(document.text.split()) for document in documents])
        attempt.steps.append(Observation(note=f"{found.k} cluster{'s' * (found.k > 1)}: " + "; ".join(report)))
        return found

    async def _kept_vectors(self, attempt: Attempt, documents: Sequence[Passage]) -> np.ndarray | None:
        """Those of the model that was named, or of the index; None when there is neither."""
        store = attempt.sources.search
        if self.embedding is not None:
            return await asyncio.to_thread(self._encode, [(document.title, document.text) for document in documents])
        return await store.vectors(documents) if isinstance(store, DocumentStore) else None

    def _encode(self, texts: Sequence[tuple[str, str]]) -> np.ndarray:
        from ken.sources.search.vectors import Encoder

        assert self.embedding is not None
        encoder: Encoder = self.__dict__.setdefault("_encoder", Encoder(self.embedding))
        return encoder.documents(texts)


def aggregate(digest: Digest, counter: TokenCounter, *, cap: int | None = None, counts: bool = True) -> list[str]:
    """The summaries, a line each, those of large clusters first, with how many documents each stands for. cap: most
    tokens of all together; short summaries leave their share to long ones, and what is cut ends with …"""
    total = len(digest.documents)
    lines = [
        render_share(c.summary.text, len(c.documents), total) if counts else c.summary.text for c in digest.clusters
    ]
    if cap is None or counter(render_lines(lines)) <= cap:
        return lines
    left = cap
    cut = list(lines)
    for waiting, i in zip(
        range(len(lines), 0, -1), sorted(range(len(lines)), key=lambda i: counter(lines[i])), strict=True
    ):
        share = max(0, left // waiting - counter(render_lines([""])))
        if counter(escape(lines[i])) > share:
            cut[i] = f"{counter.cut(lines[i], max(0, share - counter(' …')))} …".lstrip()
        left -= counter(render_lines([cut[i]]))
    return cut


def _hash(document: Passage) -> str:
    return key_of(" ".join(document.text.split()))


def _read_digest(value: str | None) -> Digest | None:
    try:
        return None if value is None else Digest.model_validate_json(value)
    except ValidationError:
        return None
