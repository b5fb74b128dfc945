"""R3-RAG: reason and retrieve step by step, every step rewarded (arXiv 2505.23794; card 40)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field

from ken.agents import Direct, Rag
from ken.agents.background import run
from ken.agents.ircot import Ircot
from ken.agents.stepwise import STEPS, Stepwise
from ken.agents.strategy import Strategy
from ken.core import Question, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.multihop import KINDS, MultiHopWorld, documents, questions
from ken.metrics import token_f1
from ken.metrics.statistics import mean
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Claim, Metrics, Paper, gap
from ken.sources import Sources
from ken.sources.search.index import Index
from ken.sources.search.ngrams import NgramRetriever
from ken.sources.search.retriever import IndexRetriever
from ken.training.judges import RuleJudge, judge_attempts, step_reward
from ken.training.lab_checkpoint import built
from ken.training.multihop_base import MultiHopBaseConfig, smoke_config
from ken.training.multihop_teacher import MultiHopTeacher, TeacherConfig
from ken.training.rewards.steps import Variant
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Task
from ken.training.sft import SFTConfig, sft
from ken.training.train import save_policy, train
from ken.training.trajectory_sampling import SamplerConfig, TrajectorySampler, pupil_example, statistics

MAX_TOKENS = 24  # the longest step, which repeats a whole question, takes 20
READ_TOKENS = 40  # a thought of three hops and its answer


class Settings(Frozen):
    """asked: the questions on which arms are measured: held-out ones, or, while settings are being chosen, a tenth of
    the training questions ("dev"), which are then not trained on.

    cold_*: of the cold start. temperatures: of the samples of a question, in turn.
    """

    base: MultiHopBaseConfig = MultiHopBaseConfig()
    teacher: TeacherConfig = TeacherConfig()
    asked: Literal["test", "dev"] = "test"
    limit: int = Field(default=600, ge=1)
    top_k: int = Field(default=2, ge=1)
    max_steps: int = Field(default=5, ge=1)
    cold_questions: int = Field(default=4000, ge=1)
    cold_epochs: float = Field(default=2.0, gt=0)
    cold_batch: int = Field(default=32, ge=1)
    cold_lr: float = Field(default=1e-3, gt=0)
    steps: int = Field(default=60, ge=1)
    questions: int = Field(default=32, ge=1)
    temperatures: tuple[float, ...] = (0.1, 0.4, 0.7, 1.0)
    lr: float = Field(default=2e-4, gt=0)
    critic_lr: float = Field(default=1e-3, gt=0)
    kl: float = Field(default=0.01, ge=0)


@dataclass
class Bench:
    """What all arms of one seed share: the world, the base model that can read, and the cold start made of it. The seed
    draws what the teacher does, the order of the cold start, and the rollouts; world and base model are always the
    same."""

    settings: Settings
    seed: int
    folder: Path
    cold: Path
    cold_metrics: dict[str, float]
    sources: Sources
    others: Sources  # the search engine that was not trained with
    train_questions: tuple[Question, ...]
    asked: tuple[Question, ...]
    keep: TemporaryDirectory[str]  # of index and cold start, which live as long as the bench

    def reader(self) -> LocalModel:
        """The base model, fresh."""
        return LocalModel(self.folder, spec="lab/multihop", device="cpu", batch_size=512, control_tokens=True)

    def policy(self) -> LocalModel:
        """The cold start, fresh: every arm that learns begins here."""
        return LocalModel(self.cold, spec="lab/multihop-cold", device="cpu", batch_size=512, control_tokens=True)

    def attempts(self, model: LocalModel, strategy: Strategy, sources: Sources, tokens: int) -> list[Trajectory]:
        """One greedy attempt at each question."""

        async def together() -> list[Trajectory]:
            sampling = Sampling(max_tokens=tokens)
            return list(await asyncio.gather(*(strategy.run(q, model, sources, sampling=sampling) for q in self.asked)))

        return run(together())

    def measure(self, model: LocalModel, strategy: Strategy, *, tokens: int = MAX_TOKENS) -> dict[str, float]:
        """The row of the table.

        acc, acc_2-hop, …: judged right (here: exact match), of all and by kind; f1: of tokens; recall: share of the
        gold documents that were shown; answerable: of attempts that were shown all of them, which no reader without
        knowledge can exceed but by guessing; relevance: mean process score of a query; steps: turns of the model;
        searches, passages: a question; unfinished, malformed: shares. …_b: with the search engine that was not trained
        with.
        """
        first = self._measure(model, strategy, self.sources, tokens)
        if not strategy.needs_search:
            return first
        second = self._measure(model, strategy, self.others, tokens)
        return {**first, **{f"{name}_b": second[name] for name in ("acc", "recall", "steps", "unfinished")}}

    def _measure(self, model: LocalModel, strategy: Strategy, sources: Sources, tokens: int) -> dict[str, float]:
        made = self.attempts(model, strategy, sources, tokens)
        judged = run(judge_attempts(RuleJudge(), made))
        right = [bool(j.correct) for j in judged]
        kinds = [t.question.meta["kind"] for t in made]
        return {
            "acc": mean(right),
            **{f"acc_{kind}": mean(r for r, k in zip(right, kinds, strict=True) if k == kind) for kind in KINDS},
            "f1": mean(token_f1(t.answer, t.question.answers) for t in made),
            "recall": mean(recall(t) for t in made),
            "answerable": mean(recall(t) == 1.0 for t in made),
            "relevance": mean(score for j in judged for score in j.relevance),
            "steps": mean(t.usage.model_calls for t in made),
            "searches": mean(len(t.searches) for t in made),
            "passages": mean(len(t.passages) for t in made),
            "unfinished": mean(t.unfinished for t in made),
            "malformed": mean(t.malformed > 0 for t in made),
        }


def recall(trajectory: Trajectory) -> float:
    """Share of the gold documents that an attempt was shown."""
    shown = {passage.document_id for passage in trajectory.passages}
    gold = trajectory.question.supporting_ids
    return sum(document in shown for document in gold) / len(gold)


def prepare(settings: Settings, seed: int) -> Bench:
    world = MultiHopWorld(settings.base.world)
    pages = documents(world)
    keep = TemporaryDirectory(prefix="ken-r3-rag-")
    index = Index.build(pages, Path(keep.name) / "index", tokenizer="simple")
    trained, held_out = questions(world, "train"), questions(world, "test")
    if settings.asked == "dev":
        trained, held_out = [q for i, q in enumerate(trained) if i % 10], trained[::10]
    bench = Bench(
        settings,
        seed,
        built(settings.base),
        Path(keep.name) / "cold",
        {},
        Sources(search=IndexRetriever(index), top_k=settings.top_k),
        Sources(search=NgramRetriever(pages), top_k=settings.top_k),
        tuple(trained),
        tuple(held_out[: settings.limit]),
        keep,
    )
    bench.cold_metrics.update(cold_start(bench, world))
    return bench


def cold_start(bench: Bench, world: MultiHopWorld) -> dict[str, float]:
    """Stage 1: the teacher's first successes, learnt by the base model and saved; how sampling went."""
    s, pupil = bench.settings, bench.reader()
    teacher = MultiHopTeacher(world, bench.train_questions, s.teacher)
    sampler = TrajectorySampler(
        teacher, bench.sources, RuleJudge(), Stepwise(7, retries=1), SamplerConfig(seed=bench.seed)
    )
    sampled = run(sampler.sample(bench.train_questions[: s.cold_questions]))
    kept = [one.success for one in sampled if one.success is not None]
    rows = [pupil_example(pupil, t, STEPS, Stepwise.prompt(t.question)) for t in kept]
    config = SFTConfig(
        epochs=s.cold_epochs,
        batch=s.cold_batch,
        lr=s.cold_lr,
        warmup_steps=10,
        seed=derive_seed("cold start", bench.seed) % 2**31,
    )
    log = sft(pupil, rows, config)
    save_policy(pupil, bench.cold)
    counts = statistics(sampled)["multihop"]
    return {
        "taught": float(len(kept)),
        "teacher_solved": counts.solved_share,
        "teacher_attempts": counts.attempts / counts.questions,
        "cold_loss": mean(log.losses[-10:]),
    }


# --- arms ------------------------------------------------------------------------------------------------------------


def reading(strategy: Strategy) -> Callable[[Bench], Metrics]:
    """An arm without any training of steps: the base model, which can read."""
    return lambda bench: bench.measure(bench.reader(), strategy, tokens=READ_TOKENS)


def cold(bench: Bench) -> Metrics:
    return {**bench.measure(bench.policy(), Stepwise(bench.settings.max_steps)), **bench.cold_metrics}


def ppo(variant: Variant, **algorithm: Any) -> Callable[[Bench], Metrics]:
    """An arm: which signals count, and what differs from the paper's PPO."""

    def arm(bench: Bench) -> Metrics:
        s, policy = bench.settings, bench.policy()
        strategy = Stepwise(s.max_steps, retries=3, temperatures=s.temperatures)
        fields: dict[str, Any] = {
            "advantage": "gae",
            "turn_credit": True,
            "loss": "bnpo",
            "clip_low": 0.2,
            "value_clip": 0.2,
            "kl": 0.0,
            "kl_in_reward": s.kl,
            "lr": s.lr,
            "critic_lr": s.critic_lr,
            **algorithm,
        }
        config = RLConfig(
            steps=s.steps,
            units=s.questions,
            group_size=len(s.temperatures),
            sampling=Sampling(temperature=1.0, max_tokens=MAX_TOKENS),
            seed=derive_seed("reproduce", bench.seed) % 2**31,
            **fields,
        )
        tasks = [Task(question, strategy, "steps") for question in bench.train_questions]
        log = train(policy, tasks, step_reward(RuleJudge(), variant=variant), config, sources=bench.sources)
        return {
            **bench.measure(policy, Stepwise(s.max_steps)),
            "reward_curve": log.curve("reward"),
            "searches_curve": log.curve("searches"),
            "explained_variance_curve": log.curve("critic/explained_variance"),
        }

    return arm


ARMS = (
    Arm("cot", "a chain of thought without retrieval", reading(Direct())),
    Arm("rag", "one search with the question, then reading", reading(Rag())),
    Arm("ircot", "the last sentence of the thought is the next query", reading(Ircot())),
    Arm("cold-start", "imitation of the teacher's successes, step by step", cold),
    Arm("ppo-outcome", "PPO, rewarded for the answer alone", ppo("outcome")),
    Arm("ppo-process", "PPO, rewarded for what each query brings, never for the answer", ppo("process")),
    Arm("r3-rag", "PPO, rewarded for both", ppo("both")),
    Arm(
        "r3-rag-no-critic",
        "the same rewards, whitened over the batch instead of a critic",
        ppo("both", advantage="batch"),
        optional=True,
    ),
)

# --- claims ----------------------------------------------------------------------------------------------------------


CLAIMS = (
    Claim("Accuracy: R3-RAG ≥ cold start + 0.06", "hard", 0.06, gap("acc", "r3-rag", "cold-start")),
    Claim("Accuracy: R3-RAG ≥ one-shot RAG + 0.20", "hard", 0.2, gap("acc", "r3-rag", "rag")),
    Claim(
        "Accuracy: R3-RAG ≥ one-shot RAG with a reader that makes no mistake",
        "soft",
        0.0,
        lambda arms: arms["r3-rag"]["acc"] - arms["rag"]["answerable"],
    ),
    Claim("Accuracy: R3-RAG ≥ process rewards only + 0.03", "hard", 0.03, gap("acc", "r3-rag", "ppo-process")),
    Claim(
        "Accuracy: a search engine not trained with costs R3-RAG ≤ 0.07",
        "hard",
        -0.07,
        lambda arms: arms["r3-rag"]["acc_b"] - arms["r3-rag"]["acc"],
    ),
    Claim("Gold documents shown: R3-RAG ≥ cold start + 0.05", "hard", 0.05, gap("recall", "r3-rag", "cold-start")),
    Claim("Accuracy: R3-RAG ≥ outcome reward only − 0.01", "soft", -0.01, gap("acc", "r3-rag", "ppo-outcome")),
    Claim(
        "Gold documents shown: R3-RAG above outcome reward only", "soft", 0.0, gap("recall", "r3-rag", "ppo-outcome")
    ),
    Claim("Steps: R3-RAG fewer than cold start", "soft", 0.0, gap("steps", "cold-start", "r3-rag")),
)

paper = Paper(
    entry=entry("r3-rag"),
    summary=(
        "A model solves a question in numbered steps, each an analysis and either a query or the answer. It first "
        "imitates the successes of a teacher, then PPO rewards every query by what it brought and every answer by "
        "whether it is right; each step is a sample of its own. Here the model is a reader of the multi-hop world with "
        "about a million parameters, the teacher a script with bad habits and the judge the gold evidence; the paper's "
        "are models of 7 and 8B parameters on HotpotQA, 2WikiMultiHopQA and MuSiQue, DeepSeek-V3, and a language model."
    ),
    full=Settings(),
    smoke=Settings(
        base=smoke_config(),
        limit=9,
        cold_questions=48,
        cold_epochs=12.0,
        cold_batch=8,
        cold_lr=3e-3,
        steps=2,
        questions=2,
        temperatures=(0.4, 1.0),
    ),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "acc",
        "acc_2-hop",
        "acc_3-hop",
        "acc_comparison",
        "recall",
        "answerable",
        "relevance",
        "steps",
        "unfinished",
        "acc_b",
        "recall_b",
    ),
)
