"""ConvSearch-R1: rewrite a query of a conversation, learning from ranks alone (arXiv 2505.15776; card 17)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field

from ken.agents.background import run
from ken.agents.rewrite import Rewrite
from ken.core import Sampling, Trajectory
from ken.core.conversation import ConversationTurn
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.conversations import ConversationWorld, Spoken
from ken.metrics import RankScores
from ken.metrics.statistics import mean
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Claim, Metrics, Paper, gap
from ken.sources import Sources
from ken.sources.search.ranks import RankService, admit
from ken.training.conversations_base import (
    MAX_TOKENS,
    ConversationsBaseConfig,
    demonstration,
    smoke_config,
    world_index,
)
from ken.training.lab_checkpoint import built
from ken.training.rewards.ranked import Ranked
from ken.training.rewards.ranking import Rank, rank_incentive, rank_measure
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Task
from ken.training.sft import SFTConfig, sft
from ken.training.train import TrainingLog, train
from ken.training.warm_up import WarmUp, self_driven_warm_up

DEPTHS = (1, 2, 3, 4, 5, 6)


class Settings(Frozen):
    """asked: the turns on which arms are measured: held-out ones, or, while settings are being chosen, an eighth of the
    training turns ("dev"), which are then not trained on.

    samples, keep_rank: of the warm-up, per turn. sft_…: of both fine-tunings. questions: turns a step.
    """

    base: ConversationsBaseConfig = ConversationsBaseConfig()
    asked: Literal["test", "dev"] = "test"
    top_k: int = Field(default=100, ge=10)
    samples: int = Field(default=4, ge=1)
    keep_rank: int = Field(default=1, ge=1)
    sft_epochs: float = 2.0
    sft_batch: int = Field(default=64, ge=1)
    sft_lr: float = 1e-3
    steps: int = Field(default=120, ge=1)
    questions: int = Field(default=16, ge=1)
    group_size: int = Field(default=8, ge=2)
    lr: float = 3e-4
    kl: float = 1e-3


@dataclass
class Bench:
    """What all arms of one seed share. The seed draws samples, rollouts and their order; world and base model are
    always the same, as a real model would be."""

    settings: Settings
    seed: int
    folder: Path
    ranks: RankService
    train_turns: tuple[Spoken, ...]
    asked: tuple[ConversationTurn, ...]
    keep: TemporaryDirectory[str]  # of the index, which lives as long as the bench

    def policy(self) -> LocalModel:
        """The base model, fresh: every arm starts from it."""
        return LocalModel(self.folder, spec="lab/conversations", device="cpu", batch_size=512)

    @cached_property
    def warm_up(self) -> WarmUp:
        """What the base model's own rewrites of the training turns teach it."""
        s = self.settings
        sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=derive_seed("warm-up", self.seed))
        turns = [spoken.turn for spoken in self.train_turns]
        return run(
            self_driven_warm_up(
                self.policy(), turns, self.ranks, samples=s.samples, keep_rank=s.keep_rank, sampling=sampling
            )
        )

    @cached_property
    def _warmed(self) -> Mapping[str, Any]:
        policy = self.policy()
        sft(policy, self.warm_up.rows, self.sft_config)
        return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}

    def warmed(self) -> LocalModel:
        """The base model after the warm-up, fresh."""
        policy = self.policy()
        policy.model.load_state_dict(self._warmed)
        return policy

    @property
    def sft_config(self) -> SFTConfig:
        s = self.settings
        return SFTConfig(
            epochs=s.sft_epochs, batch=s.sft_batch, lr=s.sft_lr, seed=derive_seed("fine-tuning", self.seed) % 2**31
        )

    def measure(self, policy: LocalModel) -> dict[str, float]:
        """The row of the table: greedy rewrites of all turns that are asked.

        Beside the measures of `ranking`: length: words of a rewrite; format: share in the exact form; no_rewrite: share
        without any rewrite, for which the query itself is searched.
        """
        sampling = Sampling(max_tokens=MAX_TOKENS)

        async def together() -> list[Trajectory]:
            runs = (Rewrite().run(turn.question(), policy, Sources(), sampling=sampling) for turn in self.asked)
            return await asyncio.gather(*runs)

        made = run(together())
        rewrites = [t.answer or t.question.text for t in made]
        return {
            **self.ranking(rewrites),
            "length": mean(len(rewrite.split()) for rewrite in rewrites),
            "format": mean(not t.malformed for t in made),
            "no_rewrite": mean(t.answer is None for t in made),
        }

    def ranking(self, queries: Sequence[str]) -> dict[str, float]:
        """One query per turn, measured as trec_eval does.

        mrr (and by depth, mrr_1 …), ndcg_3, r_5 … r_100; mrr_mismatched, mrr_unseen: of turns whose passages do not
        speak the question's words, and of entities that no training conversation mentions; first: share at rank 1;
        median: of the rank, not found counting as one beyond the last.
        """
        found = self.ranks.gold_ranks(queries, [turn.gold for turn in self.asked])
        scores = [RankScores.of(ranks, len(turn.gold)) for ranks, turn in zip(found, self.asked, strict=True)]
        reciprocal = [score.mrr for score in scores]
        by_depth = {
            f"mrr_{depth}": mean(r for r, turn in zip(reciprocal, self.asked, strict=True) if turn.depth == depth)
            for depth in DEPTHS
        }
        best = sorted(ranks[0] if ranks else self.ranks.top_k + 1 for ranks in found)
        return {
            **asdict(RankScores.mean(scores)),
            "mrr_mismatched": self._share(reciprocal, "mismatched"),
            "mrr_unseen": self._share(reciprocal, "unseen"),
            "first": mean(rank == 1 for rank in best),
            "median": float(best[len(best) // 2]),
            **by_depth,
        }

    def _share(self, values: Sequence[float], mark: str) -> float:
        return mean(value for value, turn in zip(values, self.asked, strict=True) if turn.meta[mark])


def prepare(settings: Settings, seed: int) -> Bench:
    world = ConversationWorld(settings.base.world)
    keep = TemporaryDirectory(prefix="ken-convsearch-")
    index = world_index(world, Path(keep.name) / "index")
    trained, held_out = world.spoken("train"), world.spoken("test")
    if settings.asked == "dev":
        trained, held_out = [s for i, s in enumerate(trained) if i % 8], trained[::8]
    asked = tuple(admit((spoken.turn for spoken in held_out), index))
    ranks = RankService(index, top_k=settings.top_k)
    return Bench(settings, seed, built(settings.base), ranks, tuple(trained), asked, keep)


# --- arms ------------------------------------------------------------------------------------------------------------


def raw(bench: Bench) -> Metrics:
    """The query as it was asked."""
    return bench.ranking([turn.query for turn in bench.asked])


def history(bench: Bench) -> Metrics:
    """Everything that was said, and the query."""
    return bench.ranking([turn.said for turn in bench.asked])


def human(bench: Bench) -> Metrics:
    """The rewrite that a person would write, as a query: not an arm of the card, but what its baseline aims at."""
    return bench.ranking([turn.rewrite for turn in bench.asked])


def base(bench: Bench) -> Metrics:
    """The untrained rewriter."""
    return bench.measure(bench.policy())


def supervised(bench: Bench) -> Metrics:
    """Fine-tuned on human rewrites of the same turns."""
    policy = bench.policy()
    sft(policy, [demonstration(policy, spoken) for spoken in bench.train_turns], bench.sft_config)
    return bench.measure(policy)


def warmed(bench: Bench) -> Metrics:
    """The warm-up alone."""
    found = bench.warm_up
    yields = {f"yield_{depth}": one.rate for depth, one in found.yields.items()}
    return {**bench.measure(bench.warmed()), "rows": float(len(found.rows)), "yield": found.total.rate, **yields}


def reinforced(measure: Callable[[Rank], float], *, warm: bool = True) -> Callable[[Bench], Metrics]:
    """An arm that learns by GRPO from `measure` of the rank, after the warm-up or without it."""

    def arm(bench: Bench) -> Metrics:
        s = bench.settings
        policy = bench.warmed() if warm else bench.policy()
        config = RLConfig(
            steps=s.steps,
            units=s.questions,
            group_size=s.group_size,
            lr=s.lr,
            kl=s.kl,
            sampling=Sampling(temperature=1.0, max_tokens=MAX_TOKENS),
            seed=derive_seed("reproduce", bench.seed) % 2**31,
        )
        tasks = [Task(spoken.turn.question(), Rewrite()) for spoken in bench.train_turns]
        log = train(policy, tasks, Ranked(bench.ranks, measure=measure), config)
        return {**bench.measure(policy), **course(log)}

    return arm


def course(log: TrainingLog) -> dict[str, Any]:
    """What the training was like.

    zero_variance_10: share of groups whose rollouts earn the same, over the five steps around the tenth, since one step
    has 16 groups only. late: the step at which the reward, smoothed over ten, has come to 90% of where it ends.
    """
    reward, zero = log.curve("reward"), log.curve("zero_variance")
    smooth = [mean(reward[max(0, i - 9) : i + 1]) for i in range(len(reward))]
    late = next(i for i, value in enumerate(smooth, start=1) if value >= 0.9 * smooth[-1])
    return {
        "zero_variance_10": mean(zero[7:12] or zero),
        "late": float(late),
        "reward_curve": reward,
        "zero_variance_curve": zero,
        "entropy_curve": log.curve("entropy"),
        "tokens_curve": log.curve("tokens"),
    }


ARMS = (
    Arm("raw", "the query as it was asked", raw),
    Arm("history", "everything that was said, and the query", history),
    Arm("human", "human rewrites as queries", human, optional=True),
    Arm("base", "the untrained rewriter", base),
    Arm("sft-human", "fine-tuned on human rewrites", supervised),
    Arm("warm-up", "fine-tuned on its own rewrites that ranked first", warmed),
    Arm("rir-cold", "rank-incentive GRPO without the warm-up", reinforced(rank_incentive, warm=False)),
    Arm("recall", "warm-up, then GRPO on Recall@10", reinforced(rank_measure("recall"))),
    Arm("mrr", "warm-up, then GRPO on MRR@10", reinforced(rank_measure("mrr"))),
    Arm("ndcg", "warm-up, then GRPO on NDCG@10", reinforced(rank_measure("ndcg"))),
    Arm("rir", "warm-up, then GRPO on the rank-incentive reward", reinforced(rank_incentive)),
)

# --- claims ----------------------------------------------------------------------------------------------------------


CLAIMS = (
    Claim("MRR: ConvSearch-R1 ≥ warm-up only + 0.05", "hard", 0.05, gap("mrr", "rir", "warm-up")),
    Claim("MRR: warm-up only ≥ untrained", "hard", 0.0, gap("mrr", "warm-up", "base")),
    Claim("MRR: rank incentive ≥ Recall@10 + 0.02", "hard", 0.02, gap("mrr", "rir", "recall")),
    Claim("R@100: rank incentive ≥ Recall@10", "hard", 0.0, gap("r_100", "rir", "recall")),
    Claim(
        "Groups without variance around step 10: rank incentive ≤ 0.6 × Recall@10",
        "hard",
        0.0,
        lambda arms: 0.6 * arms["recall"]["zero_variance_10"] - arms["rir"]["zero_variance_10"],
        note="mean over steps 8 to 12, since one step has 16 groups only",
    ),
    Claim("MRR: ConvSearch-R1 ≥ raw query + 0.20", "hard", 0.2, gap("mrr", "rir", "raw")),
    Claim("MRR: rank incentive ≥ NDCG@10", "soft", 0.0, gap("mrr", "rir", "ndcg")),
    Claim("MRR: NDCG@10 ≥ MRR@10", "soft", 0.0, gap("mrr", "ndcg", "mrr")),
    Claim("MRR: ConvSearch-R1 ≥ fine-tuning on human rewrites", "soft", 0.0, gap("mrr", "rir", "sft-human")),
    Claim(
        "Without warm-up 90% of the final reward are reached later",
        "soft",
        1.0,
        gap("late", "rir-cold", "rir"),
    ),
)

paper = Paper(
    entry=entry("convsearch-r1"),
    summary=(
        "A policy thinks about what a query of a conversation refers to and writes one rewrite; a frozen search engine "
        "ranks with it, and the rank of the gold passage is all it learns from: first by fine-tuning on its own "
        "rewrites that ranked first, then by GRPO on a reward that is piecewise linear in the rank. Here the model is "
        "a weak rewriter of a generated world whose passages mostly do not use the questions' words, and BM25 has "
        "tantivy's constants; the paper's are 3B models, TopiOCQA and QReCC, ANCE and BM25. Rewrites are measured "
        "greedily."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), samples=2, sft_batch=8, steps=3, questions=4, group_size=2),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=("mrr", "ndcg_3", "r_10", "r_100", "mrr_mismatched", "mrr_unseen", "length", "format", "zero_variance_10"),
)
