"""Self-driven warm-up of a query rewriter: sample its own rewrites, keep those that find, learn from them.

No reference rewrite is involved: what a search engine ranks first was a good query. The filter keeps easy turns, so the
yield is told by depth in the conversation. Source: ConvSearch-R1 (arXiv 2505.15776; card 17, Stage 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ken.agents.background import together
from ken.agents.rewrite import REWRITE, Rewrite
from ken.core import BadInput, Sampling, Trajectory
from ken.core.conversation import ConversationTurn
from ken.models import Message
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.sources.search.ranks import RankService
from ken.training.kept_attempts import KeptAttempts
from ken.training.pretraining import Example
from ken.training.sft import accepted, examples_of

PAPER = Sampling(temperature=0.7, max_tokens=4096)


@dataclass(frozen=True, slots=True)
class Yield:
    """What sampling brought at one depth. turns: asked; samples: of them; parsed: in the exact form; kept: that passed
    the filter; turns_kept: turns with at least one of these."""

    turns: int = 0
    samples: int = 0
    parsed: int = 0
    kept: int = 0
    turns_kept: int = 0

    @property
    def rate(self) -> float:
        """Kept among all samples, in [0, 1]."""
        return self.kept / self.samples if self.samples else 0.0


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What a warm-up found. kept: the trajectories that passed; rows: what `sft` is to learn, one for each of them;
    yields: by depth, the first turn being 1."""

    kept: tuple[Trajectory, ...]
    rows: tuple[Example, ...]
    yields: dict[int, Yield]

    @property
    def total(self) -> Yield:
        """The yield at all depths together."""
        every = self.yields.values()
        return Yield(*(sum(getattr(one, name) for one in every) for name in Yield.__dataclass_fields__))


async def self_driven_warm_up(
    policy: LocalModel,
    turns: Sequence[ConversationTurn],
    ranks: RankService,
    *,
    samples: int = 1,
    keep_rank: int = 1,
    per_turn: int | None = None,
    sampling: Sampling = PAPER,
    shots: Sequence[tuple[ConversationTurn, str]] = (),
    kept: KeptAttempts | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> WarmUp:
    """Sample rewrites of every turn and keep those that are in form and bring a gold passage to `keep_rank` or better.

    samples, keep_rank: of a turn, and the worst rank that is kept; the paper takes 1 and 1. per_turn: keep at most so
    many of one turn. shots: demonstrations for sampling; what is learnt is to answer so without them. Attempts that
    failed are left out. kept: where samples are kept as they come, and taken from. on_progress: told of turns done, of
    how many.

    Raises `BadInput` for samples or keep_rank below 1, a keep_rank deeper than `ranks` looks, no turns, or a turn
    without gold passages; `SourceError` when the search engine does not answer.
    """
    if samples < 1 or keep_rank < 1:
        raise BadInput(f"a warm-up needs at least 1 sample and keeps at least rank 1, not {samples} and {keep_rank}")
    if keep_rank > ranks.top_k:
        raise BadInput(f"keep_rank is {keep_rank}, but the rank service looks no deeper than {ranks.top_k}")
    if not turns:
        raise BadInput("there are no turns to warm up on; give at least one")
    strategy = Rewrite(shots=shots)
    done = 0

    async def sampled(turn: ConversationTurn) -> list[Trajectory]:
        nonlocal done
        question = turn.question()
        known = (kept and kept[question]) or None
        drawn = list(known.attempts[:samples]) if known else []
        runs = (
            strategy.run(question, policy, Sources(), sampling=sampling, sample=i) for i in range(len(drawn), samples)
        )
        fresh = await asyncio.gather(*runs)
        if kept and fresh and all(t.error is None for t in fresh):
            kept.add(question, [*drawn, *fresh])
        done += 1
        on_progress(done, len(turns))
        return [*drawn, *fresh]

    attempts = [t for of_turn in await together(map(sampled, turns)) for t in of_turn]
    found = _ranks(attempts, ranks)
    good = accepted(attempts, lambda t: found.get(id(t), ranks.top_k + 1) <= keep_rank, per_question=per_turn)
    return WarmUp(tuple(good), tuple(_row(policy, t, strategy) for t in good), _yields(attempts, good))


def _ranks(attempts: Sequence[Trajectory], ranks: RankService) -> dict[int, int]:
    """Gold ranks of the attempts that are in form and find their passage, by the attempt's identity."""
    formed = [t for t in attempts if t.error is None and not t.malformed]
    found = ranks.best_ranks([t.answer or "" for t in formed], [t.question.supporting_ids for t in formed])
    return {id(t): rank for t, rank in zip(formed, found, strict=True) if rank is not None}


def _row(policy: LocalModel, trajectory: Trajectory, strategy: Rewrite) -> Example:
    """What is learnt of a trajectory: the response as it was sampled, after the prompt without demonstrations."""
    (example,) = examples_of(trajectory)
    if not strategy.shots:
        return example
    written = tuple(i for i, own in zip(example.ids, example.learn, strict=True) if own)
    _, prompt = policy.render([Message("system", REWRITE), Message("user", Rewrite().prompt(trajectory.question))])
    return Example((*prompt, *written), (False,) * len(prompt) + (True,) * len(written))


def _yields(attempts: Sequence[Trajectory], kept: Sequence[Trajectory]) -> dict[int, Yield]:
    def depth(trajectory: Trajectory) -> int:
        return int(str(trajectory.question.meta["depth"]))

    result = {}
    for level in sorted({depth(t) for t in attempts}):
        here = [t for t in attempts if depth(t) == level]
        good = [t for t in kept if depth(t) == level]
        result[level] = Yield(
            turns=len({t.question.id for t in here}),
            samples=len(here),
            parsed=sum(t.error is None and not t.malformed for t in here),
            kept=len(good),
            turns_kept=len({t.question.id for t in good}),
        )
    return result
