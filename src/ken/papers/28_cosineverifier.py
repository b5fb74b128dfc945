"""CoSineVerifier: an answer verifier that computes where comparing by eye fails (arXiv 2512.01224; card 28)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ken.agents.background import run
from ken.agents.equivalence import Equivalence
from ken.agents.verifiers import ExactMatch, RuleVerifier, Verifier
from ken.agents.verify_loop import Manner
from ken.core import Sampling, ToolCall, Trajectory
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.verification import KINDS, Item, VerificationWorld, difficult
from ken.metrics.statistics import bootstrap_difference, mean
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper, gap
from ken.training.lab_checkpoint import built
from ken.training.rewards.completion import written_tokens
from ken.training.rewards.tool_bonus import valid_calls
from ken.training.rewards.verification import verifier_reward
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Task, each
from ken.training.train import TrainingLog, train
from ken.training.verification_base import VerificationBaseConfig, smoke_config
from ken.training.verification_gates import MAX_TOKENS, judged, lab_loop

TOOL_WEIGHT = 0.2


class Settings(Frozen):
    """base: of the verifier with tools; the others see the same items and as many tokens. asked: the items on which
    arms are measured: held-out ones, or, while settings are being chosen, dev ones.

    steps, units, group_size: of the reinforcement learning (the card's). screened: training items that the verifier
    judges `group_size` times before it, of which those that it is not sure of (right in 20% to 80%) are trained on
    beside as many others: groups that are judged alike teach nothing (card 28, If it fails).

    The numbers are the card's where it has any; none has been chosen on dev items yet.
    """

    base: VerificationBaseConfig = VerificationBaseConfig()
    asked: Literal["test", "dev"] = "test"
    steps: int = Field(default=40, ge=1)
    units: int = Field(default=48, ge=1)
    group_size: int = Field(default=4, ge=2)
    lr: float = 1e-4
    screened: int = Field(default=1_200, ge=0)


TOKENS: dict[Manner, float] = {"tools": 68.2, "thoughts": 57.0, "label": 44.4}
"""Mean tokens of an example of each manner, by which passes are made equal (measured over 600 training items)."""


@dataclass
class Bench:
    """What all arms of one seed share: the items. Base models follow the seed, the world does not."""

    settings: Settings
    seed: int
    world: VerificationWorld

    @property
    def items(self) -> tuple[Item, ...]:
        return self.world.test if self.settings.asked == "test" else self.world.dev

    def base(self, manner: Manner, *, augmented: bool = True) -> LocalModel:
        """The verifier after its cold start, fresh."""
        s = self.settings.base
        passes = s.passes * TOKENS["tools"] / TOKENS[manner]
        config = s.model_copy(
            update={"manner": manner, "augmented": augmented, "passes": round(passes, 3), "seed": self.seed}
        )
        return LocalModel(built(config), spec="lab/verification", device="cpu", batch_size=512)

    def measure(self, model: LocalModel, manner: Manner) -> dict[str, Any]:
        """The row of the table, of greedy judgements; kinds weigh equally.

        acc, acc_KIND; acc_computed: over the computational kinds; tail: over the rare kinds; recall: share of the right
        answers that are called correct; called_computed, called_text: share of items with a call; tokens: written in a
        judgement; unread: judgements without a label; tool_errors: share of calls that failed; right: of each item.
        """
        made = run(judged(model, self.items, manner))
        rare = run(judged(model, self.world.tail, manner))
        right = [float(t.answer == item.label) for t, item in zip(made, self.items, strict=True)]
        calls = [sum(isinstance(step, ToolCall) for step in t.steps) for t in made]
        computed = [bool(item.calls) for item in self.items]
        everything = sum(calls)
        return {
            **_accuracies(self.items, right),
            "tail": mean(t.answer == item.label for t, item in zip(rare, self.world.tail, strict=True)),
            "recall": _recall(self.items, right),
            "called_computed": mean(n > 0 for n, c in zip(calls, computed, strict=True) if c),
            "called_text": mean(n > 0 for n, c in zip(calls, computed, strict=True) if not c),
            "tokens": mean(written_tokens(t) for t in made),
            "unread": mean(t.unfinished for t in made),
            "tool_errors": 1 - sum(map(valid_calls, made)) / everything if everything else 0.0,
            "right": right,
        }

    def measure_rule(self, verifier: Verifier) -> dict[str, Any]:
        """The same of a verifier without a model."""

        async def together(items: Sequence[Item]) -> list[float]:
            said = await asyncio.gather(*(verifier.verify(i.question, i.reference, i.response) for i in items))
            return [float(one.label == item.label) for one, item in zip(said, items, strict=True)]

        right = run(together(self.items))
        return {
            **_accuracies(self.items, right),
            "tail": mean(run(together(self.world.tail))),
            "recall": _recall(self.items, right),
            "right": right,
        }


def _accuracies(items: Sequence[Item], right: Sequence[float]) -> dict[str, float]:
    by_kind = {k: mean(r for r, item in zip(right, items, strict=True) if item.kind == k) for k in KINDS}
    return {
        "acc": mean(by_kind.values()),
        "acc_computed": mean(value for kind, value in by_kind.items() if kind != "text"),
        **{f"acc_{kind}": value for kind, value in by_kind.items()},
    }


def _recall(items: Sequence[Item], right: Sequence[float]) -> float:
    return mean(r for r, item in zip(right, items, strict=True) if item.right)


def prepare(settings: Settings, seed: int) -> Bench:
    return Bench(settings, seed, VerificationWorld(settings.base.world))


# --- arms ------------------------------------------------------------------------------------------------------------


def exact(bench: Bench) -> Metrics:
    return bench.measure_rule(ExactMatch())


def rule(bench: Bench) -> Metrics:
    """Exact algebra stands for sympy, which says the same of polynomials; the answer is extracted as by the others."""
    return bench.measure_rule(RuleVerifier(Equivalence(units=False, algebra=False), constants=False))


def cold_start(manner: Manner, *, augmented: bool = True) -> Callable[[Bench], Metrics]:
    """An arm that is not trained any further."""
    return lambda bench: bench.measure(bench.base(manner, augmented=augmented), manner)


def reinforced(*, tool_weight: float = TOOL_WEIGHT) -> Callable[[Bench], Metrics]:
    """The verifier with tools after reinforcement learning."""

    def arm(bench: Bench) -> Metrics:
        s, model = bench.settings, bench.base("tools")
        config = RLConfig(
            steps=s.steps,
            units=s.units,
            group_size=s.group_size,
            lr=s.lr,
            kl=1e-3,
            sampling=Sampling(temperature=1.0, max_tokens=MAX_TOKENS),
            seed=derive_seed("reproduce", bench.seed) % 2**31,
        )
        loop = lab_loop("tools")
        items = practised(bench, model)
        tasks = [Task(item.as_question(f"train-{i}"), loop, item.kind) for i, item in enumerate(items)]

        def reward(trajectory: Trajectory) -> float:
            return verifier_reward(trajectory, tool_weight=tool_weight)

        log = train(model, tasks, each(reward), config, on_step=lambda step, statistics: loop.tools.check())
        return {**bench.measure(model, "tools"), **course(log), "practised": float(len(items))}

    return arm


def practised(bench: Bench, model: LocalModel) -> list[Item]:
    """The items of the reinforcement learning: those that the verifier is not sure of, and as many others."""
    s = bench.settings
    items = bench.world.training(augmented=s.base.augmented)
    screened = items[: s.screened]
    sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=bench.seed)
    labels: list[list[str]] = [[] for _ in screened]
    for sample in range(s.group_size if screened else 0):
        seeded = sampling.but(seed=derive_seed("screened", bench.seed, sample) % 2**31)
        for said, attempt in zip(labels, run(judged(model, screened, "tools", sampling=seeded)), strict=True):
            said.append(attempt.answer or "")
    hard = difficult(screened, labels)
    others = list(items[s.screened :])
    return [*hard, *others[: max(len(hard), s.units)]]


def course(log: TrainingLog) -> dict[str, Any]:
    """What the training was like."""
    zero = log.curve("zero_variance")
    return {
        "zero_variance": mean(zero),
        "reward_curve": log.curve("reward"),
        "entropy_curve": log.curve("entropy"),
        "zero_curve": zero,
    }


ARMS = (
    Arm("exact", "the same text as the reference", exact),
    Arm("rule", "numbers, algebra, sets and choices by rule; no units, no constants", rule),
    Arm("label", "a model that says its label at once", cold_start("label")),
    Arm("cot", "a model that writes both sides in one form first, without tools", cold_start("thoughts")),
    Arm("sft", "a model that calls tools, after the cold start", cold_start("tools")),
    Arm("sft-rare", "the same without long-tail augmentation", cold_start("tools", augmented=False)),
    Arm("rl", "the model with tools after reinforcement learning", reinforced()),
    Arm("rl-no-bonus", "the same without the reward for useful tool calls", reinforced(tool_weight=0.0)),
)

# --- claims ----------------------------------------------------------------------------------------------------------


def surely(better: str, worse: str, kinds: Sequence[str] = KINDS) -> Callable[[Arms], float]:
    """The lower end of the 95% paired bootstrap interval of the difference over test items."""

    def measure(arms: Arms) -> float:
        # Kinds come in turn (`VerificationWorld.test`), so that places tell them.
        chosen = [i for i in range(len(arms[better]["right"])) if KINDS[i % len(KINDS)] in kinds]
        first, second = ([arms[name]["right"][i] for i in chosen] for name in (better, worse))
        return float(bootstrap_difference(first, second).low)

    return measure


def least_kind(arms: Arms) -> float:
    """The worst that reinforcement learning did to any kind."""
    return min(float(arms["rl"][f"acc_{kind}"] - arms["sft"][f"acc_{kind}"]) for kind in KINDS)


COMPUTED = tuple(kind for kind in KINDS if kind != "text")

CLAIMS = (
    Claim(
        "Accuracy on computational kinds: tools and RL ≥ label only + 0.15",
        "hard",
        0.15,
        gap("acc_computed", "rl", "label"),
    ),
    Claim(
        "The paired bootstrap interval of that difference to label only excludes 0",
        "hard",
        0.0,
        surely("rl", "label", COMPUTED),
    ),
    Claim("Accuracy: tools and RL ≥ rules + 0.08", "hard", 0.08, gap("acc", "rl", "rule")),
    Claim("The paired bootstrap interval of that difference to rules excludes 0", "hard", 0.0, surely("rl", "rule")),
    Claim("Accuracy: RL ≥ cold start + 0.02", "hard", 0.02, gap("acc", "rl", "sft")),
    Claim("No kind drops by more than 0.03 with RL", "hard", -0.03, least_kind),
    Claim(
        "Computational items with a tool call after RL: at least 0.9",
        "hard",
        0.9,
        lambda arms: arms["rl"]["called_computed"],
    ),
    Claim(
        "Text and choice items with a tool call after RL: at most 0.3",
        "hard",
        -0.3,
        lambda arms: -arms["rl"]["called_text"],
    ),
    Claim("Tokens written in a judgement: at most 60", "hard", -60.0, lambda arms: -arms["rl"]["tokens"]),
    Claim(
        "Accuracy on rare kinds: with long-tail augmentation ≥ without + 0.03",
        "hard",
        0.03,
        gap("tail", "sft", "sft-rare"),
    ),
    Claim("Accuracy: tools ≥ thinking without tools", "soft", 0.0, gap("acc", "sft", "cot")),
    Claim(
        "Tool calls on computational items: with the bonus ≥ without",
        "soft",
        0.0,
        gap("called_computed", "rl", "rl-no-bonus"),
    ),
)

paper = Paper(
    entry=entry("cosineverifier"),
    summary=(
        "A verifier compares a response with the reference, and calls an interpreter or a unit converter where "
        "equality needs algebra, arithmetic, units or a constant. It is trained on traces of judging, then by "
        "reinforcement learning that rewards right verdicts, the format, and calls that helped. Here the verifier has "
        "about a million parameters and judges generated items; exact algebra of polynomials stands for the Python "
        "interpreter, which would take half a second a call, and pint converts. Rules get the same extraction of the "
        "answer as all. The paper's has 4B parameters and judges responses to scientific questions."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), steps=2, units=4, group_size=2, screened=8),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "acc",
        "acc_computed",
        *(f"acc_{kind}" for kind in KINDS),
        "tail",
        "recall",
        "called_computed",
        "called_text",
        "tokens",
    ),
)
