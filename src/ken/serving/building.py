"""Build an index from uploaded files: `python -m ken.serving.building PLACE skip|strict`, a process of its own.

PLACE/files holds the files, PLACE/index will hold the index. What there is to tell is printed, one JSON object a line:
{"total": …}, {"documents": …}, and last {"done": true, …} or {"problem": "a sentence"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ken.core import BadInput, DataError, KenError, Passage

MEMORY, CPU_SECONDS, FILE_BYTES = 4 << 30, 900, 4 << 30


def build(place: Path, skip: bool) -> Iterator[dict[str, Any]]:
    """Build the index of `place`; yields what there is to tell. Raises `KenError`."""
    from ken.sources.search.index import Index

    files = sorted((place / "files").iterdir())
    tables = [file for file in files if file.suffix.lower() == ".jsonl"]
    pages = len(files) - len(tables)
    yield {"total": pages + sum(_lines(table) for table in tables)}
    bad: list[DataError] = []
    told = time.monotonic()

    def progress(documents: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told > 0.1:
            told = now
            print(json.dumps({"documents": documents}), flush=True)

    index = Index.build(
        _documents(place / "files", tables, pages, bad if skip else None), place / "index", progress=progress
    )
    info = index.info()
    skipped = [_without_place(str(error), place) for error in bad]
    yield {"done": True, "documents": info.documents, "passages": info.passages, "skipped": skipped[:100]}


def _documents(folder: Path, tables: Sequence[Path], pages: int, bad: list[DataError] | None) -> Iterator[Passage]:
    from ken.sources.search.documents import read_documents

    found = False
    for source in chain([folder] if pages else [], tables):
        for document in read_documents(source, bad=bad):
            found = True
            yield document
    if not found and bad:
        raise BadInput(f"none of the files can be read; the first problem: {bad[0]}")


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _without_place(sentence: str, place: Path) -> str:
    """People know their files by name, not by where the server keeps them."""
    return sentence.replace(f"{place / 'files'}/", "").replace(str(place), "the upload")


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows: without limits
        return
    for kind, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _main(place: Path, skip: bool) -> None:
    _limit()
    try:
        for told in build(place, skip):
            print(json.dumps(told), flush=True)
    except KenError as error:
        print(json.dumps({"problem": _without_place(str(error), place)}), flush=True)
    except (MemoryError, RecursionError) as error:
        problem = f"one of the files cannot be read ({type(error).__name__}); it may be damaged, or unpack to far more"
        print(json.dumps({"problem": f"{problem} than its size"}), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2] == "skip")
