"""Read triples: N-Triples, Turtle and their kin by pyoxigraph, and words with tabs between them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ken.core import BadInput, DataError
from ken.sources.graph.nodes import as_node, as_relation, oxigraph
from ken.sources.graph.profile import Profile
from ken.sources.graph.terms import RDFS_LABEL, SKOS_ALIAS, SKOS_LABEL, is_iri
from ken.sources.search.unicode import is_well_formed

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: not known)."""

RDF = (".nt", ".ttl", ".nq", ".trig", ".n3", ".rdf", ".jsonld")
TABS = (".tsv", ".txt")
FORMATS = (*RDF, *TABS)

_BATCH = 1 << 16

# Relations by which words get names.
_NAMING = {"rdfs:label": RDFS_LABEL, "skos:prefLabel": SKOS_LABEL, "skos:altLabel": SKOS_ALIAS}
_NAMING |= {iri: iri for iri in _NAMING.values()}


def quads_of(triples: Iterable[tuple[str, str, str]], profile: Profile) -> Iterator[Any]:
    """Triples of words or ids as pyoxigraph's. Raises `BadInput` for one that is none."""
    for triple in triples:
        if len(triple) != 3 or not all(isinstance(part, str) and part.strip() for part in triple):
            raise BadInput(f"a triple is a subject, a relation and an object, none of them empty, not {triple!r}")
        yield quad_of(*triple, profile)


def quad_of(subject: str, relation: str, object_: str, profile: Profile) -> Any:
    """A triple of words or ids. `<…>` is an IRI; an object in double quotes is a literal, as is a name given by
    `rdfs:label`, `skos:prefLabel` or `skos:altLabel`. Raises `ValueError` for an IRI that is none."""
    ox = oxigraph()
    node = as_node(_iri(subject), profile)
    quoted = len(object_) > 2 and object_[0] == object_[-1] == '"'
    text = object_[1:-1] if quoted else object_
    if naming := _NAMING.get(relation.strip("<>")):
        return ox.Quad(node, ox.NamedNode(naming), ox.Literal(text))
    predicate = as_relation(_iri(relation), profile)
    return ox.Quad(node, predicate, ox.Literal(text) if quoted else as_node(_iri(object_), profile))


def load(store: Any, path: Path, profile: Profile, *, bad: list[DataError] | None, progress: Progress | None) -> None:
    """Add the triples of a file to a store. All graphs of a file become one.

    path: its ending says the format, also before .gz: N-Triples, Turtle, N-Quads, TriG, N3, RDF/XML, JSON-LD, or a
        subject, a relation and an object a line with tabs between them.
    bad: collects what is broken, which is then left out; without it the first such place raises `DataError`.

    Raises `BadInput` for a file that is not there or of another kind.
    """
    ox = oxigraph()
    ending = kind_of(path)
    try:
        with path.open("rb") as raw:
            counted = _Counted(raw, path, progress)
            content = gzip.GzipFile(fileobj=counted) if path.suffix == ".gz" else counted
            if ending in TABS:
                store.bulk_extend(_words(cast("BinaryIO", content), path, profile, bad))
                return
            kind = ox.RdfFormat.from_extension(ending[1:])
            if kind.supports_datasets or bad is not None:
                store.bulk_extend(_triples(content, path, kind, bad))
                return
            store.bulk_load(content, format=kind, base_iri=_base(path))
    except SyntaxError as error:
        raise _broken(path, error) from error
    except EOFError as error:
        raise BadInput(f"{path} ends too early; get the whole file") from error
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def kind_of(path: Path) -> str:
    """The ending that says what a file is. Raises `BadInput` for one that Ken does not read, or that is not there."""
    endings = [ending.lower() for ending in path.suffixes]
    ending = (endings[-2:-1] if endings[-1:] == [".gz"] else endings[-1:]) or [""]
    if ending[0] not in FORMATS:
        raise BadInput(f"{path} is no file of triples that Ken reads; its name must end with {', '.join(FORMATS)}")
    if not path.is_file():
        raise BadInput(f"there is no file {path}; check the name")
    return ending[0]


class _Counted(io.RawIOBase):
    """A file that tells how far it was read."""

    def __init__(self, file: BinaryIO, path: Path, progress: Progress | None) -> None:
        self._file, self._path, self._progress = file, path, progress
        self._size, self._done = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._done += len(data)
        if self._progress:
            self._progress(self._path.name, self._done, self._size)
        return len(data)


def _triples(content: Any, path: Path, kind: Any, bad: list[DataError] | None) -> Iterator[Any]:
    ox = oxigraph()
    parser = ox.parse(content, format=kind, base_iri=_base(path), rename_blank_nodes=True)
    while True:
        try:
            quad = next(parser)
        except StopIteration:
            return
        except SyntaxError as error:
            if bad is None:
                raise
            bad.append(_broken(path, error))
            continue
        yield ox.Quad(quad.subject, quad.predicate, quad.object)


def _words(content: BinaryIO, path: Path, profile: Profile, bad: list[DataError] | None) -> Iterator[Any]:
    for number, raw in enumerate(io.BufferedReader(cast("io.RawIOBase", content), _BATCH), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            cells = [cell.strip() for cell in line.split("\t")]
            if cells == [""]:
                continue
            if len(cells) != 3 or not all(cells):
                raise ValueError(
                    f"expected a subject, a relation and an object with tabs between them, found {len(cells)} "
                    f"field{'s' if len(cells) != 1 else ''}{', one empty' if len(cells) == 3 else ''}"
                )
            quad = quad_of(cells[0], cells[1], cells[2], profile)
        except UnicodeDecodeError:
            error = DataError(path, number, "is not UTF-8; save the file as UTF-8")
        except ValueError as problem:
            error = DataError(path, number, str(problem))
        else:
            yield quad
            continue
        if bad is None:
            raise error
        bad.append(error)


def _iri(text: str) -> str:
    """`<IRI>` without its brackets."""
    if not (text.startswith("<") and text.endswith(">")):
        return text
    if not is_iri(text[1:-1]):
        raise ValueError(f"{text} is no absolute IRI")
    return text[1:-1]


def _broken(path: Path, error: SyntaxError) -> DataError:
    problem = str(error.msg)
    said = problem.partition(": ")[2] if problem.startswith("Parser error") else problem
    return DataError(path, error.lineno or 1, " ".join((said or problem).split())[:300])


def _base(path: Path) -> str | None:
    """Relative IRIs are relative to the file, as RFC 3986 has it."""
    address = path.resolve().as_uri()
    return address if is_well_formed(address) else None
