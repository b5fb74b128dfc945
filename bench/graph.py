"""Neighbour queries on a knowledge graph: Ken on disk and in memory beside networkx and rdflib, in one run.

    python bench/graph.py [--write] [--triples 1000000] [--queries 20000] [--rounds 3]

All read the same N-Triples file, each in a process of its own, so that memory is what that one needs. A query is what
a strategy asks: the entities at the other end of a relation, at most 10, as objects with ids. Ken's go through the
`KnowledgeGraph` protocol with labels, sorting and sampling; networkx and rdflib are plain loops over their own indexes
(rdflib: its default store in memory). Rounds alternate between contenders; medians are reported with the range.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from search import commit, machine

HERE = Path(__file__).parent
PREFIX = "http://example.org/"
LIMIT = 10
CONTENDERS = ("Ken, on disk", "Ken, in memory", "networkx", "rdflib")


def write_graph(path: Path, triples: int) -> None:
    """A graph with 50 relations whose entities are popular by rank: some are hubs, most have few edges."""
    drawn = random.Random(0)
    entities = triples // 5
    with path.open("w") as file:
        for _ in range(triples):
            head, tail = drawn.randrange(entities), int(entities * drawn.random() ** 3)
            relation = drawn.randrange(50)
            file.write(f"<{PREFIX}e{head}> <{PREFIX}r{relation}> <{PREFIX}e{tail}> .\n")


def questions(path: Path, count: int) -> list[tuple[str, str]]:
    """(subject, relation) of triples from all over the file."""
    drawn = random.Random(1)
    with path.open() as file:
        size = path.stat().st_size
        found = []
        for _ in range(count):
            file.seek(drawn.randrange(size - 200))
            file.readline()
            head, relation, *_ = file.readline().split()
            found.append((head[1:-1], relation[1:-1]))
    return found


def ken(graph: Any) -> Callable[[list[tuple[str, str]]], int]:
    def run(asked: list[tuple[str, str]]) -> int:
        async def go() -> int:
            return sum([len((await graph.neighbours(e, r, "out", limit=LIMIT)).entities) for e, r in asked])

        return asyncio.run(go())

    return run


def prepare(name: str, source: Path, folder: Path) -> Callable[[list[tuple[str, str]]], int]:
    """Load the graph; what runs queries and counts what came back."""
    if name == "Ken, on disk":
        from ken.sources.graph.building import build_graph, open_folder

        build_graph([source], folder)
        return ken(open_folder(folder))
    if name == "Ken, in memory":
        from ken.sources.graph.opening import open_graph

        return ken(open_graph(source))
    if name == "networkx":
        import networkx

        net: Any = networkx.MultiDiGraph()
        with source.open() as file:
            for line in file:
                head, relation, tail, _ = line.split()
                net.add_edge(head[1:-1], tail[1:-1], key=relation[1:-1])
        adjacent = net._adj  # the dictionaries themselves: its views cost several times as much
        return lambda asked: sum(
            len(list(islice((o for o, keys in adjacent[e].items() if r in keys), LIMIT))) for e, r in asked
        )
    import rdflib

    store = rdflib.Graph()
    store.parse(source, format="nt")
    iri = rdflib.URIRef
    return lambda asked: sum(len(list(islice(store.objects(iri(e), iri(r)), LIMIT))) for e, r in asked)


def serve(name: str, source: Path, count: int, folder: Path) -> None:
    """A contender in this process: says how long it took to load, then answers one round for each line it is sent."""
    asked = questions(source, count)
    started = time.perf_counter()
    run = prepare(name, source, folder)
    loaded = time.perf_counter() - started
    print(json.dumps({"load": loaded, "memory": memory()}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        found = run(asked)
        rate = count / (time.perf_counter() - started)
        print(json.dumps({"rate": rate, "found": found, "memory": memory()}), flush=True)


def memory() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def measure(source: Path, queries: int, rounds: int, folder: Path) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    running = {}
    for number, name in enumerate(CONTENDERS):  # loading one after the other: they share no processor time
        process = subprocess.Popen(
            [sys.executable, __file__, "--contender", name, "--source", str(source), "--queries", str(queries),
             "--folder", str(folder / str(number))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        results[name] = json.loads(process.stdout.readline()) | {"rates": []}
        running[name] = process
        print(name, results[name], file=sys.stderr, flush=True)
    for number in range(rounds + 1):  # the first one warms up
        for name in CONTENDERS[number % 4 :] + CONTENDERS[: number % 4]:
            process = running[name]
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline())
            results[name] |= {"memory": said["memory"], "found": said["found"]}
            if number:
                results[name]["rates"].append(said["rate"])
    for process in running.values():
        process.communicate()
    assert len({one["found"] for one in results.values()}) == 1, "the contenders found different neighbours"
    return results


def report(arguments: argparse.Namespace, results: dict[str, dict[str, Any]]) -> str:
    base = results["Ken, on disk"]
    rate = {name: statistics.median(one["rates"]) for name, one in results.items()}
    versions = ", ".join(f"{name} {version(name)}" for name in ("ken", "pyoxigraph", "networkx", "rdflib"))
    lines = [
        "# Graph benchmark",
        "",
        f"Command: `python bench/graph.py --write --triples {arguments.triples} --queries {arguments.queries} "
        f"--rounds {arguments.rounds}` (`make bench`)",
        "",
        f"Machine: {machine()}; Python {sys.version.split()[0]}, {versions}; commit {commit()}; "
        f"{time.strftime('%Y-%m-%d')}; load average when it ended {os.getloadavg()[0]:.1f}.",
        "",
        f"{arguments.triples:,} generated triples with 50 relations and hubs, {arguments.queries:,} queries for the "
        f"neighbours of an entity by a relation, at most {LIMIT} each. Medians of {arguments.rounds} alternating "
        "rounds; the range in brackets. Memory is the peak of the process, with loading.",
        "",
        "| | load, s | memory, MB | neighbour queries/s | beside Ken on disk |",
        "|---|---|---|---|---|",
    ]
    for name, one in results.items():
        low, high = min(one["rates"]), max(one["rates"])
        lines.append(
            f"| {name} | {one['load']:.1f} | {one['memory']:,.0f} | {rate[name]:,.0f} ({low:,.0f}–{high:,.0f}) "
            f"| {rate[name] / rate['Ken, on disk']:.2f} × the queries, {one['memory'] / base['memory']:.2f} × the "
            f"memory, {one['load'] / base['load']:.2f} × the load time |"
        )
    lines += [
        "",
        "Ken on disk also builds names, a BM25 index over labels and a compact store, once; opening it later takes "
        "milliseconds. Its answers carry labels and go through the protocol that remote graphs have too. networkx and "
        "rdflib hold the whole graph in memory, load it every time, and answer with bare ids.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write bench/GRAPH.md")
    parser.add_argument("--triples", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        serve(arguments.contender, arguments.source, arguments.queries, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "graph.nt"
        write_graph(source, arguments.triples)
        results = measure(source, arguments.queries, arguments.rounds, Path(temporary))
    text = report(arguments, results)
    print(text)
    if arguments.write:
        (HERE / "GRAPH.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
