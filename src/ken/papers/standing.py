"""How a paper stands here: planned, runs, or judged, with its verdicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ken.core.errors import BadInput
from ken.papers.results import RESULTS, Results, read_results

State = Literal["verdicts", "runs", "planned"]


@dataclass(frozen=True, slots=True)
class Standing:
    """state: "planned" without a row, "runs" with one that was not judged here, "verdicts" with results.

    verdicts: how many claims have each. problem: why the results cannot be read, "" when they can be or there are none.
    """

    state: State
    verdicts: dict[str, int] = field(default_factory=dict)
    results: Results | None = None
    problem: str = ""


def standing(slug: str, running: tuple[str, ...], out: Path = RESULTS) -> Standing:
    """How the paper `slug` stands. running: the slugs that have a row (`ken.papers.catalogue.rows`); out: the folder of
    the results. Results that cannot be read are told, not raised: the others are still to be shown."""
    if slug not in running:
        return Standing("planned")
    try:
        results = _read(slug, out.absolute(), *_version(out / f"{slug}.json"))
    except BadInput as error:
        return Standing("runs", problem=str(error))
    if results is None:
        return Standing("runs")
    counts = Counter(claim.verdict for claim in results.claims if claim.verdict)
    ordered = {word: counts[word] for word in ("holds", "fails", "inconclusive") if counts[word]}
    return Standing("verdicts", ordered, results)


def _version(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:  # what is wrong with it is said by who reads it
        return 0, 0
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=64)
def _read(slug: str, out: Path, changed: int, size: int) -> Results | None:
    """Read once for every state of the file: a list of papers reads them all."""
    return read_results(slug, out)
