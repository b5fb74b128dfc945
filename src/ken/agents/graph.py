"""Think-on-Graph: a model walks a knowledge graph by beam search (Sun et al. 2024, arXiv 2307.07697; card 44).

From the topic entities of a question it repeats, up to a depth: which relations of the entities at hand matter (scored
by the model), which entities they lead to matter (scored by the model), and do the triples so far, with what the model
knows, suffice? If so it answers, and the triples are the trace. If never, it answers from what it knows.

`Answer.source` says where an answer comes from: "graph", with `partial` where the walk ended before the triples were
judged to suffice, or "inside". A fallback is never counted as the graph's.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from ken.agents import graph_prompts as prompts
from ken.agents.attempt import Attempt
from ken.agents.confidence import span_probability
from ken.agents.direct import write_answer
from ken.agents.graph_link import LINKERS, Linker, topic_entities
from ken.agents.graph_parse import (
    NO_ANSWER,
    NO_VERDICT,
    parse_braced,
    parse_enough,
    parse_relations,
    parse_scores,
    parse_unbraced,
)
from ken.agents.graph_prune import ByMeaning, Scorer, by_words
from ken.agents.graph_walk import neighbours, relations
from ken.agents.instructions import CLOSED
from ken.agents.protocol import escape
from ken.agents.strategy import Strategy
from ken.core import Answer, BadInput, Entity, Malformed, Observation, Thought, Triple
from ken.core.seeding import derive_seed
from ken.models import Generation
from ken.models.conversation import Instruction
from ken.sources.graph.protocol import Relation

Prune = Literal["llm", "bm25", "embedding"]
AnswerMode = Literal["same-call", "separate"]
RelationPruning = Literal["per-entity", "global"]

MOST_CANDIDATES = 1000  # neighbours by one relation that are scored where no model reads them all
_NAMELESS = re.compile(r"(?:[mg]\.\w+|Q\d+|P\d+|_:.*|\w+://.*|)")  # ids without a name: Freebase, Wikidata, IRIs


@dataclass(frozen=True, slots=True)
class Path:
    """A walk so far: where it started, its triples, where it stands, and the relation that led there."""

    start: Entity
    entity: Entity
    hops: tuple[tuple[Relation, Triple], ...] = ()
    score: float = 1.0

    def step(self, relation: Relation, triple: Triple, score: float) -> Path:
        """One hop further, scored."""
        end = triple.object if relation.direction == "out" else triple.subject
        return Path(self.start, end, (*self.hops, (relation, triple.model_copy(update={"score": score}))), score)

    @property
    def triple(self) -> Triple:
        """The last triple."""
        return self.hops[-1][1]


@dataclass(slots=True)
class Walk:
    """One attempt's walk: the attempt, its random draws, and what it has found.

    evidence: the triples kept so far, in the order of depth and score. labels: of relations, by the graph's name.
    """

    attempt: Attempt
    rng: random.Random
    evidence: list[Triple] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def question(self) -> str:
        return self.attempt.question.text

    def scored(self, candidates: Iterable[Path], depth: int) -> None:
        """Take the triples of `candidates` as evidence, and note them."""
        found = tuple(
            {(p.triple.subject.id, p.triple.relation, p.triple.object.id): p.triple for p in candidates}.values()
        )
        self.evidence += found
        self.attempt.steps.append(Observation(triples=found, note=f"kept at depth {depth}"))


class Graph(Strategy):
    """ToG: beam search with `width` paths up to `depth` hops (1 each or more; the paper's 3 and 3, card 44).

    prune: what scores relations and entities: the model ("llm"), words in common ("bm25"), or nearness in meaning
        ("embedding", by `encoder`: a sentence-transformers model or a `Scorer`).
    triple_format: how the triples are shown: as such, as sequences along each path, or as sentences.
    answer_mode: "same-call" takes the answer that comes with the verdict (as the authors' code does), "separate" asks
        for it in a call of its own (as the paper writes).
    linker: where the topic entities come from (see `topic_entities`).
    relation_pruning: keep `width` relations "per-entity" (as the code does) or over all entities together (as the paper
        writes, "global"), which bounds the calls at 2·width·depth + depth + 1.
    sample_from, retain: of `sample_from` or more entities at the end of a relation, `retain` are drawn at random before
        the model scores them (Freebase: 20 and 5; Wikidata: 10 are retained).
    exploration_temperature: of relation and entity scores; everything else is as the attempt is sampled.

    Raises `BadInput` for a number or name that cannot be.
    """

    name = "graph"
    needs_graph = True

    def __init__(
        self,
        width: int = 3,
        depth: int = 3,
        *,
        prune: Prune = "llm",
        encoder: str | Scorer | None = None,
        triple_format: prompts.TripleFormat = "triples",
        answer_mode: AnswerMode = "same-call",
        linker: Linker = "auto",
        relation_pruning: RelationPruning = "per-entity",
        sample_from: int = 20,
        retain: int = 5,
        exploration_temperature: float = 0.4,
    ) -> None:
        if width < 1 or depth < 1:
            raise BadInput(f"width is {width} and depth {depth}; a walk on a graph needs at least 1 of each")
        if not 1 <= retain <= sample_from:
            raise BadInput(f"retain is {retain} and sample_from {sample_from}; choose 1 ≤ retain ≤ sample_from")
        if exploration_temperature < 0:
            raise BadInput(f"exploration_temperature is {exploration_temperature}; it must be at least 0")
        _one_of("prune", prune, get_args(Prune))
        _one_of("triple_format", triple_format, get_args(prompts.TripleFormat))
        _one_of("answer_mode", answer_mode, get_args(AnswerMode))
        _one_of("linker", linker, LINKERS)
        _one_of("relation_pruning", relation_pruning, get_args(RelationPruning))
        self.width, self.depth = width, depth
        self.scorer: Scorer | None = None
        if prune == "bm25":
            self.scorer = by_words
        elif prune == "embedding":
            self.scorer = encoder if callable(encoder) else ByMeaning(*[encoder] if encoder else [])
        self.triple_format, self.answer_mode, self.linker = triple_format, answer_mode, linker
        self.relation_pruning, self.sample_from, self.retain = relation_pruning, sample_from, retain
        self.exploration_temperature = exploration_temperature

    @property
    def most_calls(self) -> int:
        """No question needs more calls of the model, but for the one that the linker "llm" adds: 2ND + D + 1 where
        relations are pruned over all entities (section 2.1), (N + N²)D + D + 1 where for each, D + 1 without a model
        that prunes."""
        n, d = self.width, self.depth
        if self.scorer is not None:
            return d + 1
        return n * d + (n if self.relation_pruning == "global" else n * n) * d + d + 1

    async def solve(self, attempt: Attempt) -> None:
        sampling = attempt.sampling
        seed = derive_seed("graph", sampling.seed, attempt.question.id, attempt.sample)
        walk = Walk(attempt, random.Random(seed))
        beam = [Path(entity, entity) for entity in await topic_entities(attempt, self.linker, self.width)]
        for depth in range(1, self.depth + 1):
            candidates = await self._explore(walk, beam)
            kept = self._kept(walk, candidates)
            if not kept:
                return await self._half_stop(walk)
            walk.scored(kept, depth)
            shown = self._shown(walk, kept)
            if await self._enough(walk, shown):
                return None
            beam = self._next(walk, kept)
            if not beam:
                return await self._half_stop(walk)
        attempt.steps.append(Observation(note=f"not enough after {self.depth} hops"))
        return await answer_inside(attempt)

    # --- exploring
    # -----------------------------------------------------------------------------------------------------------------

    async def _explore(self, walk: Walk, beam: Sequence[Path]) -> list[Path]:
        """All candidates one hop from the beam, with their scores, of this depth only."""
        offered = [(path, await self._offered(walk, path)) for path in beam]
        scored = await asyncio.gather(*(self._relations(walk, p, found) for p, found in offered if found))
        chosen = [one for some in scored for one in some]
        if self.relation_pruning == "global":
            chosen = sorted(chosen, key=lambda one: -one[2])[: self.width]
        found = [
            (path, relation, score, await self._neighbours(walk, path, relation)) for path, relation, score in chosen
        ]
        steps = await asyncio.gather(*(self._entities(walk, *one) for one in found if one[3]))
        return [path for some in steps for path in some]

    async def _offered(self, walk: Walk, path: Path) -> dict[str, Relation]:
        """The relations of where a path stands, by their label as it is shown; none that leads straight back. A label
        that is there already says that it is the inverse, or is followed by the graph's own name."""
        found = await relations(walk.attempt, path.entity)
        if path.hops:
            came = path.hops[-1][0]
            found = tuple(r for r in found if r.name != came.name or r.direction == came.direction)
        walk.labels.update((r.name, r.label) for r in found)
        offered: dict[str, Relation] = {}
        for relation in sorted(found, key=lambda r: (r.direction == "in", r.label, r.name)):
            label = prompts.shown(relation.label) or relation.name
            if label in offered:
                inverse = offered[label].name == relation.name
                label += " (inverse)" if inverse else f" [{prompts.shown(relation.name)}]"
            offered.setdefault(label, relation)
        return dict(sorted(offered.items()))

    async def _relations(
        self, walk: Walk, path: Path, offered: dict[str, Relation]
    ) -> list[tuple[Path, Relation, float]]:
        labels = list(offered)
        if self.scorer is not None:
            scores = _or_uniform(self.scorer(walk.question, labels))
            ranked = sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])[: self.width]
        else:
            text = prompts.relations_prompt(walk.question, path.entity, labels)
            reply = await self._ask(walk, prompts.choose_relations(self.width), text, exploring=True)
            said = parse_relations(reply.text, labels, self.width)
            walk.attempt.steps += [Malformed(text=reply.text, problem=problem) for problem in said.problems]
            ranked = list(said.scores)
        told = ", ".join(f"{label} {score:.2g}" for label, score in ranked)
        walk.attempt.steps.append(Thought(text=f"relations of {path.entity.label}: {told or 'none'}"))
        return [(path, offered[label], score) for label, score in ranked]

    async def _neighbours(self, walk: Walk, path: Path, relation: Relation) -> tuple[Triple, ...]:
        """The triples that a relation leads to; of very many a sample."""
        limit = self.sample_from if self.scorer is None else MOST_CANDIDATES
        seed = walk.rng.randrange(2**31)
        triples, found = await neighbours(walk.attempt, path.entity, relation, limit=limit, seed=seed)
        many = len(triples) >= self.sample_from or (found.total or 0) >= self.sample_from
        if self.scorer is None and many:
            chosen = sorted(walk.rng.sample(range(len(triples)), min(self.retain, len(triples))))
            return tuple(triples[i] for i in chosen)
        return triples

    async def _entities(
        self, walk: Walk, path: Path, relation: Relation, score: float, triples: Sequence[Triple]
    ) -> list[Path]:
        """The candidates of one relation, each scored s_r · s_e."""
        ends = [path.step(relation, triple, 1.0).entity for triple in triples]
        named = [i for i, end in enumerate(ends) if not _NAMELESS.fullmatch(end.label)]
        if 0 < len(named) < len(ends):  # what has no name is dropped, unless nothing has
            triples, ends = [triples[i] for i in named], [ends[i] for i in named]
        if len(ends) == 1:
            shares = [1.0]
        elif not named:
            shares = [1 / len(ends)] * len(ends)
        else:
            shares = await self._shares(walk, relation, ends)
        return [path.step(relation, t, score * share) for t, share in zip(triples, shares, strict=True)]

    async def _shares(self, walk: Walk, relation: Relation, ends: Sequence[Entity]) -> list[float]:
        """What each of several named entities contributes."""
        if self.scorer is not None:
            return _or_uniform(self.scorer(walk.question, [end.label for end in ends]))
        text = prompts.entities_prompt(walk.question, relation.label, ends)
        reply = await self._ask(walk, prompts.ENTITIES, text, exploring=True)
        shares, problem = parse_scores(reply.text, len(ends))
        if problem is not None:
            walk.attempt.steps.append(Malformed(text=reply.text, problem=problem))
        return shares

    def _kept(self, walk: Walk, candidates: Sequence[Path]) -> list[Path]:
        """The best `width` candidates with a score above 0; of equal ones those of the better path."""
        return sorted((c for c in candidates if c.score > 0), key=lambda c: -c.score)[: self.width]

    def _next(self, walk: Walk, kept: Sequence[Path]) -> list[Path]:
        """From where the walk goes on: each entity once, by its best path. Nothing leads on from a literal."""
        return list({path.entity.id: path for path in reversed(kept) if not path.entity.literal}.values())[::-1]

    # --- reasoning
    # -----------------------------------------------------------------------------------------------------------------

    enough: Instruction = prompts.TRIPLES_ENOUGH

    def _shown(self, walk: Walk, kept: Sequence[Path]) -> str:
        """What the model is shown of what was found."""
        if self.triple_format == "sequences":
            hops = [(p.start, [(walk.labels[r.name], _end(r, t)) for r, t in p.hops]) for p in kept]
            knowledge = prompts.sequence_lines(hops)
        else:
            knowledge = prompts.triple_lines(walk.evidence, walk.labels, self.triple_format)
        return prompts.triples_prompt(walk.question, knowledge)

    async def _enough(self, walk: Walk, shown: str) -> bool:
        """Whether what was found suffices; the answer is then noted. A verdict that cannot be read is a No."""
        reply = await self._ask(walk, self.enough, shown)
        verdict = parse_enough(reply.text)
        if verdict is None:
            walk.attempt.steps.append(Malformed(text=reply.text, problem=NO_VERDICT))
        walk.attempt.steps.append(Thought(text=reply.text.strip() or "nothing"))
        if not verdict:
            return False
        if self.answer_mode == "same-call":
            if (found := parse_braced(reply.text)) is not None:
                self._note(walk, reply, found)
                return True
            walk.attempt.steps.append(Malformed(text=reply.text, problem=NO_ANSWER))
        await self._answer(walk, shown)
        return True

    async def _answer(self, walk: Walk, shown: str, *, partial: bool = False) -> None:
        """Ask for the answer from what was found, without a verdict."""
        reply = await self._ask(walk, prompts.ANSWER, shown)
        if (found := parse_braced(reply.text)) is not None:
            self._note(walk, reply, found, partial=partial)
            return
        walk.attempt.steps.append(Malformed(text=reply.text, problem=NO_ANSWER))
        if said := parse_unbraced(reply.text):
            walk.attempt.steps.append(Answer(text=said, source="graph", partial=partial))

    @staticmethod
    def _note(walk: Walk, reply: Generation, found: tuple[str, int, int], *, partial: bool = False) -> None:
        text, start, end = found
        confidence = span_probability(reply, start, end)
        walk.attempt.steps.append(Answer(text=text, source="graph", partial=partial, confidence=confidence))

    async def _half_stop(self, walk: Walk) -> None:
        """The walk leads nowhere: answer from the triples so far, or from the inside where there are none."""
        if not walk.evidence:
            walk.attempt.steps.append(Observation(note="the graph has nothing to go by"))
            return await answer_inside(walk.attempt)
        walk.attempt.steps.append(Observation(note="the walk leads no further"))
        knowledge = prompts.triple_lines(walk.evidence, walk.labels, self._lines)
        return await self._answer(walk, prompts.triples_prompt(walk.question, knowledge), partial=True)

    @property
    def _lines(self) -> prompts.TripleFormat:
        return "sentences" if self.triple_format == "sentences" else "triples"

    async def _ask(self, walk: Walk, instruction: Instruction, text: str, *, exploring: bool = False) -> Generation:
        sampling = walk.attempt.sampling
        if exploring:
            sampling = sampling.but(temperature=self.exploration_temperature)
        return await walk.attempt.aside(instruction, text, sampling=sampling)


class GraphRelations(Graph):
    """ToG-R: the same walk over chains of relations. No entity is scored: the model reads each chain with all that it
    leads to, and on a No the walk goes on from `width` entities drawn at random. Options as of `Graph`."""

    name = "graph-relations"
    enough = prompts.CHAINS_ENOUGH

    @property
    def most_calls(self) -> int:
        """As of `Graph`, without entity calls: ND + D + 1."""
        return self.depth + 1 + (0 if self.scorer is not None else self.width * self.depth)

    async def _shares(self, walk: Walk, relation: Relation, ends: Sequence[Entity]) -> list[float]:
        return [1 / len(ends)] * len(ends)

    def _kept(self, walk: Walk, candidates: Sequence[Path]) -> list[Path]:
        """All of them: what is kept is drawn for the next hop."""
        return [c for c in candidates if c.score > 0]

    def _next(self, walk: Walk, kept: Sequence[Path]) -> list[Path]:
        paths = super()._next(walk, kept)
        chosen = sorted(walk.rng.sample(range(len(paths)), min(self.width, len(paths))))
        return [paths[i] for i in chosen]

    def _shown(self, walk: Walk, kept: Sequence[Path]) -> str:
        chains: dict[tuple[Entity, tuple[str, ...]], list[Entity]] = {}
        for path in kept:
            labels = tuple(walk.labels[relation.name] for relation, _ in path.hops)
            chains.setdefault((path.start, labels), []).append(path.entity)
        return prompts.chains_prompt(walk.question, prompts.chain_lines(chains))


async def answer_inside(attempt: Attempt) -> None:
    """Answer closed book, with a thought first, and say that the answer is the model's own."""
    attempt.begin(CLOSED, escape(attempt.question.text))
    await write_answer(attempt, reminders=0)  # a reminder would exceed the method's bound on its calls
    if isinstance(last := attempt.steps[-1], Answer):
        attempt.steps[-1] = last.model_copy(update={"source": "inside"})


def _end(relation: Relation, triple: Triple) -> Entity:
    return triple.object if relation.direction == "out" else triple.subject


def _or_uniform(scores: Sequence[float]) -> list[float]:
    """Scores as they are, or all the same where none is above 0."""
    return list(scores) if any(score > 0 for score in scores) else [1 / len(scores)] * len(scores)


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise BadInput(f"{name} is {value!r}; choose one of {', '.join(choices)}")
