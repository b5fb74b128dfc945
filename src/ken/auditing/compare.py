"""Two audits side by side: what differs per strategy, by how much, and which questions ended otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ken.auditing.folder import LOG, read_settings
from ken.auditing.log import read_log
from ken.auditing.outcomes import Outcome, outcomes
from ken.auditing.run import DIRECT
from ken.core import BadInput
from ken.core.frozen import Frozen
from ken.metrics import Interval, bootstrap_difference, f1_aware, f1_aware_difference
from ken.metrics.statistics import mean


class Difference(Frozen):
    """One measure of one strategy in both audits, over the questions that both can be measured on.

    change: second minus first, with its paired bootstrap interval at 95% over questions. better: whether more of it is
    better (True), worse (False), or neither (None).
    """

    measure: str
    questions: int
    first: float
    second: float
    change: Interval
    better: bool | None

    @property
    def sure(self) -> bool:
        """Whether the interval excludes no change."""
        return self.change.low > 0 or self.change.high < 0


class Changed(Frozen):
    """An attempt that ended otherwise: right or wrong, another use of its searches, failed or not."""

    first: Outcome
    second: Outcome


class Comparison(Frozen):
    """questions: how many both audits attempted; only_first, only_second: how many one of them alone. differences: by
    strategy, those that both used, in the order of the first. changed: attempts by them that ended otherwise."""

    questions: int
    only_first: int
    only_second: int
    differences: dict[str, tuple[Difference, ...]]
    changed: tuple[Changed, ...]


def compare_audits(first: str | Path, second: str | Path) -> Comparison:
    """Compare the audits in two folders. Raises `BadInput` when one holds none, or they share no question."""
    return compare(*(outcomes(read_log(Path(f) / LOG).values(), read_settings(Path(f))) for f in (first, second)))


def compare(first: Sequence[Outcome], second: Sequence[Outcome]) -> Comparison:
    """Compare two audits by their outcomes. A question is the same when its id and its text are. Raises `BadInput` when
    they share no question or no strategy."""
    here, there = _by_question(first), _by_question(second)
    shared = [key for key in here if key in there]
    strategies = [s for s in dict.fromkeys(o.strategy for o in first) if s in {o.strategy for o in second}]
    if not shared or not strategies:
        what = "question" if not shared else "strategy"
        raise BadInput(f"the two audits have no {what} in common, so there is nothing to compare")
    pairs = {
        strategy: [
            (here[key][strategy], there[key][strategy])
            for key in shared
            if strategy in here[key] and strategy in there[key]
        ]
        for strategy in strategies
    }
    return Comparison(
        questions=len(shared),
        only_first=len(here) - len(shared),
        only_second=len(there) - len(shared),
        differences={strategy: tuple(_differences(found)) for strategy, found in pairs.items()},
        changed=tuple(Changed(first=a, second=b) for found in pairs.values() for a, b in found if _kind(a) != _kind(b)),
    )


def _by_question(found: Iterable[Outcome]) -> dict[tuple[str, str], dict[str, Outcome]]:
    questions: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in found:
        questions.setdefault((outcome.question_id, outcome.question), {})[outcome.strategy] = outcome
    return questions


def _kind(outcome: Outcome) -> tuple[object, ...]:
    """What counts as how an attempt ended."""
    return outcome.right, outcome.use, outcome.error is None


def _differences(pairs: Sequence[tuple[Outcome, Outcome]]) -> Iterable[Difference]:
    answered = [(a, b) for a, b in pairs if a.error is None and b.error is None]
    scored = [(a, b) for a, b in answered if a.right is not None and b.right is not None]
    yield from _means("exact match", [(float(bool(a.right)), float(bool(b.right))) for a, b in scored], better=True)
    yield from _means("F1", [(a.f1 or 0.0, b.f1 or 0.0) for a, b in scored], better=True)
    judged = [(a, b) for a, b in scored if a.known is not None and b.known is not None]
    if judged:
        decides = [a.decides for a, _ in judged], [b.decides for _, b in judged]
        known = [bool(a.known) for a, _ in judged], [bool(b.known) for _, b in judged]
        yield Difference(
            measure="F1_aware",
            questions=len(judged),
            first=f1_aware(decides[0], known[0]).f1,
            second=f1_aware(decides[1], known[1]).f1,
            change=f1_aware_difference(decides[1], decides[0], known[1], solvable_second=known[0]),
            better=True,
        )
        if judged[0][0].strategy == DIRECT:  # it is the model's, not the strategy's: once is enough
            alone = [(float(a), float(b)) for a, b in zip(*known, strict=True)]
            yield from _means("can answer alone", alone, better=True)
    yield from _means("searches per question", [(a.searches, b.searches) for a, b in answered], better=None)
    yield from _means("tokens per question", [(a.tokens, b.tokens) for a, b in answered], better=False)


def _means(measure: str, pairs: Sequence[tuple[float, float]], *, better: bool | None) -> Iterable[Difference]:
    if pairs:
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        change = bootstrap_difference(second, first)
        yield Difference(
            measure=measure,
            questions=len(pairs),
            first=mean(first),
            second=mean(second),
            change=change,
            better=better,
        )
