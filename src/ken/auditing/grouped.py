"""The attempts of an audit by what they are for, and what they say the model can answer alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from ken.auditing.folder import AuditSettings
from ken.auditing.run import DIRECT
from ken.core import Question, Trajectory
from ken.metrics import oracle_greedy, oracle_ksample, substring_match

Oracles = dict[str, dict[str, bool]]
"""Per oracle: can the model answer this question alone?"""


@dataclass(frozen=True)
class Grouped:
    """The attempts of an audit by what they are for. everything: all of them, in the order of question ids. Without
    those that failed: samples, the closed-book ones by question; greedy, those that count by strategy and question.
    oracles: what the model can answer alone, the best oracle first. rates: share of right closed-book samples."""

    everything: list[Trajectory]
    questions: dict[str, Question]
    samples: dict[str, list[Trajectory]]
    greedy: dict[str, dict[str, Trajectory]]
    oracles: Oracles
    rates: dict[str, float]

    @property
    def known(self) -> dict[str, bool]:
        """Per question, whether the model can answer it alone, by the best oracle; without those it cannot be said
        of."""
        return next(iter(self.oracles.values()), {})


def grouped(trajectories: Iterable[Trajectory], settings: AuditSettings) -> Grouped:
    """The attempts of an audit, sorted out."""
    # In the order of ids, so that bootstrap intervals do not depend on which attempt finished first.
    everything = sorted(trajectories, key=lambda t: (t.question.id, t.sample is not None, t.sample or 0))
    questions = {t.question.id: t.question for t in everything}
    samples: dict[str, list[Trajectory]] = {}
    greedy: dict[str, dict[str, Trajectory]] = {name: {} for name in settings.strategies}
    for t in everything:
        if t.error is not None:
            continue
        if t.sample is not None:
            samples.setdefault(t.question.id, []).append(t)
        elif t.strategy in greedy:
            greedy[t.strategy][t.question.id] = t
    rates = {
        i: fmean(substring_match(t.answer, questions[i].answers) for t in ts)
        for i, ts in samples.items()
        if questions[i].answers
    }
    oracles = _oracles(questions, samples, greedy.get(DIRECT, {}), settings)
    return Grouped(everything, questions, samples, greedy, oracles, rates)


def _oracles(
    questions: dict[str, Question],
    samples: dict[str, list[Trajectory]],
    direct: dict[str, Trajectory],
    settings: AuditSettings,
) -> Oracles:
    """The oracles there is data for, the best first. A question counts only when all its samples were answered."""
    by_samples = {
        i: oracle_ksample([t.answer for t in ts], questions[i].answers, settings.threshold)
        for i, ts in samples.items()
        if questions[i].answers and len(ts) == settings.samples
    }
    by_greedy = {i: oracle_greedy(t.answer, questions[i].answers) for i, t in direct.items() if questions[i].answers}
    return {name: known for name, known in (("samples", by_samples), ("greedy", by_greedy)) if known}
