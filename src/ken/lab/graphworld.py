"""A graph world: typed entities linked by relations, and questions of one to four hops along them (card 44, Miniature
claim check).

A name is a type and a word (`City Kavelo`), so that what is asked for can be told from what is not by the name alone.
Every relation leads from one type to one other type (functional relations, and most fan-outs' ends are told apart by
type) in the graph's own label; a question asks for it in one of three wordings, of which only the label itself shares a
word with it. No type comes twice on a question's path, so the next relation follows from where one stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from ken.core.errors import BadInput
from ken.core.explained import Explained
from ken.core.question import Question
from ken.core.seeding import derive_seed
from ken.core.steps import Entity, Passage, Triple
from ken.lab.names import invented_names

Region = Literal["train", "test"]
REGIONS: tuple[Region, ...] = ("train", "test")
TYPES = ("Person", "Company", "City", "Country", "School", "Product")
MOST_HOPS = 4

Kind = Literal["functional", "fan-out", "hub"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation from one type to one (functional) or several others, in its wordings, the first of which is its label
    in the graph."""

    wordings: tuple[str, str, str]
    domain: str
    range: tuple[str, ...]
    kind: Kind = "functional"

    @property
    def label(self) -> str:
        return self.wordings[0]


RELATIONS = (
    Relation(("employer", "boss", "workplace"), "Person", ("Company",)),
    Relation(("birthplace", "hometown", "cradle"), "Person", ("City",)),
    Relation(("education", "training", "college"), "Person", ("School",)),
    Relation(("interest", "passion", "hobby"), "Person", ("Product", "Country"), "fan-out"),
    Relation(("headquarters", "seat", "base"), "Company", ("City",)),
    Relation(("founder", "creator", "starter"), "Company", ("Person",)),
    Relation(("flagship", "bestseller", "showpiece"), "Company", ("Product",)),
    Relation(("sponsorship", "funding", "backing"), "Company", ("School", "Country"), "fan-out"),
    Relation(("mayor", "chief", "head"), "City", ("Person",)),
    Relation(("location", "territory", "homeland"), "City", ("Country",)),
    Relation(("attraction", "landmark", "sight"), "City", ("School", "Product"), "fan-out"),
    Relation(("resident", "inhabitant", "dweller"), "City", ("Person", "Company"), "hub"),
    Relation(("capital", "metropolis", "centre"), "Country", ("City",)),
    Relation(("ruler", "sovereign", "monarch"), "Country", ("Person",)),
    Relation(("export", "trade", "shipment"), "Country", ("Product", "Company"), "fan-out"),
    Relation(("member", "affiliate", "associate"), "Country", ("School", "City"), "hub"),
    Relation(("patron", "benefactor", "donor"), "School", ("Company",)),
    Relation(("campus", "grounds", "site"), "School", ("City",)),
    Relation(("alumnus", "graduate", "student"), "School", ("Person", "Country"), "fan-out"),
    Relation(("facility", "equipment", "amenity"), "School", ("Product", "City"), "fan-out"),
    Relation(("maker", "manufacturer", "producer"), "Product", ("Company",)),
    Relation(("inventor", "designer", "author"), "Product", ("Person",)),
    Relation(("market", "outlet", "audience"), "Product", ("Country", "City"), "fan-out"),
    Relation(("component", "ingredient", "part"), "Product", ("School", "Person"), "fan-out"),
)
"""24 relations: 14 functional, 8 with a fan-out, 2 hubs; four from every type."""

BY_LABEL = {relation.label: relation for relation in RELATIONS}


class GraphWorldConfig(Explained):
    """Sizes of a world; the defaults are card 44's.

    train, test: entities of each type in each region; no edge leads from one region to the other. min/max_fan: objects
    of a fan-out. hubs: how many entities of a region have a hub relation, of those that could; hub_size: its objects,
    which is at most a quarter of the region. aliased: share of the entities that have a second name.
    max_answers: questions with more answers than that are not asked, since guessing would be right too often.

    Raises `BadInput` for a value out of range.
    """

    called = "a GraphWorld"

    train: int = Field(default=100, ge=8)
    test: int = Field(default=50, ge=8)
    min_fan: int = Field(default=2, ge=2)
    max_fan: int = Field(default=5, ge=2)
    hubs: int = Field(default=6, ge=0)
    hub_size: int = Field(default=27, ge=2)
    aliased: float = Field(default=0.2, ge=0, le=1)
    max_answers: int = Field(default=3, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> GraphWorldConfig:
        smaller = min(self.train, self.test)
        if not self.min_fan <= self.max_fan <= smaller:
            raise BadInput(
                f"a fan-out of {self.min_fan} to {self.max_fan} needs min_fan ≤ max_fan ≤ {smaller} entities"
            )
        if self.hub_size > 2 * smaller or self.hubs > smaller:
            raise BadInput(f"{self.hubs} hubs of {self.hub_size} do not fit into {smaller} entities a type; lower them")
        return self


@dataclass(frozen=True, slots=True)
class Edge:
    """One fact: the `relation` of `subject` is `object`. Names are whole: `City Kavelo`."""

    subject: str
    relation: Relation
    object: str

    @property
    def triple(self) -> Triple:
        return Triple(subject=entity(self.subject), relation=self.relation.label, object=entity(self.object))


@dataclass(frozen=True, slots=True)
class Walk:
    """The facts behind a question: where it starts, the relations, the type asked for after each, and all that is
    reached after each hop."""

    start: str
    relations: tuple[Relation, ...]
    types: tuple[str, ...]
    reached: tuple[tuple[str, ...], ...]

    @property
    def answers(self) -> tuple[str, ...]:
        return self.reached[-1]


def type_of(name: str) -> str:
    """The type of an entity, the first word of its name."""
    return name.partition(" ")[0]


def entity_id(name: str) -> str:
    """`City Kavelo` → `kavelo`; words are unique across types."""
    return name.rpartition(" ")[2].lower()


def entity(name: str) -> Entity:
    """An entity as graphs hold it."""
    return Entity(id=entity_id(name), label=name)


class GraphWorld:
    """A world: names, edges of both regions and the walks that questions ask for, fixed by the config and its seed."""

    def __init__(self, config: GraphWorldConfig | None = None) -> None:
        self.config = config or GraphWorldConfig()
        c = self.config
        names = invented_names(np.random.default_rng(derive_seed("graphworld names", c.seed)))
        counts: dict[Region, int] = {"train": c.train, "test": c.test}
        self.entities: dict[Region, dict[str, tuple[str, ...]]] = {
            region: {kind: tuple(f"{kind} {name}" for name in islice(names, counts[region])) for kind in TYPES}
            for region in REGIONS
        }
        rng = np.random.default_rng(derive_seed("graphworld aliases", c.seed))
        every = [name for region in REGIONS for kind in TYPES for name in self.entities[region][kind]]
        self.aliases = {
            name: f"{type_of(name)} {alias}"
            for name, alias in zip(every, islice(names, len(every)), strict=True)
            if rng.random() < c.aliased
        }

    @property
    def names(self) -> tuple[str, ...]:
        """All entities of both regions."""
        return tuple(name for region in REGIONS for kind in TYPES for name in self.entities[region][kind])

    @cached_property
    def edges(self) -> dict[Region, tuple[Edge, ...]]:
        """All facts, by region, in the order of entities and relations."""
        return {region: tuple(self._edges(region)) for region in REGIONS}

    def _edges(self, region: Region) -> list[Edge]:
        c = self.config
        rng = np.random.default_rng(derive_seed("graphworld edges", c.seed, region))
        edges: list[Edge] = []
        for relation in RELATIONS:
            ours = self.entities[region]
            subjects = ours[relation.domain]
            if relation.kind == "hub":
                subjects = tuple(subjects[int(i)] for i in sorted(rng.permutation(len(subjects))[: c.hubs]))
            for subject in subjects:
                for kind, count in self._counts(relation, rng):
                    chosen = rng.choice(len(ours[kind]), size=count, replace=False)
                    edges += [Edge(subject, relation, ours[kind][int(i)]) for i in chosen]
        return edges

    def _counts(self, relation: Relation, rng: np.random.Generator) -> list[tuple[str, int]]:
        """How many objects of each type a subject has; of several types at least one each."""
        c = self.config
        if relation.kind == "functional":
            return [(relation.range[0], 1)]
        total = c.hub_size if relation.kind == "hub" else int(rng.integers(c.min_fan, c.max_fan + 1))
        first = int(rng.integers(1, total)) if relation.kind == "fan-out" else total // 2
        one, other = relation.range
        return [(one, first), (other, total - first)]

    @cached_property
    def outgoing(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Objects by subject and relation label."""
        found: dict[str, dict[str, list[str]]] = {}
        for region in REGIONS:
            for edge in self.edges[region]:
                found.setdefault(edge.subject, {}).setdefault(edge.relation.label, []).append(edge.object)
        return {s: {label: tuple(objects) for label, objects in by.items()} for s, by in found.items()}

    def walk(self, start: str, relations: Sequence[Relation], types: Sequence[str]) -> Walk | None:
        """Everything that is reached from `start` by the relations, keeping after each only the type asked for; None
        when nothing is."""
        here: tuple[str, ...] = (start,)
        reached = []
        for relation, kind in zip(relations, types, strict=True):
            objects = [o for s in here for o in self.outgoing.get(s, {}).get(relation.label, ()) if type_of(o) == kind]
            here = tuple(dict.fromkeys(objects))
            if not here:
                return None
            reached.append(here)
        return Walk(start, tuple(relations), tuple(types), tuple(reached))

    def walks(
        self,
        region: Region,
        hops: int,
        count: int,
        rng: np.random.Generator,
        taken: set[tuple[str, tuple[str, ...], str]] | None = None,
    ) -> list[Walk]:
        """`count` different walks of `hops` hops in a region, none of those in `taken`, to which they are added. Raises
        `BadInput` when there are not so many, or for hops outside 1 to 4.
        """
        if not 1 <= hops <= MOST_HOPS:
            raise BadInput(f"questions have 1 to {MOST_HOPS} hops, not {hops}")
        taken = set() if taken is None else taken
        found: list[Walk] = []
        misses = 0
        while len(found) < count:
            walk = self._draw(region, hops, rng)
            key = walk and (walk.start, tuple(r.label for r in walk.relations), walk.types[-1])
            if walk is None or key in taken or len(walk.answers) > self.config.max_answers:
                misses += 1
                if misses > 1000 + 200 * count:
                    raise BadInput(f"this world has no {count} questions of {hops} hops; ask for fewer")
                continue
            taken.add(key)  # type: ignore[arg-type]
            found.append(walk)
        return found

    def _draw(self, region: Region, hops: int, rng: np.random.Generator) -> Walk | None:
        kind = TYPES[int(rng.integers(len(TYPES)))]
        names = self.entities[region][kind]
        start, seen = names[int(rng.integers(len(names)))], {kind}
        relations: list[Relation] = []
        types: list[str] = []
        for _ in range(hops):
            steps = [
                (r, t) for r in RELATIONS if r.domain == kind and r.kind != "hub" for t in r.range if t not in seen
            ]
            if not steps:
                return None
            relation, kind = steps[int(rng.integers(len(steps)))]
            seen.add(kind)
            relations.append(relation)
            types.append(kind)
        return self.walk(start, relations, types)


def ask_walk(walk: Walk, wordings: Sequence[str], *, mention: str | None = None) -> str:
    """`What City is the seat of the boss of Person Kavelo ?`, in the given wordings, one a hop. mention: another name
    for where it starts."""
    path = " of the ".join(reversed(wordings))
    return f"What {walk.types[-1]} is the {path} of {mention or walk.start} ?"


def some_wordings(walk: Walk, rng: np.random.Generator) -> list[str]:
    """A wording for every relation of a walk."""
    return [relation.wordings[int(rng.integers(3))] for relation in walk.relations]


def triples(world: GraphWorld, region: Region | None = None) -> list[Triple]:
    """All facts of a region, or of both."""
    return [edge.triple for one in ((region,) if region else REGIONS) for edge in world.edges[one]]


def statements(world: GraphWorld, region: Region | None = None) -> list[tuple[str, str, str]]:
    """The same as words, names and aliases too: what `TripleStore.of` and tab-separated files take."""
    facts = triples(world, region)
    named = {one.id: one.label for t in facts for one in (t.subject, t.object)}
    said = [(t.subject.id, t.relation, t.object.id) for t in facts]
    said += [(one, "rdfs:label", label) for one, label in named.items()]
    return said + [
        (one, "skos:altLabel", world.aliases[label]) for one, label in named.items() if label in world.aliases
    ]


def documents(world: GraphWorld, region: Region | None = None) -> list[Passage]:
    """One document per entity that is the subject of anything: its name as the title, its facts as sentences."""
    stated: dict[str, list[str]] = {}
    for one in (region,) if region else REGIONS:
        for edge in world.edges[one]:
            sentence = f"The {edge.relation.label} of {edge.subject} is {edge.object}."
            stated.setdefault(edge.subject, []).append(sentence)
    pages = []
    for name, sentences in stated.items():
        known = f"{name} is also called {world.aliases[name]}." if name in world.aliases else ""
        pages.append(Passage(id=entity_id(name), title=name, text=" ".join(filter(None, [*sentences, known]))))
    return pages


def questions(
    world: GraphWorld, region: Region, counts: Sequence[tuple[int, int]], *, seed: int = 0, by_alias: bool = False
) -> list[Question]:
    """Questions on a region; counts: (hops, how many), in this order. The same seed asks the same questions.

    `meta`: hops, region, dataset, topic_entities (ids), `evidence` (the facts of one way to an answer: subject,
    relation, value) and supporting_ids (the documents of its subjects). by_alias: where it starts is called by its
    other name, if it has one. Golds are the names of all answers, aliases too.
    """
    rng = np.random.default_rng(derive_seed("graphworld questions", world.config.seed, region, seed))
    taken: set[tuple[str, tuple[str, ...], str]] = set()
    asked = []
    for hops, count in counts:
        for number, walk in enumerate(world.walks(region, hops, count, rng, taken)):
            asked.append(question(world, walk, f"{region}-{seed}-{hops}-{number}", some_wordings(walk, rng), by_alias))
    return asked


def question(world: GraphWorld, walk: Walk, name: str, wordings: Sequence[str], by_alias: bool = False) -> Question:
    """A walk as a question."""
    path = gold_path(world, walk)
    evidence: list[JsonValue] = [
        {"subject": s, "relation": relation.label, "value": o}
        for (s, o), relation in zip(path, walk.relations, strict=True)
    ]
    aliases = [world.aliases[name] for name in walk.answers if name in world.aliases]
    return Question(
        id=name,
        text=ask_walk(walk, wordings, mention=world.aliases.get(walk.start) if by_alias else None),
        answers=(*walk.answers, *aliases),
        meta={
            "hops": len(walk.relations),
            "region": "test" if walk.start in world.entities["test"][type_of(walk.start)] else "train",
            "dataset": "graphworld",
            "topic_entities": [entity_id(walk.start)],
            "evidence": evidence,
            "supporting_ids": [entity_id(s) for s, _ in path],
        },
    )


def gold_path(world: GraphWorld, walk: Walk) -> list[tuple[str, str]]:
    """(subject, object) of every hop on one way to the first answer."""
    names = [walk.answers[0]]
    for hop in range(len(walk.relations) - 1, 0, -1):
        label = walk.relations[hop].label
        names.append(next(s for s in walk.reached[hop - 1] if names[-1] in world.outgoing[s].get(label, ())))
    return list(pairwise([walk.start, *reversed(names)]))
