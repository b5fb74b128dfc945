"""Read triples: N-Triples, Turtle and the like by pyoxigraph, and words with tabs between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ken.core import BadInput
from ken.sources.graph.nodes import as_node, as_relation, oxigraph
from ken.sources.graph.profile import Profile
from ken.sources.graph.terms import RDFS_LABEL, SKOS_ALIAS, SKOS_LABEL

# Relations by which words get names.
_NAMING = {"rdfs:label": RDFS_LABEL, "skos:prefLabel": SKOS_LABEL, "skos:altLabel": SKOS_ALIAS}
_NAMING |= {iri: iri for iri in _NAMING.values()}


def quads_of(triples: Iterable[tuple[str, str, str]], profile: Profile) -> Iterator[Any]:
    """Triples of words as pyoxigraph's. Raises `BadInput` for an empty word."""
    for triple in triples:
        yield quad_of(*triple, profile)


def quad_of(subject: str, relation: str, object_: str, profile: Profile) -> Any:
    """A triple of words or ids. An object in double quotes is a literal; one of a relation that names things, too.

    Raises `BadInput` for an empty word.
    """
    ox = oxigraph()
    if not (subject.strip() and relation.strip() and object_.strip()):
        raise BadInput(f"a triple has a subject, a relation and an object, but one is empty in {subject!r}, "
                       f"{relation!r}, {object_!r}")  # fmt: skip
    if naming := _NAMING.get(relation):
        return ox.Quad(as_node(subject, profile), ox.NamedNode(naming), ox.Literal(_unquoted(object_) or object_))
    literal = _unquoted(object_)
    value = as_node(object_, profile) if literal is None else ox.Literal(literal)
    return ox.Quad(as_node(subject, profile), as_relation(relation, profile), value)


def _unquoted(text: str) -> str | None:
    quoted = len(text) > 2 and text[0] == text[-1] == '"'
    return text[1:-1] if quoted else None
