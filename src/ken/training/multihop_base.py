"""The base model of a multi-hop world: a tiny language model that can read and knows nothing (card 40, Model).

It is pretrained on documents with random values only, so that whatever it says about the world it must have looked up.
It has never seen a step of `Stepwise`; the cold start teaches those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

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
from ken.core.seeding import derive_seed
from ken.lab.multihop import Link, MultiHopConfig, MultiHopWorld, ask_chain, compare, document, random_pages
from ken.models import Message, Model
from ken.training.factworld_base import TAGS
from ken.training.lab_checkpoint import Gate, LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example

MARKERS = [QUESTION, ANALYSIS, QUERY, ANSWER, DOCUMENTS, *(STEP.format(i) for i in range(1, MOST_STEPS + 1))]
CONTROLS = [CLOSED.token, READ.token, STEPS.token]
WORDS = ["What", "Which", "is", "has", "the", "of", "or", "greater", "lower", "need", "?", ",", ".", ":", "(", ")", "-"]
WORDS += ["Doc", "Title", *map(str, range(1, 10)), *NOTHING.split(), *FAILED.replace(",", " ").split()]
WORDS += ["abcdef"]  # transformers encodes it to learn how a tokenizer spells

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"


class MultiHopBaseConfig(LabBaseConfig):
    """World and number of examples of each kind.

    copying, reading, closed: examples of each. documents: probabilities of 1, 2, … documents in an example of reading.
    asked: questions about them.
    """

    called = "multihop"

    world: MultiHopConfig = MultiHopConfig()
    context: int = 640
    copying: int = 19_200
    reading: int = 19_200
    closed: int = 500
    documents: tuple[float, ...] = (0.2, 0.4, 0.25, 0.15)
    asked: int = 8

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        world = MultiHopWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(tokenizer, pretraining_stages(self, world, tokenizer), lambda model: measure_gates(model, world))


def smoke_config(*, seed: int = 0) -> MultiHopBaseConfig:
    """The same kind of base model in a small world, built in seconds. It speaks the formats and reads badly, and its
    gates do not count: for trying code, not for claims."""
    world = MultiHopConfig(entities=60, train=60, test=30, held_out=0.4, seed=seed)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2}
    return MultiHopBaseConfig(world=world, seed=seed, copying=600, reading=300, closed=30, gated=False, **sizes)


def build_tokenizer(world: MultiHopWorld) -> Any:
    """A word-level tokenizer over everything the world can say; tags and markers of the grammar are one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers

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
    return fast_tokenizer(backend, special=special, tags=(*TAGS, *MARKERS), chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: MultiHopBaseConfig, world: MultiHopWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: first plain copying, so that it is there before anything builds on it."""
    rng = np.random.default_rng(derive_seed("multihop base", config.seed))
    first = list(copying(world, config.copying, rng))
    stages = [first, [*reading(config, world, rng), *closed_book(config, world, rng)]]
    return [encode(stage, tokenizer) for stage in stages if stage]


async def measure_gates(model: Model, world: MultiHopWorld, *, examples: int = 300, seed: int = 2**20) -> list[Gate]:
    """How well a base model reads documents it has not seen: accuracy on single facts in one document, in the first of
    two (as a search engine puts them that was asked for that fact) and in any of three, on chains of two and three hops
    and on comparisons with all documents given; and how often it is right about chains closed book, which must be
    chance.

    Finding the right one of several documents is reported and not asked for: within these budgets a model of this size
    learns to read by the type of a value and by place, and hardly by the name of the subject. What that can take from
    strategies that show several documents at once is bounded by how often these hold all that is needed (`answerable`
    of row 40)."""
    rng = np.random.default_rng(derive_seed("multihop gates", world.config.seed, seed))
    asked: list[tuple[str, list[Message], str]] = []

    def ask(kind: str, pages: Sequence[Sequence[Link]], question: Asked) -> None:
        shown = f"{render_passages([document(page) for page in pages])}\n\n" if pages else ""
        says = [Message("system", READ if pages else CLOSED), Message("user", shown + question[0])]
        asked.append((kind, says, question[2]))

    for _ in range(examples):
        pages = random_pages(world, rng, 3, chained=True)
        mixed = [pages[int(i)] for i in rng.permutation(3)]
        fact = _chain([pages[0][int(rng.integers(len(pages[0])))]], rng)
        ask("one fact, one document", pages[:1], fact)
        ask("one fact, the first of two documents", pages[:2], fact)
        ask("one fact, three documents", mixed, fact)
        ask("two hops", mixed, _chain_of(pages, 2, rng))
        ask("three hops", mixed, _chain_of(pages, 3, rng))
        ask("closed book", [], _chain_of(pages, 2, rng))
        if comparisons := list(_comparisons(mixed, rng)):
            ask("comparison", mixed, comparisons[int(rng.integers(len(comparisons)))])
    sampling = Sampling(max_tokens=32, stop=("</answer>",))
    replies = await asyncio.gather(*(model.generate(says, sampling=sampling) for _, says, _ in asked))
    right: dict[str, list[bool]] = {}
    for (kind, _, gold), (reply,) in zip(asked, replies, strict=True):
        answer = parse_answer(reply.text)
        right.setdefault(kind, []).append(isinstance(answer, Answer) and answer.text == gold)
    rates = {kind: sum(hits) / len(hits) for kind, hits in right.items()}
    return [
        Gate("one fact, one document", rates["one fact, one document"], 0.95, 1.0),
        Gate(
            "one fact, the first of two documents",
            rates["one fact, the first of two documents"],
            0.0,
            1.0,
            gating=False,
        ),
        Gate("one fact, three documents", rates["one fact, three documents"], 0.0, 1.0, gating=False),
        Gate("two hops, all documents given", rates["two hops"], 0.0, 1.0, gating=False),
        Gate("three hops, all documents given", rates["three hops"], 0.0, 1.0, gating=False),
        Gate("comparison, both documents given", rates.get("comparison", 0.0), 0.0, 1.0, gating=False),
        Gate("closed book", rates["closed book"], 0.0, 0.05),
    ]


# --- the mix
# -------------------------------------------------------------------------------------------------------------------


def copying(world: MultiHopWorld, examples: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Single documents as they stand between steps, then their facts, asked for in any wording and quoted: the more
    there is to copy, the sooner copying is learnt."""
    for _ in range(examples):
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
        for piece in ((f"{_wording(links[i], rng)} of {links[i].subject}", False), (links[i].sentence, True))
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
    return question, " , ".join(link.sentence for link in links), links[-1].value


def _comparisons(pages: Sequence[Sequence[Link]], rng: np.random.Generator) -> Iterator[Asked]:
    for i, j in [(i, j) for i in range(len(pages)) for j in range(len(pages)) if i != j]:
        numbers = {link.relation: link for link in pages[j] if link.relation.literal}
        for link in pages[i]:
            if link.relation in numbers and numbers[link.relation].value != link.value:
                both = (link, numbers[link.relation])
                question, answer = compare(both, _wording(link, rng), greater=bool(rng.random() < 0.5))
                yield question, " , ".join(link.sentence for link in both), answer


def _wording(link: Link, rng: np.random.Generator) -> str:
    return link.relation.wordings[int(rng.integers(len(link.relation.wordings)))]
