"""Every SPARQL query that Ken sends to an endpoint.

Ids and mentions come from models and documents. They enter a query in two places only: as an IRI through `iri`, which
refuses what could end it, and as a literal through `quoted`, which escapes what could. Every query has a limit.
"""

from __future__ import annotations

from collections.abc import Iterable

from ken.sources.graph.profile import Profile
from ken.sources.graph.protocol import Direction
from ken.sources.graph.terms import is_iri
from ken.sources.search.unicode import well_formed

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def iri(text: str) -> str:
    """`<text>`. Raises `ValueError` for what is no absolute IRI: no such text can end the brackets."""
    if not is_iri(text):
        raise ValueError(f"{text!r} is no absolute IRI")
    return f"<{text}>"


def quoted(text: str, language: str = "") -> str:
    """A text as a literal, which ends where the text does, whatever is in it. Raises `ValueError` for a language tag
    that is none."""
    if language and not all(part.isascii() and part.isalnum() for part in language.split("-")):
        raise ValueError(f"{language!r} is no language tag")
    body = "".join(_ESCAPES.get(c, c if c >= " " else f"\\u{ord(c):04X}") for c in well_formed(text))
    return f'"{body}"' + (f"@{language}" if language else "")


def relations(entity: str, direction: Direction, profile: Profile, *, limit: int, read: int) -> str:
    """The predicates ?p of an entity: at most `limit`, from at most `read` of its triples."""
    inner = f"SELECT ?p WHERE {{ {_pattern(entity, '?p', direction)} {_ours(profile)} }} LIMIT {read:d}"
    return f"SELECT DISTINCT ?p WHERE {{ {{ {inner} }} }} LIMIT {limit:d}"


def neighbours(entity: str, relation: str, direction: Direction, *, limit: int, offset: int = 0) -> str:
    """At most `limit` ends ?x of a relation."""
    pattern = _pattern(entity, iri(relation), direction)
    return f"SELECT ?x WHERE {{ {pattern} }} LIMIT {limit:d}{f' OFFSET {offset:d}' if offset else ''}"


def count(entity: str, relation: str, direction: Direction, *, most: int) -> str:
    """How many ends a relation has, counted up to `most`."""
    inner = f"SELECT ?x WHERE {{ {_pattern(entity, iri(relation), direction)} }} LIMIT {most:d}"
    return f"SELECT (COUNT(*) AS ?n) WHERE {{ {{ {inner} }} }} LIMIT 1"


def edges(entity: str, direction: Direction, profile: Profile, *, limit: int) -> str:
    """At most `limit` triples of an entity: ?p and ?x."""
    return f"SELECT ?p ?x WHERE {{ {_pattern(entity, '?p', direction)} {_ours(profile)} }} LIMIT {limit:d}"


def edges_around(entities: Iterable[str], direction: Direction, profile: Profile, *, limit: int) -> str:
    """At most `limit` triples ?e ?p ?x (or ?x ?p ?e) of these entities that have entities at both ends."""
    values = " ".join(map(iri, entities))
    triple = "?e ?p ?x" if direction == "out" else "?x ?p ?e"
    return (
        f"SELECT ?e ?p ?x WHERE {{ VALUES ?e {{ {values} }} {triple} . FILTER(isIRI(?x)) {_ours(profile)} }} "
        f"LIMIT {limit:d}"
    )


def labels(nodes: Iterable[str], profile: Profile, *, limit: int) -> str:
    """The labels ?l of nodes ?e by the predicates ?q, in the profile's language or in none."""
    return (
        f"SELECT ?e ?q ?l WHERE {{ VALUES ?e {{ {' '.join(map(iri, nodes))} }} "
        f"VALUES ?q {{ {' '.join(map(iri, profile.labels))} }} ?e ?q ?l . {_in_language(profile)} }} LIMIT {limit:d}"
    )


def known(entity: str) -> str:
    """One row when the graph has the entity."""
    return f"SELECT ?p WHERE {{ {{ {iri(entity)} ?p ?x }} UNION {{ ?x ?p {iri(entity)} }} }} LIMIT 1"


def named(names: Iterable[str], predicates: Iterable[str], profile: Profile, *, limit: int) -> str:
    """The entities ?e that are called exactly so, without a language or in the profile's."""
    literals = " ".join(f"{quoted(name)} {quoted(name, profile.language)}" for name in names)
    return (
        f"SELECT DISTINCT ?e ?l WHERE {{ VALUES ?l {{ {literals} }} VALUES ?q {{ {' '.join(map(iri, predicates))} }} "
        f"?e ?q ?l . FILTER(isIRI(?e)) }} LIMIT {limit:d}"
    )


def containing(words: Iterable[str], profile: Profile, *, limit: int) -> str:
    """The entities ?e with a name ?l that holds all these words, in any case. Reads all names: for small endpoints."""
    tests = " && ".join(f"CONTAINS(LCASE(STR(?l)), {quoted(word.lower())})" for word in words)
    predicates = " ".join(map(iri, (*profile.labels, *profile.aliases)))
    return (
        f"SELECT DISTINCT ?e ?l WHERE {{ VALUES ?q {{ {predicates} }} ?e ?q ?l . "
        f"FILTER(isIRI(?e) && {tests}) {_in_language(profile)} }} LIMIT {limit:d}"
    )


def wikidata_search(mention: str, profile: Profile, *, limit: int) -> str:
    """Wikidata's own search for entities, best first by ?n."""
    return (
        "PREFIX wikibase: <http://wikiba.se/ontology#> PREFIX bd: <http://www.bigdata.com/rdf#> "
        "PREFIX mwapi: <https://www.mediawiki.org/ontology#API/> "
        'SELECT ?e ?n WHERE { SERVICE wikibase:mwapi { bd:serviceParam wikibase:api "EntitySearch" . '
        'bd:serviceParam wikibase:endpoint "www.wikidata.org" . '
        f"bd:serviceParam mwapi:search {quoted(mention)} . "
        f"bd:serviceParam mwapi:language {quoted(profile.language)} . "
        "?e wikibase:apiOutputItem mwapi:item . ?n wikibase:apiOrdinal true } } "
        f"ORDER BY ?n LIMIT {limit:d}"
    )


def _pattern(entity: str, predicate: str, direction: Direction) -> str:
    return f"{iri(entity)} {predicate} ?x" if direction == "out" else f"?x {predicate} {iri(entity)}"


def _ours(profile: Profile) -> str:
    """Predicates of the graph's own vocabulary alone, where it has one: others would use up the limit."""
    return f"FILTER(STRSTARTS(STR(?p), {quoted(profile.relations)}))" if profile.relations else ""


def _in_language(profile: Profile) -> str:
    return f'FILTER(LANG(?l) = "" || LANGMATCHES(LANG(?l), {quoted(profile.language)}))'
