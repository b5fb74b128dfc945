"""ProbTree: split a question into a tree, and trust memory, passages or parts by their likelihood (arXiv 2311.13982;
card 59)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import Field

from ken.agents import SelfAsk, Tree
from ken.agents.background import run
from ken.agents.ircot import Ircot
from ken.agents.query_tree import QueryTree
from ken.agents.strategy import Strategy
from ken.core import Candidate, Question, Sampling, SubQuestion, Trajectory
from ken.core.frozen import Frozen
from ken.core.steps import Method
from ken.lab.splitworld import KINDS, SplitWorld, documents, questions
from ken.metrics import auroc, exact_match, token_f1
from ken.metrics.calibration import reliability
from ken.metrics.statistics import mean
from ken.models.kept_replies import KeptReplies
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper, gap
from ken.sources import Sources
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever
from ken.training.lab_checkpoint import built
from ken.training.tree_base import TreeBaseConfig, smoke_config

BASELINES = ("cot", "one-r", "self-ask", "ircot", "tree-open", "open-leaves", "closed-leaves", "tree-random")
BINS = 5


class Settings(Frozen):
    """asked: the questions on which arms are measured: about test entities, or, while settings are being chosen, about
    dev entities; no prompt of the base model's training was about either. questions: so many, drawn by the seed.
    retrain: whether the base model follows the seed too, as the card has it; else all seeds have the same, to spare ten
    minutes each.

    k, sub_k: passages for a node's question and for each one below it. one_k, chain_k: passages of a search of the
    one-step and the chain baselines.
    """

    base: TreeBaseConfig = TreeBaseConfig()
    asked: Literal["test", "dev"] = "test"
    questions: int = Field(default=400, ge=4)
    retrain: bool = False
    k: int = Field(default=1, ge=1)
    sub_k: int = Field(default=1, ge=1)
    one_k: int = Field(default=3, ge=1)
    chain_k: int = Field(default=1, ge=1)
    max_tokens: int = Field(default=128, ge=1)  # the longest tree takes 96


@dataclass
class Bench:
    """What all arms of one seed share. The world is always the same; the seed draws the questions, and what the random
    selector picks."""

    settings: Settings
    seed: int
    world: SplitWorld
    model: KeptReplies
    index: IndexRetriever
    asked: tuple[Question, ...]
    keep: TemporaryDirectory[str]  # of the index, which lives as long as the bench

    def attempts(self, strategy: Strategy, top_k: int) -> list[Trajectory]:
        """One greedy attempt at each question."""
        sources = Sources(search=self.index, top_k=top_k)
        sampling = Sampling(max_tokens=self.settings.max_tokens, seed=self.seed)

        async def together() -> list[Trajectory]:
            return list(
                await asyncio.gather(*(strategy.run(q, self.model, sources, sampling=sampling) for q in self.asked))
            )

        return run(together())

    def right(self, node: SubQuestion, candidate: Candidate | None) -> bool:
        """Whether an answer to a node's question, as it was asked, is right."""
        truth = self.world.truth(node.question)
        return candidate is not None and not candidate.problem and truth is not None and _same(candidate.text, truth)

    def golds(self, question: str) -> tuple[str, ...]:
        """What is accepted for the question of any node."""
        truth = self.world.truth(question)
        return () if truth is None else (truth,)


def _same(said: str, truth: str) -> bool:
    return exact_match(said, [truth])


def prepare(settings: Settings, seed: int) -> Bench:
    world = SplitWorld(settings.base.world)
    keep = TemporaryDirectory(prefix="ken-probtree-")
    index = Index.build(documents(world), Path(keep.name) / "index", tokenizer="simple")
    base = settings.base.model_copy(update={"seed": settings.base.seed + seed}) if settings.retrain else settings.base
    model = LocalModel(built(base), spec="lab/splitworld", device="cpu", batch_size=512, control_tokens=True)
    return Bench(
        settings,
        seed,
        world,
        KeptReplies(model),
        IndexRetriever(index),
        tuple(questions(world, settings.asked, settings.questions, seed)),
        keep,
    )


# --- arms -------------------------------------------------------------------------------------------------------------


def measured(strategy: Callable[[Bench], Strategy], top_k: Callable[[Settings], int]) -> Callable[[Bench], Metrics]:
    """An arm that answers every question by a strategy.

    f1, em; f1_2-hop, …: by kind; calls, searches: a question; malformed: share of attempts with any malformed output.
    """

    def arm(bench: Bench) -> Metrics:
        made = bench.attempts(strategy(bench), top_k(bench.settings))
        scores = [token_f1(t.answer, t.question.answers) for t in made]
        kinds = [t.question.meta["kind"] for t in made]
        of_trees = _trees(bench, made) if made[0].strategy == Tree.name else {}
        return {
            "f1": mean(scores),
            "em": mean(exact_match(t.answer, t.question.answers) for t in made),
            **{f"f1_{kind}": mean(s for s, k in zip(scores, kinds, strict=True) if k == kind) for kind in KINDS},
            "calls": mean(t.usage.model_calls for t in made),
            "searches": mean(len(t.searches) for t in made),
            "malformed": mean(t.malformed > 0 for t in made),
            **of_trees,
        }

    return arm


def _trees(bench: Bench, made: Sequence[Trajectory]) -> Metrics:
    """What the trees of an arm say about their nodes.

    split: share of trees that are as they should be; leaf_closed, leaf_open, leaf: share of leaves that each way
    answers right, and the one that won; near_…: of leaves about a fact that is known inside only and of whose namesake
    the corpus tells. won_…: shares of who won at the inner nodes. repaired, lost: questions whose answer from the
    parts is wrong and that are right in the end, and the other way round, as shares of all; repair_rate: repaired as a
    share of those where it is wrong. auroc: do scores of leaves tell right from wrong? calibration_…: exp(score) of the
    root's answer against its F1, in bins of equal mass.
    """
    trees = [tree for t in made if (tree := QueryTree.of(t)) is not None]
    leaves = [node for tree in trees for node in tree.nodes if not node.children]
    inner = [node for tree in trees for node in tree.nodes if node.children]
    near = [node for node in leaves if _near(bench, node)]
    found: dict[str, float | Sequence[float]] = {
        "split": mean(not any("in the tree" in getattr(s, "problem", "") for s in t.steps) for t in made),
        "nodes": mean(len(tree.nodes) for tree in trees),
    }
    for name, nodes in (("leaf", leaves), ("near", near)):
        found[name] = mean(bench.right(node, node.answer) for node in nodes)
        for method in ("closed", "open"):
            found[f"{name}_{method}"] = mean(bench.right(node, _by(node, method)) for node in nodes)
    for method in ("closed", "open", "child"):
        found[f"won_{method}"] = mean(node.chosen == method for node in inner)
    roots = [tree.root for tree in trees if _by(tree.root, "child") is not None]
    joined = [bench.right(root, _by(root, "child")) for root in roots]
    final = [bench.right(root, root.answer) for root in roots]
    found["repaired"] = mean(not j and f for j, f in zip(joined, final, strict=True))
    found["lost"] = mean(j and not f for j, f in zip(joined, final, strict=True))
    found["repair_rate"] = mean(f for j, f in zip(joined, final, strict=True) if not j)
    candidates = [(c.score, bench.right(n, c)) for n in leaves for c in n.candidates if not c.problem]
    if candidates:
        found["auroc"] = auroc([s for s, _ in candidates], [r for _, r in candidates]) or math.nan
    answered = [
        (math.exp(min(0.0, tree.root.answer.score)), token_f1(tree.root.answer.text, t.question.answers))
        for t in made
        if (tree := QueryTree.of(t)) is not None and tree.root.answer is not None
    ]
    if answered:
        curve = reliability([a for a, _ in answered], [f1 for _, f1 in answered], bins=BINS, equal_mass=True)
        found["calibration_confidence"] = [b.confidence for b in curve]
        found["calibration_f1"] = [b.accuracy for b in curve]
    return found


def _by(node: SubQuestion, method: Method) -> Candidate | None:
    return next((c for c in node.candidates if c.method == method), None)


def _near(bench: Bench, node: SubQuestion) -> bool:
    fact = bench.world.fact(node.question)
    return fact is not None and fact.near is not None


def tree(**how: object) -> Callable[[Bench], Metrics]:
    """An arm of `Tree`, as the paper has it but for `how`."""
    return measured(lambda bench: Tree(k=bench.settings.k, sub_k=bench.settings.sub_k, **how), lambda s: s.k)  # type: ignore[arg-type]


ARMS = (
    Arm("cot", "a chain of thought from memory", tree(max_depth=0, leaf=("closed",))),
    Arm(
        "one-r",
        "one search with the question, then a chain of thought",
        measured(lambda bench: Tree(max_depth=0, leaf=("open",), k=bench.settings.one_k), lambda s: s.one_k),
    ),
    Arm("self-ask", "asks itself, a search answers", measured(lambda bench: SelfAsk(5), lambda s: s.chain_k)),
    Arm("ircot", "each sentence of the thought is a query", measured(lambda _: Ircot(5), lambda s: s.chain_k)),
    Arm("tree-open", "the tree, passages win at every node", tree(selector="open")),
    Arm("open-leaves", "the tree, leaves from passages, the rest from parts", tree(leaf=("open",), inner=("child",))),
    Arm("closed-leaves", "the tree, leaves from memory, the rest from parts", tree(leaf=("closed",), inner=("child",))),
    Arm("tree-random", "the tree, anybody wins", tree(selector="random")),
    Arm("probtree", "the tree, the likeliest explanation wins", tree()),
    Arm("no-ca", "ProbTree without answers from parts", tree(inner=("closed", "open"))),
    Arm("no-cb", "ProbTree without memory", tree(leaf=("open",), inner=("open", "child"))),
    Arm("no-ob", "ProbTree without passages", tree(leaf=("closed",), inner=("closed", "child"))),
    Arm("no-qd", "ProbTree without the likelihood of the parts", tree(aggregation="mean-without-decomposition")),
    Arm(
        "oracle",
        "the tree, whoever is right wins",
        measured(
            lambda bench: Tree(selector="oracle", golds=bench.golds, k=bench.settings.k, sub_k=bench.settings.sub_k),
            lambda s: s.k,
        ),
    ),
    Arm("sum", "ProbTree, scores of parts in sum", tree(aggregation="sum"), optional=True),
    Arm("answer-tokens", "ProbTree, sure by its answers", tree(confidence="answer"), optional=True),
    Arm("all-tokens", "ProbTree, sure by everything it wrote", tree(confidence="all"), optional=True),
    Arm("probability", "ProbTree, in probabilities", tree(confidence="probability"), optional=True),
)

# --- claims -----------------------------------------------------------------------------------------------------------


def _closed_gap(arms: Arms) -> float:
    """How much of the way from the random selector to the oracle ProbTree goes, beyond a half."""
    low, high = arms["tree-random"]["f1"], arms["oracle"]["f1"]
    return float((arms["probtree"]["f1"] - low) - 0.5 * (high - low))


CLAIMS = (
    Claim(
        "F1: ProbTree ≥ the best baseline + 0.05",
        "hard",
        0.05,
        lambda arms: arms["probtree"]["f1"] - max(arms[name]["f1"] for name in BASELINES),
    ),
    Claim("F1: ProbTree ≥ the random selector + 0.08", "hard", 0.08, gap("f1", "probtree", "tree-random")),
    Claim("ProbTree closes half of the gap from random to oracle", "hard", 0.0, _closed_gap),
    Claim(
        "Leaves: the winner is right more often than the better of memory and passages, by 0.05",
        "hard",
        0.05,
        lambda arms: arms["probtree"]["leaf"] - max(arms["probtree"]["leaf_closed"], arms["probtree"]["leaf_open"]),
    ),
    Claim(
        "Leaves known inside, with a namesake outside: ProbTree ≥ passages + 0.20",
        "hard",
        0.2,
        lambda arms: arms["probtree"]["near"] - arms["probtree"]["near_open"],
    ),
    Claim(
        "Of questions whose answer from the parts is wrong, 0.10 are right in the end",
        "hard",
        0.1,
        lambda arms: arms["probtree"]["repair_rate"],
    ),
    Claim(
        "More wrong answers from parts are repaired than right ones lost",
        "hard",
        0.0,
        lambda arms: arms["probtree"]["repaired"] - arms["probtree"]["lost"],
    ),
)

paper = Paper(
    entry=entry("probtree"),
    summary=(
        "A question is split into a tree; every node is answered from memory, from passages and from its parts, and "
        "the answer whose explanation the model finds likeliest wins. Here the model has about a million parameters, "
        "knows a part of the facts of a small world, and finds others in a corpus that also tells of namesakes; the "
        "paper's is text-davinci-003 on HotpotQA, MuSiQue and 2WikiMQA. World and base model are the same for all "
        "seeds, which draw the questions, unless `retrain` is set. The authors' own records are scored again by "
        "`ken replay probtree`."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), questions=4, max_tokens=32),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=("f1", "calls", "searches", "leaf", "leaf_closed", "leaf_open", "near", "near_open", "repair_rate"),
)
