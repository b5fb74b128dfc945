"""The base models of the reports world: tiny language models that read reports and know nothing (card 51, part B).

They are pretrained on other reports than those they are asked about, of both lengths and shown in both ways: whole, as
`LongContext` shows them, and in chunks, as `Rag` does. Every question is followed by its answer, or by "not stated"
where what is shown does not say it. The weak model differs from the strong one in size alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents.instructions import CLOSED, INVALID_ANSWER, READ
from ken.agents.long_context import WHOLE, render_documents
from ken.agents.protocol import parse_answer, render_passages
from ken.core import Answer, Passage, Sampling
from ken.core.seeding import derive_seed
from ken.lab.conversations import NOISE
from ken.lab.reports import (
    AMOUNTS,
    ATTRIBUTES,
    LENGTHS,
    MENTIONED,
    NOT_STATED,
    STATED,
    Asked,
    Length,
    Report,
    ReportsConfig,
    ReportsWorld,
    Stated,
    exercises,
)
from ken.models import Message, Model
from ken.sources.search.chunking import split_text
from ken.training.factworld_base import TAGS
from ken.training.lab_checkpoint import Gate, LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example

CONTROLS = [CLOSED.token, READ.token, WHOLE.token, INVALID_ANSWER.token]
WORDS = ["What", "Which", "was", "larger", "or", "the", "sum", "difference", "of", "between", "and", "?", ",", ".", ":"]
WORDS += ["(", ")", "…", "Doc", "Title", "Part", "nothing", *NOT_STATED.split(), "abcdef"]

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"

CHUNK_WORDS, CHUNK_OVERLAP, CHUNKS = 34, 7, 5  # 40 and 8 tokens of these reports, as on the card


class ReportsBaseConfig(LabBaseConfig):
    """World and number of examples of each kind.

    quotes, facts, chunks, short, long: examples that show a few facts and quote them all; a few facts, chunks of a
    report, whole short reports, and whole long ones, each with questions. asked: most questions about each of the last
    four.
    """

    called = "reports"

    world: ReportsConfig = ReportsConfig()
    hidden_size: int = Field(default=160, ge=8)
    intermediate_size: int = Field(default=480, ge=8)
    context: int = 1536
    quotes: int = Field(default=1_200, ge=0)
    facts: int = Field(default=3_200, ge=0)
    chunks: int = Field(default=1_000, ge=0)
    short: int = Field(default=800, ge=0)
    long: int = Field(default=320, ge=0)
    asked: tuple[int, int, int, int] = (8, 12, 16, 24)
    batch: int = Field(default=16, ge=1)
    lr: float = 1e-2
    warmup: int = Field(default=20, ge=0)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        world = ReportsWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(tokenizer, pretraining_stages(self, world, tokenizer), lambda model: measure_gates(model, world))


def strong_config(*, seed: int = 0, **settings: Any) -> ReportsBaseConfig:
    """The card's strong model: 4 layers of width 160."""
    return ReportsBaseConfig(world=ReportsConfig(seed=seed), seed=seed, **settings)


def weak_config(*, seed: int = 0, **settings: Any) -> ReportsBaseConfig:
    """The card's weak model: 2 layers of width 96, and otherwise the same."""
    sizes: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 288, "layers": 2, **settings}
    return ReportsBaseConfig(world=ReportsConfig(seed=seed), seed=seed, **sizes)


def build_tokenizer(world: ReportsWorld) -> Any:
    """A word-level tokenizer over everything the world can say; tags of the grammar are one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    sentences = " ".join((*STATED, *MENTIONED)).replace("{key}", "").replace("{value}", "").replace(".", "").split()
    largest = max(int(value) for key in AMOUNTS for value in world.values[key])
    numbers = map(str, range(2 * largest + 1))
    values = [value for key in ATTRIBUTES for value in world.values[key]]
    vocabulary = [PAD, BOS, EOS, UNKNOWN, *CONTROLS, *TAGS, *WORDS, *sentences, *numbers, *ATTRIBUTES, *values]
    vocabulary += [*world.companies, *NOISE]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return fast_tokenizer(backend, special=[PAD, BOS, EOS, UNKNOWN, *CONTROLS], tags=TAGS, chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: ReportsBaseConfig, world: ReportsWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: from a few facts to the longest whole reports, since reading must form where
    there is little to read. Quotes stand among the questions about few facts: before them, what they taught was
    lost."""
    rng = np.random.default_rng(derive_seed("reports base", config.seed))
    stages = [
        [*quoting(world, config.quotes, rng), *_examples(world, config.facts, config.asked[0], rng, "facts")],
        [
            *_examples(world, config.chunks, config.asked[1], rng, "chunks"),
            *_examples(world, config.short, config.asked[2], rng, "short"),
        ],
        _examples(world, config.long, config.asked[3], rng, "long"),
    ]
    return [encode(list(stage), tokenizer) for stage in stages if stage]


def quoting(world: ReportsWorld, count: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """A few facts, half of the time without any words around them, and then all of them quoted in another order, some
    that are not there among them: nothing but finding what stands behind a word, which everything else builds on."""
    for _ in range(count):
        report = world.report("train", "long", rng)
        facts = [report.stated[int(i)] for i in rng.permutation(len(report.stated))[: int(rng.integers(4, 15))]]
        bare = " . ".join(f"{f.key} {f.value}" for f in facts)
        told = bare if rng.random() < 0.5 else _worded(facts, rng)
        quotes = [(f.key, f.value) for f in facts] + [(key, "nothing") for key in report.silent_on[: len(facts) // 4]]
        order = [quotes[int(i)] for i in rng.permutation(len(quotes))]
        quoted = [piece for key, value in order for piece in ((f", {key}", False), (value, True))]
        yield [(f"{BOS} {READ.token} <information> {told} </information> <think>", False), *quoted]


def _worded(facts: Sequence[Stated], rng: np.random.Generator) -> str:
    wordings = [STATED[int(rng.integers(len(STATED)))] for _ in facts]
    return " ".join(wording.format(key=f.key, value=f.value) for wording, f in zip(wordings, facts, strict=True))


def _examples(world: ReportsWorld, count: int, asked: int, rng: np.random.Generator, kind: str) -> list[list[Piece]]:
    made = []
    for _ in range(count):
        length: Length = "long" if kind == "long" or (kind == "chunks" and rng.random() < 0.5) else "short"
        report = world.report("train", length, rng)
        if kind == "facts":
            chosen = [_facts_alone(report, int(rng.integers(4, 11)), rng)]
            shown, seen = f"{READ.token} {render_passages(chosen)}", chosen[0].text
        elif kind == "chunks":
            chosen = some_chunks(report, int(rng.integers(1, CHUNKS + 1)), rng)
            shown, seen = f"{READ.token} {render_passages(chosen)}", " ".join(p.text for p in chosen)
        else:
            shown, seen = f"{WHOLE.token} {render_documents([report.passage])}", None
        made.append([(f"{BOS} {shown}", False), *_answered(report, exercises(report, asked, rng, seen))])
    return made


def _facts_alone(report: Report, count: int, rng: np.random.Generator) -> Passage:
    """So many of a report's facts, one sentence each: much to read in little text."""
    facts = [report.stated[int(i)] for i in rng.permutation(len(report.stated))[:count]]
    return Passage(id="facts", title=report.title, text=_worded(facts, rng))


def some_chunks(report: Report, count: int, rng: np.random.Generator) -> list[Passage]:
    """So many random chunks of a report, in random order, as a search engine would show them."""
    chunks = split_text(report.passage.text, CHUNK_WORDS, CHUNK_OVERLAP)
    return [
        Passage(id=f"chunk-{i}", title=report.title, text=chunks[int(i)]) for i in rng.permutation(len(chunks))[:count]
    ]


def _answered(report: Report, asked: Iterator[Asked]) -> Iterator[Piece]:
    for one in asked:
        told = " , ".join(f"{key} {_told(report, one, key)}" for key in one.keys)
        yield one.text, False
        yield f"<think> {told} </think> <answer> {one.answer} </answer> {EOS}", True


def _told(report: Report, asked: Asked, key: str) -> str:
    return "nothing" if key in asked.missing else report.values[key]


async def measure_gates(model: Model, world: ReportsWorld, *, reports: int = 10, seed: int = 2**20) -> list[Gate]:
    """How well a base model reads reports that it has not seen: accuracy by what is shown (a part, chunks with all that
    is needed, whole reports of both lengths) and by task."""
    rng = np.random.default_rng(derive_seed("reports gates", world.config.seed, seed))
    asked: list[tuple[str, list[Message], str]] = []
    for number in range(reports):
        for length in LENGTHS:
            report = world.report(f"gate-{number}", length, rng)
            part = Passage(id="part", title=report.title, text=report.parts[0])
            ways: list[tuple[str, Any, str, str | None]] = [
                ("part", READ, render_passages([part]), part.text),
                (f"{length} whole", WHOLE, render_documents([report.passage]), None),
            ]
            some = some_chunks(report, CHUNKS, rng)
            ways.append(("chunks", READ, render_passages(some), " ".join(p.text for p in some)))
            for kind, instruction, shown, seen in ways:
                for one in exercises(report, 8, rng, seen):
                    says = [Message("system", instruction), Message("user", f"{shown}\n\n{one.text}")]
                    asked.append((f"{kind}, {one.task}", says, one.answer))
    sampling = Sampling(max_tokens=24, stop=("</answer>",))
    replies = await asyncio.gather(*(model.generate(says, sampling=sampling) for _, says, _ in asked))
    right: dict[str, list[bool]] = {}
    for (kind, _, gold), (reply,) in zip(asked, replies, strict=True):
        answer = parse_answer(reply.text)
        right.setdefault(kind, []).append(isinstance(answer, Answer) and answer.text == gold)
    rates = {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}
    gating = {"part, location": 0.8, "part, hallucination": 0.7}
    return [Gate(kind, rate, gating.get(kind, 0.0), 1.0, gating=kind in gating) for kind, rate in rates.items()]


def smoke_config(*, seed: int = 0, **settings: Any) -> ReportsBaseConfig:
    """The same kind of base model, built in seconds. It speaks the form and reads badly, and its gates do not count:
    for trying code, not for claims."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2, **settings}
    return ReportsBaseConfig(
        world=ReportsConfig(seed=seed, short_mentions=0, long_facts=3, long_mentions=1, long_noise=1),
        seed=seed,
        quotes=32,
        facts=240,
        chunks=8,
        short=8,
        long=8,
        batch=8,
        gated=False,
        **sizes,
    )
