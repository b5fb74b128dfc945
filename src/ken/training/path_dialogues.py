"""Dialogues to learn a walk from: shortest paths to the right answer, unrolled as the strategy `solver` leads them
(KSL, arXiv 2309.03118, Algorithm 2; card 55).

The strategy itself is run, with the path in the place of a model, so that every prompt is what it is at inference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, get_args

from ken.agents.attempt import Attempt
from ken.agents.solver import Map, Solver, Walk
from ken.agents.solver_prompts import CHOOSE, HEAD, Neighbour, one_line, opening
from ken.core import BadInput, Entity, Question, Sampling, Triple, Unsupported, Usage
from ken.core.choices import choices_of, letter
from ken.core.seeding import derive_seed
from ken.models import Generation, Message
from ken.models.conversation import Conversation, Score
from ken.sources import KnowledgeGraph, Sources

Ties = Literal["random", "question", "all"]
"""Of several shortest paths: one at random, from a question entity at random (the paper's, as far as could be seen); of
all question entities' shortest paths the one whose relations the question names most; or all."""

Dialogue = tuple[Message, ...]
"""A conversation whose `policy` messages are to be learnt."""

MOST_PATHS = 200


@dataclass(slots=True)
class PathDialogues:
    """Dialogues, and why some questions gave none: by reason how many. questions: those that were asked for."""

    dialogues: list[Dialogue] = field(default_factory=list)
    questions: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


async def build_path_dialogues(
    questions: Iterable[Question],
    graph: KnowledgeGraph,
    solver: Solver | None = None,
    *,
    ties: Ties = "random",
    held_out: Sequence[Question] = (),
    heads: bool = False,
    seed: int = 0,
) -> PathDialogues:
    """A dialogue for each question with candidates and a known answer: from an entity of the question by a shortest
    path that meets no other candidate to the right one's entity; each turn is the next line, the last the letter.

    solver: whose prompts, limits and subgraphs they have. held_out: questions that nothing may be learnt from; one that
    has the id, or the text and candidates, of such a question is skipped. heads: also dialogues that choose where to
    begin, of questions that name several entities. What is skipped is counted. Raises `SourceError`, `BadInput` for
    ties that there are not.
    """
    if ties not in get_args(Ties):
        raise BadInput(f"ties is {ties!r}; choose from {', '.join(get_args(Ties))}")
    solver = solver or Solver()
    kept_away = {q.id for q in held_out} | {_content(q) for q in held_out}
    made = PathDialogues()
    for question in questions:
        made.questions += 1
        if kept_away & {question.id, _content(question)}:
            made.skipped["held out"] += 1
            continue
        found = await _dialogues(question, graph, solver, ties=ties, heads=heads, seed=seed)
        if isinstance(found, str):
            made.skipped[found] += 1
        else:
            made.used += 1
            made.dialogues += found
    return made


async def _dialogues(
    question: Question, graph: KnowledgeGraph, solver: Solver, *, ties: Ties, heads: bool, seed: int
) -> list[Dialogue] | str:
    choices = choices_of(question)
    right = [i for i, choice in enumerate(choices) if choice in question.answers]
    if len(right) != 1:
        return "not exactly one candidate is right"
    topics, subgraph = await solver.extractor.of(graph, question)
    goals = [entity for entity, place in topics.place.items() if place == right[0]]
    if not topics.heads:
        return "no entity of the question is in the graph"
    if not goals:
        return "the answer is not in the graph"
    free = subgraph.without({entity for entity, place in topics.place.items() if place != right[0]})
    ways: list[tuple[Entity, tuple[Triple, ...]]] = []
    for head in topics.heads:
        paths = await free.paths([head.id], goals, max_hops=solver.max_rounds, limit=MOST_PATHS)
        ways += [(head, path) for path in paths if len(path) == len(paths[0])]
    if not ways:
        return "no path"
    chosen = _chosen(question, ways, ties, solver, Random(derive_seed("path", seed, question.id)))
    dialogues: list[Dialogue] = []
    for head, path in chosen:
        if (dialogue := await _led(question, graph, solver, head, path)) is not None:
            dialogues.append(dialogue)
    if not dialogues:
        return "the path is not among the neighbours that are shown"
    if heads and len(topics.heads) > 1:
        names = "; ".join(one_line(one.label) for one in topics.heads)
        text = f"{opening(question.text, choices)}Question entities: {names}"
        said = Message("policy", one_line(chosen[0][0].label))
        dialogues.append((Message("system", HEAD), Message("user", text), said))
    return dialogues


def _chosen(
    question: Question,
    ways: Sequence[tuple[Entity, tuple[Triple, ...]]],
    ties: Ties,
    solver: Solver,
    rng: Random,
) -> list[tuple[Entity, tuple[Triple, ...]]]:
    if ties == "all":
        return list(ways)
    if ties == "random":
        head = rng.choice(list({head.id: head for head, _ in ways}.values()))
        return [rng.choice([way for way in ways if way[0].id == head.id])]
    asked = set(re.findall(r"\w+", question.text.casefold()))

    def named(way: tuple[Entity, tuple[Triple, ...]]) -> float:
        """Share of the hops whose relation the question names."""
        at, hits = way[0].id, 0
        for triple in way[1]:
            out = triple.subject.id == at
            words = re.findall(r"\w+", solver.names.of(triple, out=out).casefold())
            hits += bool(words) and asked.issuperset(words)
            at = triple.object.id if out else triple.subject.id
        return hits / len(way[1])

    best = max((named(way), -len(way[1])) for way in ways)
    return [rng.choice([way for way in ways if (named(way), -len(way[1])) == best])]


async def _led(
    question: Question, graph: KnowledgeGraph, solver: Solver, head: Entity, path: Sequence[Triple]
) -> Dialogue | None:
    """The dialogue of a walk along a path; None when it leaves what is shown."""
    guide = Guide()
    await _Led(solver, guide, head, path).run(question, guide, Sources(graph=graph), sampling=Sampling())
    if not guide.arrived:
        return None
    return (*guide.conversation, Message("policy", guide.reply))


class Guide:
    """A model that says what it is told to say, and keeps the conversation in which it said so."""

    spec = "path"

    def __init__(self) -> None:
        self.reply, self.arrived = "", False
        self.conversation: Conversation = ()

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        self.conversation = tuple(conversation)
        return [Generation(text=self.reply, ended="end", usage=Usage(model_calls=1))]

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        raise Unsupported("a guide has no probabilities")

    async def close(self) -> None:
        """Nothing is held."""


class _Led(Solver):
    """A walk along a given path, asked at its end for the letter of the candidate that it reached."""

    def __init__(self, like: Solver, guide: Guide, head: Entity, path: Sequence[Triple]) -> None:
        super().__init__(
            max_rounds=like.max_rounds,
            shown=like.shown,
            revisit=like.revisit,
            names=like.names,
            extractor=like.extractor,
        )
        self.guide, self.head, self.path = guide, head, path

    async def _begin_at(self, attempt: Attempt, map_: Map) -> Sequence[Entity]:
        return [self.head]

    async def _next(
        self, attempt: Attempt, map_: Map, walk: Walk, neighbours: Sequence[Neighbour]
    ) -> Neighbour | str | None:
        wanted = self.path[len(walk.path)]
        other = wanted.object.id if wanted.subject.id == walk.at.id else wanted.subject.id
        leading = [n for n in neighbours if n.entity.id == other]
        step = next((n for n in leading if n.triple == wanted), leading[0] if leading else None)
        if step is None:
            return None
        self.guide.reply = step.line
        return await super()._next(attempt, map_, walk, neighbours)

    async def _arrived(self, attempt: Attempt, map_: Map, walks: Sequence[Walk]) -> None:
        self.guide.reply, self.guide.arrived = f"ANSWER: {letter(walks[0].reached or 0)}", True
        attempt.observe(CHOOSE)
        await attempt.generate(stop=())

    async def _choose(self, attempt: Attempt, map_: Map, walk: Walk) -> None:
        """A walk that left the list teaches nothing."""


def _content(question: Question) -> str:
    return "\x1f".join([question.text.casefold(), *sorted(choices_of(question))])
