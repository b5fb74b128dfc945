"""BM25 on tantivy: how passages become documents of the engine, and how a query becomes one of its queries.

Scoring is BM25 with k1 = 1.2 and b = 0.75 (Robertson & Zaragoza 2009), over two fields: a term in the title counts
`TITLE_WEIGHT` times. A term that a query repeats counts once. Both choices were measured on MuSiQue
(`bench/RESULTS.md`).
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tantivy

from ken.core import BadInput, Passage, SourceError
from ken.sources.search.unicode import is_well_formed

TITLE_WEIGHT = 2.0
MAX_TERMS = 512  # of a query; what follows is ignored
MAX_TIES = 100
MAX_PARTS = 1000  # passages of one document that `places` tells

# Snowball stemmers that come with tantivy, plus two analysers without a language.
LANGUAGES = (
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian", "norwegian",
    "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish",
)  # fmt: skip
TOKENIZERS = (*LANGUAGES, "simple", "bigram")

Place = tuple[int, int]  # segment and number of a passage in it

# Of the engine's regular expressions: all that must be escaped.
_META = str.maketrans({character: f"\\{character}" for character in r"\.+*?()|[]{}^$#&-~"})
_ANALYZER = "ken"  # the name under which a field finds its analyser


def analyzer(tokenizer: str) -> tantivy.TextAnalyzer:
    """The text analyser of a tokenizer.

    A language: words, lower case, accents folded, stemmed. "simple": the same without stemming, for other languages or
    several. "bigram": characters and pairs of characters, for scripts written without spaces.

    Raises `BadInput` for any other name.
    """
    if tokenizer not in TOKENIZERS:
        raise BadInput(f"there is no tokenizer {tokenizer!r}; choose one of {', '.join(TOKENIZERS)}")
    if tokenizer == "bigram":
        return tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.ngram(1, 2)).filter(tantivy.Filter.lowercase()).build()
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(100)).filter(tantivy.Filter.lowercase())
    if tokenizer not in ("simple", "english"):  # other stemmers need the accents
        builder = builder.filter(tantivy.Filter.stemmer(tokenizer))
    builder = builder.filter(tantivy.Filter.ascii_fold())
    if tokenizer == "english":
        builder = builder.filter(tantivy.Filter.stemmer("english"))
    return builder.build()


def schema() -> tantivy.Schema:
    """The fields of a passage.

    document: the id of its document.
    part: 1, 2, … in order, where the document is more than one passage.
    order: a hash of both, by which equal scores are ordered.
    source: file or address, where it is not the one in the manifest.
    key: the key of its vector, in indexes that have vectors.
    """
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("document", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_integer_field("part", stored=True, indexed=True)
    builder.add_integer_field("order", fast=True)
    builder.add_text_field("title", stored=True, tokenizer_name=_ANALYZER, index_option="freq")
    builder.add_text_field("text", stored=True, tokenizer_name=_ANALYZER, index_option="freq")
    builder.add_bytes_field("source", stored=True)
    builder.add_text_field("key", stored=True, tokenizer_name="raw", index_option="basic")
    return builder.build()


class BM25:
    """One tantivy index in a folder, as last committed when it was opened or reloaded."""

    def __init__(self, folder: Path, tokenizer: str, source: str, *, create: bool = False) -> None:
        """`source`: of passages that have none of their own."""
        self._analyzer = analyzer(tokenizer)
        self._source = source
        self._folder = folder
        try:
            self.engine = tantivy.Index(schema(), str(folder)) if create else tantivy.Index.open(str(folder))
            self.engine.register_tokenizer(_ANALYZER, self._analyzer)
            self.engine.config_reader("manual")
            self._schema = self.engine.schema
            self.reload()
        except Exception as error:
            raise self._damaged(error) from error
        except BaseException as error:  # a panic of the engine is not an Exception
            if _is_panic(error):
                raise self._damaged(error) from error
            raise

    def reload(self) -> None:
        """See what has been committed since."""
        self.engine.reload()
        self._searcher = self.engine.searcher()

    @contextmanager
    def transaction(self, threads: int = 0) -> Iterator[tantivy.IndexWriter]:
        """A writer whose changes are committed at the end, or undone when the block raises. `threads`: 0 for all cores.

        When this returns, or raises, nothing writes to the folder any more.
        """
        writer = self.engine.writer(num_threads=threads)
        try:
            yield writer
            writer.commit()
        except BaseException:
            writer.rollback()
            raise
        finally:
            writer.wait_merging_threads()

    def search(self, query: str, k: int, within: str = "") -> list[Passage]:
        """The k best passages, best first. within: only of documents in this folder, as for `inside`.

        Equal scores come in an order fixed by the ids, so that results do not depend on how the index was built or
        merged. Where more than `MAX_TIES` equal scores lie around the cut, which of them are among the k may depend on
        it.
        """
        with self._reading():
            return [self._passage(address, score) for score, address in self._hits(query, k, within)]

    def places(self, document: str) -> frozenset[Place]:
        """Where the passages of a document stand, as in `ranking` (at most `MAX_PARTS`); empty when there is
        no document with this id."""
        if not is_well_formed(document):
            return frozenset()
        wanted = tantivy.Query.term_query(self._schema, "document", document, "basic")
        hits: list[Any] = self._searcher.search(wanted, MAX_PARTS, count=False).hits
        return frozenset((address.segment_ord, address.doc) for _, address in hits)

    def ranking(self, query: str, k: int) -> list[Place]:
        """`search` without reading the passages, an order of magnitude faster: only where they stand.

        Places are valid until the next `reload`.
        """
        with self._reading():
            return [(address.segment_ord, address.doc) for _, address in self._hits(query, k)]

    def inside(self, folder: str) -> list[Passage]:
        """All passages of the documents whose ids lie in a folder (`zorba` holds `zorba/1` and `zorba/old/2`), of all
        documents for "", in order of id and part; numbers in ids count as numbers."""
        with self._reading():
            hits: list[Any] = self._searcher.search(self._folder_query(folder), max(1, self._searcher.num_docs)).hits
            found = [self._passage(address, None) for _, address in hits]
        return sorted(found, key=lambda p: _natural(p.id))

    def has_folder(self, folder: str) -> bool:
        """Whether any document lies in a folder."""
        with self._reading():
            return self._count(self._folder_query(folder)) > 0

    def folders(self) -> dict[str, int]:
        """How many documents lie in each folder of ids, in order; those in none are counted under ""."""
        with self._reading():
            hits: list[Any] = self._searcher.search(tantivy.Query.all_query(), max(1, self._searcher.num_docs)).hits
            ids = {self._searcher.doc(address).to_dict()["document"][0] for _, address in hits}
        return dict(sorted(Counter(identifier.rpartition("/")[0] for identifier in ids).items()))

    def _folder_query(self, folder: str) -> tantivy.Query:
        if not folder:
            return tantivy.Query.all_query()
        if not is_well_formed(folder):
            return tantivy.Query.empty_query()
        return tantivy.Query.regex_query(self._schema, "document", f"{folder}/".translate(_META) + "(?s:.)*")

    def _hits(self, query: str, k: int, within: str = "") -> list[tuple[float, tantivy.DocAddress]]:
        """Score and address of the k best passages, in the order that `search` documents."""
        terms = dict.fromkeys(self._analyzer.analyze(query))
        size = self._searcher.num_docs
        if not terms or not size:
            return []
        wanted = self._query(list(terms)[:MAX_TERMS])
        if within:  # the folder filters and does not score
            inside = tantivy.Query.const_score_query(self._folder_query(within), 0.0)
            wanted = tantivy.Query.boolean_query([(tantivy.Occur.Must, wanted), (tantivy.Occur.Must, inside)])
        limit = min(k + 1, size)
        hits: list[Any] = self._searcher.search(wanted, limit, count=False).hits
        if len(hits) == limit < size and hits[-1][0] == hits[k - 1][0]:  # a tie across the cut: see all of it
            hits = self._searcher.search(wanted, min(size, k + MAX_TIES), count=False).hits
        if len({score for score, _ in hits}) < len(hits):
            order = self._searcher.fast_field_values("order", [address for _, address in hits])
            ranked = sorted(zip(hits, order, strict=True), key=lambda pair: (-pair[0][0], pair[1]))
            hits = [hit for hit, _ in ranked]
        return hits[:k]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever the engine meets on a damaged disk is a `SourceError`, also a panic, which is not an Exception."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) or _is_panic(error):
                raise self._damaged(error) from error
            raise

    def contains(self, document: str) -> bool:
        """Whether a document with this id is in the index."""
        if not is_well_formed(document):
            return False
        return self._count(tantivy.Query.term_query(self._schema, "document", document, "basic")) > 0

    def passages_of(self, document: str) -> list[Passage]:
        """The passages of a document in their order; none when there is no document with this id."""
        if not is_well_formed(document):
            return []
        with self._reading():
            wanted = tantivy.Query.term_query(self._schema, "document", document, "basic")
            parts = self._count(wanted)
            hits: list[Any] = self._searcher.search(wanted, parts, count=False).hits if parts else []
            found = [self._passage(address, None) for _, address in hits]
        return sorted(found, key=lambda passage: int(passage.id[len(document) + 1 :] or 0))

    def any_document(self) -> str | None:
        """The id of some document, None when there are none."""
        hits: list[Any] = self._searcher.search(tantivy.Query.all_query(), 1, count=False).hits
        return self._passage(hits[0][1], None).document if hits else None

    def with_key(self, key: str, limit: int = 16) -> list[Passage]:
        """The passages whose vector has this key: several when they have the same title and text, none when they were
        removed.
        """
        term = tantivy.Query.term_query(self._schema, "key", key, "basic")
        return [self._passage(address, None) for _, address in self._searcher.search(term, limit, count=False).hits]

    def count(self) -> tuple[int, int]:
        """(documents, passages)."""
        passages = self._searcher.num_docs
        later = tantivy.Query.range_query(self._schema, "part", tantivy.FieldType.Integer, lower_bound=2)
        return passages - self._count(later), passages

    def _count(self, query: tantivy.Query) -> int:
        found: Any = self._searcher.search(query, 1)  # its type stubs lack `count`
        return int(found.count)

    def _query(self, terms: list[str]) -> tantivy.Query:
        """Any of the terms, in the title or in the text. Made from analysed terms: no syntax, nothing a query could
        inject.
        """
        should, term, make = tantivy.Occur.Should, tantivy.Query.term_query, self._schema
        clauses = []
        for word in terms:
            clauses.append((should, term(make, "text", word, "freq")))
            clauses.append((should, tantivy.Query.boost_query(term(make, "title", word, "freq"), TITLE_WEIGHT)))
        return tantivy.Query.boolean_query(clauses)

    def _passage(self, address: tantivy.DocAddress, score: float | None) -> Passage:
        stored = self._searcher.doc(address).to_dict()
        document = stored["document"][0]
        return Passage(
            id=f"{document}#{stored['part'][0] - 1}" if "part" in stored else document,
            text=stored["text"][0],
            title=stored["title"][0],
            score=score,
            document=document,
            source=stored["source"][0].decode() if "source" in stored else self._source,
        )

    def _damaged(self, error: BaseException) -> SourceError:
        reason = str(error).split("\n", maxsplit=1)[0][:200]
        return SourceError(
            f"the index in {self._folder} cannot be read ({reason}); build it again with `ken index build`"
        )


def engine_document(passage: Passage, text: str, part: int, key: str | None, source: str) -> tantivy.Document:
    """The tantivy document of one part of `passage`; see `schema`. What would be the same for most is left out."""
    fields: dict[str, Any] = {
        "document": passage.id,
        "order": zlib.crc32(passage.id.encode(), part),
        "title": passage.title,
        "text": text,
    }
    if part:
        fields["part"] = part
    if passage.source != source:
        fields["source"] = passage.source.encode(errors="replace")
    if key is not None:
        fields["key"] = key
    return tantivy.Document(**fields)


def _natural(identifier: str) -> list[tuple[bool, int, str]]:
    """A key by which `a/10` comes after `a/9`."""
    pieces = re.split(r"(\d+)", identifier)
    return [(piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces]


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"
