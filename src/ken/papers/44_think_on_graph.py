"""Think-on-Graph: a model walks a knowledge graph by beam search (arXiv 2307.07697; card 44)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ken.agents import Direct, Graph, GraphDump, GraphRelations, InputOutput, SelfConsistency
from ken.agents.background import run
from ken.agents.graph_explain import ask_corrected
from ken.agents.strategy import Strategy
from ken.core import Answer, Question, Sampling, Trajectory, Triple
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.graphworld import BY_LABEL, GraphWorld, Region, entity, questions, statements, type_of
from ken.metrics import exact_match, lenient_match
from ken.metrics.statistics import bootstrap_difference, mean
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper, gap
from ken.sources import Sources
from ken.sources.graph.store import TripleStore
from ken.training.graph_base import GraphBaseConfig, base_config, smoke_config
from ken.training.lab_checkpoint import built

MAX_TOKENS = 96  # the scores of 19 entities take so many


class Settings(Frozen):
    """small, large: the base models; retrained: with another seed for every seed of the run, as the card has it; else
    both are fixed, as real models are, and the seed draws questions, samples and edits.
    asked: the region of the questions: the test region, or, while settings are being chosen, the training region
    ("dev"). counts: questions of one, two and three hops. width, depth: of the walk. samples: of self-consistency.
    edits: questions of which one triple is changed.

    The walk keeps `width` relations over all entities, as the paper writes, and not for each, as the code does, since
    the paper's bound on the calls is that of the former; "tog-per-entity" is the latter.
    """

    small: GraphBaseConfig = base_config("S")
    large: GraphBaseConfig = base_config("L")
    retrained: bool = False
    asked: Literal["test", "dev"] = "test"
    counts: tuple[int, int, int] = (100, 150, 150)
    width: int = Field(default=3, ge=1)
    depth: int = Field(default=3, ge=1)
    samples: int = Field(default=5, ge=2)
    edits: int = Field(default=50, ge=1)


@dataclass
class Bench:
    """What all arms of one seed share: the world, its graph, the questions and both models."""

    settings: Settings
    seed: int
    world: GraphWorld
    region: Region
    graph: TripleStore
    asked: tuple[Question, ...]
    folders: dict[str, Path]

    def model(self, size: str) -> LocalModel:
        """The base model "S" or "L", fresh."""
        return LocalModel(
            self.folders[size], spec=f"lab/graph-{size}", device="cpu", batch_size=512, control_tokens=True
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_tokens=MAX_TOKENS, seed=derive_seed("think-on-graph", self.seed) % 2**31)

    def attempts(self, model: LocalModel, strategy: Strategy) -> list[Trajectory]:
        """One attempt at each question, all at once."""
        sources = Sources(graph=self.graph)

        async def together() -> list[Trajectory]:
            return list(
                await asyncio.gather(*(strategy.run(q, model, sources, sampling=self.sampling) for q in self.asked))
            )

        made = run(together())
        if failed := [t.error for t in made if t.error]:
            raise RuntimeError(f"{len(failed)} attempts failed, the first: {failed[0]}")
        return made

    def walker(self, kind: type[Graph] = Graph, **options: Any) -> Graph:
        """The walk as this row takes it."""
        s = self.settings
        return kind(**{"width": s.width, "depth": s.depth, "relation_pruning": "global", **options})

    def measure(self, made: Sequence[Trajectory], strategy: Strategy) -> dict[str, float | list[float]]:
        """The row of the table.

        em, em_1 …, em_23: strict, of all, by hops, of two and three; lenient: the authors' measure beside it. right:
        question by question. calls, most_calls: of the model; within: share of the questions within the bound on them.
        graph, partial, inside: where answers come from; em_graph, em_inside: accuracy of each. true_triples: of all
        triples that were shown, the share that the graph holds. recall: share of the hops on a way to an answer whose
        triple was kept. malformed: a question.
        """
        right = [exact_match(t.answer, t.question.answers) for t in made]
        hops = [int(str(t.question.meta["hops"])) for t in made]
        last = [next((s for s in reversed(t.steps) if isinstance(s, Answer)), None) for t in made]
        origin = [a and ("partial" if a.partial else a.source) for a in last]
        bound = strategy.most_calls if isinstance(strategy, Graph) else None
        measured: dict[str, float | list[float]] = {
            "em": mean(right),
            **{f"em_{n}": mean(r for r, h in zip(right, hops, strict=True) if h == n) for n in (1, 2, 3)},
            "em_23": mean(r for r, h in zip(right, hops, strict=True) if h > 1),
            "lenient": mean(lenient_match(t.answer, t.question.answers) for t in made),
            "right": [float(r) for r in right],
            "calls": mean(t.usage.model_calls for t in made),
            "malformed": mean(t.malformed for t in made),
            "unfinished": mean(t.unfinished for t in made),
        }
        if strategy.needs_graph:
            measured |= {
                "most_calls": float(max(t.usage.model_calls for t in made)),
                "graph_calls": mean(t.usage.graph_calls for t in made),
                "true_triples": mean(self._holds(triple) for t in made for triple in t.triples),
                "recall": mean(hit for t in made for hit in self._recalled(t)),
            }
            for name in ("graph", "partial", "inside"):
                ours = [r for r, o in zip(right, origin, strict=True) if o == name]
                measured |= {name: len(ours) / len(made), f"em_{name}": mean(ours)}
        if bound is not None:
            measured["within"] = mean(t.usage.model_calls <= bound for t in made)
        return measured

    def _holds(self, triple: Triple) -> bool:
        objects = self.world.outgoing.get(triple.subject.label, {}).get(triple.relation, ())
        return triple.object.label in objects

    @staticmethod
    def _recalled(trajectory: Trajectory) -> list[bool]:
        """For every hop of the gold path whether its triple is among those found."""
        found = {(t.subject.label, t.relation, t.object.label) for t in trajectory.triples}
        path: Any = trajectory.question.meta["evidence"]
        return [(hop["subject"], hop["relation"], hop["value"]) in found for hop in path]


def prepare(settings: Settings, seed: int) -> Bench:
    world = GraphWorld(settings.small.world)
    region: Region = "test" if settings.asked == "test" else "train"
    counts = [(hops, count) for hops, count in enumerate(settings.counts, start=1) if count]
    shift = seed if settings.retrained else 0
    configs = {
        size: config.model_copy(update={"seed": config.seed + shift})
        for size, config in (("S", settings.small), ("L", settings.large))
    }
    return Bench(
        settings,
        seed,
        world,
        region,
        TripleStore.of(statements(world, region), name=f"graphworld-{region}"),
        tuple(questions(world, region, counts, seed=seed + (2**20 if region == "train" else 0))),
        {size: built(config) for size, config in configs.items()},
    )


# --- arms ------------------------------------------------------------------------------------------------------------


def asking(make: Callable[[Bench], Strategy], size: str = "S") -> Callable[[Bench], Metrics]:
    """An arm: a strategy and the model that follows it."""

    def arm(bench: Bench) -> Metrics:
        strategy = make(bench)
        return bench.measure(bench.attempts(bench.model(size), strategy), strategy)

    return arm


def by_own_embeddings(bench: Bench) -> Metrics:
    """ToG pruned by nearness in meaning. Sentence models do not know the names of this world, so its words have the
    small model's own input embeddings, averaged over a text."""
    model = bench.model("S")
    table = model.model.get_input_embeddings().weight.detach()
    vectors: dict[str, Any] = {}

    def vector(text: str) -> Any:
        if text not in vectors:
            ids = model.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            mean_of = table[ids].mean(0)
            vectors[text] = mean_of / mean_of.norm().clamp_min(1e-9)
        return vectors[text]

    def near(question: str, texts: Sequence[str]) -> list[float]:
        return [max(0.0, float(vector(question) @ vector(text))) for text in texts]

    strategy = bench.walker(prune="embedding", encoder=near)
    return bench.measure(bench.attempts(model, strategy), strategy)


def corrected(bench: Bench) -> Metrics:
    """ToG asks again after one triple on the way to a right answer was changed: how often the new answer follows, and
    how often it is still the old one. Of questions with one way to one answer, so that the edit changes what is
    right."""
    strategy, model = bench.walker(), bench.model("S")
    made = bench.attempts(model, strategy)
    edits = [(t, edit) for t in made if (edit := _edit(bench, t)) is not None][: bench.settings.edits]

    async def together() -> list[Trajectory]:
        sources = Sources(graph=bench.graph)
        return list(
            await asyncio.gather(
                *(
                    ask_corrected(t, old, new, strategy=strategy, model=model, sources=sources)
                    for t, (old, new, _) in edits
                )
            )
        )

    again = run(together())
    return {
        "edited": float(len(edits)),
        "followed": mean(exact_match(t.answer, golds) for t, (_, (_, _, golds)) in zip(again, edits, strict=True)),
        "unmoved": mean(
            exact_match(t.answer, before.question.answers) for t, (before, _) in zip(again, edits, strict=True)
        ),
    }


def _edit(bench: Bench, trajectory: Trajectory) -> tuple[Triple, Triple, tuple[str, ...]] | None:
    """A triple of the gold path, what it is changed to, and the answers that are right then; None where the answer was
    wrong or not the graph's, or where another way leads to it."""
    asked = trajectory.question
    last = next((s for s in reversed(trajectory.steps) if isinstance(s, Answer)), None)
    if last is None or last.source != "graph" or last.partial or not exact_match(last.text, asked.answers):
        return None
    path: Any = asked.meta["evidence"]
    relations = [BY_LABEL[hop["relation"]] for hop in path]
    types = [type_of(hop["value"]) for hop in path]
    walk = bench.world.walk(path[0]["subject"], relations, types)
    if walk is None or any(len(reached) > 1 for reached in walk.reached):
        return None
    rng = derive_seed("edit", bench.seed, asked.id)
    place = rng % len(path)
    others = bench.world.entities[bench.region][types[place]]
    for offset in range(len(others)):
        other = others[(rng // 7 + offset) % len(others)]
        rest = bench.world.walk(other, relations[place + 1 :], types[place + 1 :]) if place + 1 < len(path) else None
        golds = (other,) if place + 1 == len(path) else rest.answers if rest else ()
        if golds and other not in [hop["value"] for hop in path] and not set(golds) & set(asked.answers):
            hop = path[place]
            old = Triple(subject=entity(hop["subject"]), relation=hop["relation"], object=entity(hop["value"]))
            return old, old.model_copy(update={"object": entity(other)}), golds
    return None


ARMS = (
    Arm("io", "the answer at once, closed book", asking(lambda bench: InputOutput())),
    Arm("cot", "a chain of thought, closed book", asking(lambda bench: Direct())),
    Arm(
        "sc",
        "the majority of five chains of thought",
        asking(lambda bench: SelfConsistency(bench.settings.samples)),
    ),
    Arm("dump", "all triples of the topic entity at once", asking(lambda bench: GraphDump())),
    Arm("naive", "ToG with a beam of one", asking(lambda bench: bench.walker(width=1))),
    Arm("tog", "ToG: relations and entities scored by the model", asking(lambda bench: bench.walker())),
    Arm("tog-r", "ToG-R: chains of relations, entities at random", asking(lambda bench: bench.walker(GraphRelations))),
    Arm("tog-bm25", "ToG pruned by words in common", asking(lambda bench: bench.walker(prune="bm25"))),
    Arm("tog-embedding", "ToG pruned by nearness of embeddings", by_own_embeddings),
    Arm("tog-depth-1", "ToG, one hop", asking(lambda bench: bench.walker(depth=1))),
    Arm("tog-depth-2", "ToG, two hops", asking(lambda bench: bench.walker(depth=2))),
    Arm("tog-corrected", "ToG after a triple on the way was changed", corrected),
    Arm("io-l", "the large model, the answer at once", asking(lambda bench: InputOutput(), "L")),
    Arm("cot-l", "the large model, a chain of thought", asking(lambda bench: Direct(), "L")),
    Arm("tog-l", "the large model, ToG", asking(lambda bench: bench.walker(), "L")),
    Arm(
        "tog-per-entity",
        "ToG with as many relations of every entity",
        asking(lambda bench: bench.walker(relation_pruning="per-entity")),
        optional=True,
    ),
    Arm(
        "tog-separate",
        "ToG, the answer in a call of its own",
        asking(lambda bench: bench.walker(answer_mode="separate")),
        optional=True,
    ),
)

# --- claims ----------------------------------------------------------------------------------------------------------


def surely_above(better: str, worse: str) -> Callable[[Arms], float]:
    """The lower end of the paired bootstrap interval (95%) over questions of how much more often one arm is right."""
    return lambda arms: bootstrap_difference(arms[better]["right"], arms[worse]["right"]).low


CLAIMS = (
    Claim("EM on 2 and 3 hops: ToG ≥ CoT + 0.25", "hard", 0.25, gap("em_23", "tog", "cot")),
    Claim("ToG against CoT: the paired interval excludes 0", "hard", 1e-3, surely_above("tog", "cot")),
    Claim("EM: ToG with the small model ≥ CoT with the large one + 0.05", "hard", 0.05, gap("em", "tog", "cot-l")),
    Claim(
        "ToG against CoT of the large model: the paired interval excludes 0", "hard", 1e-3, surely_above("tog", "cot-l")
    ),
    Claim("EM: depth 3 ≥ depth 1 + 0.20", "hard", 0.2, gap("em", "tog", "tog-depth-1")),
    Claim("EM: a beam of one is at most ToG", "hard", 0.0, gap("em", "tog", "naive")),
    Claim("EM: pruned by the model ≥ pruned by BM25 + 0.05", "hard", 0.05, gap("em", "tog", "tog-bm25")),
    Claim("ToG against BM25: the paired interval excludes 0", "hard", 1e-3, surely_above("tog", "tog-bm25")),
    Claim(
        "Every question within 2ND + D + 1 calls (ToG) and ND + D + 1 (ToG-R)",
        "hard",
        1.0,
        lambda arms: min(arms[name]["within"] for name in ("tog", "tog-r", "tog-bm25", "naive", "tog-l")),
    ),
    Claim(
        "Every triple shown is in the graph",
        "hard",
        1.0,
        lambda arms: min(arms[name]["true_triples"] for name in ("tog", "tog-r", "tog-bm25", "naive", "tog-l", "dump")),
    ),
    Claim(
        "After an edit, at least 0.8 of the answers follow", "hard", 0.8, lambda arms: arms["tog-corrected"]["followed"]
    ),
    Claim("Calls: ToG-R fewer than ToG", "hard", 0.0, gap("calls", "tog", "tog-r")),
    Claim("EM: ToG-R within 0.10 of ToG", "hard", -0.1, gap("em", "tog-r", "tog")),
    Claim("EM: CoT's self-consistency is below ToG", "soft", 0.0, gap("em", "tog", "sc")),
    Claim("EM: all triples of the topic entity are below ToG", "soft", 0.0, gap("em", "tog", "dump")),
    Claim("EM: ToG ≥ pruned by embeddings", "soft", 0.0, gap("em", "tog", "tog-embedding")),
)

paper = Paper(
    entry=entry("think-on-graph"),
    summary=(
        "A model walks a knowledge graph: it scores the relations of the entities at hand, then the entities that they "
        "lead to, keeps the best, and says when the triples so far suffice; if they never do, it answers from what it "
        "knows, and says so. Here two models of one and one and a half million parameters, which know 40 and 70% of a "
        "graph of 300 typed entities and were taught the method's prompts on another region of the world, walk the "
        "region they were not taught; the paper's are prompted chat models on Freebase and Wikidata. Of what a walk "
        "found they read two answers in three: the gate on that was lowered from 0.7 to 0.55 before any claim was seen."
    ),
    full=Settings(),
    smoke=Settings(small=smoke_config("S"), large=smoke_config("L"), counts=(4, 4, 4), samples=2, edits=4),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "em",
        "em_1",
        "em_2",
        "em_3",
        "lenient",
        "calls",
        "graph",
        "partial",
        "inside",
        "em_graph",
        "recall",
        "malformed",
        "followed",
    ),
)
