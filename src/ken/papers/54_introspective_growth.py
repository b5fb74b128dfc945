"""Introspective Growth: self-questioning on near-identical patents (arXiv 2505.12452; card 54)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import Field

from ken.agents.background import run
from ken.agents.self_questioning import Mode, SelfQuestioning
from ken.core import Question, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.patents import SLOTS, PatentWorld, documents
from ken.metrics import auroc
from ken.metrics.pairs import score_pairs
from ken.metrics.statistics import mean
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper, gap
from ken.sources import Sources
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever
from ken.training.lab_checkpoint import built
from ken.training.patents_base import PatentsBaseConfig, smoke_config

MAX_TOKENS = 96  # a chain of thought about six terms takes 60


class Settings(Frozen):
    """asked: the pairs that are judged: of the test's terms, or, while settings are being chosen, of the train terms
    ("dev"). votes, temperature: of a judgement. top_k: passages a question."""

    base: PatentsBaseConfig = PatentsBaseConfig()
    asked: Literal["test", "dev"] = "test"
    limit: int = Field(default=400, ge=4)
    votes: int = Field(default=3, ge=1)
    temperature: float = Field(default=0.7, gt=0)
    top_k: int = Field(default=3, ge=1)


@dataclass
class Bench:
    """World and base model are of the seed: each seed has its own, pretrained anew."""

    settings: Settings
    seed: int
    model: LocalModel
    sources: Sources
    asked: tuple[Question, ...]
    keep: TemporaryDirectory[str]

    def measure(self, mode: Mode, most: int = SLOTS, suffix: str = "") -> dict[str, float]:
        """accuracy: balanced; misjudge, miss: of different and of same pairs; errors on pairs of head terms only and on
        those where a tail term decides, balanced; malformed: share of attempts with a reply that could not be read;
        words: a note's mean length."""
        s = self.settings
        strategy = SelfQuestioning(mode, basic=SLOTS, conceptual=0, most=most, votes=s.votes, temperature=s.temperature)
        sampling = Sampling(max_tokens=MAX_TOKENS, seed=derive_seed("patents", self.seed) % 2**31)

        async def together() -> list[Trajectory]:
            tasks = (strategy.run(q, self.model, self.sources, sampling=sampling) for q in self.asked)
            return list(await asyncio.gather(*tasks))

        made = run(together())
        scores = score_pairs([t.answer for t in made], [t.question.answers[0] for t in made])
        found = {"accuracy": scores.balanced_accuracy, "misjudge": scores.misjudge, "miss": scores.miss}
        for tail, name in ((False, "error_head"), (True, "error_tail")):
            part = [t for t in made if t.question.meta["tail"] is tail]
            accuracy = score_pairs([t.answer for t in part], [t.question.answers[0] for t in part]).balanced_accuracy
            found[name] = None if accuracy is None else 1 - accuracy
        sure = [(t.answer_confidence or 0.0, t.answer in t.question.answers) for t in made]
        found["auroc"] = auroc([c for c, _ in sure], [r for _, r in sure])
        found["malformed"] = mean(t.malformed > 0 for t in made)
        found["wrong"] = mean(t.answer not in t.question.answers for t in made)
        return {f"{name}{suffix}": float("nan") if value is None else value for name, value in found.items()}


def prepare(settings: Settings, seed: int) -> Bench:
    base = settings.base.model_copy(
        update={"seed": seed, "world": settings.base.world.model_copy(update={"seed": seed})}
    )
    world = PatentWorld(base.world)
    model = LocalModel(built(base), spec="lab/patents", device="cpu", batch_size=512, control_tokens=True)
    keep = TemporaryDirectory(prefix="ken-patents-")
    index = Index.build(documents(world), Path(keep.name) / "index", tokenizer="simple")
    pairs = world.pairs("test" if settings.asked == "test" else "train")[: settings.limit]
    sources = Sources(search=IndexRetriever(index), top_k=settings.top_k)
    return Bench(settings, seed, model, sources, tuple(pair.question() for pair in pairs), keep)


# --- arms ------------------------------------------------------------------------------------------------------------


def once(mode: Mode) -> Callable[[Bench], Metrics]:
    """An arm without notes, or with all."""
    return lambda bench: bench.measure(mode)


def grown(mode: Mode) -> Callable[[Bench], Metrics]:
    """An arm with one to three questions a text; the measures without a suffix are of three."""

    def arm(bench: Bench) -> Metrics:
        fewer = [bench.measure(mode, most, f"_m{most}") for most in range(1, SLOTS)]
        return {name: value for found in [bench.measure(mode), *fewer] for name, value in found.items()}

    return arm


ARMS = (
    Arm("raw", "judges at once", once("raw")),
    Arm("questions", "its own questions, unanswered", once("questions")),
    Arm("cot", "a chain of thought", once("cot")),
    Arm("placebo", "as many words from the passages where answers would be", grown("placebo")),
    Arm("self", "its own questions, answered by itself", grown("self")),
    Arm("search", "its own questions, answered from passages", grown("search")),
)

# --- claims ----------------------------------------------------------------------------------------------------------


def share(better: str, worse: str, kind: str) -> Callable[[Arms], float]:
    """A share of the errors that passages repair: (worse − better) / (raw − search), on pairs of a kind."""

    def measure(arms: Arms) -> float:
        whole = arms["raw"][kind] - arms["search"][kind]
        return (arms[worse][kind] - arms[better][kind]) / whole if whole > 0 else float("nan")

    return measure


def growth(arm: str) -> Callable[[Arms], float]:
    return lambda arms: arms[arm]["accuracy"] - arms[arm]["accuracy_m1"]


_TAIL = (
    "The card asks for pairs whose differing slot holds a tail term. An invented answer differs from any other, so on "
    "different pairs it is right by luck; the share is of the balanced error over different and same pairs, in whose "
    "deciding slot a tail term stands."
)

CLAIMS = (
    Claim("Balanced accuracy: self-answered ≥ raw + 0.10", "hard", 0.1, gap("accuracy", "self", "raw")),
    Claim(
        "Balanced accuracy: answered from passages ≥ self-answered + 0.03",
        "hard",
        0.03,
        gap("accuracy", "search", "self"),
    ),
    Claim(
        "Balanced accuracy: questions alone ≤ self-answered − 0.05", "hard", 0.05, gap("accuracy", "self", "questions")
    ),
    Claim("Balanced accuracy: questions alone ≥ raw − 0.03", "hard", -0.03, gap("accuracy", "questions", "raw")),
    Claim("Head terms only: share unused ≥ 0.6", "hard", 0.6, share("self", "raw", "error_head")),
    Claim("A tail term decides: share missing ≥ 0.5", "hard", 0.5, share("search", "self", "error_tail"), _TAIL),
    Claim("Self-answered: three questions ≥ one + 0.05", "hard", 0.05, growth("self")),
    Claim("From passages: three questions ≥ one + 0.05", "hard", 0.05, growth("search")),
    Claim("Placebo: three questions ≤ one + 0.03", "hard", -0.03, lambda arms: -growth("placebo")(arms)),
    Claim("Different pairs misjudged: self-answered fewer than raw", "hard", 0.0, gap("misjudge", "raw", "self")),
    Claim("Balanced accuracy: self-answered above a chain of thought", "soft", 0.0, gap("accuracy", "self", "cot")),
)

paper = Paper(
    entry=entry("introspective-growth"),
    summary=(
        "A model judges whether two near-identical patents describe the same invention, at once or after writing "
        "questions about the background and answering them: itself, or from passages. What its own answers repair it "
        "had and did not use; what only passages repair it lacked. Here patents are templates with jargon, of which "
        "pretraining explains two thirds, and the model has about a million parameters; the paper's are 1.3 million "
        "pairs and models of 1 to 405 billion."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), limit=8, votes=2),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "accuracy",
        "misjudge",
        "miss",
        "error_head",
        "error_tail",
        "accuracy_m1",
        "accuracy_m2",
        "auroc",
        "malformed",
    ),
)
