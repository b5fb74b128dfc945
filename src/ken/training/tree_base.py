"""The base model of a split world: it knows a part of the facts, reads passages, and can split a question into a tree
(card 59, Model).

It is pretrained on sentences that tell the facts which are known inside, and on the prompts of `Tree` and of its
baselines, exactly as these make them, about training entities and about people who are not of this world, among them
namesakes of the held-out ones (a model this small copies no name that it has never written). Whoever asks about a
held-out entity therefore finds facts that were told and skills that were learnt elsewhere. What must be read has random
values, so that it cannot be remembered; where a fact was never told, a chain from memory ends in a random value, which
may be a held-out entity, so that the model learns to be unsure of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ken.agents.instructions import READ
from ken.agents.protocol import render_passages
from ken.agents.self_ask import FINAL, FOLLOW_UP, INTERMEDIATE, SELF_ASK
from ken.agents.tree import EVERYTHING
from ken.agents.tree_prompts import CHAIN, FROM_PARTS, FROM_PASSAGES, MARKER, SPLIT, UNKNOWN
from ken.core import Passage
from ken.core.seeding import derive_seed
from ken.lab.splitworld import (
    KINDS,
    Asked,
    Fact,
    SplitWorld,
    SplitWorldConfig,
    ask,
    sentence,
)
from ken.models import Instruction
from ken.training.factworld_base import TAGS
from ken.training.lab_checkpoint import LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, Piece, encode, fast_tokenizer
from ken.training.lab_tokenizer import UNKNOWN as UNKNOWN_WORD
from ken.training.pretraining import Example

CONTROLS = [one.token for one in (SPLIT, CHAIN, FROM_PASSAGES, FROM_PARTS, READ, SELF_ASK)]
MARKERS = [MARKER, FOLLOW_UP, INTERMEDIATE, FINAL, *(f"#{i}" for i in range(1, 4))]
WORDS = ["What", "is", "the", "of", "Which", "came", "first", "or", "before", UNKNOWN, "Context", "Question"]
WORDS += ["Doc", "Title", "and", SAME := "same", DIFFERENT := "different"]
WORDS += list("?.,:()[]{}\"'-#") + list("123456789")
WORDS += ["abcdef"]  # transformers encodes it to learn how a tokenizer spells

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"
FACTS_A_TEXT = 8


class TreeBaseConfig(LabBaseConfig):
    """World and number of examples of each kind.

    told: how often each fact that is known inside is told. matching: rows of pairs of words that are the same or not;
    ordering: rows of pairs of people with the moment of each; half of both comes first, with quoting: documents to copy
    from; splitting: trees; chains: from memory; reading: one passage for one fact; reading_all: passages for all facts
    of a question; joining: from the answers of parts; self_ask: whole dialogues of that baseline; ircot: rounds of the
    other.
    """

    called = "splitworld"

    world: SplitWorldConfig = SplitWorldConfig()
    context: int = 512
    batch: int = 16
    told: int = 24
    matching: int = 6000
    ordering: int = 7000
    quoting: int = 5000
    splitting: int = 4000
    chains: int = 8000
    reading: int = 9000
    reading_all: int = 3000
    joining: int = 4000
    self_ask: int = 1200
    ircot: int = 2000

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        from ken.training.tree_gates import measure_gates

        world = SplitWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(tokenizer, pretraining_stages(self, world, tokenizer), lambda model: measure_gates(model, world))


def smoke_config(*, seed: int = 0) -> TreeBaseConfig:
    """The same kind of base model in a small world, built in seconds. It speaks the formats and knows little, and its
    gates do not count: for trying code, not for claims."""
    world = SplitWorldConfig(entities=60, entity_relations=3, time_relations=2, dev=0.2, test=0.3, seed=seed)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2}
    examples = "matching ordering quoting splitting chains reading reading_all joining self_ask ircot"
    counts: dict[str, Any] = dict.fromkeys(examples.split(), 60)
    return TreeBaseConfig(world=world, seed=seed, told=1, gated=False, **sizes, **counts)


Maker = Callable[[SplitWorld, np.random.Generator], list[Piece]]


def build_tokenizer(world: SplitWorld) -> Any:
    """A word-level tokenizer over everything the world can say; tags and markers are one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = [name for entity in world.entities for name in entity.split()]
    vocabulary = [PAD, BOS, EOS, UNKNOWN_WORD, *CONTROLS, *TAGS, *MARKERS, *WORDS, *world.relations, *world.moments]
    vocabulary += [*names, *world.second_names]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token=UNKNOWN_WORD)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    special = [PAD, BOS, EOS, UNKNOWN_WORD, *CONTROLS]
    return fast_tokenizer(backend, special=special, tags=(*TAGS, *MARKERS), chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: TreeBaseConfig, world: SplitWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: first copying and comparing alone, so that they are there before anything
    builds on them."""
    rng = np.random.default_rng(derive_seed("split base", config.seed))
    matched, ordered = config.matching // 2, config.ordering // 2
    drills: tuple[tuple[Maker, int], ...] = ((matching, matched), (ordering, ordered), (quoting, config.quoting))
    kinds: tuple[tuple[Maker, int], ...] = (
        (matching, config.matching - matched),
        (ordering, config.ordering - ordered),
        (splitting, config.splitting),
        (chain, config.chains),
        (reading, config.reading),
        (reading_all, config.reading_all),
        (joining, config.joining),
        (self_asking, config.self_ask),
        (interleaving, config.ircot),
    )
    alone = [make(world, rng) for make, count in drills for _ in range(count)]
    texts = list(telling(world, config.told, rng))
    texts += [make(world, rng) for make, count in kinds for _ in range(count)]
    return [encode(stage, tokenizer) for stage in (alone, texts) if stage]


# --- the mix ----------------------------------------------------------------------------------------------------------


PAIRS = 21


def matching(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """Words side by side as `_held_against` writes them, half of them the same: which those are is learnt from many at
    once, or not at all."""
    pools = [list(world.relations), [entity.split()[0] for entity in world.entities], list(world.second_names)]
    pieces: list[Piece] = [(BOS, False)]
    for number in range(PAIRS):
        pool = pools[number % len(pools)]
        one, other = (pool[int(i)] for i in rng.choice(len(pool), size=2, replace=False))
        other = one if rng.random() < 0.5 else other
        pieces += [(f"{one} {other}", False), (SAME if one == other else DIFFERENT, True), (",", False)]
    return pieces


def ordering(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """Pairs of people, each with a moment, and who of them was first."""
    pieces: list[Piece] = [(BOS, False)]
    for _ in range(PAIRS // 4):
        relation = world.time_relations[int(rng.integers(len(world.time_relations)))]
        one, other = _moments_of_two(world, relation, rng)
        said = [(f"{one.sentence} , {other.sentence} ,", False), (_compared(Asked("comparison", (one, other))), True)]
        pieces += [*said, (".", False)]
    return pieces


def quoting(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """Documents with random values, then what they tell, and that they do not tell something: of anybody, so that every
    name can be copied, and some about a namesake or the same entity, so that it takes the whole name and the relation
    to find a value."""
    told: dict[tuple[str, str], str] = {}
    asked: dict[tuple[str, str], str] = {}
    for _ in range(1 if rng.random() < 0.6 else 2):
        subject, stranger = (_person(world, rng, world.entities) for _ in range(2))
        relation, other = (world.relations[int(i)] for i in rng.permutation(len(world.relations))[:2])
        for key in [(relation, subject), (other, subject), (relation, _namesake(world, subject, rng))]:
            if rng.random() < 0.6:
                told[key] = _anything(world, key[0], rng)
            asked[key] = told.get(key, UNKNOWN)
        asked.setdefault((relation, stranger), UNKNOWN)
    facts = list(told.items())
    shown = [f"{sentence(*facts[int(i)][0], facts[int(i)][1])}." for i in rng.permutation(len(facts))]
    pieces: list[Piece] = [(f"{BOS} {_documents(shown)}", False)]
    keys = list(asked)
    for i in rng.permutation(len(keys)):
        relation, subject = keys[int(i)]
        copied = keys[int(i)] in told
        pieces += [(f"the {relation} of", False), (f"{subject} is", copied), (asked[keys[int(i)]], True), (".", False)]
    return pieces


def telling(world: SplitWorld, times: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Texts that tell the facts which are known inside, each so many times, always among others."""
    facts = [fact for fact in world.facts.values() if fact.inside]
    for _ in range(times):
        order = rng.permutation(len(facts))
        for start in range(0, len(order), FACTS_A_TEXT):
            pieces: list[Piece] = [(BOS, False)]
            for i in order[start : start + FACTS_A_TEXT]:
                fact = facts[int(i)]
                pieces += [(f"the {fact.relation} of {fact.subject} is", False), (fact.value, True), (".", False)]
            yield pieces


def splitting(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """A question and its tree."""
    asked = _invented(world, rng)
    return _taught(SPLIT, asked.text, json.dumps(asked.parts))


def chain(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """A question answered from memory: what was told is remembered, the rest is guessed."""
    asked = _remembered(world, rng)
    return _taught(CHAIN, asked.text, explained(asked))


def reading(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """A question about one fact, and the passage that a search engine would find for it: the fact, or nearly so."""
    relation = world.relations[int(rng.integers(len(world.relations)))]
    fact = _made_up(world, relation, _person(world, rng, world.entities), rng)
    found = _found(world, fact, rng, fit=0.4)
    said = f"{_held_against(fact, found)} , {_read(_just(fact), int(_fits(fact, found)))}"
    return _taught(FROM_PASSAGES, below_passages([f"{found.sentence}."], ask([fact.relation], fact.subject)), said)


def reading_all(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """A question about several facts, and what is found for it and for its parts; the answer only if nothing is
    missing."""
    asked = _invented(world, rng)
    found = [_found(world, fact, rng, fit=0.85) for fact in asked.facts]
    first = found[0] if rng.random() < 0.7 else another_fact(world, asked.facts[0], rng)
    shown = list(dict.fromkeys(f"{fact.sentence}." for fact in [first, *found]))
    fits = [_fits(*pair) for pair in zip(asked.facts, found, strict=True)]
    reached = len(found) if all(fits) else fits.index(False)
    return _taught(FROM_PASSAGES, below_passages(shown, asked.text), _read(asked, reached))


def joining(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """A question and the answers of its parts; where one is missing, memory must do."""
    if rng.random() < 0.15:
        asked = _remembered(world, rng, least=2)
        missing = int(rng.integers(len(asked.facts)))
        lines = [line for i, line in enumerate(part_lines(asked)) if i != missing] if len(asked.facts) == 2 else []
        return _taught(FROM_PARTS, from_parts(lines, asked.text), explained(asked))
    asked = _invented(world, rng, comparisons=0.5)
    return _taught(FROM_PARTS, from_parts(part_lines(asked), asked.text), explained(asked, joined=True))


def self_asking(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """A dialogue of `SelfAsk`: question by question, each with its passage; it ends where one does not fit."""
    asked = _invented(world, rng)
    pieces: list[Piece] = [(f"{BOS} {SELF_ASK.token} Question: {asked.text}", False)]
    said = ""
    for fact in asked.facts:
        found = _found(world, fact, rng, fit=0.8)
        fits = _fits(fact, found)
        pieces.append((f"{said} {FOLLOW_UP} {ask([fact.relation], fact.subject)} {INTERMEDIATE}", True))
        pieces.append((_documents([f"{found.sentence}."]), False))
        said = f"{_held_against(fact, found)} , {fact.sentence if fits else _missing(fact)} ."
        if not fits:
            return [*pieces, (f"{said} {FINAL} {UNKNOWN} {EOS}", True)]
    compared = f"{_compared(asked)} ." if asked.kind == "comparison" else ""
    return [*pieces, (f"{said} {compared} {FINAL} {asked.answer} {EOS}", True)]


def interleaving(world: SplitWorld, rng: np.random.Generator) -> list[Piece]:
    """A round of `Ircot`: what the passages so far tell is said, then what is to be looked for next, or the answer."""
    asked = _invented(world, rng)
    reached = int(rng.integers(0, len(asked.facts) + 1))
    shown = [f"{fact.sentence}." for fact in asked.facts[:reached]]
    if reached < len(asked.facts) and rng.random() < 0.5:  # something else was found for what is needed next
        shown.append(f"{_found(world, asked.facts[reached], rng, fit=0.0).sentence}.")
    if rng.random() < 0.4:
        extra = f"{another_fact(world, asked.facts[0], rng).sentence}."
        shown.insert(int(rng.integers(len(shown) + 1)), extra)
    thought = [fact.sentence for fact in asked.facts[:reached]]
    answer = asked.answer
    if reached < len(asked.facts):
        thought.append(_missing(asked.facts[reached]))
        answer = UNKNOWN
    elif asked.kind == "comparison":
        thought[-1] += f" and {_compared(asked)}"
    text = f"{_documents(list(dict.fromkeys(shown)))} {asked.text}"
    return _taught(READ, text, f"<think> {' , '.join(thought)} </think> <answer> {answer} </answer>")


# --- their parts


def explained(asked: Asked, *, joined: bool = False) -> str:
    """The chain of thought: every fact in its words, or what the parts said, then the answer."""
    facts = [fact.sentence for fact in asked.facts]
    if joined and asked.kind in {"3-hop", "4-hop"}:
        first = asked.facts[:2]
        path = " of the ".join(fact.relation for fact in reversed(first))
        facts = [sentence(path, first[0].subject, first[-1].value), *facts[2:]]
    if asked.kind == "comparison" and len(asked.facts) == 2:
        facts.append(_compared(asked))
    return f"{' , '.join(facts)} {MARKER} {asked.answer}"


def _read(asked: Asked, reached: int) -> str:
    """The chain of thought of one who found so many of the facts that are needed, in their order."""
    if reached == len(asked.facts):
        return explained(asked)
    said = [*(fact.sentence for fact in asked.facts[:reached]), _missing(asked.facts[reached])]
    return f"{' , '.join(said)} {MARKER} {UNKNOWN}"


def _missing(fact: Fact) -> str:
    return sentence(fact.relation, fact.subject, UNKNOWN)


def _compared(asked: Asked) -> str:
    """Who was first. The moment stands right before its name, since a model this small finds what followed a word, and
    not what came before it."""
    first, _ = sorted(asked.facts, key=lambda fact: int(fact.value))
    return (
        f"{' , '.join(f'{fact.value} {fact.subject}' for fact in asked.facts)} , before {first.value} {first.subject}"
    )


def _fits(fact: Fact, found: Fact) -> bool:
    return (found.relation, found.subject) == (fact.relation, fact.subject)


def _held_against(fact: Fact, found: Fact) -> str:
    """What is asked for beside what was found, word by word: from the two sentences alone, a model this small does not
    learn that a namesake is somebody else."""
    words = [(fact.relation, found.relation), *zip(fact.subject.split(), found.subject.split(), strict=True)]
    return " , ".join(f"{one} {other} {SAME if one == other else DIFFERENT}" for one, other in words)


def part_lines(asked: Asked) -> list[str]:
    """The lines of a context: the parts at the root, with their answers."""
    if asked.kind not in {"3-hop", "4-hop"}:
        return [f"{ask([fact.relation], fact.subject)} {fact.value}." for fact in asked.facts]
    first = asked.facts[:2]
    lines = [f"{ask([fact.relation for fact in first], first[0].subject)} {first[-1].value}."]
    return [*lines, *(f"{ask([fact.relation], fact.subject)} {fact.value}." for fact in asked.facts[2:])]


def from_parts(lines: Sequence[str], question: str) -> str:
    """What `Tree` asks with the instruction FROM_PARTS."""
    return f"Context:\n{' '.join(lines)}\n\nQuestion:\n{question}"


def below_passages(passages: Sequence[str], question: str) -> str:
    """What `Tree` asks with the instruction FROM_PASSAGES."""
    return f"{_documents(passages)}\n\n{question}"


def _documents(texts: Sequence[str]) -> str:
    return render_passages([Passage(id="", text=text) for text in texts], max_words=EVERYTHING)


def _taught(instruction: Instruction, text: str, reply: str) -> list[Piece]:
    return [(f"{BOS} {instruction.token} {text}", False), (f"{reply} {EOS}", True)]


def _person(world: SplitWorld, rng: np.random.Generator, entities: Sequence[str]) -> str:
    """One of the entities if it is a training one, else a namesake: so every first name is spoken of, and no held-out
    entity is."""
    entity = entities[int(rng.integers(len(entities)))]
    return entity if world.split_of[entity] == "train" else world.namesake(entity, rng)


def _anything(world: SplitWorld, relation: str, rng: np.random.Generator) -> str:
    """A value that a relation could have, for anybody."""
    if relation in world.time_relations:
        values = world.values(relation, "train")
        return values[int(rng.integers(len(values)))]
    return _person(world, rng, [entity for split in world.splits for entity in world.values(relation, split)])


def _made_up(world: SplitWorld, relation: str, subject: str, rng: np.random.Generator) -> Fact:
    """A fact with a random value, to be read."""
    while (value := _anything(world, relation, rng)) == subject:
        pass
    return Fact(subject, relation, value, "outside")


def _moments_of_two(world: SplitWorld, relation: str, rng: np.random.Generator) -> tuple[Fact, Fact]:
    """Facts about two people, at different moments."""
    while True:
        one, other = (_made_up(world, relation, _person(world, rng, world.entities), rng) for _ in range(2))
        if one.subject != other.subject and one.value != other.value:
            return one, other


def _invented(world: SplitWorld, rng: np.random.Generator, comparisons: float = 0.25) -> Asked:
    """A question whose facts have random values, of which each leads to the next; a share of them `comparisons`."""
    chains = [kind for kind in KINDS if kind != "comparison"]
    kind = "comparison" if rng.random() < comparisons else chains[int(rng.integers(len(chains)))]
    while True:
        if kind == "comparison":
            relation = world.time_relations[int(rng.integers(len(world.time_relations)))]
            return Asked(kind, _moments_of_two(world, relation, rng))
        subject = _person(world, rng, world.entities)
        walked: list[Fact] = []
        for relation in world.some_relations(int(kind[0]), rng):
            walked.append(_made_up(world, relation, subject, rng))
            subject = walked[-1].value
        if len({walked[0].subject, *(fact.value for fact in walked)}) == len(walked) + 1:
            return Asked(kind, tuple(walked))


def _just(fact: Fact) -> Asked:
    return Asked("2-hop", (fact,))


def _remembered(world: SplitWorld, rng: np.random.Generator, least: int = 1) -> Asked:
    """A question about training entities whose facts are true where they were told, and random where they were not; of
    one fact, or more."""

    def recalled(subject: str, relation: str, *, last: bool = True) -> Fact:
        fact = world.facts[subject, relation]
        if fact.inside:
            return fact
        # Nobody is asked about the last one, so it may be anybody: else a held-out name would be known in the sentences
        # that tell the facts, and not in a chain, where its second half would be taken from the question.
        splits = list(world.splits) if last else [world.split_of[subject]]
        values = [value for split in splits for value in world.values(relation, split) if value != subject]
        return replace(fact, value=values[int(rng.integers(len(values)))])

    entities = world.splits["train"]
    if least == 1 and rng.random() < 0.4:
        subject = entities[int(rng.integers(len(entities)))]
        return _just(recalled(subject, world.relations[int(rng.integers(len(world.relations)))]))
    while True:
        asked = world.some_question(KINDS[int(rng.integers(len(KINDS)))], "train", rng)
        if asked.kind == "comparison":
            facts = tuple(recalled(fact.subject, fact.relation) for fact in asked.facts)
            if facts[0].value != facts[1].value:
                return Asked(asked.kind, facts)
            continue
        walked: list[Fact] = []
        subject = asked.facts[0].subject
        for number, fact in enumerate(asked.facts, start=1):
            walked.append(recalled(subject, fact.relation, last=number == len(asked.facts)))
            subject = walked[-1].value
        if len({fact.subject for fact in walked}) == len(walked):
            return Asked(asked.kind, tuple(walked))


def _found(world: SplitWorld, fact: Fact, rng: np.random.Generator, fit: float = 0.5) -> Fact:
    """What a search engine finds first for a fact: the fact itself, or else the same of a namesake, something else of
    the same entity, or that the entity is to somebody else what was asked for."""
    if rng.random() < fit:
        return fact
    kind = rng.random()
    if kind < 0.4:
        other = _namesake(world, fact.subject, rng)
        return replace(fact, subject=other, value=_anything(world, fact.relation, rng))
    if kind < 0.8:
        return another_fact(world, fact, rng)
    like = fact.relation in world.entity_relations and rng.random() < 0.5
    relation = fact.relation if like else str(rng.choice(world.entity_relations))
    while (other := _person(world, rng, world.entities)) == fact.subject:
        pass
    return replace(fact, subject=other, relation=relation, value=fact.subject)


def _namesake(world: SplitWorld, person: str, rng: np.random.Generator) -> str:
    """Somebody else with the same first name, who is no held-out entity."""
    while (other := world.namesake(person, rng)) in world.split_of and world.split_of[other] != "train":
        pass
    return other


def another_fact(world: SplitWorld, fact: Fact, rng: np.random.Generator) -> Fact:
    """Something else about the same entity, with a random value."""
    others = [relation for relation in world.relations if relation != fact.relation]
    return _made_up(world, others[int(rng.integers(len(others)))], fact.subject, rng)
