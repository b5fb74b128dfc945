"""Which source was needed: what the strategies of an audit, each with its own, could answer."""

from __future__ import annotations

from collections import Counter

from ken.auditing.grouped import Grouped
from ken.auditing.report import SourceNeeds
from ken.core import Origin
from ken.metrics import exact_match
from ken.metrics.source_use import NEEDS, chosen_source, needed_source, source_table


def source_needs(found: Grouped) -> SourceNeeds | None:
    """None when fewer than two sources outside were consulted in the audit (the boundary table says it all then), or
    nothing is known about what the model can answer alone."""
    attempts = [t for by_id in found.greedy.values() for t in by_id.values() if t.question.id in found.known]
    consulted = {source for t in attempts for source in t.consulted}
    if len(consulted) < 2:
        return None
    enough: dict[str, set[Origin]] = {i: {"inside"} if known else set() for i, known in found.known.items()}
    for t in attempts:
        if len(t.consulted) == 1 and exact_match(t.answer, t.question.answers):
            enough[t.question.id].add(t.consulted[0])
    needs = Counter(needed_source(sources) for sources in enough.values())
    return SourceNeeds(
        questions=len(enough),
        needed={need: needs[need] for need in NEEDS},
        strategies={
            name: source_table(
                [chosen_source(t) for i, t in by_id.items() if i in enough], [enough[i] for i in by_id if i in enough]
            )
            for name, by_id in found.greedy.items()
            if by_id.keys() & enough.keys()
        },
    )
