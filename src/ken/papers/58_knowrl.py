"""KnowRL: a model learns what it can do from the agreement of its own judgements (arXiv 2510.11407; card 58)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents import Decide
from ken.agents.background import run
from ken.core import Question
from ken.core.seeding import derive_seed
from ken.metrics.feasibility import Feasibility, feasibility
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.factworld_bench import GREEDY_THOUGHTS, SAMPLED, FactWorldBench, FactWorldSettings, factworld_bench
from ken.papers.paper import Arm, Claim, Metrics, Paper, gap
from ken.training.factworld_base import (
    FactWorldBaseConfig,
)
from ken.training.factworld_introspection import FactWorldTasks, stripped
from ken.training.factworld_variants import smoke_config, variant_config
from ken.training.introspection import Introspector
from ken.training.introspection_folder import RoundReport
from ken.training.introspection_rounds import RoundsConfig, train_on_introspection
from ken.training.rewards.awareness import decided, verdict_matches
from ken.training.rewards.chance import by_chance
from ken.training.rewards.consensus import agree, agree_as_intended, agree_weighted
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Reward, each, within
from ken.training.self_analysis import Judged, SelfAnalyser, extrinsic, intrinsic
from ken.training.sft import SFTConfig, accepted, sft
from ken.training.task_pool import InventedTask, TaskPool


class Settings(FactWorldSettings):
    """questions: pairs of a feasible and an infeasible task in an update; group_size: judgements of a task. seeds: of
    each kind. label_samples: closed-book answers that tell what is truly feasible, to the evaluator and the oracle arm.
    measured: made-up tasks of the intrinsic evaluation.

    kl: Reinforce++ takes it off the reward, token by token. lr: tried on the dev questions with seed 100: at 1e-4 and
    3e-4 judgements agree after the first round, and what follows only drifts; at 3e-5 agreement and accuracy grow from
    round to round. Thoughts are greedy, so that judgements differ in the verdict alone; sampled ones were tried at 1e-4
    only, and gave about the same as greedy ones there.
    Held-out questions are never made up: the model only makes up tasks about the demo entities of its pretraining.
    """

    base: FactWorldBaseConfig = variant_config("introspection")
    questions: int = Field(default=8, ge=1)
    seeds: int = Field(default=50, ge=1)
    rounds: int = Field(default=6, ge=1)
    updates: int = Field(default=25, ge=1)
    runs: int = Field(default=12, ge=1)
    candidates: int = Field(default=60, ge=2)
    replayed: int = Field(default=200, ge=0)
    measured: int = Field(default=400, ge=2)
    label_samples: int = Field(default=16, ge=1)
    lr: float = 3e-5
    kl: float = 0.05
    greedy_thoughts: bool = True
    sft_lr: float = 3e-4
    sft_epochs: float = Field(default=2.0, gt=0)


@dataclass
class Bench:
    """FactWorld, and the tasks that can be made up in it: those about demo entities."""

    shared: FactWorldBench
    tasks: Mapping[str, Question]  # by how the model writes them: "Kavelo birthplace"

    @property
    def settings(self) -> Settings:
        assert isinstance(self.shared.settings, Settings)
        return self.shared.settings

    @cached_property
    def true_labels(self) -> dict[str, bool]:
        """Which of the tasks the base model can really do, by question id. Only the seed's labels are ever shown to a
        policy, but for the oracle arm."""
        s = self.settings
        rates = self.shared.solve_rates(self.shared.policy(), list(self.tasks.values()), s.label_samples)
        return rates.labels(s.threshold)

    def pool(self) -> TaskPool:
        """A fresh pool of the seed: tasks drawn at random, the label of each checked, as people checked the paper's."""
        labels, rng = self.true_labels, np.random.default_rng(derive_seed("seed tasks", self.shared.seed))
        seeds = []
        for feasible in (True, False):
            kind = [(text, q) for text, q in self.tasks.items() if labels[q.id] is feasible]
            for i in rng.permutation(len(kind))[: self.settings.seeds]:
                text, question = kind[int(i)]
                seeds.append(InventedTask(question=stripped(question, text), written=text, feasible=feasible))
        return TaskPool(seeds)

    @property
    def introspector(self) -> Introspector:
        return FactWorldTasks(self.tasks).introspector(SAMPLED)

    def read(self, text: str) -> Question | None:
        """The question that a made-up task stands for; None when it is about nobody, or a held-out fact."""
        return FactWorldTasks(self.tasks).read(text)

    @property
    def analyser(self) -> SelfAnalyser:
        """Eight judgements, each thought and sampled on its own: an average of single ones, and a vote."""
        seed = derive_seed("analysis", self.shared.seed)
        return SelfAnalyser(samples=self.settings.group_size, sampling=SAMPLED.but(seed=seed))

    def measure(self, policy: LocalModel, *, vote: bool = False) -> dict[str, float]:
        """The row of the table, of single judgements at T = 1, or of the majority of eight.

        intrinsic: agreement with the kind that it meant to make up. accuracy, f1_infeasible, f1_feasible, macro_f1: on
        held-out questions against the policy's own solve rate; says_yes there. known: share it can really answer.
        overconfident, underconfident, unreadable: shares of the judgements of held-out questions.
        """
        s, asked = self.settings, self.shared.asked
        rates = self.shared.solve_rates(policy, asked, s.label_samples).rates
        labels = [rates[q.id] >= s.threshold for q in asked]
        outer = run(extrinsic(policy, [stripped(q) for q in asked], labels, self.analyser))
        seed = derive_seed("measure", self.shared.seed) % 2**31
        inner, _ = run(intrinsic(policy, self.introspector, self.pool(), self.analyser, count=s.measured, seed=seed))
        scores = voted(outer) if vote else outer.single
        return {
            "intrinsic": (voted(inner) if vote else inner.single).accuracy,
            "accuracy": scores.accuracy,
            "f1_infeasible": scores.f1_infeasible,
            "f1_feasible": scores.f1_feasible,
            "macro_f1": scores.macro_f1,
            "says_yes": scores.says_feasible,
            "overconfident": scores.overconfident,
            "underconfident": scores.underconfident,
            "unreadable": scores.unreadable / scores.n,
            "known": sum(labels) / len(labels),
            "vote_accuracy": voted(outer).accuracy,
        }


def prepare(settings: Settings, seed: int) -> Bench:
    shared = factworld_bench(settings, seed)
    return Bench(shared, FactWorldTasks.of(shared.world).questions)


def voted(judged: Judged) -> Feasibility:
    """Scores of the majorities. A tie is broken by the first judgement: whoever votes must act on something."""
    verdicts = [a.verdicts[0] if a.majority is None else a.majority for a in judged.analyses]
    return feasibility(verdicts, judged.labels)


def spearman(values: Sequence[float]) -> float:
    """Rank correlation of values with their order, ties sharing the mean rank; 0 when all are equal."""
    array = np.asarray(values, dtype=float)
    ranks = np.array([(array < v).sum() + ((array == v).sum() - 1) / 2 for v in array])
    if len(array) < 2 or np.ptp(ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks, np.arange(len(array)))[0, 1])


# --- arms
# -------------------------------------------------------------------------------------------------------------------


def base(bench: Bench) -> Metrics:
    """The untrained model. accuracy and vote_accuracy are the card's gates: consensus helps only where single
    judgements are better than chance."""
    return bench.measure(bench.shared.policy())


def voting(bench: Bench) -> Metrics:
    return bench.measure(bench.shared.policy(), vote=True)


def seed_tuning(bench: Bench) -> Metrics:
    """Supervised: the policy's own analyses of the seed tasks whose verdicts are right."""
    s, policy, pool = bench.settings, bench.shared.policy(), bench.pool()
    labels = {task.question.id: task.feasible for task in pool.tasks}
    asked = [task.asked for _ in range(s.group_size) for task in pool.tasks]
    # every repetition is a question of its own, or seeds would make them the same
    repeated = [q.model_copy(update={"id": f"{q.id}#{i}"}) for i, q in enumerate(asked)]
    made = bench.shared.attempts(policy, Decide(), repeated, temperature=1.0)
    right = accepted(made, lambda t: bool(verdict_matches(t, labels[t.question.id.rpartition("#")[0]])))
    seed = derive_seed("reproduce", bench.shared.seed) % 2**31
    sft(policy, right, SFTConfig(epochs=s.sft_epochs, lr=s.sft_lr, seed=seed))
    return {**bench.measure(policy), "examples": float(len(right))}


def introspecting(reward: Callable[[Bench], Reward], **changes: Any) -> Callable[[Bench], Metrics]:
    """An arm that trains in rounds with one reward; `changes` are fields of `RLConfig`."""

    def arm(bench: Bench) -> Metrics:
        s, policy, pool = bench.settings, bench.shared.policy(), bench.pool()
        fields: dict[str, Any] = {
            "steps": s.updates,
            "units": s.questions,
            "group_size": s.group_size,
            "lr": s.lr,
            "advantage": "batch",
            "kl": 0.0,
            "kl_in_reward": s.kl,
            "sampling": GREEDY_THOUGHTS if s.greedy_thoughts else SAMPLED,
            "seed": derive_seed("reproduce", bench.shared.seed) % 2**31,
            **changes,
        }
        reports = train_on_introspection(
            policy,
            pool,
            reward(bench),
            RLConfig(**fields),
            config=RoundsConfig(
                rounds=s.rounds, runs=s.runs, candidates=s.candidates, replayed=s.replayed, measured=s.measured
            ),
            introspector=bench.introspector,
            analyser=bench.analyser,
        )
        return {**bench.measure(policy), **over_rounds(reports), "entities": float(entities(pool))}

    return arm


def over_rounds(reports: Sequence[RoundReport]) -> dict[str, float | list[float]]:
    """Curves over the rounds; those of the model begin with round 0, before training. trend: of round and intrinsic
    accuracy, over the rounds of training."""
    trained = reports[1:]
    curves: dict[str, list[float]] = {
        "intrinsic_curve": [r.agreement.accuracy for r in reports],
        "says_yes_curve": [r.agreement.says_feasible for r in reports],
        "pool_curve": [float(r.pool) for r in reports],
        "candidates_curve": [float(r.candidates) for r in trained],
        "entered_curve": [float(r.entered) for r in trained],
        "unanimous_curve": [r.histogram[-1] for r in trained],
        "tied_curve": [r.histogram[0] for r in trained],
        "distinct_2_curve": [r.distinct_2 for r in reports],
        "self_bleu_curve": [r.self_bleu for r in reports],
        "reward_curve": [r.reward for r in trained],
        "alarms_curve": [float(len(r.alarms)) for r in trained],
    }
    return {**curves, "trend": spearman(curves["intrinsic_curve"][1:]), "pool": curves["pool_curve"][-1]}


def entities(pool: TaskPool) -> int:
    """How many different entities the tasks of a pool are about."""
    return len({task.written.split()[0] for task in pool.tasks})


def oracle(bench: Bench) -> Reward:
    return each(partial(decided, labels=bench.true_labels))


ARMS = (
    Arm("base", "the untrained model, one judgement", base),
    Arm("vote", "the untrained model, the majority of eight judgements", voting),
    Arm("sft", "fine-tuned on its own right analyses of the seed", seed_tuning),
    Arm("random", "rounds with a reward by chance", introspecting(lambda bench: each(by_chance))),
    Arm("knowrl", "rounds rewarded for agreeing with the majority", introspecting(lambda bench: within(agree))),
    Arm(
        "knowrl-intended",
        "rewarded only where the majority is the kind that its author meant",
        introspecting(lambda bench: within(agree_as_intended)),
    ),
    Arm("oracle", "rounds rewarded for what is true", introspecting(oracle)),
    Arm(
        "knowrl-weighted",
        "agreement weighted by the consensus",
        introspecting(lambda bench: within(agree_weighted)),
        optional=True,
    ),
    Arm(
        "knowrl-grpo",
        "the majority's reward with GRPO instead of Reinforce++",
        introspecting(lambda bench: within(agree), advantage="group", kl=0.1, kl_in_reward=0.0),
        optional=True,
    ),
)


# --- claims
# -------------------------------------------------------------------------------------------------------------------


SINGLE = "single judgements at T = 1, since greedy ones are nearly votes"

CLAIMS = (
    Claim("Intrinsic accuracy: KnowRL ≥ base + 0.10", "hard", 0.1, gap("intrinsic", "knowrl", "base"), SINGLE),
    Claim("Intrinsic accuracy: KnowRL ≥ random reward + 0.08", "hard", 0.08, gap("intrinsic", "knowrl", "random")),
    Claim(
        "F1 of infeasible, held out: KnowRL ≥ base + 0.04", "hard", 0.04, gap("f1_infeasible", "knowrl", "base"), SINGLE
    ),
    Claim("Macro F1, held out: KnowRL ≥ base + 0.04", "hard", 0.04, gap("macro_f1", "knowrl", "base"), SINGLE),
    Claim(
        "F1 of infeasible, held out: KnowRL ≥ SFT on the seed + 0.02",
        "hard",
        0.02,
        gap("f1_infeasible", "knowrl", "sft"),
    ),
    Claim("Macro F1, held out: KnowRL ≥ SFT on the seed + 0.02", "hard", 0.02, gap("macro_f1", "knowrl", "sft")),
    Claim("Intrinsic accuracy grows: Spearman with the round ≥ 0.6", "hard", 0.6, lambda arms: arms["knowrl"]["trend"]),
    Claim(
        "No collapse: share of yes within [0.25, 0.75]",
        "hard",
        0.0,
        lambda arms: min(arms["knowrl"]["says_yes"] - 0.25, 0.75 - arms["knowrl"]["says_yes"]),
        "of held-out questions",
    ),
    Claim("No collapse: entities in the pool ≥ 150", "hard", 150.0, lambda arms: arms["knowrl"]["entities"]),
    Claim(
        "Macro F1: one judgement of KnowRL ≥ 90% of the base model's vote",
        "soft",
        0.0,
        lambda arms: arms["knowrl"]["macro_f1"] - 0.9 * arms["vote"]["macro_f1"],
    ),
    Claim("Macro F1: oracle labels ≥ KnowRL", "soft", 0.0, gap("macro_f1", "oracle", "knowrl")),
    Claim("Macro F1: intended kind ≥ plain majority", "soft", 0.0, gap("macro_f1", "knowrl-intended", "knowrl")),
)

paper = Paper(
    entry=entry("knowrl"),
    summary=(
        "The model makes up tasks that it believes it can do, and tasks that it cannot, judges each several "
        "times, and is rewarded for judgements that agree with one another; tasks that it agrees about are examples of "
        "the next round. Here a task is a question about FactWorld, whose truth the evaluator knows and the method "
        "never sees; the paper's are open-ended, and its models have 7B and 8B parameters."
    ),
    full=Settings(),
    smoke=Settings(
        base=smoke_config("introspection"),
        limit=24,
        samples=2,
        label_samples=2,
        questions=2,
        group_size=4,
        seeds=8,
        rounds=2,
        updates=2,
        runs=2,
        candidates=8,
        replayed=8,
        measured=12,
    ),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=("intrinsic", "accuracy", "f1_infeasible", "macro_f1", "says_yes", "known", "trend", "pool", "entities"),
)
