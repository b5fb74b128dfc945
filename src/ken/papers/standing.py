"""How a paper stands here: planned, runs, or judged, with its verdicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
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
        results = read_results(slug, out)
    except BadInput as error:
        return Standing("runs", problem=str(error))
    if results is None:
        return Standing("runs")
    counts = Counter(claim.verdict for claim in results.claims if claim.verdict)
    ordered = {word: counts[word] for word in ("holds", "fails", "inconclusive") if counts[word]}
    return Standing("verdicts", ordered, results)
