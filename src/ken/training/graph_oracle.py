"""What a model that sees through a graph world would say on Think-on-Graph's prompts (card 44, Miniature claim check).

It stands in for a model while the method walks the training region, so that the examples of the base model are rendered
by the method's own prompt builders, in the states that the method comes through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ken.agents import graph_prompts as prompts
from ken.core import Sampling, Unsupported
from ken.lab.graphworld import Walk, type_of
from ken.models import Message, Model
from ken.models.conversation import Conversation, Generation, Instruction, Score

SCORES = tuple(f"{tenth / 10:.1f}" for tenth in range(11))


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with its right completion. token: of the instruction; answers: what else would be right as the answer
    that the completion gives."""

    token: str
    text: str
    completion: str
    answers: tuple[str, ...] = ()


@dataclass
class GraphOracle:
    """A `Model` that knows the walk behind every question. walks: by the question's text. `asked` keeps every prompt
    with the right completion; noise: share of the replies that are not what was right, so that later prompts show
    states that mistakes lead to."""

    walks: Mapping[str, Walk]
    rng: np.random.Generator
    noise: float = 0.0
    spec: str = "oracle"
    asked: list[Asked] = field(default_factory=list)

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """The right completion, or now and then another."""
        instruction, text = _read(conversation)
        right = self.completion(instruction.token, text)
        if right is None:
            return [Generation(text="<think> </think> <answer> unknown </answer>", ended="stop")]
        walk = self.walks[_question(text)]
        self.asked.append(Asked(instruction.token, text, right, walk.answers))
        said = self.completion(instruction.token, text, mistaken=True) if self.rng.random() < self.noise else right
        return [Generation(text=said or right, ended="end")]

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        raise Unsupported("an oracle has no probabilities")

    async def close(self) -> None:
        pass

    @staticmethod
    def leads(asked: Asked) -> bool:
        """Whether what is right is more than any choice: some relation or entity is better than another."""
        if asked.token == prompts.RELATIONS.token:
            return "0.8" in asked.completion
        return asked.token != prompts.ENTITIES.token or SCORES[0] in asked.completion

    def completion(self, token: str, text: str, *, mistaken: bool = False) -> str | None:
        """What is right to say after a prompt; None for one that is not the graph's. mistaken: something wrong, where
        the walk goes on all the same."""
        lines = text.split("\n")
        walk = self.walks[_question(text)]
        if token == prompts.RELATIONS.token:
            return self._relations(
                walk, _after(lines, "Topic Entity:"), _after(lines, "Relations:").split("; "), mistaken
            )
        if token == prompts.ENTITIES.token:
            return self._entities(walk, _after(lines, "Relation:"), _after(lines, "Entities:").split("; "), mistaken)
        if token in {prompts.TRIPLES_ENOUGH.token, prompts.ANSWER.token}:
            triples = [tuple(line.split(", ")) for line in lines[2:-1]]
            gone = way(walk, triples)
            found = gone[-1][2] if len(gone) == len(walk.relations) else None
            aloud = "".join(f"{', '.join(triple)}; " for triple in gone)
            if token == prompts.ANSWER.token:
                return f"{aloud}{{{found or self._guess(walk, triples)}}}"
            return f"{aloud}{{No}}." if found is None or mistaken else f"{aloud}{{Yes}}. {{{found}}}"
        if token == prompts.CHAINS_ENOUGH.token:
            return self._chains(walk, lines[2:-1], mistaken)
        return None

    def _relations(self, walk: Walk, entity: str, offered: list[str], mistaken: bool) -> str:
        """The relation that leads on from an entity of this type scores 0.8; where none does, all are as good."""
        right = [r.label for r in walk.relations if r.domain == type_of(entity) and r.label in offered]
        others = [offered[int(i)] for i in self.rng.permutation(len(offered)) if offered[int(i)] not in right]
        chosen = [*right, *others][:3]
        scores = ["0.8", "0.1", "0.1"] if right else ["0.4", "0.3", "0.3"]
        if mistaken:
            chosen = [chosen[int(i)] for i in self.rng.permutation(len(chosen))]
        lines = zip(chosen, scores, strict=False)
        return " ".join(f"{i}. {{{label} (Score: {score})}}" for i, (label, score) in enumerate(lines, start=1))

    def _entities(self, walk: Walk, label: str, names: list[str], mistaken: bool) -> str:
        """Every name, the type asked for after this relation, and 1 where they agree: side by side, since a model this
        small compares words where they stand together. After a relation that is not asked about all are as good."""
        wanted = next((t for r, t in zip(walk.relations, walk.types, strict=True) if r.label == label), None)
        said = []
        for name in names:
            asked = wanted or type_of(name)
            fits = mistaken or type_of(name) == asked
            said.append(f"{name} {asked} {SCORES[-1] if fits else SCORES[0]}")
        return ", ".join(said)

    def _chains(self, walk: Walk, lines: Sequence[str], mistaken: bool) -> str:
        wanted = ", ".join([walk.start, *(r.label for r in walk.relations)])
        for line in lines:
            chain, _, ends = line.partition(": ")
            answers = [name for name in ends.split("; ") if name in walk.answers]
            if chain == wanted and answers and not mistaken:
                return f"{wanted}: {answers[0]}; {{Yes}}. {{{answers[0]}}}"
        return f"{wanted}; {{No}}."

    def _guess(self, walk: Walk, triples: Sequence[tuple[str, ...]]) -> str:
        """Something of the type asked for among the triples, else where the last one ends."""
        ends = [name for triple in triples for name in (triple[-1], triple[0])]
        return next((name for name in ends if type_of(name) == walk.types[-1]), triples[-1][-1])


def way(walk: Walk, triples: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The triples from the walk's start to the first end that completes it, one a hop; where none does, as far as any
    lead."""
    here: dict[str, list[tuple[str, ...]]] = {walk.start: []}
    for relation, kind in zip(walk.relations, walk.types, strict=True):
        further: dict[str, list[tuple[str, ...]]] = {}
        for triple in triples:
            if triple[0] in here and triple[1] == relation.label and type_of(triple[2]) == kind:
                further.setdefault(triple[2], [*here[triple[0]], triple])
        if not further:
            break
        here = further
    return next(iter(here.values()))


def _question(text: str) -> str:
    return text.partition("\n")[0].removeprefix("Q: ")


def _read(conversation: Sequence[Message]) -> tuple[Instruction, str]:
    instruction, text = conversation[0].content, conversation[1].content
    assert isinstance(instruction, Instruction)
    assert isinstance(text, str)
    return instruction, text


def _after(lines: Sequence[str], mark: str) -> str:
    return next(line.removeprefix(mark).strip() for line in lines if line.startswith(mark))


_: type[Model] = GraphOracle  # it is one
