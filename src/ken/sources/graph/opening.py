"""Open a knowledge graph by file, folder or address."""

from __future__ import annotations

from pathlib import Path

from ken.core import BadInput, SourceError
from ken.sources.graph.profile import PLAIN, PROFILES, profile_named
from ken.sources.graph.protocol import KnowledgeGraph


def open_graph(spec: str | Path, *, profile: str | None = None) -> KnowledgeGraph:
    """The graph at `spec`: a file of triples (.nt, .ttl, .tsv, …; read into memory), the folder of `ken graph build`,
    or the http(s) address of a SPARQL endpoint.

    profile: "plain", "freebase" or "wikidata"; it may also stand before a file or an address
        ("freebase:http://localhost:8890/sparql"). A folder has its own; wikidata.org is Wikidata.

    Raises `SourceError` when there is no graph, `DataError` for a file with a broken line, `Unsupported` when
    pyoxigraph is needed and not installed.
    """
    text = str(spec)
    before, colon, rest = text.partition(":")
    if colon and before in PROFILES and profile is None:
        profile, text = before, rest
    if text.startswith(("http://", "https://")):
        from ken.sources.graph.sparql import SparqlGraph

        return SparqlGraph(text, profile=profile_named(profile) if profile else None)
    path = Path(text)
    if path.is_dir():
        from ken.sources.graph.building import open_folder

        if profile is not None:
            raise BadInput(f"the graph {path} was built with a profile of its own; leave {profile!r} out")
        return open_folder(path)
    return _read(path, profile)


def _read(path: Path, profile: str | None) -> KnowledgeGraph:
    from ken.sources.graph.loading import load
    from ken.sources.graph.nodes import oxigraph
    from ken.sources.graph.store import TripleStore

    if not path.exists():
        raise SourceError(
            f"there is no graph at {path}; name a file of triples, the folder of a graph (`ken graph build FILE "
            "--out DIR` makes one), or the address of a SPARQL endpoint"
        )
    chosen = profile_named(profile) if profile else PLAIN
    store = oxigraph().Store()
    load(store, path, chosen, bad=None, progress=None)
    if not len(store):
        raise BadInput(f"{path} holds no triples")
    return TripleStore.filled(store, name=str(path), profile=chosen)
