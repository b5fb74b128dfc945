"""Give the entities of a store their names: the label that is shown, and what mentions are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ken.core import Passage
from ken.sources.graph.names import normal_name
from ken.sources.graph.nodes import NAMES, id_of, oxigraph
from ken.sources.graph.profile import Profile
from ken.sources.search.index import Index

_EVERYTHING = "SELECT DISTINCT ?e { { ?e ?p ?o } UNION { ?s ?q ?e FILTER(!isLiteral(?e)) } }"
_MOST_NAMES = 50  # of one entity: more are a mistake in the data


def name_entities(store: Any, profile: Profile, progress: Callable[[int], None] | None = None) -> int:
    """Add the names of all entities, in the graph `NAMES`graph; returns how many entities there are."""
    ox = oxigraph()
    graph = ox.NamedNode(f"{NAMES}graph")
    label, exact, alias = (ox.NamedNode(f"{NAMES}{what}") for what in ("label", "exact", "alias"))
    count = 0

    def quads() -> Iterator[Any]:
        nonlocal count
        for node, named, others in names_of(store, profile):
            count += 1
            if progress:
                progress(count)
            shown = named or _unnamed(node, profile)
            if named:
                yield ox.Quad(node, label, ox.Literal(named), graph)
            if normal := normal_name(shown):
                yield ox.Quad(node, exact, ox.Literal(normal), graph)
            for other in others:
                if (name := normal_name(other)) and name != normal:
                    yield ox.Quad(node, alias, ox.Literal(name), graph)

    # Reading from a store while it grows is safe: a query sees the state at its beginning.
    store.bulk_extend(quads())
    return count


def names_of(store: Any, profile: Profile) -> Iterator[tuple[Any, str, list[str]]]:
    """Every entity with its label ("" without one) and its other names."""
    ox = oxigraph()
    default = ox.DefaultGraph()
    labels, aliases = [list(map(ox.NamedNode, names)) for names in (profile.labels, profile.aliases)]
    used = [
        predicate
        for predicate in (*labels, *aliases)
        if next(store.quads_for_pattern(None, predicate, None, default), None) is not None
    ]

    def literals(node: Any, predicate: Any) -> list[Any]:
        quads = zip(range(_MOST_NAMES), store.quads_for_pattern(node, predicate, None, default), strict=False)
        return [quad.object for _, quad in quads if isinstance(quad.object, ox.Literal) and quad.object.value.strip()]

    def rank(literal: Any) -> tuple[bool, bool, str]:
        language = (literal.language or profile.language).lower()
        ours = language == profile.language or language.startswith(f"{profile.language}-")
        return not ours, literal.language is not None, literal.value

    for row in store.query(_EVERYTHING):
        node = row["e"]
        given: list[Any] = []
        others: list[Any] = []
        for predicate in used:
            found = literals(node, predicate)
            if predicate in labels and not given:
                given, others = sorted(found, key=rank), others + sorted(found, key=rank)[1:]
            else:
                others += found
        yield node, given[0].value if given else "", list(dict.fromkeys(one.value for one in others))


def build_words(
    store: Any, profile: Profile, folder: Path, progress: Callable[[int], None] | None = None
) -> Index | None:
    """The index over labels and other names; None when there are none."""

    def passages() -> Iterator[Passage]:
        for node, named, others in names_of(store, profile):
            label = named or _unnamed(node, profile)
            if label.strip():
                yield Passage(id=id_of(node, profile)[:1024], title="", text="\n".join([label, *others]))

    documents = passages()
    first = next(documents, None)
    if first is None:
        return None

    return Index.build(
        chain([first], documents), folder, chunk_words=1_000, overlap=0, tokenizer="simple", progress=progress
    )


def _unnamed(node: Any, profile: Profile) -> str:
    return "" if isinstance(node, oxigraph().BlankNode) else profile.label_of(node.value)
