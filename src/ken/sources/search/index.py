"""A search index in a folder: BM25, and dense vectors beside it if asked for.

index = Index.build("my-documents/", "my-index")
index.search("who founded the company?", k=5)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import tantivy

import ken
from ken.core import BadInput, DataError, Passage, SourceError
from ken.core.frozen import Frozen
from ken.metrics.retrieval import ranks_of
from ken.sources.search.bm25 import BM25, Place, analyzer
from ken.sources.search.chunking import check_chunking, join_chunks
from ken.sources.search.fusion import reciprocal_rank_fusion
from ken.sources.search.ingest import Progress, Source, checked, feed
from ken.sources.search.storage import Dense, Manifest, building, read_manifest, write_manifest, writing
from ken.sources.search.unicode import well_formed
from ken.sources.search.vectors import Encoder, Vectors, key_of

Mode = Literal["bm25", "dense", "hybrid"]
MODES: tuple[Mode, ...] = ("bm25", "dense", "hybrid")

_DEPTH = 100  # of the rankings that are fused
_SMALL = 10_000  # documents


class IndexInfo(Frozen):
    """What is in an index. `vectors` counts those of removed passages too, until the next build."""

    path: str
    documents: int
    passages: int
    bytes: int
    tokenizer: str
    chunk_words: int
    overlap: int
    model: str | None = None
    dimension: int | None = None
    vectors: int = 0


class Index:
    """A search index in a folder. Make one with `Index.build` or `Index.open`.

    It shows the state at the time it was opened, last written by this object, or reloaded. Searching from several
    threads is safe.
    """

    def __init__(self, path: Path, manifest: Manifest, encoder: Encoder | None = None) -> None:
        """Not for callers: use `Index.open`. `encoder`: one that is loaded already."""
        assert manifest.generation
        self.path = path
        self._manifest = manifest
        self._bm25 = BM25(path / manifest.generation, manifest.tokenizer, manifest.source)
        self._vectors: Vectors | None = None
        self._encoder: Encoder | None = None
        if manifest.dense:
            self._vectors = Vectors(path / manifest.dense.folder, manifest.dense.dimension)
            self._encoder = encoder or Encoder(manifest.dense.model)

    @classmethod
    def build(
        cls,
        src: Source,
        out: str | Path,
        *,
        chunk_words: int = 200,
        overlap: int = 40,
        tokenizer: str = "english",
        dense: str | None = None,
        bad: list[DataError] | None = None,
        progress: Progress | None = None,
    ) -> Index:
        """Index the documents of `src` into the folder `out`; an index that is there is replaced, once the new one is
        complete.

        src: a corpus file, a document, a folder of md, txt, html and pdf files, or Passages, one per document.
        chunk_words, overlap: longer documents are cut into passages of at most that many words, which share `overlap`
            words.
        tokenizer: a language ("english", …), "simple" or "bigram"; see `bm25.analyzer`.
        dense: also compute vectors with this sentence-transformers model (name or path), for the modes "dense" and
            "hybrid".
        bad: collects documents that cannot be read, which are then skipped; without it the first one raises
            `DataError`.
        progress: called with the number of documents read so far.

        Raises `BadInput` for a source without documents, ids that are not unique, or a folder that holds something
        else.
        """
        check_chunking(chunk_words, overlap)
        analyzer(tokenizer)
        out = Path(out)
        encoder = Encoder(dense) if dense else None
        settings = Manifest(
            source=str(src) if isinstance(src, str | Path) else "",
            tokenizer=tokenizer,
            chunk_words=chunk_words,
            overlap=overlap,
            dense=Dense(model=encoder.model, dimension=encoder.dimension) if encoder else None,
            written_by=f"ken {ken.__version__}",
        )
        with building(out) as generation:
            vectors = Vectors(out / settings.dense.folder, settings.dense.dimension) if settings.dense else None
            engine = BM25(generation, tokenizer, settings.source, create=True)
            pair = (vectors, encoder) if vectors is not None and encoder else None
            documents = checked(src, bad, progress)
            first = list(
                islice(documents, _SMALL)
            )  # a small index is written by one thread, in order: same in, same out
            with engine.transaction(threads=1 if len(first) < _SMALL else 0) as writer:
                keys = feed(writer, chain(first, documents), settings, pair)
            write_manifest(out, settings.model_copy(update={"generation": generation.name}))
            if vectors is not None:
                vectors.compact(keys)
        return cls._open(out, encoder)

    @classmethod
    def open(cls, path: str | Path, *, model: str | None = None) -> Index:
        """Open an index. `model`: where its sentence-transformers model is now, if not where it was when the index was
        built.

        Raises `SourceError` when there is no index at `path`, or it is damaged.
        """
        return cls._open(Path(path), Encoder(model) if model else None)

    @classmethod
    def _open(cls, path: Path, encoder: Encoder | None) -> Index:
        while True:
            manifest = read_manifest(path)
            try:
                return cls(path, manifest, encoder)
            except SourceError:
                if read_manifest(path) == manifest:  # else a build has just replaced the generation
                    raise

    def __len__(self) -> int:
        """How many documents."""
        return self._bm25.count()[0]

    def __contains__(self, document: object) -> bool:
        """Whether there is a document with this id."""
        return isinstance(document, str) and self._bm25.contains(document)

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self)} documents)"

    # --- reading ---

    def search(self, query: str, k: int = 5, *, mode: Mode | None = None, within: str = "") -> list[Passage]:
        """The `k` best passages, best first; fewer when fewer match, none for a query without a letter or digit.

        query: words, in any order; it has no syntax. k: ≥ 1.
        mode: "bm25", "dense" (cosine) or "hybrid" (both, by reciprocal rank fusion); by default "hybrid" where there
            are vectors. `Passage.score` is that of the mode: higher is better, comparable within one result only.
        within: only documents whose ids lie in this folder, such as the reviews of one product (`zorba/1`, …).

        Raises `BadInput` for an empty query, k < 1, or a mode that needs vectors in an index without.
        """
        return self.search_many([query], k, mode=mode, within=within)[0]

    def search_many(
        self, queries: Sequence[str], k: int = 5, *, mode: Mode | None = None, within: str = ""
    ) -> list[list[Passage]]:
        """`search` for many queries at once: one list of passages per query, in order. Uses all cores."""
        mode = self._check(queries, k, mode)
        queries = [well_formed(query) for query in queries]
        within = within.strip("/")
        if mode == "bm25":
            return self._lexical(queries, k, within)
        nearest = self._nearest_within(queries, within) if within else self._nearest
        if mode == "dense":
            return nearest(queries, k)
        depth = max(_DEPTH, k)
        results = []
        for lexical, dense in zip(self._lexical(queries, depth, within), nearest(queries, depth), strict=True):
            passages = {passage.id: passage for passage in (*dense, *lexical)}
            fused = reciprocal_rank_fusion([[p.id for p in lexical], [p.id for p in dense]])[:k]
            results.append([passages[identifier].model_copy(update={"score": score}) for identifier, score in fused])
        return results

    def passages(self, within: str = "") -> list[Passage]:
        """All passages, or those of the documents whose ids lie in a folder, in order of id."""
        return self._bm25.inside(within.strip("/"))

    def folders(self) -> dict[str, int]:
        """The folders of ids that hold documents, with how many each, in order; "" for documents that are in none."""
        return self._bm25.folders()

    def check_folder(self, folder: str) -> str:
        """`folder` as it is known here, without slashes around it. Raises `BadInput` that names those like it when no
        document lies in it, or in a folder of it."""
        name = folder.strip("/")
        if name and self._bm25.has_folder(name):
            return name
        folders = [known for known in self.folders() if known]
        lower = {known.lower(): known for known in folders}
        like = [lower[one] for one in get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
        hint = f"did you mean {' or '.join(map(repr, like))}?" if like else _some_of(folders)
        raise BadInput(f"no document of the index lies in {folder!r}; {hint}")

    def vectors(self, passages: Sequence[Passage]) -> np.ndarray | None:
        """The vectors of passages of this index, of length 1, float32 [passages, dimension]; None in an index without.
        Raises `SourceError` for a passage that is not of this index."""
        if self._vectors is None:
            return None
        return self._vectors.rows([key_of(passage.title, passage.text) for passage in passages])

    def gold_ranks(
        self, queries: Sequence[str], golds: Sequence[Collection[str]], k: int = 100, *, mode: Mode | None = None
    ) -> list[tuple[int, ...]]:
        """For each query, the ranks (from 1, best first) of those of its gold documents that are among the `k` best
        passages.

        Ranks are those of distinct documents, as in `ken.metrics.retrieval`. golds: one collection of document ids per
        query. With BM25 and one passage per document nothing is read but the ranking, which takes a tenth of the time
        of `search_many`. Raises `BadInput` as `search` does, and for unequal numbers of queries and golds.
        """
        mode = self._check(queries, k, mode)
        if len(queries) != len(golds):
            raise BadInput(f"{len(queries)} queries but {len(golds)} collections of gold documents; give one of each")
        documents, passages = self._bm25.count()
        if mode == "bm25" and documents == passages:
            engine = self._bm25
            places = {gold: engine.places(gold) for gold in {gold for ids in golds for gold in ids}}

            def ranks(query: str, ids: Collection[str]) -> tuple[int, ...]:
                wanted = frozenset[Place]().union(*(places[gold] for gold in ids))
                ranking = enumerate(engine.ranking(well_formed(query), k), start=1)
                return tuple(rank for rank, place in ranking if place in wanted)

            return list(map(ranks, queries, golds))
        results = self.search_many(queries, k, mode=mode)
        return [
            ranks_of((p.document_id for p in found), ids) if ids else ()
            for found, ids in zip(results, golds, strict=True)
        ]

    def document(self, identifier: str) -> Passage:
        """A document, whole: its passages joined in order, each overlap once.

        Raises `SourceError` when there is no document with this id.
        """
        passages = self._bm25.passages_of(identifier)
        if not passages:
            raise SourceError(f"there is no document {identifier!r} in {self.path}; see `ken search` for ids")
        text = join_chunks([passage.text for passage in passages], self._manifest.overlap)
        return passages[0].model_copy(update={"id": identifier, "text": text})

    def only_document(self) -> Passage | None:
        """The document, whole, of an index that holds exactly one."""
        identifier = self._bm25.any_document() if len(self) == 1 else None
        return None if identifier is None else self.document(identifier)

    def info(self) -> IndexInfo:
        """How many documents, passages and bytes are in the index, and with which settings it was built."""
        documents, passages = self._bm25.count()
        dense = self._manifest.dense
        return IndexInfo(
            path=str(self.path),
            documents=documents,
            passages=passages,
            bytes=sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file()),
            tokenizer=self._manifest.tokenizer,
            chunk_words=self._manifest.chunk_words,
            overlap=self._manifest.overlap,
            model=dense.model if dense else None,
            dimension=dense.dimension if dense else None,
            vectors=len(self._vectors) if self._vectors is not None else 0,
        )

    def reload(self) -> None:
        """See what other processes have written since."""
        fresh = self._open(self.path, self._encoder)
        self.__dict__.update(fresh.__dict__)

    def _check(self, queries: Sequence[str], k: int, mode: Mode | None) -> Mode:
        if k < 1:
            raise BadInput(f"k must be at least 1, not {k}")
        if isinstance(queries, str):
            raise BadInput("search_many takes a list of queries; use search for one")
        if any(not query.strip() for query in queries):
            raise BadInput("the query is empty; say what to search for")
        if mode is None:
            return "hybrid" if self._vectors is not None else "bm25"
        if mode not in MODES:
            raise BadInput(f"there is no mode {mode!r}; choose one of {', '.join(MODES)}")
        if mode != "bm25" and self._vectors is None:
            raise BadInput(
                f"the index {self.path} has no vectors for mode {mode!r}; "
                "build it again with `ken index build --dense MODEL`, or use bm25"
            )
        return mode

    def _lexical(self, queries: Sequence[str], k: int, within: str = "") -> list[list[Passage]]:
        engine, cores = self._bm25, _cores()
        if len(queries) < 4 or cores == 1:
            return [engine.search(query, k, within) for query in queries]
        with ThreadPoolExecutor(min(cores, len(queries))) as pool:  # the engine works without the interpreter's lock
            return list(pool.map(lambda query: engine.search(query, k, within), queries))

    def _nearest_within(
        self, queries: Sequence[str], within: str
    ) -> Callable[[Sequence[str], int], list[list[Passage]]]:
        """`_nearest` among the passages of a folder, which are few."""
        assert self._encoder
        passages = self.passages(within)
        rows = self.vectors(passages)
        scores = (
            self._encoder.queries(queries) @ rows.T if passages and rows is not None else np.empty((len(queries), 0))
        )

        def nearest(_: Sequence[str], k: int) -> list[list[Passage]]:
            return [
                [
                    passages[int(i)].model_copy(update={"score": float(row[i])})
                    for i in np.argsort(-row, kind="stable")[:k]
                ]
                for row in scores
            ]

        return nearest

    def _nearest(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        assert self._vectors is not None
        assert self._encoder
        encoded = self._encoder.queries(queries)
        results: list[list[Passage]] = []
        for vector, near in zip(encoded, self._vectors.search(encoded, k), strict=True):
            wanted = k
            found = self._behind(near)
            while len(found) < k and len(near) == wanted:  # vectors of removed passages took places: look further
                wanted *= 4
                near = self._vectors.search(vector[None], wanted)[0]  # noqa: PLW2901
                found = self._behind(near)
            results.append(found[:k])
        return results

    def _behind(self, near: list[tuple[str, float]]) -> list[Passage]:
        """The passages behind (key, score) pairs, best first, equal scores in order of id."""
        found = [p.model_copy(update={"score": score}) for key, score in near for p in self._bm25.with_key(key)]
        return sorted(found, key=lambda passage: (-(passage.score or 0.0), passage.id))

    # --- writing ---

    def add(self, src: Source, *, bad: list[DataError] | None = None, progress: Progress | None = None) -> int:
        """Add documents, all or none; returns how many. Raises `BadInput` for an id that is in the index already.

        src, bad, progress: as for `Index.build`. They are cut and encoded as the index was built.
        """
        return self._write(src, bad, progress, replace=False)

    def update(self, src: Source, *, bad: list[DataError] | None = None, progress: Progress | None = None) -> int:
        """Add documents, replacing those with the same ids, all or none; returns how many. Else as `Index.add`."""
        return self._write(src, bad, progress, replace=True)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove documents by id, all or none; returns how many.

        Raises `BadInput` for ids that are not in the index.
        """
        wanted = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))

        def delete(writer: tantivy.IndexWriter) -> int:
            if unknown := [identifier for identifier in wanted if identifier not in self]:
                named = ", ".join(map(repr, unknown[:10])) + (
                    f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
                )
                raise BadInput(f"not in the index, so nothing was removed: {named}; check the ids")
            for identifier in wanted:
                writer.delete_documents_by_term("document", identifier)
            return len(wanted)

        return self._commit(delete)

    def _write(self, src: Source, bad: list[DataError] | None, progress: Progress | None, *, replace: bool) -> int:
        def insert(writer: tantivy.IndexWriter) -> int:
            count = 0

            def documents() -> Iterable[Passage]:
                nonlocal count
                for document in checked(src, bad, progress):
                    if document.id in self:
                        if not replace:
                            raise BadInput(
                                f"the document {document.id!r} is in the index already, so nothing was added; "
                                "to replace documents use `ken index add --update` (in Python, index.update)"
                            )
                        writer.delete_documents_by_term("document", document.id)
                    count += 1
                    yield document

            dense = (self._vectors, self._encoder) if self._vectors is not None and self._encoder else None
            feed(writer, documents(), self._manifest, dense)
            if dense:
                dense[0].compact()
            return count

        return self._commit(insert)

    def _commit(self, change: Callable[[tantivy.IndexWriter], int]) -> int:
        """Run `change` on a writer and commit; when it raises, nothing has happened."""
        with writing(self.path):
            self.reload()
            with self._bm25.transaction(threads=1) as writer:
                count = change(writer)
            self._bm25.reload()
        return count


def _some_of(folders: list[str]) -> str:
    if not folders:
        return "its ids name no folders (such as `zorba/1`)"
    return "it has " + ", ".join(folders[:5]) + (f" and {len(folders) - 5} more" if len(folders) > 5 else "")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
