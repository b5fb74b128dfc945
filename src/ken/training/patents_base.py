"""The base model of the patent world: it knows what head terms mean, compares explanations that stand in its context,
and composes what it knows poorly without writing it down (card 54, Model).

It is pretrained on prompts that the method renders: questions about a text, answers alone and from passages, and
judgements with and without notes. Judgements show train terms only, so that none of the test's was ever judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents.instructions import READ
from ken.agents.pair_judge import judge_instruction, parse_vote, render_pair
from ken.agents.protocol import render_passages
from ken.agents.self_questioning import (
    ANSWER_ALONE,
    ANSWER_FROM,
    NO_INFORMATION,
    ask_instruction,
    parse_questions,
    parse_reply,
    render_notes,
)
from ken.core import Malformed, Passage, Sampling
from ken.core.pairs import DIFFERENT, SAME
from ken.core.seeding import derive_seed
from ken.lab.patents import (
    FILLER,
    MECHANISMS,
    PURPOSES,
    SLOTS,
    TEMPLATES,
    Pair,
    PatentConfig,
    PatentWorld,
    Term,
    documents,
    paragraph,
)
from ken.models import Message, Model
from ken.training.factworld_base import TAGS
from ken.training.lab_checkpoint import Gate, LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer

ASK = ask_instruction(SLOTS, 0)
JUDGE, JUDGE_COT = judge_instruction(), judge_instruction(cot=True)
SURE, UNSURE = 9, 5  # the confidence of a judgement that rests on notes, and of one that does not
CONTROLS = [ASK.token, ANSWER_ALONE.token, ANSWER_FROM.token, JUDGE.token, JUDGE_COT.token, READ.token]
JSON_PIECES = ['{"1": "', '", "2": "', '", "3": "', '"}', '{"answer": "', '{"label": 1, "confidence": ']
JSON_PIECES += ['{"label": 0, "confidence": ']
WORDS = "what is does mean tell me the meaning of Q A Text Doc Title Notes on text mechanism purpose abcdef".split()  # noqa: SIM905
WORDS += ["(", ")", ":", "?", ",", ".", "}", "-", *map(str, range(11)), *NO_INFORMATION.split(), SAME, DIFFERENT]
CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"
WORDINGS = ("what is {} ?", "what does {} mean ?", "tell me the meaning of {} .")


class PatentsBaseConfig(LabBaseConfig):
    """World and number of examples of each kind.

    comparing: notes alone, compared. facts: how often every head term is explained. asking, reading: texts asked about,
    and questions answered from passages. noted: judgements with notes; bare: without, with questions alone, or with
    notes of no use; thinking: judgements after a chain of thought.
    """

    called = "patents"

    world: PatentConfig = PatentConfig()
    context: int = 320
    comparing: int = Field(default=10_000, ge=0)
    facts: int = Field(default=60, ge=0)
    asking: int = Field(default=5000, ge=0)
    reading: int = Field(default=3000, ge=0)
    noted: int = Field(default=3000, ge=0)
    bare: int = Field(default=3000, ge=0)
    thinking: int = Field(default=1000, ge=0)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        world = PatentWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(
            tokenizer,
            [encode(stage, tokenizer) for stage in examples(self, world) if stage],
            lambda model: measure_gates(model, world),
        )


def smoke_config(*, seed: int = 0) -> PatentsBaseConfig:
    """The same kind of model in a small world, built in seconds; it speaks the formats and knows little, and its gates
    do not count: for trying code, not for claims."""
    world = PatentConfig(concepts=8, train=64, test=12, seed=seed)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2}
    counts = {"comparing": 60, "facts": 12, "asking": 150, "reading": 100, "noted": 120, "bare": 60, "thinking": 30}
    return PatentsBaseConfig(world=world, seed=seed, gated=False, **sizes, **counts)


def build_tokenizer(world: PatentWorld) -> Any:
    """A word-level tokenizer over everything the world can say; tags and the pieces of JSON are one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    prose = " ".join([*TEMPLATES, *FILLER]).replace("{0}", "").replace("{1}", "").replace("{2}", "").split()
    words = [*WORDS, *prose, *MECHANISMS, *PURPOSES, *(term.word for term in world.terms)]
    vocabulary = dict.fromkeys([PAD, BOS, EOS, UNKNOWN, *CONTROLS, *TAGS, *JSON_PIECES, *words])
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    special = [PAD, BOS, EOS, UNKNOWN, *CONTROLS]
    return fast_tokenizer(backend, special=special, tags=(*TAGS, *JSON_PIECES), chat_template=CHAT_TEMPLATE)


def examples(config: PatentsBaseConfig, world: PatentWorld) -> list[list[list[Piece]]]:
    """All examples, each to be shown once: first comparing alone, which is learnt in short examples and hardly in long
    ones, then everything."""
    rng = np.random.default_rng(derive_seed("patents base", config.seed))
    pairs = world.pairs("train")
    made = [
        *facts(config, world, rng),
        *asking(config, world, rng),
        *reading(config, world, rng),
        *(judging(_drawn(pairs, rng), rng, noted=True) for _ in range(config.noted)),
        *(judging(_drawn(pairs, rng), rng, noted=False) for _ in range(config.bare)),
        *(thinking(_drawn([p for p in pairs if not p.tail], rng)) for _ in range(config.thinking)),
    ]
    train = world.of("train")
    compared = [comparing(train, rng) for _ in range(config.comparing)]
    half = len(compared) // 2  # the rest is shown among the others, whose slots are nearly always the same
    return [compared[:half], [*compared[half:], *(list(pieces) for pieces in made)]]


def facts(config: PatentsBaseConfig, world: PatentWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """What head terms mean, asked in the words of the method and in others, and stated."""
    for term in world.terms:
        for _ in range(config.facts if term.head else 0):
            wording = WORDINGS[int(rng.choice(len(WORDINGS), p=[0.6, 0.2, 0.2]))]
            yield [(f"{BOS} {ANSWER_ALONE.token} {wording.format(term.word)}", False), (_answer(term.meaning), True)]


def asking(config: PatentsBaseConfig, world: PatentWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Texts with any terms, and what one would have to know."""
    for _ in range(config.asking):
        terms = [_drawn(world.terms, rng) for _ in range(SLOTS)]
        text = _drawn(TEMPLATES, rng).format(*(term.word for term in terms))
        asked = ", ".join(f'"{i}": "{term.question}"' for i, term in enumerate(terms, start=1))
        yield [(f"{BOS} {ASK.token} {text}", False), (f"{{{asked}}} {EOS}", True)]


def reading(config: PatentsBaseConfig, world: PatentWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Questions with three passages; the first answers, as it does when a search engine puts them, or none does.

    Meanings are drawn anew, so that they must be read."""
    for _ in range(config.reading):
        terms = [_drawn(world.terms, rng) for _ in range(3)]
        shown = [_invented(term, rng) for term in terms]
        passages = [Passage(id=t.word, title=t.word, text=paragraph(t, rng)) for t in shown]
        missing = rng.random() < 0.1
        asked = _drawn(world.terms, rng) if missing else shown[0]
        said = NO_INFORMATION if missing and asked.word not in {t.word for t in shown} else shown[0].meaning
        asked = asked if said == NO_INFORMATION else shown[0]
        prompt = f"{BOS} {ANSWER_FROM.token} {render_passages(passages)} {asked.question}"
        yield [(prompt, False), (_answer(said), True)]


def judging(pair: Pair, rng: np.random.Generator, *, noted: bool) -> list[Piece]:
    """A judgement with one to three true notes below each text, all three most often; or without any, with questions
    alone, or with filler for answers."""
    count = int(rng.choice([1, 2, 3], p=[0.15, 0.2, 0.65])) if noted else int(rng.integers(SLOTS + 1))
    filler = not noted and rng.random() < 0.5
    notes = []
    for side in (0, 1):
        terms = pair.terms(side)[:count]
        answers: list[str | None] = [t.meaning if noted else _noise(t, rng) if filler else None for t in terms]
        notes.append(render_notes([t.question for t in terms], answers))
    sure = noted and (count == SLOTS or (not pair.same and pair.deciding < count))
    aloud = f"{spelled(pair.slots[:count])} " if noted else ""
    return [
        (f"{BOS} {JUDGE.token} {render_pair(pair.texts, notes)}", False),
        (f"{aloud}{_verdict(pair.same, SURE if sure else UNSURE)}", True),
    ]


def comparing(terms: Sequence[Term], rng: np.random.Generator) -> list[Piece]:
    """The notes on one to three slots without the texts; every slot is as likely to be the same as not, unlike in
    pairs, where it nearly always is. Meanings are drawn anew, so that they must be read."""
    slots = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.4, 0.3, 0.3]))):
        first, other = (_invented(_drawn(terms, rng), rng) for _ in range(2))
        mechanism, purpose = rng.random(2) < [[0.5, 1.0], [1.0, 0.5], [0.5, 0.5]][int(rng.integers(3))]
        kept = replace(
            other,
            mechanism=first.mechanism if mechanism else other.mechanism,
            purpose=first.purpose if purpose else other.purpose,
        )
        slots.append((first, kept))
    notes = [
        render_notes([slot[side].question for slot in slots], [slot[side].meaning for slot in slots]) for side in (0, 1)
    ]
    same = all(a.concept == b.concept for a, b in slots)
    prompt = f"{BOS} {JUDGE.token} {render_pair(('', ''), notes)}"
    return [(prompt, False), (f"{spelled(slots)} {_verdict(same, SURE)}", True)]


def spelled(slots: Iterable[tuple[Term, Term]]) -> str:
    """What the terms of some slots mean, word beside word, and whether it is the same. Judgements read their notes
    aloud so: without it a model of this size does not learn in 6,000 examples to compare what stands far apart, and
    with two words at a time it reads without a fault and still says "same" of everything. Terms are left out, since
    names that were never written are not copied."""
    words = [pair for a, b in slots for pair in ((a.mechanism, b.mechanism), (a.purpose, b.purpose))]
    read = " ".join(f"{first} {second} {SAME if first == second else DIFFERENT}" for first, second in words)
    return f"<think> {read} </think>"


def thinking(pair: Pair) -> list[Piece]:
    """A judgement after saying what the terms mean, slot by slot; head terms only."""
    prompt = f"{BOS} {JUDGE_COT.token} {render_pair(pair.texts, ['', ''])}"
    return [(prompt, False), (f"{spelled(pair.slots)} {_verdict(pair.same, SURE)}", True)]


async def measure_gates(model: Model, world: PatentWorld, *, pairs: int = 200) -> list[Gate]:
    """Accuracy closed book on held-out head terms, from passages on all held-out terms, at naming the terms of a text,
    at judging with true notes (the ceiling), and at judging with nothing, which must not be composed in silence."""
    sampling = Sampling(max_tokens=96)

    async def replies(asked: Sequence[tuple[Any, str]]) -> list[str]:
        made = await asyncio.gather(
            *(model.generate([Message("system", i), Message("user", text)], sampling=sampling) for i, text in asked)
        )
        return [reply.text for (reply,) in made]

    rng = np.random.default_rng(derive_seed("patent gates", world.config.seed))
    terms, judged = world.of("test"), world.pairs("test")[:pairs]
    head = [term for term in terms if term.head]
    pages = {page.id: page for page in documents(world)}
    alone = await replies([(ANSWER_ALONE, term.question) for term in head])
    shown = [[pages[t.word], pages[_drawn(terms, rng).word], pages[_drawn(terms, rng).word]] for t in terms]
    read = await replies(
        [(ANSWER_FROM, f"{render_passages(p)} {t.question}") for t, p in zip(terms, shown, strict=True)]
    )
    asked = await replies([(ASK, pair.texts[0]) for pair in judged])
    notes = [
        [render_notes([t.question for t in pair.terms(s)], [t.meaning for t in pair.terms(s)]) for s in (0, 1)]
        for pair in judged
    ]
    noted = await replies([(JUDGE, render_pair(p.texts, n)) for p, n in zip(judged, notes, strict=True)])
    raw = await replies([(JUDGE, render_pair(pair.texts, ["", ""])) for pair in judged])
    named = [
        asked_of == tuple(t.question for t in pair.terms(0))
        for pair, asked_of in zip(judged, (parse_questions(text, SLOTS) for text in asked), strict=True)
    ]
    return [
        Gate("closed book, head terms", _right(alone, head), 0.9, 1.0),
        Gate("from passages", _right(read, terms), 0.9, 1.0),
        Gate("names the terms", sum(named) / len(named), 0.95, 1.0),
        Gate("judges with true notes", _judged(noted, judged), 0.9, 1.0),
        Gate("judges with nothing", _judged(raw, judged), 0.4, 0.75),
    ]


def _right(replies: Sequence[str], terms: Sequence[Term]) -> float:
    return sum(parse_reply(text) == term.meaning for text, term in zip(replies, terms, strict=True)) / len(terms)


def _judged(replies: Sequence[str], pairs: Sequence[Pair]) -> float:
    votes = [parse_vote(text) for text in replies]
    right = [not isinstance(v, Malformed) and v.same == p.same for v, p in zip(votes, pairs, strict=True)]
    return sum(right) / len(right)


def _answer(text: str) -> str:
    return f'{{"answer": "{text}"}} {EOS}'


def _verdict(same: bool, confidence: int) -> str:
    return f'{{"label": {int(same)}, "confidence": {confidence} }} {EOS}'


def _invented(term: Term, rng: np.random.Generator) -> Term:
    return Term(term.word, _drawn(MECHANISMS, rng), _drawn(PURPOSES, rng), term.head, term.split)


def _noise(term: Term, rng: np.random.Generator) -> str:
    """As many words as a meaning has, from a paragraph about the term."""
    words = " ".join(FILLER[int(i)] for i in rng.permutation(len(FILLER))[:2]).split()
    count = len(term.meaning.split())
    start = int(rng.integers(len(words) - count + 1))
    return " ".join(words[start : start + count])


def _drawn(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]
