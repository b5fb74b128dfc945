"""So many passages by vectors and so many by words: LaRA's hybrid retrieval (arXiv 2502.09977; card 51, RAG
pipeline)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ken.core import BadInput, Passage, Unsupported
from ken.sources.search.fusion import union
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever


class Reranker(Protocol):
    """Orders passages by how well they answer a query, reading both together."""

    def scores(self, query: str, passages: Sequence[Passage]) -> Sequence[float]:
        """One number per passage, higher is better."""
        ...


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers, by name or path (LaRA's is gte-reranker). Loaded when first needed.
    Raises `Unsupported` where sentence-transformers is missing, `BadInput` for a model that cannot be loaded."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._loaded: object = None

    def scores(self, query: str, passages: Sequence[Passage]) -> Sequence[float]:
        if self._loaded is None:
            try:
                from sentence_transformers import CrossEncoder
            except ImportError as error:
                raise Unsupported("a reranker needs sentence-transformers; run `pip install 'ken[dense]'`") from error
            try:
                self._loaded = CrossEncoder(self.model)
            except Exception as error:  # whatever a hub, a folder or a configuration can go wrong with
                reason = str(error).split("\n", maxsplit=1)[0][:200]
                raise BadInput(f"the reranker {self.model!r} cannot be loaded ({reason}); name another") from error
        pairs = [(query, f"{p.title}\n{p.text}" if p.title else p.text) for p in passages]
        return [float(score) for score in self._loaded.predict(pairs)]  # type: ignore[attr-defined]


class MixedRetriever(IndexRetriever):
    """Of k passages, int(k · share) are the nearest by vectors and the rest the best by BM25; what both found counts
    once, so that there may be fewer. Those by BM25 come first, as LaRA has them, unless a reranker orders them.

    share: in [0, 1], of vectors; 0 needs none. Raises `BadInput` for another share, or an index without vectors where
    they are needed.
    """

    def __init__(self, index: Index, *, share: float = 0.5, reranker: Reranker | None = None) -> None:
        super().__init__(index)
        if not 0 <= share <= 1:
            raise BadInput(f"the share of vectors is {share}; it must lie in [0, 1]")
        if share and index.info().model is None:
            raise BadInput(
                f"the index {index.path} has no vectors; build it with `--dense MODEL`, or take a share of 0"
            )
        self.share, self.reranker = share, reranker

    async def _search_batch(self, queries: list[str], k: int) -> list[list[Passage]]:
        return await asyncio.to_thread(self._mixed, queries, k)

    def _mixed(self, queries: list[str], k: int) -> list[list[Passage]]:
        near = int(k * self.share)
        none: list[list[Passage]] = [[] for _ in queries]
        by_words = self.index.search_many(queries, k - near, mode="bm25") if k > near else none
        by_vectors = self.index.search_many(queries, near, mode="dense") if near else none
        found = [union([words, vectors]) for words, vectors in zip(by_words, by_vectors, strict=True)]
        if self.reranker is None:
            return found
        return [self._reranked(query, passages) for query, passages in zip(queries, found, strict=True)]

    def _reranked(self, query: str, passages: list[Passage]) -> list[Passage]:
        assert self.reranker is not None
        scored = zip(passages, self.reranker.scores(query, passages) if passages else [], strict=True)
        return sorted((p.model_copy(update={"score": float(s)}) for p, s in scored), key=lambda p: -(p.score or 0.0))


def index_document(
    document: Passage,
    folder: Path,
    *,
    chunk_words: int,
    overlap: int,
    dense: str | None = None,
    share: float = 0.5,
    reranker: Reranker | None = None,
) -> MixedRetriever:
    """One document, in chunks, as a source of its own: what LaRA retrieves from. The index in `folder` is built where
    there is none. Without `dense`, a sentence-transformers model, all chunks come by BM25."""
    if folder.is_dir():
        index = Index.open(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        index = Index.build([document], folder, chunk_words=chunk_words, overlap=overlap, dense=dense)
    return MixedRetriever(index, share=share if dense else 0.0, reranker=reranker)
