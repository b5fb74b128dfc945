"""Open a knowledge graph by file, folder or address."""

from __future__ import annotations

from pathlib import Path

from ken.core import SourceError
from ken.sources.graph.profile import PLAIN, profile_named
from ken.sources.graph.protocol import KnowledgeGraph


def open_graph(spec: str | Path, *, profile: str | None = None) -> KnowledgeGraph:
    """The graph at `spec`: a file of triples (.nt, .ttl, .tsv; read into memory), the folder of `ken graph build`, or
    the http(s) address of a SPARQL endpoint.

    profile: "plain", "freebase" or "wikidata". Raises `SourceError` when there is no graph, `DataError` for a file
    with a broken line.
    """
    from ken.sources.graph.store import TripleStore

    path = Path(spec)
    if not path.exists():
        raise SourceError(f"there is no graph at {path}; make one with `ken graph build FILE --out DIR`")
    chosen = profile_named(profile) if profile else PLAIN
    lines = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
    return TripleStore.of([(s, r, o) for s, r, o in lines], name=str(path), profile=chosen)
