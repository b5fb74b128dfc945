"""A commonsense-like world: concepts in clusters, typed relations with inverses, multiple-choice questions over chains
of relations (card 55, Miniature claim check).

It has two domains that share neither concepts nor relations, so that a skill learnt in one can be tried in the other. A
question names the concept where its chain begins and one more, and offers five candidates, two of which can be reached
by other chains of the same length: to arrive somewhere is easy, to arrive at the right place needs the question's
words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from pydantic import Field, JsonValue

from ken.core.errors import BadInput
from ken.core.explained import Explained
from ken.core.question import Question
from ken.core.seeding import derive_seed
from ken.lab.names import invented_names

RELATIONS: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = (
    (
        ("tool", "user"),
        ("food", "eater"),
        ("part", "whole"),
        ("cause", "effect"),
        ("material", "product"),
        ("owner", "belonging"),
        ("teacher", "pupil"),
        ("maker", "work"),
        ("place", "resident"),
        ("host", "guest"),
        ("guard", "ward"),
        ("seller", "ware"),
    ),
    (
        ("remedy", "ailment"),
        ("symptom", "illness"),
        ("carrier", "germ"),
        ("organ", "function"),
        ("dose", "drug"),
    ),
)
"""The relations of each domain with the words for their inverses: whose tool it is, is its user."""

HOPS = (1, 2, 3)
MOST_MISSES = 3000  # draws in a row that give no question
TEMPLATES = ("What is {chain}, unlike {other}?", "Unlike {other}, what is {chain}?", "Not of {other}: what is {chain}?")


class ConceptsConfig(Explained):
    """Sizes of a world; the defaults are card 55's.

    concepts: in all clusters together. clusters: of either domain. out_degree: mean triples of which a concept is the
    subject. within: share of triples that stay in their cluster; the others stay in their domain. hubs: concepts of
    each cluster that many triples lead to, and hub_share: how many of all do. choices: candidates of a question, two of
    them reachable by other chains. known: share of the triples that a model is told closed book.

    Raises `BadInput` for a value out of range.
    """

    called = "a ConceptWorld"

    concepts: int = Field(default=900, ge=24)
    clusters: tuple[int, int] = (8, 4)
    out_degree: float = Field(default=6.0, ge=1)
    within: float = Field(default=0.7, ge=0, le=1)
    hubs: int = Field(default=2, ge=0)
    hub_share: float = Field(default=0.1, ge=0, le=1)
    choices: int = Field(default=5, ge=3, le=8)
    known: float = Field(default=0.4, ge=0, le=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Edge:
    """One triple: the `relation` of `subject` is `object`. known: it is among those that are told closed book."""

    subject: str
    relation: str
    object: str
    known: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """What a question is about: from the first concept by `words`, each leading to one concept only, to the last."""

    concepts: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def gold(self) -> str:
        return self.concepts[-1]


class ConceptWorld:
    """A world: its concepts and triples, fixed by the config and its seed."""

    def __init__(self, config: ConceptsConfig | None = None) -> None:
        self.config = config or ConceptsConfig()
        c = self.config
        each = c.concepts // sum(c.clusters)
        if each < max(4, c.hubs + 1):
            raise BadInput(f"{c.concepts} concepts are too few for {sum(c.clusters)} clusters; raise them")
        names = list(
            islice(invented_names(np.random.default_rng(derive_seed("concepts names", c.seed))), each * sum(c.clusters))
        )
        self.clusters = tuple(tuple(names[i * each : (i + 1) * each]) for i in range(sum(c.clusters)))
        self.inverse: Mapping[str, str] = {word: back for domain in RELATIONS for word, back in domain}

    def domain(self, number: int) -> tuple[str, ...]:
        """The concepts of domain 0 or 1 (the card counts from 1)."""
        first = self.config.clusters[0]
        return tuple(name for cluster in (self.clusters[:first], self.clusters[first:])[number] for name in cluster)

    def words(self, number: int) -> tuple[str, ...]:
        """The words for relations of a domain, inverses among them."""
        return tuple(word for pair in RELATIONS[number] for word in pair)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All triples, none twice and none from a concept to itself."""
        rng = np.random.default_rng(derive_seed("concepts edges", self.config.seed))
        c = self.config
        made: dict[tuple[str, str, str], Edge] = {}
        for number in (0, 1):
            first = c.clusters[0]
            clusters = (self.clusters[:first], self.clusters[first:])[number]
            for cluster in clusters:
                for subject in cluster:
                    for _ in range(int(rng.poisson(c.out_degree - 1)) + 1):
                        inside = rng.random() < c.within
                        home = cluster if inside else clusters[int(rng.integers(len(clusters)))]
                        hub = bool(c.hubs) and rng.random() < c.hub_share
                        other = home[int(rng.integers(c.hubs if hub else len(home)))]
                        relation = RELATIONS[number][int(rng.integers(len(RELATIONS[number])))][0]
                        key = (subject, relation, other)
                        if other != subject and key not in made:
                            made[key] = Edge(*key, known=bool(rng.random() < c.known))
        return tuple(made.values())

    @cached_property
    def around(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """What every concept leads to by each word, inverses included."""
        found: dict[str, dict[str, list[str]]] = {name: {} for cluster in self.clusters for name in cluster}
        for edge in self.edges:
            found[edge.subject].setdefault(edge.relation, []).append(edge.object)
            found[edge.object].setdefault(self.inverse[edge.relation], []).append(edge.subject)
        return {name: {word: tuple(ends) for word, ends in by.items()} for name, by in found.items()}

    @cached_property
    def _balls(self) -> Mapping[str, tuple[frozenset[str], frozenset[str]]]:
        """The concepts within one and within two hops of each."""
        one = {name: frozenset(end for ends in by.values() for end in ends) for name, by in self.around.items()}
        return {name: (near, near.union(*(one[n] for n in near))) for name, near in one.items()}

    def chain(self, domain: int, hops: int, rng: np.random.Generator) -> Chain | None:
        """A chain by words that are unambiguous at every hop, to a concept that no shorter way leads to; None when the
        draw has none."""
        concepts = self.domain(domain)
        at = concepts[int(rng.integers(len(concepts)))]
        path, words = [at], []
        for _ in range(hops):
            open_ = [(w, ends[0]) for w, ends in self.around[at].items() if len(ends) == 1 and ends[0] not in path]
            if not open_:
                return None
            word, at = open_[int(rng.integers(len(open_)))]
            words.append(word)
            path.append(at)
        near, far = self._balls[path[0]]
        if (hops > 1 and at in near) or (hops > 2 and at in far):
            return None
        return Chain(tuple(path), tuple(words))

    def candidates(self, chain: Chain, rng: np.random.Generator) -> tuple[str, ...] | None:
        """The gold concept, two that other walks of the same length from the same start end in, and others of its
        cluster, in random order; none of them lies on the chain. None when there are too few."""
        taken = {*chain.concepts}
        hard: list[str] = []
        for _ in range(30):
            at, seen = chain.concepts[0], {chain.concepts[0]}
            for _ in chain.words:
                near = sorted(self._balls[at][0] - seen)
                if not near:
                    break
                at = near[int(rng.integers(len(near)))]
                seen.add(at)
            if len(seen) == len(chain.concepts) and at not in taken:
                hard.append(at)
                taken.add(at)
            if len(hard) == 2:
                break
        cluster = next(cluster for cluster in self.clusters if chain.gold in cluster)
        rest = [name for name in cluster if name not in taken]
        more = self.config.choices - 1 - len(hard)
        if len(hard) < 2 or len(rest) < more:
            return None
        some = [chain.gold, *hard, *(rest[int(i)] for i in rng.permutation(len(rest))[:more])]
        return tuple(some[int(i)] for i in rng.permutation(len(some)))


def ask(chain: Chain, other: str, template: str = TEMPLATES[0]) -> str:
    """`What is Tarsin's tool's food, unlike Brokul?`"""
    return template.format(chain="'s ".join((chain.concepts[0], *chain.words)), other=other)


def questions(
    world: ConceptWorld, domain: int, count: int, *, split: str, avoid: Sequence[Question] = ()
) -> list[Question]:
    """Multiple-choice questions of a domain, hops in turn; none asks for a chain of those in `avoid`.

    `meta`: choices (the candidates), hops, anchor, other (the second concept that is named), words and path (the
    chain), domain, split. Raises `BadInput` when the world has too few.
    """
    rng = np.random.default_rng(derive_seed("concepts questions", world.config.seed, domain, split))
    taken = {_key(q) for q in avoid}
    made: list[Question] = []
    for hops, chain, options, other in islice(drawn(world, domain, rng), 400 * count + 2000):
        if hops != HOPS[len(made) % len(HOPS)] or (chain.concepts[0], chain.words) in taken:
            continue
        taken.add((chain.concepts[0], chain.words))
        text = ask(chain, other, TEMPLATES[int(rng.integers(len(TEMPLATES)))])
        listed: list[JsonValue] = list(options)
        meta: dict[str, JsonValue] = {
            "choices": listed,
            "hops": hops,
            "anchor": chain.concepts[0],
            "other": other,
            "words": list(chain.words),
            "path": list(chain.concepts),
            "domain": domain,
            "split": split,
        }
        made.append(Question(id=f"{split}-{len(made)}", text=text, answers=(chain.gold,), meta=meta))
        if len(made) == count:
            return made
    if count:
        raise BadInput(f"this world has no {count} such questions ({len(made)} were found); ask for fewer")
    return made


def drawn(
    world: ConceptWorld, domain: int, rng: np.random.Generator
) -> Iterator[tuple[int, Chain, tuple[str, ...], str]]:
    """Endless (hops, chain, candidates, second concept), hops at random. Raises `BadInput` for a world so small that
    hardly a draw gives a question."""
    concepts = world.domain(domain)
    misses = 0
    while misses < MOST_MISSES:
        misses += 1
        hops = HOPS[int(rng.integers(len(HOPS)))]
        chain = world.chain(domain, hops, rng)
        options = None if chain is None else world.candidates(chain, rng)
        other = concepts[int(rng.integers(len(concepts)))]
        if chain is None or options is None or other in (*chain.concepts, *options):
            continue
        misses = 0
        yield hops, chain, options, other
    raise BadInput(f"a world of {world.config.concepts} concepts has hardly any questions; ask for more concepts")


def _key(question: Question) -> tuple[object, tuple[object, ...]]:
    words = question.meta["words"]
    return question.meta["anchor"], tuple(words) if isinstance(words, list) else ()


def triples(world: ConceptWorld) -> list[tuple[str, str, str]]:
    """All triples, as (subject, relation, object); inverses are not among them."""
    return [(edge.subject, edge.relation, edge.object) for edge in world.edges]
