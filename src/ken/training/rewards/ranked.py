"""The reward of a query rewriter: rank its rewrites by a search engine, all rollouts of a step at once.

Source: ConvSearch-R1 (arXiv 2505.15776; card 17, Stage 2). What a rank is worth is in `rewards.ranking`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ken.core import SourceError, Trajectory
from ken.sources.search.ranks import RankService
from ken.training.rewards.completion import written
from ken.training.rewards.ranking import Rank, rank_incentive, rewriting, well_formed
from ken.training.rollouts import Group, Score


class Ranked:
    """A `Reward`: `measure` of the rank that a rewrite gives to the gold passage, `penalty` for a response out of form.

    The rewrite is the attempt's answer. When the search engine does not answer, each group is tried again by itself; a
    group that fails once more is dropped: its rollouts are scored alike, so that they carry no gradient whichever way
    groups are normalised. `dropped` counts such groups. Raises `SourceError` when no group of a step could be ranked.
    """

    def __init__(
        self, service: RankService, *, measure: Callable[[Rank], float] = rank_incentive, penalty: float = -0.1
    ) -> None:
        self.service, self.measure, self.penalty = service, measure, penalty
        self.dropped = 0

    def __call__(self, groups: Sequence[Group]) -> Sequence[Sequence[Score]]:
        try:
            return self._scores(groups)
        except SourceError:
            scores: list[Sequence[Score]] = []
            failed = 0
            for group in groups:
                try:
                    scores += self._scores([group])
                except SourceError:
                    failed += 1
                    if failed == len(groups):
                        raise
                    scores.append([0.0] * len(group.trajectories))
            self.dropped += failed
            return scores

    def _scores(self, groups: Sequence[Group]) -> list[Sequence[Score]]:
        searched = [t for group in groups for t in group.trajectories if t.error is None and well_formed(written(t))]
        found = self.service.best_ranks(
            [t.answer or "" for t in searched], [t.question.supporting_ids for t in searched]
        )
        ranks = {id(t): rank for t, rank in zip(searched, found, strict=True)}

        def score(trajectory: Trajectory) -> float:
            return rewriting(trajectory, measure=self.measure, rank=lambda t: ranks.get(id(t)), penalty=self.penalty)

        return [[score(t) for t in group.trajectories] for group in groups]
