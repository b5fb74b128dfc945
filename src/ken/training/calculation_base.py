"""The base model of the calculation world: it knows what it was told and can use tools, but not when (card 22,
Miniature claim check, Model).

It recalls the facts it was shown, adds and multiplies single digits, reads, and writes both kinds of tool calls. In
what it was shown, calls come at random, whatever the question: pointless ones as often as useful ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents.tools import exhausted, invalid_call, response, tool_instruction
from ken.core import Question
from ken.core.seeding import derive_seed
from ken.lab.calculation import (
    NAMES,
    RELATIONS,
    SNIPPETS,
    CalculationWorld,
    CalculationWorldConfig,
    Entity,
    calculate,
    density_question,
    difference_question,
    easy_sum,
    fact_question,
    hard_sum,
    snippet,
    sum_question,
)
from ken.sources.tools.python import UNPRINTED
from ken.sources.tools.search_tool import NOTHING
from ken.training.factworld_base import CHAT_TEMPLATE
from ken.training.lab_checkpoint import LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example, Weigh

TAGS = [f"<{slash}{tag}>" for tag in ("think", "search", "code", "response", "answer") for slash in ("", "/")]
VARIANTS: dict[tuple[str, ...], str] = {
    enabled: tool_instruction(search="search" in enabled, code="code" in enabled).token
    for enabled in ((), ("search",), ("code",), ("search", "code"))
}
CONTROLS = [*VARIANTS.values(), invalid_call(()).token]
SIGNS = ["+", "-", "*", "//"]
DIGITS = [*"0123456789"]
WORDS = "What is the of ? : , . ( ) [ ] minus density abcdef division by zero".split()  # noqa: SIM905
MOST_CALLS = 3  # in one trace


class CalculationBaseConfig(LabBaseConfig):
    """World and number of examples of each kind.

    exposures: how often each exposed fact is shown. copying: of reading alone, before all else. numbers: of results of
    up to six digits, half of them before all else; without these, answers after a right calculation had a digit wrong
    in a third of the cases. traces: of the tool loop about demo entities and arithmetic, with calls at random. chains:
    of looking up and computing about the world's own entities, in which the decisions are not learnt. sums: of single
    digits.
    helped: of the steps of a trace that takes both tools, the share that is the step it needs; the others are random.
    Where all were, 3% of the hybrids came out right, and every policy had settled on one call before it met enough of
    them (the card's remedy: more two-tool traces).
    enabled: how often each of the four prompts is shown: none, search, code, both. weigh: by batch, the traces without
    calls, which are short, made direct answers twice as likely as they are in the traces.
    """

    called = "calculation"

    world: CalculationWorldConfig = CalculationWorldConfig()
    context: int = 256
    weigh: Weigh = "token"
    exposures: int = Field(default=20, ge=0)
    copying: int = Field(default=8_000, ge=0)
    numbers: int = Field(default=6_400, ge=0)
    traces: int = Field(default=24_000, ge=0)
    helped: float = Field(default=0.3, ge=0, le=1)
    chains: int = Field(default=12_000, ge=0)
    sums: int = Field(default=4_000, ge=0)
    enabled: tuple[float, float, float, float] = (0.15, 0.15, 0.15, 0.55)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        from ken.training.calculation_gates import measure_gates

        world = CalculationWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(tokenizer, pretraining_stages(self, world, tokenizer), lambda model: measure_gates(model, world))


def smoke_config() -> CalculationBaseConfig:
    """A model built in seconds, which has learnt next to nothing."""
    return CalculationBaseConfig(
        world=CalculationWorldConfig(entities=8, demo_entities=6, values=4, questions=12),
        hidden_size=32,
        layers=2,
        heads=2,
        intermediate_size=64,
        exposures=4,
        copying=64,
        numbers=64,
        traces=640,
        chains=256,
        sums=128,
        gated=False,
    )


def build_tokenizer(world: CalculationWorld) -> Any:
    """Words of the world, tags and control tokens are one token each; numbers are spelt digit by digit.

    A digit that goes on a number is another token than one that begins it (`4 ##8 ##2`), so that decoding knows where
    numbers end.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    names = [entity.name for entity in (*world.entities, *world.demo_entities)]
    names += [value for relation in NAMES for value in world.values[relation]]
    said = " ".join([NOTHING, UNPRINTED, exhausted("search"), exhausted("code"), "ERROR"])
    backend_words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    spoken = [word for word, _ in backend_words.pre_tokenize_str(said)]
    digits = [*DIGITS, *(f"##{digit}" for digit in DIGITS)]
    vocabulary = [PAD, BOS, EOS, UNKNOWN, *CONTROLS, *TAGS, *SIGNS, *digits, *WORDS, *spoken, *RELATIONS, *names]
    words = list(dict.fromkeys(vocabulary))
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = backend_words
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    special = (PAD, BOS, EOS, UNKNOWN, *CONTROLS)
    return fast_tokenizer(backend, special=special, tags=(*TAGS, "//"), chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: CalculationBaseConfig, world: CalculationWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: reading alone, so that copying is there before recall can stand in for it,
    then everything mixed."""
    rng = np.random.default_rng(derive_seed("calculation mix", config.seed))
    results = list(numbers(config, rng))
    half = len(results) // 2
    read = [*copying(config, world, rng), *results[:half]]
    mixed = [
        *results[half:],
        *closed_book(config, world, rng),
        *sums(config, rng),
        *traces(config, world, rng),
        *chains(config, world, rng),
    ]
    return [encode(stage, tokenizer) for stage in (read, mixed) if stage]


# --- the mix ---------------------------------------------------------------------------------------------------------


def closed_book(
    config: CalculationBaseConfig, world: CalculationWorld, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    """Every exposed fact answered from memory, under any of the prompts. That it *is* answered and not looked up is not
    learnt, only the value."""
    for entity in world.entities:
        for relation in RELATIONS if entity.exposed else ():
            for _ in range(config.exposures):
                trace = Trace(fact_question(entity, relation, "K").text, _enabled(config, rng), decides=False)
                trace.recall(relation, entity.values[relation])
                yield trace.pieces


def sums(config: CalculationBaseConfig, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Single digits, worked out by heart."""
    for _ in range(config.sums):
        a, sign, b = easy_sum(rng)
        trace = Trace(sum_question(a, sign, b, "D").text, _enabled(config, rng), decides=False)
        trace.answer(str(calculate(a, sign, b)))
        yield trace.pieces


def copying(config: CalculationBaseConfig, world: CalculationWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Sentences with random values about one or two entities, then questions about all of it. Several questions share
    the sentences: the more there is to copy, the sooner copying is learnt."""
    everyone = (*world.entities, *world.demo_entities)
    for _ in range(config.copying):
        told = SNIPPETS[int(rng.integers(len(SNIPPETS)))]
        count = 1 + int(rng.random() < 0.5)
        about = [_imagined(everyone[int(i)], world, rng) for i in rng.choice(len(everyone), size=count, replace=False)]
        pieces: list[Piece] = [(f"{BOS} {VARIANTS['search',]}", False)]
        pieces += [(response(snippet(entity, told).text), False) for entity in about]
        asked = [(entity, relation) for entity in about for relation in told]
        for place in rng.permutation(len(asked)):
            entity, relation = asked[int(place)]
            value = entity.values[relation]
            said = f"<think> {relation} {value} </think> <answer> {value} </answer> {EOS}"
            pieces += [(fact_question(entity, relation, "S").text, False), (said, True)]
        yield pieces


def numbers(config: CalculationBaseConfig, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Results of a calculation given as the answer, one after the other: digits repeat, so that copying them takes
    counting places, which facts and names do not teach."""
    for _ in range(config.numbers):
        pieces: list[Piece] = [(f"{BOS} {VARIANTS['code',]}", False)]
        for digits in rng.integers(2, 7, size=6):
            result = int(rng.integers(10 ** (digits - 1), 10**digits))
            pieces += [(response(str(result)), False), (f"<answer> {result} </answer> {EOS}", True)]
        yield pieces


def traces(config: CalculationBaseConfig, world: CalculationWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """The tool loop on demo entities and on arithmetic: at every turn the enabled tools and the answer are equally
    likely, whether they help or not; except for the steps of hybrids that are `helped`."""
    for _ in range(config.traces):
        job = _job(world, world.demo_entities, rng)
        trace = Trace(job.question.text, _enabled(config, rng))
        for _ in range(MOST_CALLS):
            action = str(rng.choice([*trace.enabled, "answer"]))
            if job.hybrid and {"search", "code"} <= {*trace.enabled} and rng.random() < config.helped:
                action = job.needs
            if action == "answer":
                break
            _call(trace, job, action, world, rng)
        _end(trace, job, world, rng)
        yield trace.pieces


def chains(config: CalculationBaseConfig, world: CalculationWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """What a question about the world's own entities takes, so that it can ask about, read and compute with any of
    them. They tell no fact and favour no action: values are random, and the decisions are not learnt."""
    for _ in range(config.chains):
        job = _job(world, world.entities, rng, arithmetic=False)
        trace = Trace(job.question.text, ("search", "code"), decides=False)
        while job.unread:
            _call(trace, job, "search", world, rng)
        if job.expression:
            _call(trace, job, "code", world, rng)
        _end(trace, job, world, rng)
        yield trace.pieces


@dataclass(slots=True)
class Trace:
    """A transcript being written. decides: whether the choice of each action is learnt, or only its content."""

    question: str
    enabled: tuple[str, ...]
    decides: bool = True
    pieces: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pieces.append((f"{BOS} {VARIANTS[self.enabled]} {self.question}", False))

    def say(self, text: str, *, learn: bool = True) -> None:
        self.pieces.append((text, learn))

    def open(self, tag: str) -> None:
        self.say(f"<{tag}>", learn=self.decides)

    def think(self, text: str) -> None:
        """What was read, put where the next step finds it. It always follows a reading, so it is no decision."""
        self.say(f"<think> {text} </think>")

    def call(self, tag: str, content: str, result: str) -> None:
        self.open(tag)
        self.say(f"{content} </{tag}>")
        self.say(response(result), learn=False)

    def recall(self, relation: str, value: str, *, known: bool = True) -> None:
        """A fact from memory: the relation leads to the value, the value to the answer."""
        self.open("think")
        self.say(relation)
        self.say(value, learn=known)
        self.say(f"</think> <answer> {value} </answer> {EOS}")

    def answer(self, value: str, *, known: bool = True) -> None:
        self.open("answer")
        self.say(value, learn=known)
        self.say(f"</answer> {EOS}")


Reading = tuple[Entity, tuple[str, ...], tuple[str, ...]]  # about whom, what the sentence tells, what of it matters


@dataclass(slots=True)
class Job:
    """A question, and what is known on the way to its answer.

    unread: what is still to be looked up. relation: of a question for a fact.
    expression: what to compute, "" for a fact; by_heart: it can be done without a tool. done: the value is in sight.
    """

    question: Question
    unread: list[Reading] = field(default_factory=list)
    relation: str = ""
    expression: str = ""
    by_heart: bool = False
    done: bool = False
    thought: bool = False  # what was read last is the answer, and was just thought

    @property
    def answer(self) -> str:
        return self.question.answers[0]

    @property
    def hybrid(self) -> bool:
        """Whether it takes both tools."""
        return self.question.meta["kind"] == "H"

    @property
    def needs(self) -> str:
        """The action that brings the answer nearer."""
        if self.unread:
            return "search"
        return "code" if self.expression and not self.by_heart and not self.done else "answer"


def _job(world: CalculationWorld, about: Sequence[Entity], rng: np.random.Generator, *, arithmetic: bool = True) -> Job:
    """A random question: a fact, a density, a difference, or arithmetic hard or easy."""
    weights = (0.28, 0.12, 0.2, 0.3, 0.1) if arithmetic else (0.4, 0.25, 0.35, 0.0, 0.0)
    kind = str(rng.choice(("fact", "density", "difference", "hard", "easy"), p=weights))
    if kind in {"hard", "easy"}:
        a, sign, b = hard_sum(rng) if kind == "hard" else easy_sum(rng)
        question = sum_question(a, sign, b, "C" if kind == "hard" else "D")
        return Job(question, expression=f"{a} {sign} {b}", by_heart=kind == "easy")
    one, other = (_imagined(about[int(i)], world, rng) for i in rng.choice(len(about), size=2, replace=False))
    if kind == "fact":
        relation = str(rng.choice(RELATIONS))
        told = next(told for told in SNIPPETS if relation in told)
        return Job(fact_question(one, relation, "S"), [(one, told, (relation,))], relation=relation)
    if kind == "density":
        expression = f"{one.values['population']} // {one.values['area']}"
        return Job(density_question(one), [(one, SNIPPETS[0], SNIPPETS[0])], expression=expression)
    dear, cheap = sorted((one, other), key=lambda entity: -entity.number("price"))
    unread: list[Reading] = [(entity, SNIPPETS[1], ("price",)) for entity in (dear, cheap)]
    expression = f"{dear.values['price']} - {cheap.values['price']}"
    return Job(difference_question(dear, cheap), unread, expression=expression)


def _call(trace: Trace, job: Job, tag: str, world: CalculationWorld, rng: np.random.Generator) -> None:
    """One call: the next useful one if the tool has any to offer, else a pointless one."""
    job.thought = False
    if tag == "search":
        useful = bool(job.unread)
        if useful:
            entity, told, relations = job.unread.pop(0)
        else:
            demo = world.demo_entities[int(rng.integers(len(world.demo_entities)))]
            entity = _imagined(demo, world, rng)
            told = SNIPPETS[int(rng.integers(len(SNIPPETS)))]
            relations = (told[0],)
        trace.call("search", f"{relations[0]} of {entity.name}", snippet(entity, told).text)
        if useful:
            trace.think(" ".join(f"{relation} {entity.values[relation]}" for relation in relations))
            job.done = job.thought = bool(job.relation)
        return
    if job.expression and not job.unread:
        trace.call("code", job.expression, job.answer)
        job.done = True
    else:
        a, sign, b = easy_sum(rng)
        trace.call("code", f"{a} {sign} {b}", str(calculate(a, sign, b)))


def _end(trace: Trace, job: Job, world: CalculationWorld, rng: np.random.Generator) -> None:
    """The answer: what was found, or else a guess, of which only the form is learnt."""
    if job.relation:
        value = job.answer if job.done else world.draw(rng)[job.relation]
        if job.thought:
            trace.answer(value)
        else:
            trace.recall(job.relation, value, known=job.done)
    elif job.done or job.by_heart:
        trace.answer(job.answer)
    else:
        trace.answer(str(rng.integers(1, 1000)), known=False)


def _imagined(entity: Entity, world: CalculationWorld, rng: np.random.Generator) -> Entity:
    """The entity with random values: what is told of it can then only be read."""
    return Entity(entity.name, world.draw(rng), entity.exposed)


def _enabled(config: CalculationBaseConfig, rng: np.random.Generator) -> tuple[str, ...]:
    variants = list(VARIANTS)
    return variants[int(rng.choice(len(variants), p=config.enabled))]
