"""Search-R1: reason and search in turns, rewarded for the answer alone (arXiv 2503.09516; card 00)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents import Direct, Rag, SearchLoop
from ken.agents.background import run
from ken.agents.instructions import READ
from ken.agents.ircot import Ircot
from ken.agents.protocol import escape, render_passages
from ken.agents.strategy import Strategy
from ken.core import Passage, Question, Trajectory
from ken.core.seeding import derive_seed
from ken.lab.render import documents, two_hop_questions
from ken.metrics import exact_match
from ken.metrics.statistics import mean
from ken.models import Message
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.factworld_bench import FactWorldBench, FactWorldSettings, factworld_bench
from ken.papers.paper import Arm, Claim, Metrics, Paper, gap
from ken.training.factworld_base import (
    FactWorldBaseConfig,
)
from ken.training.factworld_examples import (
    answered,
    chained,
)
from ken.training.factworld_gates import read_and_copy
from ken.training.factworld_variants import smoke_config, variant_config
from ken.training.lab_tokenizer import (
    EOS,
)
from ken.training.pretraining import Example
from ken.training.rewards.outcome import exact
from ken.training.rollouts import Task, each
from ken.training.sft import SFTConfig, accepted, sft
from ken.training.train import TrainingLog


class Settings(FactWorldSettings):
    """limit: questions asked, half of them of two hops, as of those trained on. critic_lr: of PPO's critic, whose
    penalty for leaving the base model (`kl`) stands in the reward, as in the paper.

    sft_*: of the reader and of rejection sampling. read: questions that the reader is taught on. candidates: attempts
    at each training question, of which the first right one is kept (five in the paper). copied: reading examples of
    which the share that is copied rightly is measured.
    """

    base: FactWorldBaseConfig = variant_config("two-hop")
    steps: int = Field(default=100, ge=1)
    critic_lr: float = 1e-3
    sft_lr: float = 1e-3
    sft_epochs: float = 2.0
    sft_batch: int = Field(default=32, ge=1)
    read: int = Field(default=1600, ge=2)
    candidates: int = Field(default=5, ge=1)
    copied: int = Field(default=500, ge=1)


@dataclass
class Bench:
    """FactWorld with mentors: as many questions of two hops as of one, to train on and to ask."""

    settings: Settings
    world: FactWorldBench
    trained: tuple[Question, ...]

    @cached_property
    def pages(self) -> dict[str, Passage]:
        """The documents, by id."""
        return {page.id: page for page in documents(self.world.world)}

    @cached_property
    def known(self) -> frozenset[str]:
        """Ids of the asked questions that the base model can answer alone."""
        rates = self.world.solve_rates(self.world.policy(), self.world.asked).rates
        return frozenset(name for name, rate in rates.items() if rate >= self.settings.threshold)

    def train(self, policy: LocalModel, strategy: Strategy, **options: Any) -> TrainingLog:
        """Reinforcement learning with exact match; `options` as of `FactWorldBench.train`."""
        tasks = [Task(question, strategy, f"{hops(question)}-hop") for question in self.trained]
        return self.world.train(policy, tasks, each(exact), **{"steps": self.settings.steps, **options})

    def fine_tune(self, policy: LocalModel, data: Sequence[Trajectory | Example]) -> list[float]:
        """Supervised; the losses of all steps."""
        s = self.settings
        seed = derive_seed("reproduce", self.world.seed) % 2**31
        config = SFTConfig(epochs=s.sft_epochs, batch=s.sft_batch, lr=s.sft_lr, warmup_steps=5, seed=seed)
        return sft(policy, data, config).losses

    def measure(self, policy: LocalModel, strategy: Strategy) -> dict[str, float]:
        """The row of the table: greedy attempts.

        em, searches: of all questions, and by hops, `…_1` and `…_2`; searched: share with a search; searched_known: the
        same among questions that the base model can answer alone; reading: share of values copied rightly from
        documents in which nothing is true; unfinished.
        """
        made = self.world.attempts(policy, strategy, self.world.asked)
        alone = [t for t in made if t.question.id in self.known]
        row = {
            "em": em(made),
            "searches": searches(made),
            "searched": mean(bool(t.searches) for t in made),
            "searched_known": mean(bool(t.searches) for t in alone),
            "known": len(alone) / len(made),
            "reading": run(read_and_copy(policy, self.world.world, self.settings.copied)),
            "unfinished": mean(t.answer is None for t in made),
        }
        for number in (1, 2):
            chosen = [t for t in made if hops(t.question) == number]
            row[f"em_{number}"], row[f"searches_{number}"] = em(chosen), searches(chosen)
        return row


def prepare(settings: Settings, seed: int) -> Bench:
    world = factworld_bench(settings.model_copy(update={"limit": 2**31}), seed)
    world.settings = settings
    trained, held_out = two_hop_questions(world.world, "train"), two_hop_questions(world.world, "test")
    if settings.asked == "dev":
        trained, held_out = [q for i, q in enumerate(trained) if i % 10], trained[::10]
    most = min(len(world.asked), len(held_out), settings.limit // 2)
    world.asked = (*drawn(world.asked, most, "asked 1"), *drawn(held_out, most, "asked 2"))
    count = min(len(world.train_questions), len(trained))
    both = (*drawn(world.train_questions, count, "train 1"), *drawn(trained, count, "train 2"))
    return Bench(settings, world, both)


def drawn(questions: Sequence[Question], count: int, name: str) -> list[Question]:
    """`count` of the questions, the same for every seed."""
    order = np.random.default_rng(derive_seed("search-r1", name)).permutation(len(questions))
    return [questions[int(i)] for i in order[:count]]


def hops(question: Question) -> int:
    return 2 if question.meta.get("hops") == 2 else 1


def em(made: Sequence[Trajectory]) -> float:
    return mean(exact_match(t.answer, t.question.answers) for t in made)


def searches(made: Sequence[Trajectory]) -> float:
    return mean(len(t.searches) for t in made)


# --- arms
# -------------------------------------------------------------------------------------------------------------------


def direct(bench: Bench) -> Metrics:
    return bench.measure(bench.world.policy(), Direct())


def base(bench: Bench) -> Metrics:
    return bench.measure(bench.world.policy(), SearchLoop(bench.settings.max_turns))


def rag(bench: Bench) -> Metrics:
    """One search with the question; the reader is taught on what that finds."""
    reader, losses = taught(bench, [(q, found) for q, found in zip(*by_question(bench), strict=True)])
    return {**bench.measure(reader, Rag()), "loss_curve": losses}


def ircot(bench: Bench) -> Metrics:
    """The last thought is the next query; the reader is taught to read both before and after the second search."""
    asked, found = by_question(bench)
    rows = list(zip(asked, found, strict=True))
    gold = [(q, [bench.pages[name] for name in q.supporting_ids]) for q in asked if hops(q) == 2]
    reader, losses = taught(bench, rows + [(q, pages) for q, pages in gold if len(pages) == 2])
    return {**bench.measure(reader, Ircot(bench.settings.max_turns - 1)), "loss_curve": losses}


def by_question(bench: Bench) -> tuple[list[Question], list[Sequence[Passage]]]:
    """Training questions for the reader, half of them of two hops, and what a search with each of them finds."""
    half = min(bench.settings.read, len(bench.trained)) // 2
    middle = len(bench.trained) // 2
    asked = [*bench.trained[:half], *bench.trained[middle : middle + half]]
    retriever, k = bench.world.sources.search, bench.world.sources.top_k
    assert retriever is not None

    async def find() -> list[Sequence[Passage]]:
        return list(await asyncio.gather(*(retriever.search(q.text, k) for q in asked)))

    return asked, run(find())


def taught(bench: Bench, rows: Sequence[tuple[Question, Sequence[Passage]]]) -> tuple[LocalModel, list[float]]:
    """A reader: the base model, fine-tuned to answer these questions from these passages, and from memory what they
    lack; a question of two hops by thinking of the mentor first."""
    reader = bench.world.policy()
    return reader, bench.fine_tune(reader, [read_example(reader, question, found) for question, found in rows])


def read_example(reader: LocalModel, question: Question, found: Sequence[Passage]) -> Example:
    """The prompt of `Rag` and the right answer to it, which is to be learnt."""
    *_, relation = question.id.split(".")
    value = question.answers[0]
    said = chained(str(question.meta["bridge"]), relation, value) if hops(question) == 2 else answered(relation, value)
    prompt = [Message("system", READ), Message("user", f"{render_passages(found)}\n\n{escape(question.text)}")]
    _, seen = reader.render(prompt)
    _, whole = reader.render([*prompt, Message("policy", said)])
    assert said.endswith(EOS)
    return Example(tuple(whole), (*[False] * len(seen), *[True] * (len(whole) - len(seen))))


def rejection(bench: Bench) -> Metrics:
    """Fine-tuned on the first right one of several attempts of the base model at every training question."""
    s, policy = bench.settings, bench.world.policy()
    how = SearchLoop(s.max_turns)
    attempts = [
        trajectory
        for candidate in range(s.candidates)
        for trajectory in bench.world.attempts(policy, how, bench.trained, temperature=1.0, sample=candidate)
    ]
    kept = accepted(attempts, lambda t: exact(t) == 1.0, per_question=1)
    losses = bench.fine_tune(policy, kept)
    return {**bench.measure(policy, how), "kept": float(len(kept)), "loss_curve": losses}


def reinforced(strategy: Callable[[Settings], Strategy], **options: Any) -> Callable[[Bench], Metrics]:
    """An arm of reinforcement learning: what differs from GRPO with the row's settings."""

    def arm(bench: Bench) -> Metrics:
        policy, how = bench.world.policy(), strategy(bench.settings)
        log = bench.train(policy, how, **options)
        curves = ("reward", "reward/1-hop", "reward/2-hop", "searches", "searches/1-hop", "searches/2-hop")
        return {**bench.measure(policy, how), **{f"{name}_curve": log.curve(name) for name in curves}}

    return arm


def searching(settings: Settings) -> Strategy:
    return SearchLoop(settings.max_turns)


def ppo(bench: Bench) -> Metrics:
    """As many rollouts a step as GRPO, but every one of another question."""
    s = bench.settings
    arm = reinforced(
        searching,
        advantage="gae",
        group_size=1,
        units=s.questions * s.group_size,
        loss="bnpo",
        kl=0.0,
        kl_in_reward=s.kl,
        critic_lr=s.critic_lr,
    )
    return arm(bench)


# --- claims
# -------------------------------------------------------------------------------------------------------------------


ARMS = (
    Arm("direct", "the base model, closed book", direct),
    Arm("base", "the untrained model, which may search", base),
    Arm("rag", "one search with the question, then a reader taught for it", rag),
    Arm("ircot", "the last thought is the next query, with a reader taught for it", ircot),
    Arm("r1", "reinforcement learning without search", reinforced(lambda settings: Direct())),
    Arm("rejection", "fine-tuned on right attempts of the base model", rejection),
    Arm("search-r1", "Search-R1 with GRPO", reinforced(searching)),
    Arm("search-r1-ppo", "Search-R1 with PPO: a critic, one rollout a question", ppo),
    Arm(
        "no-mask",
        "Search-R1 with GRPO, what was retrieved is in the loss",
        reinforced(searching, mask_observations=False),
    ),
)

CLAIMS = (
    Claim("EM on two hops: Search-R1 ≥ RAG + 0.15", "hard", 0.15, gap("em_2", "search-r1", "rag")),
    Claim("EM on two hops: Search-R1 ≥ R1 + 0.30", "hard", 0.3, gap("em_2", "search-r1", "r1")),
    Claim("EM on one hop: Search-R1 ≥ R1 + 0.20", "hard", 0.2, gap("em_1", "search-r1", "r1")),
    Claim("Searches on two hops rise above 1.5", "hard", 1.5, lambda arms: arms["search-r1"]["searches_2"]),
    Claim(
        "Searches: ≥ 0.4 more on two hops than on one",
        "hard",
        0.4,
        lambda arms: arms["search-r1"]["searches_2"] - arms["search-r1"]["searches_1"],
    ),
    Claim(
        "Search-R1 searches on ≥ 80% of the questions that the base model can answer alone",
        "hard",
        0.8,
        lambda arms: arms["search-r1"]["searched_known"],
    ),
    Claim("EM: masked ≥ unmasked + 0.02", "soft", 0.02, gap("em", "search-r1", "no-mask")),
    Claim("Reading: masked loses no more than unmasked", "soft", 0.0, gap("reading", "search-r1", "no-mask")),
    Claim(
        "EM: PPO within 0.05 of GRPO",
        "soft",
        -0.05,
        lambda arms: -abs(arms["search-r1-ppo"]["em"] - arms["search-r1"]["em"]),
    ),
)

paper = Paper(
    entry=entry("search-r1"),
    summary=(
        "One policy thinks, searches, reads what comes back in its own context, and answers; only the exact match of "
        "the answer is rewarded, and what it did not write is masked from the loss. Here half of the questions need "
        "two searches, since they ask about somebody's mentor without the name; the base model searches at random, so "
        "how often to search is left to be learnt. 100 steps of 128 rollouts, not the card's 150. The readers of RAG "
        "and IRCoT are fine-tuned with right answers, which makes them stronger than the paper's, which are prompted."
    ),
    full=Settings(),
    smoke=Settings(
        base=smoke_config("two-hop"),
        limit=24,
        samples=2,
        questions=2,
        group_size=2,
        steps=2,
        sft_epochs=1.0,
        read=16,
        candidates=4,
        copied=16,
    ),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=("em", "em_1", "em_2", "searches_1", "searches_2", "searched_known", "reading", "unfinished"),
)
