"""What a model lacked and what it had but did not use, told apart by what repairs its errors (arXiv 2505.12452; card
54, Decomposition).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ken.metrics.statistics import Floats, Indices, Interval, bootstrap


@dataclass(frozen=True, slots=True)
class KnowledgeDecomposition:
    """Shares of the errors that answers from documents repair.

    unused: those that the model's own answers repair already. missing: the rest of them. cue: those that the questions
    alone repair. errors: shares of wrong judgements, raw, with questions, self-answered and answered from documents.
    All shares are None where the documents repair nothing: there is nothing to decompose.
    """

    unused: Interval | None
    missing: Interval | None
    cue: Interval | None
    errors: dict[str, float]


def decompose_knowledge(
    raw: Sequence[bool],
    self_answered: Sequence[bool],
    documents: Sequence[bool],
    questions: Sequence[bool] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> KnowledgeDecomposition:
    """From whether each judgement was wrong under each condition; entry i of all belongs to pair i.

    unused = (raw − self) / (raw − documents), missing = (self − documents) / (raw − documents), cue = (raw − questions)
    / (raw − documents), of mean errors; bootstrap intervals over pairs, on those resamples where the denominator is
    above 0 (on others a share counts as 0). Raises `ValueError` for no pairs or unequal lengths.
    """
    columns = [raw, self_answered, documents, *([] if questions is None else [questions])]
    if len({len(column) for column in columns}) != 1:
        raise ValueError("the conditions judged different numbers of pairs; pass one of each per pair")
    if not len(raw):
        raise ValueError("there are no judgements to decompose; pass at least one")
    wrong = [np.asarray(column, dtype=np.float64) for column in columns]
    names = ("raw", "self", "documents", "questions")
    errors = {name: float(column.mean()) for name, column in zip(names, wrong, strict=False)}
    if errors["raw"] <= errors["documents"]:
        return KnowledgeDecomposition(None, None, None, errors)

    def share(better: int, worse: int) -> Interval:
        def statistic(rows: Indices) -> Floats:
            means = [column[rows].mean(axis=1) for column in wrong]
            whole = means[0] - means[2]
            part = means[worse] - means[better]
            found: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
            return found

        return bootstrap(statistic, len(raw), level=level, resamples=resamples, seed=seed)

    return KnowledgeDecomposition(
        unused=share(better=1, worse=0),
        missing=share(better=2, worse=1),
        cue=None if questions is None else share(better=3, worse=0),
        errors=errors,
    )
