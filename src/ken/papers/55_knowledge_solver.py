"""KSL: a language model searches a knowledge graph, one entity at a time (arXiv 2309.03118; card 55)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from ken.agents import Strategy
from ken.agents.background import run
from ken.agents.choices import Choose, TripleDump, asked
from ken.agents.instructions import CLOSED
from ken.agents.solver import Heads, OracleWalker, RandomWalker, Solver, explained, path_of, stops_of
from ken.agents.solver_prompts import RelationNames
from ken.core import Entity, Malformed, Observation, Question, Sampling, Trajectory, Triple
from ken.core.choices import choices_of
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.concepts import HOPS, ConceptWorld, questions, triples
from ken.metrics.statistics import bootstrap_difference, mean
from ken.models import Message
from ken.models.conversation import Conversation
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper, gap
from ken.sources import KnowledgeGraph, Sources
from ken.sources.graph.store import TripleStore
from ken.sources.graph.subgraph import Subgraph, SubgraphExtractor, Topics
from ken.training.concepts_base import ConceptsBaseConfig, smoke_config
from ken.training.lab_checkpoint import built
from ken.training.path_dialogues import Guide, Ties, build_path_dialogues
from ken.training.sft import SFTConfig, conversation_example, sft

TOKENS = 8  # the longest reply, `<answer> name </answer>`, takes 4
DOMAIN = 1  # the second one, which the base model has never walked


class Settings(Frozen):
    """asked: questions that arms are measured on: the test ones, or while settings are being chosen others ("dev").

    limit: how many. learnt: questions that are learnt from. hops, nodes: of a subgraph; the card's two hops would lose
    the middle of every chain of three. heads: where walks begin; at random, as in the paper, half of them would begin
    at the concept that a question names beside its anchor, from where its words lead nowhere (an optional arm measures
    that). ties: which shortest path is learnt; between two concepts there are several, and the one at random that the
    paper may take mostly has nothing to do with the question. ft_*: of the fine-tunings.
    """

    base: ConceptsBaseConfig = ConceptsBaseConfig()
    asked: Literal["test", "dev"] = "test"
    limit: int = Field(default=399, ge=3)
    learnt: int = Field(default=300, ge=1)
    hops: int = Field(default=3, ge=1)
    nodes: int = Field(default=200, ge=1)
    heads: Heads = "model"
    max_rounds: int = Field(default=5, ge=1)
    ties: Ties = "question"
    ft_epochs: float = Field(default=3.0, gt=0)
    ft_batch: int = Field(default=16, ge=1)
    ft_lr: float = Field(default=1e-3, gt=0)


class KeptSubgraphs(SubgraphExtractor):
    """Every question's subgraph is looked for once, for all arms."""

    def __init__(self, *, hops: int, nodes: int) -> None:
        super().__init__(hops=hops, nodes=nodes, max_words=1)
        self._found: dict[str, tuple[Topics, Subgraph]] = {}

    async def of(self, graph: KnowledgeGraph, question: Question) -> tuple[Topics, Subgraph]:
        if question.id not in self._found:
            self._found[question.id] = await super().of(graph, question)
        return self._found[question.id]


class Dump(TripleDump):
    """The triple dump, its relations read from the side of the entity as in a walk."""

    def __init__(self, names: RelationNames) -> None:
        super().__init__(max_words=1)
        self.names = names

    def line(self, triple: Triple, entity: Entity) -> str:
        out = triple.subject.id == entity.id
        other = triple.object if out else triple.subject
        return f"{entity.label}, {self.names.of(triple, out=out)}, {other.label}"


@dataclass
class Bench:
    """What all arms of one seed share. The seed draws the world, the base model, which questions are learnt from and
    asked, in which order they are learnt, and where walks begin at random."""

    settings: Settings
    seed: int
    world: ConceptWorld
    graph: KnowledgeGraph
    folder: str
    extractor: KeptSubgraphs
    learnt: tuple[Question, ...]
    asked: tuple[Question, ...]
    kept: dict[str, LocalModel] = field(default_factory=dict)

    @property
    def names(self) -> RelationNames:
        return RelationNames(inverse=self.world.inverse)

    def model(self) -> LocalModel:
        """The base model, fresh."""
        return LocalModel(self.folder, spec="lab/concepts", device="cpu", batch_size=512, control_tokens=True)

    def solver(self, kind: type[Solver] = Solver, **options: Any) -> Solver:
        """The walker, with what the settings say unless `options` say otherwise."""
        s = self.settings
        given: dict[str, Any] = {"heads": s.heads, "max_rounds": s.max_rounds, **options}
        return kind(names=self.names, extractor=self.extractor, **given)

    def attempts(self, model: LocalModel, strategy: Strategy) -> list[Trajectory]:
        """One greedy attempt at each question."""

        async def together() -> list[Trajectory]:
            sampling = Sampling(max_tokens=TOKENS, seed=self.seed)
            sources = Sources(graph=self.graph)
            return list(await asyncio.gather(*(strategy.run(q, model, sources, sampling=sampling) for q in self.asked)))

        return run(together())


def prepare(settings: Settings, seed: int) -> Bench:
    base = settings.base
    base = base.model_copy(update={"seed": seed, "world": base.world.model_copy(update={"seed": seed})})
    world = ConceptWorld(base.world)
    test = questions(world, DOMAIN, settings.limit, split="test")
    learnt = questions(world, DOMAIN, settings.learnt, split="train", avoid=test)
    asked_ = test
    if settings.asked == "dev":
        asked_ = questions(world, DOMAIN, settings.limit, split="dev", avoid=[*test, *learnt])
    return Bench(
        settings,
        seed,
        world,
        TripleStore.of(triples(world)),
        str(built(base)),
        KeptSubgraphs(hops=settings.hops, nodes=settings.nodes),
        tuple(learnt),
        tuple(asked_),
    )


# --- measures --------------------------------------------------------------------------------------------------------


def measured(bench: Bench, made: Sequence[Trajectory], *, walked: bool) -> Metrics:
    """The row of the table.

    acc, acc_1 …: share of questions whose answer is the right candidate, of all and by hops; acc_far: of two and three
    hops. Of walks: explained: answers that a walk reached; explained_acc: of these, right; hard: walks that ended in
    another candidate; valid: edges of walks that the subgraph has; ends_right: of right answers that are explained,
    those whose walk ends in the gold candidate's entity; length: hops; consistent: of hops, those on some shortest way
    to the right answer; unlisted: replies that named nothing on the list, a question; approximate: matched by other
    than their exact words, a question; fallback: questions whose answer no walk reached; errors: attempts that failed.
    right_each: 1 or 0 for each question, for the paired bootstrap.
    """
    right = [t.answer is not None and t.answer in t.question.answers for t in made]
    hops = [int(str(t.question.meta["hops"])) for t in made]
    row: dict[str, float | list[float]] = {
        "acc": mean(right),
        **{f"acc_{n}": mean(r for r, h in zip(right, hops, strict=True) if h == n) for n in HOPS},
        "acc_far": mean(r for r, h in zip(right, hops, strict=True) if h > 1),
        "unfinished": mean(t.unfinished for t in made),
        "errors": mean(t.error is not None for t in made),
        "right_each": [float(r) for r in right],
    }
    if walked:
        row |= _of_walks(bench, [(t, path_of(t)) for t in made], right)
    return row


def _of_walks(
    bench: Bench, walks: Sequence[tuple[Trajectory, tuple[Triple, ...]]], right: Sequence[bool]
) -> dict[str, float]:
    reached = [explained(t) for t, _ in walks]
    valid: list[bool] = []
    consistent: list[bool] = []
    ends: list[bool] = []
    for (trajectory, path), hit, way in zip(walks, right, reached, strict=True):
        topics, subgraph = run(bench.extractor.of(bench.graph, trajectory.question))
        valid += [triple in subgraph for triple in path]
        choices = choices_of(trajectory.question)
        gold = {e for e, place in topics.place.items() if choices[place] in trajectory.question.answers}
        others = topics.place.keys() - gold
        free = subgraph.without(others)
        far = free.distances(min(gold), len(free.nodes)) if gold else {}
        stops = [entity.id for entity in stops_of(trajectory)]
        consistent += [far.get(b, 99) == far.get(a, 99) - 1 for a, b in pairwise(stops)]
        if hit and way:
            ends.append(bool(stops) and stops[-1] in gold)
    notes = [s.note for t, _ in walks for s in t.steps if isinstance(s, Observation)]
    return {
        "explained": mean(reached),
        "explained_acc": mean(h for h, w in zip(right, reached, strict=True) if w),
        "hard": mean(w and not h for h, w in zip(right, reached, strict=True)),
        "fallback": mean(not w for w in reached),
        "valid": mean(valid),
        "ends_right": mean(ends),
        "length": mean(len(path) for _, path in walks),
        "consistent": mean(consistent),
        "unlisted": sum(isinstance(s, Malformed) for t, _ in walks for s in t.steps) / len(walks),
        "approximate": sum(" is taken for " in note for note in notes) / len(walks),
    }


# --- arms ------------------------------------------------------------------------------------------------------------


def tuned(bench: Bench, name: str, conversations: Iterable[Conversation]) -> LocalModel:
    """The base model after fine-tuning on conversations; the same for all arms that ask for it."""
    if name not in bench.kept:
        s, pupil = bench.settings, bench.model()
        rows = [conversation_example(pupil, one) for one in conversations]
        config = SFTConfig(
            epochs=s.ft_epochs,
            batch=s.ft_batch,
            lr=s.ft_lr,
            warmup_steps=5,
            seed=derive_seed("fine-tuning", name, bench.seed) % 2**31,
        )
        sft(pupil, rows, config)
        bench.kept[name] = pupil
    return bench.kept[name]


def dialogues(bench: Bench) -> list[Conversation]:
    """What KSL-ft learns from."""
    made = run(
        build_path_dialogues(
            bench.learnt,
            bench.graph,
            bench.solver(),
            ties=bench.settings.ties,
            held_out=bench.asked,
            heads=True,
            seed=bench.seed,
        )
    )
    return list(made.dialogues)


def answered(bench: Bench) -> list[Conversation]:
    """The same questions closed book."""
    return [
        (
            Message("system", CLOSED),
            Message("user", asked(q.text, choices_of(q))),
            Message("policy", f"<answer> {q.answers[0]} </answer>"),
        )
        for q in bench.learnt
    ]


def dumped(bench: Bench) -> list[Conversation]:
    """The same questions below triples, as the strategy shows them."""
    strategy, guide = Dump(bench.names), Guide()
    made: list[Conversation] = []

    async def show() -> None:
        for q in bench.learnt:
            guide.reply = f"<answer> {q.answers[0]} </answer>"
            await strategy.run(q, guide, Sources(graph=bench.graph))
            made.append((*guide.conversation, Message("policy", guide.reply)))

    run(show())
    return made


def of_base(strategy: Callable[[Bench], Strategy]) -> Callable[[Bench], Metrics]:
    """An arm without any learning in the second domain."""
    return lambda bench: asked_by(bench, bench.model(), strategy(bench))


def asked_by(bench: Bench, model: LocalModel, strategy: Strategy) -> Metrics:
    """What an arm measures."""
    return measured(bench, bench.attempts(model, strategy), walked=isinstance(strategy, Solver))


def of_tuned(
    name: str, data: Callable[[Bench], list[Conversation]], strategy: Callable[[Bench], Strategy]
) -> Callable[[Bench], Metrics]:
    """An arm that has learnt from questions of the second domain."""

    def arm(bench: Bench) -> Metrics:
        conversations = data(bench)
        model = tuned(bench, name, conversations)
        return {**asked_by(bench, model, strategy(bench)), "conversations": float(len(conversations))}

    return arm


def walker(**options: Any) -> Callable[[Bench], Strategy]:
    return lambda bench: bench.solver(**options)


def sweep(*, learnt: bool) -> tuple[Arm[Bench], ...]:
    """Where walks begin, and how many rounds they may take; reported only."""
    arms: list[Arm[Bench]] = []
    name = "ksl-ft" if learnt else "ksl"
    choices: tuple[dict[str, Any], ...] = (
        {"heads": "random"},
        {"heads": "all"},
        {"heads": "relevant"},
        {"max_rounds": 2},
        {"max_rounds": 3},
    )
    for options in choices:
        make = walker(**options)
        run_ = of_tuned("ksl-ft", dialogues, make) if learnt else of_base(make)
        (what, value), *_ = options.items()
        text = f"{name}, its beginnings chosen by: {value}" if what == "heads" else f"{name}, at most {value} rounds"
        arms.append(Arm(f"{name}-{what.replace(chr(95), chr(45))}-{value}", text, run_, optional=True))
    return tuple(arms)


ARMS = (
    Arm("closed-book", "the base model chooses from what it was told", of_base(lambda bench: Choose())),
    Arm(
        "closed-book-likelihood",
        "the same by the candidates' log-likelihood",
        of_base(lambda bench: Choose("likelihood")),
        optional=True,
    ),
    Arm(
        "closed-book-sft",
        "closed book, after learning the answers of the same questions as KSL-ft",
        of_tuned("closed-book-sft", answered, lambda bench: Choose()),
    ),
    Arm(
        "triple-dump",
        "all triples around the question's concepts in one prompt",
        of_base(lambda bench: Dump(bench.names)),
    ),
    Arm(
        "triple-dump-sft",
        "the same, after learning from as many such prompts as KSL-ft has dialogues",
        of_tuned("triple-dump-sft", dumped, lambda bench: Dump(bench.names)),
    ),
    Arm(
        "random-walker",
        "every hop at random; the base model chooses where that reaches nothing",
        of_base(lambda bench: bench.solver(RandomWalker, heads="random")),
    ),
    Arm("ksl", "the base model walks a domain in which it has never walked", of_base(walker())),
    Arm("ksl-ft", "the same, after learning shortest paths there", of_tuned("ksl-ft", dialogues, walker())),
    Arm("oracle-walker", "knows the answer and walks to it", of_base(lambda bench: bench.solver(OracleWalker))),
    *sweep(learnt=False),
    *sweep(learnt=True),
)

# --- claims ----------------------------------------------------------------------------------------------------------


def lower_end(better: str, worse: str) -> Callable[[Arms], float]:
    """The lower end of the 95% interval of the difference in accuracy, questions paired."""
    return lambda arms: bootstrap_difference(arms[better]["right_each"], arms[worse]["right_each"]).low


CLAIMS = (
    Claim("Accuracy: KSL without training ≥ closed book + 0.08", "hard", 0.08, gap("acc", "ksl", "closed-book")),
    Claim("Accuracy: KSL-ft ≥ closed-book SFT + 0.08", "hard", 0.08, gap("acc", "ksl-ft", "closed-book-sft")),
    Claim("Accuracy: KSL-ft ≥ KSL without training + 0.03", "hard", 0.03, gap("acc", "ksl-ft", "ksl")),
    Claim("2–3 hops: KSL-ft ≥ triple dump + 0.05", "hard", 0.05, gap("acc_far", "ksl-ft", "triple-dump")),
    Claim(
        "2–3 hops: KSL-ft ≥ triple dump that learnt as much + 0.05",
        "soft",
        0.05,
        gap("acc_far", "ksl-ft", "triple-dump-sft"),
        note="not on the card: KSL-ft has learnt from the second domain, and the card's triple dump has not",
    ),
    Claim("Accuracy: KSL without training ≥ random walker + 0.10", "hard", 0.1, gap("acc", "ksl", "random-walker")),
    Claim(
        "Every edge of every walk is in the subgraph",
        "hard",
        0.0,
        lambda arms: min(arms[name]["valid"] for name in ("ksl", "ksl-ft")) - 1.0,
    ),
    Claim(
        "Every right answer that a walk explains ends in the right candidate's entity",
        "hard",
        0.0,
        lambda arms: min(arms[name]["ends_right"] for name in ("ksl", "ksl-ft")) - 1.0,
    ),
    *(
        Claim(
            f"Paired bootstrap over questions: {better} above {worse}, 95% interval without 0",
            "soft",
            0.0,
            lower_end(better, worse),
            note="the card's second test for one seed: the lower end of the interval must exceed 0",
        )
        for better, worse in (("ksl", "closed-book"), ("ksl-ft", "closed-book-sft"), ("ksl-ft", "ksl"))
    ),
)


paper = Paper(
    entry=entry("knowledge-solver"),
    summary=(
        "A walk over a knowledge graph becomes a dialogue: the model names the next entity, is shown what is next to "
        "it, and stops at a candidate. Here the graph is a generated one of 900 concepts in two domains, the model has "
        "about a million parameters, learnt what a walk is in the first domain and is asked about the second; the "
        "paper's are GPT-3.5 and LLaMA-7B over ConceptNet and a medical graph. The paper's prompts, limits and most of "
        "its numbers could not be seen (card 55 says which). It fine-tunes by LoRA; here all of the tiny model learns."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), limit=6, learnt=6, ft_epochs=1.0),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "acc",
        "acc_1",
        "acc_2",
        "acc_3",
        "explained",
        "explained_acc",
        "hard",
        "fallback",
        "consistent",
        "length",
        "unlisted",
    ),
)
