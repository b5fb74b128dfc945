"""The gap between reading and real retrieval, as a knob: search results edited from "the gold passage alone" to
"whatever the search engine returns" (Wiki-R1, arXiv 2603.05256, data curriculum).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ken.agents.attempt import Attempt
from ken.agents.strategy import Strategy
from ken.core import BadInput, Passage, Question
from ken.core.seeding import derive_seed
from ken.metrics.text import substring_match
from ken.sources import Retriever


@dataclass(frozen=True, slots=True)
class GapLevel:
    """φ(k, γ): a search returns `keep` = k ≥ 1 passages; gold (γ = 1) forces the gold passage to be among them."""

    keep: int
    gold: bool

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise BadInput(f"a gap level keeps {self.keep} passages; it must keep at least one")


def gap_table(levels: int = 6, *, extra: int = 0) -> tuple[GapLevel, ...]:
    """The levels 0 … G, G = `levels` ≥ 1: the gold passage alone; gold among g + `extra` at levels 1 … G−1; at level G
    the G − 1 + `extra` best (at least one) as the search engine returns them.

    The source's note leaves open whether level g keeps g or g + 1: `extra`, 0 or 1. Any other table can be given to a
    curriculum as a sequence of `GapLevel`. Raises `BadInput` for G < 1 or a negative `extra`.
    """
    if levels < 1 or extra < 0:
        raise BadInput(f"a gap table of {levels} levels with {extra} extra passages; it needs G ≥ 1 and extra ≥ 0")
    between = (GapLevel(g + extra, gold=True) for g in range(1, levels))
    return (GapLevel(1, gold=True), *between, GapLevel(max(1, levels - 1 + extra), gold=False))


def gold_passages(questions: Iterable[Question], passages: Iterable[Passage]) -> dict[str, tuple[Passage, ...]]:
    """The gold passages of each question, by its id: of every document in its `supporting_ids` the first passage that
    holds an accepted answer, or else the document's first.

    passages: the corpus, gone through once; give the passages that the index holds, so that a gold passage is known
    again when the search engine returns it. Raises `BadInput` with the ids of the questions that name no supporting
    document, or one that the corpus lacks: their gold cannot be forced in.
    """
    asked = list(questions)
    documents: dict[str, list[Passage]] = {name: [] for question in asked for name in question.supporting_ids}
    for passage in passages:
        if (found := documents.get(passage.document_id)) is not None:
            found.append(passage)
    golds: dict[str, tuple[Passage, ...]] = {}
    missing: list[str] = []
    for question in asked:
        found_all = [documents[name] for name in question.supporting_ids]
        if not found_all or not all(found_all):
            missing.append(question.id)
            continue
        golds[question.id] = tuple(_telling(found, question.answers) for found in found_all)
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise BadInput(
            f"{len(missing)} of {len(asked)} questions have no gold passage in the corpus ({shown}); leave them out, "
            "or add the documents that their supporting_ids name"
        )
    return golds


def _telling(passages: Sequence[Passage], answers: Sequence[str]) -> Passage:
    return next((p for p in passages if answers and substring_match(p.text, answers)), passages[0])


class RetrievalEditor:
    """A `Retriever` for one question that edits what another one returns, as a gap level says.

    With gold: the gold passages at random places among the best `keep` − 1 others, which keep their order. Without:
    the best `keep`, untouched. The table decides how many passages there are, whatever number the strategy asks for.
    The places depend on seed, query and level, so that all rollouts of a group read the same. The wrapped retriever
    stays its owner's to close.
    """

    def __init__(self, retriever: Retriever, golds: Sequence[Passage], level: GapLevel, *, seed: int = 0) -> None:
        if level.gold and not golds:
            raise BadInput("a level that forces the gold passage in needs one; leave out questions that have none")
        self.name = retriever.name
        self.retriever, self.golds, self.level, self.seed = retriever, tuple(golds), level, seed

    async def search(self, query: str, k: int) -> list[Passage]:
        """The passages of the level; `k` is not used. Raises `SourceError` when the wrapped engine does not answer."""
        if not self.level.gold:
            return await self.retriever.search(query, self.level.keep)
        others: list[Passage] = []
        if wanted := self.level.keep - 1:
            found = await self.retriever.search(query, wanted + len(self.golds))
            others = [passage for passage in found if not self._is_gold(passage)][:wanted]
        rng = np.random.default_rng(derive_seed("gap", self.seed, query, self.level.keep))
        for gold in self.golds:
            others.insert(int(rng.integers(len(others) + 1)), gold)
        return others

    async def close(self) -> None:
        """Nothing to release."""

    def _is_gold(self, passage: Passage) -> bool:
        return any(passage.id == gold.id or passage.text == gold.text for gold in self.golds)


class AtGapLevel(Strategy):
    """A strategy whose searches are edited for the question at hand.

    A search engine sees queries, a strategy sees the question: here both are known. It bears the name of the strategy
    that it wraps, so that its trajectories and their seeds are the same but for what the search returns, and it works
    wherever a strategy does: the trainer, given the real sources, needs to know nothing of it.
    """

    def __init__(
        self, strategy: Strategy, golds: Mapping[str, Sequence[Passage]], level: GapLevel, *, seed: int = 0
    ) -> None:
        self.strategy, self.golds, self.level, self.seed = strategy, golds, level, seed
        self.name = strategy.name  # type: ignore[misc]  # of the instance, since the class wraps any
        self.needs_search = strategy.needs_search  # type: ignore[misc]

    async def solve(self, attempt: Attempt) -> None:
        retriever, question = attempt.sources.search, attempt.question.id
        if retriever is not None:
            seed = derive_seed(self.seed, question)
            edited = RetrievalEditor(retriever, self.golds.get(question, ()), self.level, seed=seed)
            attempt.sources = replace(attempt.sources, search=edited)
        await self.strategy.solve(attempt)
