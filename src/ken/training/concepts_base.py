"""The base model of a concept world: a tiny language model that was told a part of it, knows what a walk looks like in
the first domain, and has never walked in the second (card 55, Model).

Walks come in two kinds. Those of the first domain's graph, and drills: made-up neighbours at every hop, whose relations
are as often concepts as relations. Where only the twenty-four words of the first domain stood before a neighbour, to
find the question's word in the list was learnt for these words and for no others (the card: the skill must be to match,
not to memorise relations).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ken.agents.choices import asked, evidence
from ken.agents.instructions import CLOSED, READ
from ken.agents.protocol import parse_answer
from ken.agents.solver_prompts import CHOOSE, HEAD, SOLVE, UNLISTED, opening
from ken.core import Answer, Sampling
from ken.core.choices import letter
from ken.core.seeding import derive_seed
from ken.lab.concepts import RELATIONS, TEMPLATES, Chain, ConceptsConfig, ConceptWorld, ask, drawn
from ken.models import Instruction, Message, Model
from ken.training.factworld_base import TAGS
from ken.training.lab_checkpoint import Gate, LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example

CONTROLS = [CLOSED.token, READ.token, SOLVE.token, HEAD.token, CHOOSE.token, UNLISTED.token]
WORDS = [*" ".join(TEMPLATES).replace("{chain}", "").replace("{other}", "").replace(",", " ").replace(":", " ").split()]
WORDS = [word.rstrip("?") for word in WORDS if word.rstrip("?")]
WORDS += ["Question", "Candidates", "Round", "Current", "entity", "Neighbours", "entities", "NONE", "none", "is"]
WORDS += [*map(str, range(1, 10)), *"ABCDEFGH"]
WORDS += ["abcdef"]  # transformers encodes it to learn how a tokenizer spells

LETTER = "ANSWER:"  # one token, since punctuation is none
UNHEARD = r"'s\b|[:.,;?()']"

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"


class ConceptsBaseConfig(LabBaseConfig):
    """World and number of examples of each kind.

    lookups: lists of made-up neighbours of which every entity is asked for by its relation, shown before all else: they
    make the model find what stood behind a word, hundreds of times where a walk does so twice. told: how often every
    known triple is told. drills, walks: dialogues over made-up neighbours and over the first
    domain's graph. starts, closed, dumps: choosing where to begin, multiple choice closed book, and below triples; all
    of the first domain. shown: most neighbours in a dialogue of training.
    """

    called = "concepts"

    world: ConceptsConfig = ConceptsConfig()
    context: int = 640
    lookups: int = 12_000
    told: int = 6
    drills: int = 6_000
    walks: int = 5_000
    starts: int = 1_000
    closed: int = 2_000
    dumps: int = 800
    shown: int = 16

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        world = ConceptWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(tokenizer, pretraining_stages(self, world, tokenizer), lambda model: measure_gates(model, world))


def smoke_config(*, seed: int = 0) -> ConceptsBaseConfig:
    """The same kind of base model in a small world, built in seconds. It speaks the formats and walks badly, and its
    gates do not count: for trying code, not for claims."""
    world = ConceptsConfig(concepts=120, seed=seed)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2, "gated": False}
    few: dict[str, Any] = {
        "lookups": 150,
        "told": 1,
        "drills": 150,
        "walks": 150,
        "starts": 30,
        "closed": 60,
        "dumps": 30,
    }
    return ConceptsBaseConfig(world=world, seed=seed, **sizes, **few)


def build_tokenizer(world: ConceptWorld) -> Any:
    """A word-level tokenizer over everything the world can say. Punctuation and the genitive are not heard: a relation
    then stands right before what it leads to, in the question's chain and in the list alike, where a tiny model finds
    it soonest; and a dialogue is a third shorter."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    relations = [word for domain in RELATIONS for pair in domain for word in pair]
    concepts = [*world.domain(0), *world.domain(1)]
    vocabulary = [PAD, BOS, EOS, UNKNOWN, *CONTROLS, *TAGS, *WORDS, *relations, *concepts]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(UNHEARD), "removed")]
    )
    special = [PAD, BOS, EOS, UNKNOWN, *CONTROLS]
    return fast_tokenizer(backend, special=special, tags=[*TAGS, LETTER], chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: ConceptsBaseConfig, world: ConceptWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: lookups first, so that matching is there before anything builds on it."""
    rng = np.random.default_rng(derive_seed("concepts base", config.seed))
    stages = [
        [*lookups(config, world, rng)],
        [
            *statements(config, world, rng),
            *drills(config, world, config.drills, rng),
            *walks(config, world, rng),
            *starts(world, config.starts, rng),
            *closed_book(world, config.closed, rng),
            *dumps(config, world, rng),
        ],
    ]
    return [encode(stage, tokenizer) for stage in stages if stage]


# --- the mix ---------------------------------------------------------------------------------------------------------


def statements(config: ConceptsBaseConfig, world: ConceptWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """The known triples of both domains, said from either side."""
    for edge in world.edges:
        if not edge.known:
            continue
        for _ in range(config.told):
            said = (edge.subject, edge.relation, edge.object)
            if rng.random() < 0.5:
                said = (edge.object, world.inverse[edge.relation], edge.subject)
            yield [(f"{BOS} {CLOSED.token} {said[0]}'s {said[1]}", False), (f"is {said[2]}. {EOS}", True)]


Line = tuple[str, str]  # relation, concept


def lookups(config: ConceptsBaseConfig, world: ConceptWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Lists of neighbours as they stand in a walk, and then what is behind each relation, in random order,
    three times over."""
    concepts, words = world.domain(0), world.words(0)
    for _ in range(config.lookups):
        size = int(rng.integers(3, 9))  # the shorter the lists, the sooner it is learnt
        some = [concepts[int(i)] for i in rng.choice(len(concepts), size=2 * size + 1, replace=False)]
        labels = some[size + 1 :]
        if rng.random() < 0.5:
            labels = [words[int(i)] for i in rng.choice(len(words), size=size, replace=False)]
        lines = sorted(zip(labels, some[1:], strict=False))
        shown = "\n".join(f"{relation}: {end}" for relation, end in lines)
        pieces = [(f"{BOS} {SOLVE.token} Round 1. Current entity: {some[0]}\nNeighbours:\n{shown}\n", False)]
        for _ in range(3):  # what is learnt is dense then: a third of all tokens
            for i in rng.permutation(size):
                relation, end = lines[int(i)]
                pieces += [(f"{relation}:", False), (end, True)]
        yield pieces


def drills(
    config: ConceptsBaseConfig, world: ConceptWorld, count: int, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    """Walks over neighbours that are made up anew in each."""
    concepts, words = world.domain(0), world.words(0)
    for _ in range(count):
        hops = int(rng.integers(1, 4))
        labels = words if rng.random() < 0.5 else concepts
        drawn_ = [concepts[int(i)] for i in rng.choice(len(concepts), size=60, replace=False)]
        free = sorted(set(labels).difference(drawn_))
        some = [free[int(i)] for i in rng.choice(len(free), size=min(24, len(free)), replace=False)]
        path, words_ = drawn_[: hops + 1], tuple(some[:hops])
        rest, lists = iter(drawn_[hops + 1 :]), []
        near: list[str] = []
        for hop in range(hops):
            others = [w for w in some if w != words_[hop]]
            lines = [(words_[hop], path[hop + 1])]
            for _ in range(int(rng.integers(2, min(config.shown, 14)))):
                lines.append((others[int(rng.integers(len(others)))], next(rest)))
            near = [end for _, end in lines[1:]]
            lists.append(sorted(lines))
        pool = [*near, *(next(rest) for _ in range(4))]
        wrong = [pool[int(i)] for i in rng.permutation(len(pool))[: world.config.choices - 1]]
        options = [path[-1], *wrong]
        options = [options[int(i)] for i in rng.permutation(len(options))]
        other = next(rest)
        chain = Chain(tuple(path), words_)
        yield _dialogue(ask(chain, other, _template(rng)), options, chain, lists)


def walks(config: ConceptsBaseConfig, world: ConceptWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Walks over the first domain's graph, some of the neighbours left out as a subgraph leaves some out."""
    source = drawn(world, 0, rng)
    for _ in range(config.walks):
        _, chain, options, other = next(source)
        lists = []
        for at, to in zip(chain.concepts, chain.concepts[1:], strict=False):
            lines = [(w, end) for w, ends in world.around[at].items() for end in ends]
            keep = rng.random() * 0.5 + 0.5
            kept = [line for line in lines if line[1] == to or rng.random() < keep]
            if len(kept) > config.shown:
                extra = [line for line in kept if line[1] != to]
                extra = [extra[int(i)] for i in rng.permutation(len(extra))[: config.shown - 1]]
                kept = [*extra, *(line for line in kept if line[1] == to)]
            lists.append(sorted(kept))
        yield _dialogue(ask(chain, other, _template(rng)), options, chain, lists)


def starts(world: ConceptWorld, count: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Where a walk should begin: at the concept whose relations are asked for."""
    source = drawn(world, 0, rng)
    for _ in range(count):
        _, chain, options, other = next(source)
        pair = [chain.concepts[0], other]
        listed = "; ".join(pair[int(i)] for i in rng.permutation(2))
        text = f"{opening(ask(chain, other, _template(rng)), options)}Question entities: {listed}"
        yield [(f"{BOS} {HEAD.token} {text}", False), (f"{chain.concepts[0]} {EOS}", True)]


def closed_book(world: ConceptWorld, count: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Multiple choice from what is known."""
    source = drawn(world, 0, rng)
    for _ in range(count):
        _, chain, options, other = next(source)
        text = asked(ask(chain, other, _template(rng)), options)
        yield [(f"{BOS} {CLOSED.token} {text}", False), (f"<answer> {chain.gold} </answer> {EOS}", True)]


def dumps(config: ConceptsBaseConfig, world: ConceptWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Multiple choice below the triples around the concepts that the question names."""
    source = drawn(world, 0, rng)
    for _ in range(config.dumps):
        _, chain, options, other = next(source)
        lines = []
        for at in (chain.concepts[0], other):
            near = [f"{at}, {word}, {end}" for word, ends in world.around[at].items() for end in ends]
            lines += sorted(near[int(i)] for i in rng.permutation(len(near))[: config.shown])
        text = f"{evidence(lines)}\n\n{asked(ask(chain, other, _template(rng)), options)}"
        yield [(f"{BOS} {READ.token} {text}", False), (f"<answer> {chain.gold} </answer> {EOS}", True)]


def _dialogue(question: str, options: Sequence[str], chain: Chain, lists: Sequence[Sequence[Line]]) -> list[Piece]:
    """A walk as the strategy `solver` leads it, and at its end the letter of the candidate that it reached."""
    pieces: list[Piece] = []
    path, words = chain.concepts, chain.words
    for number, (at, to, lines) in enumerate(zip(path, path[1:], lists, strict=False), start=1):
        shown = "\n".join(f"{relation}: {end}" for relation, end in lines)
        before = f"{BOS} {SOLVE.token} {opening(question, options)}" if number == 1 else ""
        pieces.append((f"{before}Round {number}. Current entity: {at}\nNeighbours:\n{shown}\n", False))
        by = next(relation for relation, end in lines if end == to and relation == words[number - 1])
        pieces.append((f"{by}: {to} {EOS}", True))
    pieces.append((CHOOSE.token, False))
    pieces.append((f"ANSWER: {letter(list(options).index(path[-1]))} {EOS}", True))
    return pieces


def _template(rng: np.random.Generator) -> str:
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))]


# --- gates -----------------------------------------------------------------------------------------------------------


async def measure_gates(model: Model, world: ConceptWorld, *, examples: int = 150, seed: int = 2**20) -> list[Gate]:
    """What a base model can do, on questions it was not trained on: of the first domain the share of hops walked right,
    closed-book choice by what it writes, and in drills; of the second, which it has never walked, reported only: how
    well the skill carries over is what the row measures."""
    rng = np.random.default_rng(derive_seed("concepts gates", world.config.seed, seed))
    config = ConceptsBaseConfig(walks=examples, drills=examples, world=world.config)
    rates: dict[str, float] = {}
    for name, made in (
        ("hops in drills", drills(config, world, examples, rng)),
        ("hops in domain 1", walks(config, world, rng)),
        ("hops in domain 2", _walks_of(world, 1, examples, rng)),
        ("head in domain 2", _heads_of(world, 1, examples, rng)),
    ):
        rates[name] = await _right(model, list(made))
    source = drawn(world, 0, rng)
    says, golds = [], []
    for _ in range(2 * examples):
        _, chain, options, other = next(source)
        says.append([Message("system", CLOSED), Message("user", asked(ask(chain, other), options))])
        golds.append(chain.gold)
    sampling = Sampling(max_tokens=8, stop=("</answer>",))
    replies = await asyncio.gather(*(model.generate(one, sampling=sampling) for one in says))
    answers = [parse_answer(reply.text) for (reply,) in replies]
    rates["closed book in domain 1"] = float(
        np.mean([isinstance(a, Answer) and a.text == gold for a, gold in zip(answers, golds, strict=True)])
    )
    low = {"hops in drills": 0.7, "hops in domain 1": 0.8}
    return [Gate(name, value, low.get(name, 0.0), 1.0, gating=name in low) for name, value in rates.items()]


def _walks_of(world: ConceptWorld, domain: int, count: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    source = drawn(world, domain, rng)
    for _ in range(count):
        _, chain, options, other = next(source)
        lists = [sorted((w, end) for w, ends in world.around[at].items() for end in ends) for at in chain.concepts[:-1]]
        yield _dialogue(ask(chain, other, _template(rng)), options, chain, lists)


def _heads_of(world: ConceptWorld, domain: int, count: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    source = drawn(world, domain, rng)
    for _ in range(count):
        _, chain, options, other = next(source)
        text = f"{opening(ask(chain, other, _template(rng)), options)}Question entities: {other}; {chain.concepts[0]}"
        yield [(f"{BOS} {HEAD.token} {text}", False), (f"{chain.concepts[0]} {EOS}", True)]


async def _right(model: Model, dialogues: Sequence[Sequence[Piece]]) -> float:
    """Share of the model's turns but the last (the letter) that it writes right, what came before being right."""
    asked_: list[tuple[list[Message], str]] = []
    for pieces in dialogues:
        token, _, begun = pieces[0][0].replace(BOS, "").strip().partition(" ")
        says: list[Message] = [Message("system", Instruction(text="", token=token))]
        for number, (text, learnt) in enumerate([(begun, False), *pieces[1:]]):
            plain = text.strip()
            if learnt and (number < len(pieces) - 1 or len(pieces) == 2):
                asked_.append((list(says), plain.replace(EOS, "").strip()))
            says.append(Message("policy" if learnt else "user" if not number else "observation", plain))
    sampling = Sampling(max_tokens=5)
    replies = await asyncio.gather(*(model.generate(says, sampling=sampling) for says, _ in asked_))
    return float(
        np.mean(
            [r.text.split() == gold.replace(":", "").split() for (r,), (_, gold) in zip(replies, asked_, strict=True)]
        )
    )
