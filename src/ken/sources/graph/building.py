"""A graph in a folder: built from files of triples, replaced as a whole, opened for reading by any number of processes.

DIR/ken-graph.json         the manifest
DIR/gen-1a2b3c4d/triples/  a RocksDB store of pyoxigraph
DIR/gen-1a2b3c4d/words/    the index over labels and other names
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

import ken
from ken.core import BadInput, DataError, SourceError
from ken.core.frozen import Frozen
from ken.sources.generations import GenerationManifest, Generations
from ken.sources.graph.loading import Progress, kind_of, load
from ken.sources.graph.naming import build_words, name_entities
from ken.sources.graph.nodes import oxigraph
from ken.sources.graph.profile import Profile, profile_named
from ken.sources.graph.store import TripleStore


class GraphManifest(GenerationManifest):
    """What `ken-graph.json` says."""

    format: str = Field(default="ken-graph", pattern="^ken-graph$")
    profile: str = "plain"
    sources: tuple[str, ...] = ()
    triples: int = 0
    entities: int = 0
    relations: int = 0


class GraphInfo(Frozen):
    """What is in a graph. `relations` counts predicates, those that name things and hidden ones not."""

    path: str
    triples: int
    entities: int
    relations: int
    profile: str
    sources: tuple[str, ...]
    bytes: int


GRAPHS = Generations("graph", "ken-graph.json", GraphManifest, command="ken graph build", arguments="FILE --out {}")


def build_graph(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    profile: str = "plain",
    bad: list[DataError] | None = None,
    progress: Progress | None = None,
) -> GraphInfo:
    """Build the triples of `files` into the folder `out`; a graph that is there is replaced, once the new one is
    complete.

    files: see `loading.load`. profile: "plain", "freebase" or "wikidata".
    bad: collects what is broken, which is then left out; without it the first such place raises `DataError`.
    progress: called with what is being done, how much is done and how much there is.

    Raises `BadInput` for files that cannot be read or hold no triples, or a folder that holds something else;
    `Unsupported` when pyoxigraph is not installed.
    """
    ox, chosen, out = oxigraph(), profile_named(profile), Path(out)
    paths = [Path(file) for file in files]
    if not paths:
        raise BadInput("name at least one file of triples to build a graph from")
    for path in paths:
        kind_of(path)
    with GRAPHS.building(out) as generation:
        store = ox.Store(generation / "triples")
        for path in paths:
            load(store, path, chosen, bad=bad, progress=progress)
        triples = _count(store)
        if not triples:
            more = f"; the first of {len(bad)} problems: {bad[0]}" if bad else ""
            raise BadInput(f"{', '.join(map(str, paths))}: there are no triples to build a graph from{more}")
        entities = name_entities(store, chosen, progress and (lambda done: progress("names", done, 0)))
        build_words(store, chosen, generation / "words", progress and (lambda done: progress("index", done, entities)))
        if progress:
            progress("compact", 0, 0)
        relations = _relations(store, chosen)
        store.optimize()
        store.flush()
        del store
        manifest = GraphManifest(
            generation=generation.name,
            written_by=f"ken {ken.__version__}",
            profile=profile,
            sources=tuple(map(str, paths)),
            triples=triples,
            entities=entities,
            relations=relations,
        )
        GRAPHS.write(out, manifest)
    return graph_info(out)


def graph_info(folder: str | Path) -> GraphInfo:
    """What is in the graph of a folder. Raises `SourceError` when there is none."""
    manifest = GRAPHS.read(Path(folder))
    return GraphInfo(
        path=str(folder),
        triples=manifest.triples,
        entities=manifest.entities,
        relations=manifest.relations,
        profile=manifest.profile,
        sources=manifest.sources,
        bytes=sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()),
    )


def open_folder(folder: Path) -> TripleStore:
    """The graph of a folder. Raises `SourceError` when there is none, or it is damaged."""
    while True:
        manifest = GRAPHS.read(folder)
        try:
            return _open(folder, manifest)
        except SourceError:
            if GRAPHS.read(folder) == manifest:  # else a build has just replaced the generation
                raise


def _open(folder: Path, manifest: GraphManifest) -> TripleStore:
    ox = oxigraph()
    assert manifest.generation
    generation = folder / manifest.generation
    try:
        store = ox.Store.read_only(str(generation / "triples"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(
            f"the graph {folder} cannot be read ({reason}); build it again with `ken graph build`"
        ) from error
    profile = profile_named(manifest.profile)
    return TripleStore(store, name=str(folder), profile=profile, words=generation / "words")


def _count(store: Any) -> int:
    return int(next(iter(store.query("SELECT (COUNT(*) AS ?n) { ?s ?p ?o }")))["n"].value)


def _relations(store: Any, profile: Profile) -> int:
    rows = store.query("SELECT DISTINCT ?p { ?s ?p ?o }")
    return sum(1 for row in rows if profile.shows(row["p"].value))
