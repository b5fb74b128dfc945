"""Terms of pyoxigraph for ids, and ids for terms."""

from __future__ import annotations

from typing import Any

from ken.core import Unsupported
from ken.sources.graph.profile import Profile
from ken.sources.graph.terms import is_iri, word_iri
from ken.sources.search.unicode import is_well_formed, well_formed

NAMES = "urn:ken-names:"  # what we say about entities' names, in a graph of its own


def oxigraph() -> Any:
    """The module. Raises `Unsupported` when it is not installed."""
    try:
        import pyoxigraph
    except ImportError as error:
        raise Unsupported(
            "knowledge graphs on this machine need pyoxigraph; install with: pip install 'ken[graph]'"
        ) from error
    return pyoxigraph


def as_node(identifier: str, profile: Profile) -> Any:
    """The node with this id: an IRI, a word's IRI, or a blank node. Any text but the empty one has one."""
    if identifier.startswith("_:") and is_well_formed(identifier):
        try:
            return oxigraph().BlankNode(identifier[2:])
        except ValueError:
            pass
    return _named_node(identifier, profile.entity_iri(identifier))


def as_relation(name: str, profile: Profile) -> Any:
    """The predicate with this name."""
    return _named_node(name, profile.relation_iri(name))


def is_entity(term: Any) -> bool:
    """Whether something may lead on from a term: it is no literal."""
    ox = oxigraph()
    return isinstance(term, ox.NamedNode | ox.BlankNode)


def id_of(term: Any, profile: Profile) -> str:
    """The id of a term; of a literal its text. `as_node` is the inverse for nodes."""
    ox = oxigraph()
    if isinstance(term, ox.NamedNode):
        return str(profile.entity_id(term.value))
    return str(term.value) if isinstance(term, ox.Literal) else str(term)


def _named_node(identifier: str, iri: str) -> Any:
    ox = oxigraph()
    if iri != identifier and not is_iri(identifier) and ":" in identifier:
        # RDF files may hold IRIs beyond those that we write into queries ([::1] as host, private characters).
        try:
            return ox.NamedNode(well_formed(identifier))
        except ValueError:
            pass
    try:
        return ox.NamedNode(iri)
    except ValueError:
        return ox.NamedNode(word_iri(identifier))
