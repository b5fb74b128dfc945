"""Search a knowledge graph by dialogue: the model names the next entity until it reaches an answer (KSL, Feng et al.
2023, arXiv 2309.03118).

A question with candidates is walked in the part of the graph that connects them with what the question names; the
candidate that is reached is the answer, and the way there explains it. A question without candidates is walked in the
whole graph, which the paper does not do; there the walk ends when the model says what the answer is.

graph = TripleStore.of([("sailor", "lives in", "harbour"), ("harbour", "known for", "fish")])
question = Question(id="q", text="What is the home of a sailor known for?", meta={"choices": ["bread", "fish"]})
await Solver().run(question, model, Sources(graph=graph))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from random import Random
from typing import Literal, get_args

from ken.agents.attempt import Attempt
from ken.agents.choices import choose_closed_book
from ken.agents.direct import Direct
from ken.agents.graph_walk import edges, graph_of, other_end
from ken.agents.solver_prompts import (
    CHOOSE,
    CONCLUDE,
    HEAD,
    SOLVE,
    UNLISTED,
    Neighbour,
    RelationNames,
    listed,
    match,
    one_line,
    opening,
    parse_reply,
    turn,
)
from ken.agents.strategy import Strategy
from ken.core import Answer, BadInput, Entity, Malformed, Observation, Trajectory, Triple, Usage
from ken.core.choices import choices_of, chosen
from ken.core.seeding import derive_seed
from ken.metrics import normalize_answer
from ken.sources.graph.subgraph import Subgraph, SubgraphExtractor, Topics

Heads = Literal["random", "all", "relevant", "model"]
"""Where a walk begins: at an entity of the question at random (the paper's), at each of them in turn with a vote over
where the walks end, at the one most relevant or else closest to the candidates, or where the model says."""

THE_WAY = "the way from "  # begins the note of the observation that holds a walk
FETCHED = 200  # edges of an entity that are looked at; those shown are the most relevant of them
_NEXT_ROUND = ("\nRound ",)  # models that are not tuned to take turns write the environment's, too


@dataclass(slots=True)
class Walk:
    """A walk and how it ended. reached: the place of the candidate. said: what the model answered by itself."""

    at: Entity
    path: list[Triple] = field(default_factory=list)
    visited: list[Entity] = field(default_factory=list)
    listed: dict[str, Entity] = field(default_factory=dict)  # all that were shown
    reached: int | None = None
    said: str | None = None
    rounds: int = 0
    ended: bool = False  # nothing new is next to where it is
    logprobs: list[float] = field(default_factory=list)

    @property
    def sureness(self) -> float:
        """Mean log-probability of what the model wrote; 0 where it gives none."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0


@dataclass(frozen=True, slots=True)
class Map:
    """What a walk knows of its question. place: which candidate an entity (by id) is."""

    topics: Topics
    choices: tuple[str, ...]
    place: dict[str, int]
    subgraph: Subgraph | None  # None for questions without candidates


class Solver(Strategy):
    """Walk from an entity of the question, at most `max_rounds` hops, to a candidate or to what the model says.

    heads: see `Heads`. shown: most neighbours in a round; of more the most relevant (by the extractor's relevance of
    relation and label), in the graph's order. revisit: whether entities of the walk are listed again. names: how
    relations read. extractor: of the subgraph of a question with candidates.

    The answer's source is "graph" only when the walk reached it. Otherwise (the rounds are used up, two replies in a
    row name nothing on the list, the model says NONE or answers by itself, the walk cannot go on) the model chooses
    after what it saw; that answer, or the candidate whose words are closest to the last entity, is from "inside" and
    `partial`. A question of which the graph has nothing is answered closed book, which is noted.

    Raises `BadInput` for numbers below 1 and for heads that there are not.
    """

    name = "solver"
    needs_graph = True

    def __init__(
        self,
        *,
        max_rounds: int = 5,
        heads: Heads = "random",
        shown: int = 30,
        revisit: bool = False,
        names: RelationNames | None = None,
        extractor: SubgraphExtractor | None = None,
    ) -> None:
        if min(max_rounds, shown) < 1:
            raise BadInput("max_rounds and shown of the solver must be at least 1")
        if heads not in get_args(Heads):
            raise BadInput(f"heads is {heads!r}; choose from {', '.join(get_args(Heads))}")
        self.max_rounds, self.heads, self.shown, self.revisit = max_rounds, heads, shown, revisit
        self.names, self.extractor = names or RelationNames(), extractor or SubgraphExtractor()

    async def solve(self, attempt: Attempt) -> None:
        map_ = await self._look(attempt)
        if map_ is None:
            await self._closed_book(attempt)
            return
        walks = [await self._walk(attempt, map_, head) for head in await self._begin_at(attempt, map_)]
        reached = [walk for walk in walks if walk.reached is not None]
        if reached:
            await self._arrived(attempt, map_, reached)
        elif map_.choices:
            await self._choose(attempt, map_, walks[-1])
        else:
            await self._conclude(attempt, walks[-1])

    # --- where to walk ---

    async def _look(self, attempt: Attempt) -> Map | None:
        """What the graph has of the question; None when no walk can begin or end, which is noted."""
        graph, question = graph_of(attempt), attempt.question
        choices = choices_of(question)
        attempt.count(Usage(graph_calls=1))
        if not choices:
            topics = await self.extractor.topics(graph, question)
            return self._noted(attempt, Map(topics, (), {}, None))
        topics, subgraph = await self.extractor.of(graph, question)
        attempt.sources = replace(attempt.sources, graph=subgraph)
        return self._noted(attempt, Map(topics, choices, topics.place, subgraph))

    @staticmethod
    def _noted(attempt: Attempt, map_: Map) -> Map | None:
        named = "; ".join(entity.label for entity in map_.topics.question)
        missing = [c for i, c in enumerate(map_.choices) if i not in map_.place.values()]
        problem = ""
        if not map_.topics.heads:
            problem = "no entity of the question is in the graph, but for candidates" if named else NOT_IN_GRAPH
        elif map_.choices and not map_.place:
            problem = "none of the candidates is in the graph, each as one that no other is"
        if problem:
            attempt.steps.append(Observation(note=problem, error=True))
            return None
        note = f"entities of the question: {named}"
        note += f"; not in the graph, or not told apart: {', '.join(missing)}" if missing else ""
        attempt.steps.append(Observation(note=note))
        return map_

    async def _begin_at(self, attempt: Attempt, map_: Map) -> Sequence[Entity]:
        heads = map_.topics.heads
        if self.heads == "all" or len(heads) == 1:
            return heads
        at_random = heads[Random(derive_seed(attempt.sampling.seed, attempt.question.id, "head")).randrange(len(heads))]
        if self.heads == "relevant":
            return [await self._most_relevant(attempt, map_)]
        if self.heads == "model":
            names = "; ".join(one_line(head.label) for head in heads)
            text = f"{opening(attempt.question.text, map_.choices)}Question entities: {names}"
            reply = parse_reply((await attempt.aside(HEAD, text, stop=_NEXT_ROUND)).text)
            options = [Neighbour(head, "", _no_triple(head), one_line(head.label)) for head in heads]
            found = match(reply.text, options) if reply else None
            if found is None:
                said = reply.text if reply else ""
                attempt.steps.append(Malformed(text=said, problem="no entity of the question to begin at"))
            return [found[0].entity if found else at_random]
        return [at_random]

    async def _most_relevant(self, attempt: Attempt, map_: Map) -> Entity:
        heads = map_.topics.heads
        scores = await self.extractor.relevance(attempt.question.text, [head.label for head in heads])

        def far(head: Entity) -> float:
            if map_.subgraph is None:
                return 0.0
            reach = map_.subgraph.distances(head.id, self.max_rounds)
            return sum(reach.get(entity, self.max_rounds + 1) for entity in map_.place)

        ranked = sorted(zip(heads, scores, strict=True), key=lambda pair: (-pair[1], far(pair[0]), pair[0].id))
        return ranked[0][0]

    # --- the walk ---

    async def _walk(self, attempt: Attempt, map_: Map, head: Entity) -> Walk:
        walk = Walk(at=head, visited=[head])
        for number in range(1, self.max_rounds + 1):
            neighbours = await self._neighbours(attempt, walk)
            if not neighbours:
                walk.ended = True
                break
            walk.rounds = number
            walk.listed |= {n.entity.id: n.entity for n in neighbours}
            step = await self._next(attempt, map_, walk, neighbours)
            if step is None or isinstance(step, str):
                walk.said = step
                break
            walk.path.append(step.triple)
            walk.visited.append(step.entity)
            walk.at = step.entity
            if step.entity.id in map_.place:
                walk.reached = map_.place[step.entity.id]
                break
        if walk.path:
            attempt.steps.append(Observation(triples=tuple(walk.path), note=f"{THE_WAY}{head.label}"))
        return walk

    async def _neighbours(self, attempt: Attempt, walk: Walk) -> tuple[Neighbour, ...]:
        been = set() if self.revisit else {entity.id for entity in walk.visited}
        triples = await edges(attempt, walk.at, limit=max(FETCHED, self.shown))
        lines = tuple(n for n in listed(walk.at, triples, self.names) if n.entity.id not in been)
        if len(lines) <= self.shown:
            return lines
        scores = await self.extractor.relevance(attempt.question.text, [n.line for n in lines])
        best = sorted(range(len(lines)), key=lambda i: (-scores[i], i))[: self.shown]
        return tuple(lines[i] for i in sorted(best))

    async def _next(
        self, attempt: Attempt, map_: Map, walk: Walk, neighbours: Sequence[Neighbour]
    ) -> Neighbour | str | None:
        """The next entity, an answer that the model gives by itself, or None when it names nothing on the list."""
        shown = turn(walk.rounds, walk.at, neighbours)
        if walk.rounds == 1:
            attempt.begin(SOLVE, opening(attempt.question.text, map_.choices) + shown)
        else:
            attempt.observe(f"\n\n{shown}\n")
        for tries in range(2):
            if tries:
                attempt.observe(UNLISTED)
            generation = await attempt.generate(stop=_NEXT_ROUND)
            walk.logprobs += generation.logprobs or ()
            reply = parse_reply(generation.text)
            if reply is not None and reply.kind != "entity":
                return reply.text if reply.kind == "answer" else None
            found = match(reply.text, neighbours) if reply else None
            if found is not None and reply is not None:
                neighbour, way = found
                if way != "exact":
                    note = f"{reply.text!r} is taken for {neighbour.label!r} ({way})"
                    attempt.steps.append(Observation(note=note))
                return neighbour
            attempt.steps.append(Malformed(text=generation.text, problem="names no entity of the list"))
        return None

    # --- the answer ---

    async def _arrived(self, attempt: Attempt, map_: Map, walks: Sequence[Walk]) -> None:
        """The candidate that most walks reached; of equally many the one whose walk was surer."""
        votes = Counter(walk.reached for walk in walks)
        best = max(walks, key=lambda walk: (votes[walk.reached], walk.sureness))
        assert best.reached is not None
        attempt.steps.append(Answer(text=map_.choices[best.reached], source="graph"))

    async def _choose(self, attempt: Attempt, map_: Map, walk: Walk) -> None:
        """The candidate that the model chooses after a walk that reached none; else the one most like its end."""
        place = chosen(walk.said, map_.choices) if walk.said else None
        if place is None and walk.rounds:
            attempt.observe(CHOOSE)
            said = await self._said(attempt)
            place = chosen(said, map_.choices) if said else None
        elif place is None:  # there was nothing next to where it began
            await self._closed_book(attempt)
            return
        if place is None:
            attempt.steps.append(Malformed(text=said or "", problem="chooses no candidate"))
            place = closest(walk.at.label, map_.choices)
        attempt.steps.append(Answer(text=map_.choices[place], source="inside", partial=bool(walk.path)))

    async def _conclude(self, attempt: Attempt, walk: Walk) -> None:
        """The answer to a question without candidates: of the graph if it names an entity that the model was shown, and
        partial if the walk could have gone on."""
        said, partial = walk.said, walk.said is None and not walk.ended
        if said is None and walk.rounds:
            attempt.observe(CONCLUDE)
            said = await self._said(attempt)
        if said is None:
            await self._closed_book(attempt)
            return
        seen = {normalize_answer(entity.label) for entity in (*walk.visited, *walk.listed.values())}
        from_graph = normalize_answer(said) in seen
        attempt.steps.append(
            Answer(text=said, source="graph" if from_graph else "inside", partial=partial or not from_graph)
        )

    @staticmethod
    async def _said(attempt: Attempt) -> str | None:
        """What the model answers when it is asked to; without the words ANSWER: too."""
        reply = parse_reply((await attempt.generate(stop=_NEXT_ROUND)).text)
        return reply.text if reply is not None and reply.kind != "none" else None

    @staticmethod
    async def _closed_book(attempt: Attempt) -> None:
        choices = choices_of(attempt.question)
        if choices:
            await choose_closed_book(attempt, choices)
            return
        await Direct().solve(attempt)
        if attempt.steps and isinstance(last := attempt.steps[-1], Answer):
            attempt.steps[-1] = last.model_copy(update={"source": "inside"})


NOT_IN_GRAPH = "no entity of the question is in the graph"


class RandomWalker(Solver):
    """A baseline: every hop at random, without the model, which chooses closed book where that reaches nothing."""

    name = "random-walker"

    async def _next(
        self, attempt: Attempt, map_: Map, walk: Walk, neighbours: Sequence[Neighbour]
    ) -> Neighbour | str | None:
        seed = derive_seed(attempt.sampling.seed, attempt.question.id, "random walk", walk.at.id, walk.rounds)
        return neighbours[Random(seed).randrange(len(neighbours))]

    async def _choose(self, attempt: Attempt, map_: Map, walk: Walk) -> None:
        await self._closed_book(attempt)


class OracleWalker(RandomWalker):
    """For evaluation only: it knows the answer, and takes a shortest way to it from the head that is closest. What it
    cannot reach, no walker can."""

    name = "oracle-walker"

    async def _begin_at(self, attempt: Attempt, map_: Map) -> Sequence[Entity]:
        far = self._distances(attempt, map_)
        return [min(map_.topics.heads, key=lambda head: (far.get(head.id, FETCHED), head.id))]

    async def _next(
        self, attempt: Attempt, map_: Map, walk: Walk, neighbours: Sequence[Neighbour]
    ) -> Neighbour | str | None:
        far = self._distances(attempt, map_)
        nearest = min(neighbours, key=lambda n: (far.get(n.entity.id, FETCHED), n.entity.id))
        return nearest if nearest.entity.id in far else None

    @staticmethod
    def _distances(attempt: Attempt, map_: Map) -> dict[str, int]:
        """How far entities are from the gold one, on ways that meet no other candidate."""
        if map_.subgraph is None:
            return {}
        gold = {i for i, choice in enumerate(map_.choices) if choice in attempt.question.answers}
        others = {entity for entity, place in map_.place.items() if place not in gold}
        free = map_.subgraph.without(others)
        found: dict[str, int] = {}
        for entity, place in map_.place.items():
            if place in gold:
                for other, distance in free.distances(entity, len(free.nodes)).items():
                    found[other] = min(distance, found.get(other, distance))
        return found


def path_of(trajectory: Trajectory) -> tuple[Triple, ...]:
    """The way of the last walk that moved, () when none did."""
    ways = (s.triples for s in reversed(trajectory.steps) if isinstance(s, Observation) and s.note.startswith(THE_WAY))
    return next(ways, ())


def stops_of(trajectory: Trajectory) -> tuple[Entity, ...]:
    """The entities of the last walk that moved, from where it began to where it ended; () when none did."""
    path = path_of(trajectory)
    if not path:
        return ()
    start = next(
        s.note.removeprefix(THE_WAY)
        for s in reversed(trajectory.steps)
        if isinstance(s, Observation) and s.note.startswith(THE_WAY)
    )
    first = path[0]
    stops = [first.subject if first.subject.label == start else first.object]
    for triple in path:
        stops.append(other_end(triple, stops[-1]))
    return tuple(stops)


def explained(trajectory: Trajectory) -> bool:
    """Whether the answer was reached by a walk (the card's `answer_source` kg_path); false for every fallback."""
    last = next((s for s in reversed(trajectory.steps) if isinstance(s, Answer)), None)
    return last is not None and last.source == "graph" and not last.partial


def closest(text: str, choices: Sequence[str]) -> int:
    """The place of the candidate whose words are most like `text`; of equals the first."""
    ratios = [SequenceMatcher(None, text.casefold(), choice.casefold()).ratio() for choice in choices]
    return ratios.index(max(ratios))


def _no_triple(entity: Entity) -> Triple:
    return Triple(subject=entity, relation="", object=entity)
