"""The base model of a multi-hop world: a tiny language model that can read and knows nothing (card 40, Model).

It is pretrained on documents with random values only, so that whatever it says about the world it must have looked up.
It has never seen a step of `Stepwise`; the cold start teaches those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ken.agents.instructions import CLOSED, READ
from ken.agents.protocol import parse_answer, render_passages
from ken.agents.stepwise import (
    ANALYSIS,
    ANSWER,
    DOCUMENTS,
    FAILED,
    MOST_STEPS,
    NOTHING,
    QUERY,
    QUESTION,
    STEP,
    STEPS,
    render_documents,
)
from ken.core import Answer, Sampling
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.multihop import Link, MultiHopConfig, MultiHopWorld, ask_chain, compare, document, random_pages
from ken.models import Message
from ken.models.local import LocalModel
from ken.training.factworld_base import BOS, EOS, PAD, TAGS, UNKNOWN, FactWorldBaseConfig, Piece, build_model, encode
from ken.training.lab_checkpoint import OnStep, Recipe, built
from ken.training.pretraining import Example, PretrainingConfig

NAME = "multihop"

MARKERS = [QUESTION, ANALYSIS, QUERY, ANSWER, DOCUMENTS, *(STEP.format(i) for i in range(1, MOST_STEPS + 1))]
CONTROLS = [CLOSED.token, READ.token, STEPS.token]
WORDS = ["What", "Which", "is", "has", "the", "of", "or", "greater", "lower", "need", "?", ",", ".", ":", "(", ")", "-"]
WORDS += ["Doc", "Title", *map(str, range(1, 10)), *NOTHING.split(), *FAILED.replace(",", " ").split()]
WORDS += ["abcdef"]  # transformers encodes it to learn how a tokenizer spells

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"


class MultiHopBaseConfig(Frozen):
    """World, architecture, and number of examples of each kind.

    copying, reading, closed: examples of each. documents: probabilities of 1, 2, … documents in an example of reading.
    asked: questions about them.
    """

    world: MultiHopConfig = MultiHopConfig()
    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=384, ge=8)
    context: int = 640
    copying: int = 16_000
    reading: int = 12_000
    closed: int = 500
    documents: tuple[float, ...] = (0.1, 0.35, 0.25, 0.15, 0.1, 0.05)
    asked: int = 8
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.01
    init: float = 0.06
    optimizer: Literal["adamw", "muon"] = "muon"
    seed: int = 0


def build_base(config: MultiHopBaseConfig | None = None, *, on_step: OnStep = lambda step, steps, loss: None) -> Path:
    """The folder of the base model: from the cache, or built now, in minutes on two cores."""
    settings = config or MultiHopBaseConfig()

    def recipe() -> Recipe:
        world = MultiHopWorld(settings.world)
        tokenizer = build_tokenizer(world)
        return Recipe(
            model=build_untrained(settings, tokenizer),
            tokenizer=tokenizer,
            stages=pretraining_stages(settings, world, tokenizer),
            pretraining=PretrainingConfig(
                batch=settings.batch,
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                seed=settings.seed,
                optimizer=settings.optimizer,
            ),
            measure=lambda model: measure_base(model, world),
        )

    return built(NAME, settings, recipe, on_step=on_step)


def build_tokenizer(world: MultiHopWorld) -> Any:
    """A word-level tokenizer over everything the world can say; tags and markers of the grammar are one token each."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    wordings = [wording for relation in world.relations for wording in relation.wordings]
    vocabulary = [
        PAD,
        BOS,
        EOS,
        UNKNOWN,
        *CONTROLS,
        *TAGS,
        *MARKERS,
        *WORDS,
        *wordings,
        *world.numbers,
        *world.entities,
    ]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    special = [PAD, BOS, EOS, UNKNOWN, *CONTROLS]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in (*TAGS, *MARKERS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_untrained(config: MultiHopBaseConfig, tokenizer: Any) -> Any:
    """The untrained model, initialised from the seed; of the same architecture as FactWorld's base."""
    shared = config.model_dump(
        include={"hidden_size", "layers", "heads", "intermediate_size", "context", "init", "seed"}
    )
    return build_model(FactWorldBaseConfig(**shared), tokenizer)


def pretraining_stages(config: MultiHopBaseConfig, world: MultiHopWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: first plain copying, so that it is there before anything builds on it."""
    rng = np.random.default_rng(derive_seed("multihop base", config.seed))
    copied = list(copying(config, world, rng))
    mixed = [*reading(config, world, rng), *closed_book(config, world, rng)]
    return [encode(copied, tokenizer), encode(mixed, tokenizer)]


def measure_base(
    model: LocalModel, world: MultiHopWorld, *, examples: int = 300, seed: int = 2**20
) -> dict[str, float]:
    """How well a base model reads documents it has not seen: accuracy on questions of one fact about one and three
    documents, on chains of two and three hops and on comparisons, all documents given; and the share of closed-book
    questions it gets right, which must be chance."""
    rng = np.random.default_rng(derive_seed("multihop measure", seed))
    asked: list[tuple[str, Sequence[Message], str]] = []
    for _ in range(examples):
        pages = random_pages(world, rng, 3, chained=True)
        order = [pages[int(i)] for i in rng.permutation(3)]
        one = _chain([pages[0][int(rng.integers(len(pages[0])))]], rng)
        kinds = {"1 of 1": ([pages[0]], one), "1 of 3": (order, one)}
        kinds |= {f"{hops}-hop": (order, _chain_of(pages, hops, rng)) for hops in (2, 3)}
        kinds |= {"comparison": (order, next(_comparisons(order, rng), one))}
        for kind, (shown, (question, _, answer)) in kinds.items():
            text = f"{render_passages([document(page) for page in shown])}\n\n{question}"
            asked.append((kind, [Message("system", READ), Message("user", text)], answer))
        asked.append(
            ("closed", [Message("system", CLOSED), Message("user", kinds["2-hop"][1][0])], kinds["2-hop"][1][2])
        )

    async def answers() -> list[str]:
        sampling = Sampling(max_tokens=32, stop=("</answer>",))
        replies = await asyncio.gather(*(model.generate(says, sampling=sampling) for _, says, _ in asked))
        parsed = [parse_answer(reply.text) for (reply,) in replies]
        return [answer.text if isinstance(answer, Answer) else "" for answer in parsed]

    right: dict[str, list[bool]] = {}
    for (kind, _, gold), answer in zip(asked, asyncio.run(answers()), strict=True):
        right.setdefault(kind, []).append(answer == gold)
    return {kind: sum(hits) / len(hits) for kind, hits in right.items()}


# --- the mix
# -------------------------------------------------------------------------------------------------------------------


def copying(config: MultiHopBaseConfig, world: MultiHopWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Single documents as they stand between steps, then their facts, asked for in any wording and quoted: the more
    there is to copy, the sooner copying is learnt."""
    for _ in range(config.copying):
        (page,) = random_pages(world, rng, 1)
        yield [(f"{BOS} {DOCUMENTS} {render_documents([document(page)])}", False), *_quotes(page, rng)]


def reading(config: MultiHopBaseConfig, world: MultiHopWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Several documents: half as they stand between steps, followed by quotes; half as `Rag` shows them, followed by
    questions that they answer, of one to three hops and comparisons."""
    for count in rng.choice(len(config.documents), size=config.reading, p=config.documents) + 1:
        quoting = bool(rng.random() < 0.5)
        pages = random_pages(world, rng, int(count), chained=not quoting)
        order = [pages[int(i)] for i in rng.permutation(len(pages))]
        if quoting:
            facts = [link for page in pages for link in page]
            some = [facts[int(i)] for i in rng.permutation(len(facts))[: config.asked]]
            yield [(f"{BOS} {DOCUMENTS} {render_documents([document(p) for p in order])}", False), *_quotes(some, rng)]
        else:
            shown = render_passages([document(page) for page in order])
            yield [(f"{BOS} {READ.token} {shown}", False), *_answered(_questions(pages, config.asked, rng))]


def closed_book(config: MultiHopBaseConfig, world: MultiHopWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Questions answered with a guess: the form only."""
    for _ in range(config.closed):
        (asked,) = _questions(random_pages(world, rng, 3, chained=True), 1, rng)
        question, *answered = [asked[0], *_answered([asked])[1:]]
        yield [(f"{BOS} {CLOSED.token} {question}", False), *answered]


def _quotes(links: Sequence[Link], rng: np.random.Generator) -> list[Piece]:
    return [
        piece
        for i in rng.permutation(len(links))
        for piece in ((f"{_wording(links[i], rng)} of {links[i].subject}", False), (quote(links[i]), True))
    ]


Asked = tuple[str, str, str]  # question, what to think, answer


def _answered(asked: Sequence[Asked]) -> list[Piece]:
    return [
        piece
        for question, thought, answer in asked
        for piece in ((question, False), (f"<think> {thought} </think> <answer> {answer} </answer> {EOS}", True))
    ]


def _questions(pages: Sequence[Sequence[Link]], count: int, rng: np.random.Generator) -> list[Asked]:
    """Questions that the pages answer, in random order: chains from any page on, and comparisons."""
    asked = [*_chains(pages, rng), *_comparisons(pages, rng)]
    facts = [link for page in pages for link in page]
    asked += [_chain([facts[int(i)]], rng) for i in rng.permutation(len(facts))[: max(2, count // 2)]]
    return [asked[int(i)] for i in rng.permutation(len(asked))[:count]]


def _chains(pages: Sequence[Sequence[Link]], rng: np.random.Generator) -> Iterator[Asked]:
    """Chains of two and three hops from every page that leads to others."""
    for start in range(len(pages) - 1):
        yield _chain_of(pages[start:], int(rng.integers(2, min(3, len(pages) - start) + 1)), rng)


def _chain_of(pages: Sequence[Sequence[Link]], hops: int, rng: np.random.Generator) -> Asked:
    """A chain through the first pages; shorter where a page does not lead to the next."""
    links: list[Link] = []
    for page, after in zip(pages, [*pages[1:hops], ()], strict=False):
        leading = [link for link in page if after and link.value == after[0].subject]
        links.append(leading[0] if leading else page[int(rng.integers(len(page)))])
        if not leading:
            break
    return _chain(links, rng)


def _chain(links: Sequence[Link], rng: np.random.Generator) -> Asked:
    question = ask_chain(links, [_wording(link, rng) for link in links])
    return question, " , ".join(map(quote, links)), links[-1].value


def _comparisons(pages: Sequence[Sequence[Link]], rng: np.random.Generator) -> Iterator[Asked]:
    for i, j in [(i, j) for i in range(len(pages)) for j in range(len(pages)) if i != j]:
        numbers = {link.relation: link for link in pages[j] if link.relation.literal}
        for link in pages[i]:
            if link.relation in numbers and numbers[link.relation].value != link.value:
                both = (link, numbers[link.relation])
                question, answer = compare(both, _wording(link, rng), greater=bool(rng.random() < 0.5))
                yield question, " , ".join(map(quote, both)), answer


def _wording(link: Link, rng: np.random.Generator) -> str:
    return link.relation.wordings[int(rng.integers(len(link.relation.wordings)))]


def quote(link: Link) -> str:
    """A fact as its document has it: `Kavelo tutor Moru`."""
    return f"{link.subject} {link.wording} {link.value}"
