"""What the rows that live in FactWorld share: a world, its base model, an index, and one way to measure every arm."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field

from ken.agents import Direct
from ken.agents.background import run
from ken.agents.strategy import Strategy
from ken.core import Question, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.factworld import FactWorld
from ken.lab.render import documents, questions
from ken.metrics import auroc, count_search_use, decision_of, exact_match, f1_aware
from ken.metrics.statistics import mean
from ken.models.lab import CHECKPOINTS
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever
from ken.training.factworld_base import FactWorldBaseConfig
from ken.training.lab_checkpoint import built, is_checkpoint
from ken.training.labels.solve_rate import SolveRates, measure_solve_rates
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Reward, Task, Unit
from ken.training.train import TrainingLog, train

MAX_TOKENS = 16  # the longest turn in this world takes eleven
SAMPLED = Sampling(temperature=1.0, max_tokens=MAX_TOKENS)
# For arms that learn an action and not what to recall: the rollouts of a group share their thought.
GREEDY_THOUGHTS = SAMPLED.but(greedy_thoughts=True)


class FactWorldSettings(Frozen):
    """Settings that all FactWorld rows have; a row adds its own.

    asked: the questions on which arms are measured: the held-out facts, or, while settings are being chosen, a tenth of
    the training facts ("dev"), which are then not trained on. samples, threshold: of the oracle, the model's own
    closed-book solve rate.
    """

    base: FactWorldBaseConfig = FactWorldBaseConfig()
    asked: Literal["test", "dev"] = "test"
    limit: int = Field(default=600, ge=1)
    samples: int = Field(default=8, ge=1)
    threshold: float = Field(default=0.5, ge=0, le=1)
    top_k: int = Field(default=1, ge=1)
    max_turns: int = Field(default=3, ge=1)
    questions: int = Field(default=16, ge=1)
    group_size: int = Field(default=8, ge=2)
    lr: float = 2e-4
    kl: float = 1e-3


@dataclass
class FactWorldBench:
    """What all arms of one seed share. The seed draws rollouts and their order; world and base model are always the
    same, as a real model would be."""

    settings: FactWorldSettings
    seed: int
    folder: Path
    world: FactWorld
    sources: Sources
    train_questions: tuple[Question, ...]
    asked: tuple[Question, ...]
    keep: TemporaryDirectory[str]  # of the index, which lives as long as the bench

    def policy(self) -> LocalModel:
        """The base model, fresh: every arm starts from it."""
        return LocalModel(self.folder, spec="lab/factworld", device="cpu", batch_size=512)

    def train(
        self, policy: LocalModel, tasks: Sequence[Task | Unit], reward: Reward, *, steps: int, **options: Any
    ) -> TrainingLog:
        """Train in place with the row's settings; `options` are fields of `RLConfig` that differ."""
        s = self.settings
        fields: dict[str, Any] = {
            "steps": steps,
            "units": s.questions,
            "group_size": s.group_size,
            "lr": s.lr,
            "kl": s.kl,
            "sampling": SAMPLED,
            "seed": derive_seed("reproduce", self.seed) % 2**31,
            **options,
        }
        return train(policy, tasks, reward, RLConfig(**fields), sources=self.sources)

    def solve_rates(self, policy: LocalModel, asked: Sequence[Question], samples: int | None = None) -> SolveRates:
        """The policy's own closed-book solve rates, at T = 1."""
        sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=derive_seed("solve rate", self.seed))
        return run(measure_solve_rates(policy, asked, samples=samples or self.settings.samples, sampling=sampling))

    @cached_property
    def base_labels(self) -> Mapping[str, bool]:
        """Which training questions the base model can answer alone, by question id."""
        return self.solve_rates(self.policy(), self.train_questions).labels(self.settings.threshold)

    def attempts(
        self,
        policy: LocalModel,
        strategy: Strategy,
        asked: Sequence[Question],
        *,
        temperature: float = 0.0,
        sample: int | None = None,
    ) -> list[Trajectory]:
        """One attempt at each question; another with another `sample`, where the temperature is above 0."""
        sampling = Sampling(temperature=temperature, max_tokens=MAX_TOKENS, seed=derive_seed("measure", self.seed))

        async def together() -> list[Trajectory]:
            return list(
                await asyncio.gather(
                    *(strategy.run(q, policy, self.sources, sampling=sampling, sample=sample) for q in asked)
                )
            )

        return run(together())

    def measure(self, policy: LocalModel, strategy: Strategy, made: list[Trajectory] | None = None) -> dict[str, float]:
        """The row of the table: greedy attempts, judged against the policy's own solve rate. made: the attempts at
        `asked`, when the row has them already.

        em; f1_aware, precision, recall of "I know"; searches: calls a question; needed, unneeded: of these, on
        questions that the policy cannot and can answer alone (card 01, Pitfalls: calls alone hide what was not searched
        for); over_search, under_search: shares of the known and of the unknown; known:
        share it can answer alone; inside_em: closed book, greedy; auc: of the stated probability of knowing,
        over verdicts that can be read, nan without any; unfinished.
        """
        rates = self.solve_rates(policy, self.asked).rates
        known = [rates[q.id] >= self.settings.threshold for q in self.asked]
        made = self.attempts(policy, strategy, self.asked) if made is None else made
        closed = made if isinstance(strategy, Direct) else self.attempts(policy, Direct(), self.asked)
        right = [exact_match(t.answer, t.question.answers) for t in made]
        aware = f1_aware([decision_of(t) if not isinstance(strategy, Direct) else True for t in made], known)
        use = count_search_use([len(t.searches) for t in made], known, right)
        stated = [(t.decision.confidence, k) for t, k in zip(made, known, strict=True) if t.decision]
        readable = [(confidence, k) for confidence, k in stated if confidence is not None]
        auc = auroc([c for c, _ in readable], [k for _, k in readable]) if readable else None
        return {
            "em": mean(right),
            "f1_aware": aware.f1,
            "precision": aware.precision,
            "recall": aware.recall,
            "searches": use.calls_per_question,
            "needed": use.needed_calls / use.n,
            "unneeded": use.unneeded_calls / use.n,
            "over_search": _or_nan(use.over_search_rate),
            "under_search": _or_nan(use.under_search_rate),
            "searched": use.searched / use.n,
            "known": mean(known),
            "inside_em": mean(exact_match(t.answer, t.question.answers) for t in closed),
            "auc": _or_nan(auc),
            "unfinished": mean(t.answer is None for t in made),
        }


def factworld_bench(settings: FactWorldSettings, seed: int) -> FactWorldBench:
    """World, index and questions around the base model: the shipped one, or one that is built once and cached."""
    shipped = CHECKPOINTS / "factworld"
    base = shipped if is_checkpoint(settings.base, shipped) else built(settings.base)
    world = FactWorld(settings.base.world)
    keep = TemporaryDirectory(prefix="ken-bench-")
    index = Index.build(documents(world), Path(keep.name) / "index")
    trained, held_out = questions(world, "train"), questions(world, "test")
    if settings.asked == "dev":
        trained, held_out = [q for i, q in enumerate(trained) if i % 10], trained[::10]
    return FactWorldBench(
        settings,
        seed,
        base,
        world,
        Sources(search=IndexRetriever(index), top_k=settings.top_k),
        tuple(trained),
        tuple(held_out[: settings.limit]),
        keep,
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
