"""The base model of a multi-hop world: a tiny language model that can read and knows nothing (card 40, Model).

It is pretrained on documents with random values only, so that whatever it says about the world it must have looked up.
It has never seen a step of `Stepwise`; the cold start teaches those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents.instructions import CLOSED, READ
from ken.agents.protocol import render_passages
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
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.multihop import Link, MultiHopConfig, MultiHopWorld, ask_chain, compare, document, random_pages
from ken.training.factworld_base import BOS, EOS, PAD, TAGS, UNKNOWN, FactWorldBaseConfig, Piece, build_model, encode
from ken.training.pretraining import Example

MARKERS = [QUESTION, ANALYSIS, QUERY, ANSWER, DOCUMENTS, *(STEP.format(i) for i in range(1, MOST_STEPS + 1))]
CONTROLS = [CLOSED.token, READ.token, STEPS.token]
WORDS = ["What", "Which", "is", "has", "the", "of", "or", "greater", "lower", "need", "?", ",", ".", ":", "(", ")", "-"]
WORDS += ["Doc", "Title", *map(str, range(1, 10)), *NOTHING.split(), *FAILED.replace(",", " ").split()]
WORDS += ["abcdef"]  # transformers encodes it to learn how a tokenizer spells

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"


class MultiHopBaseConfig(Frozen):
    """World, architecture, and number of examples of each kind.

    copying, reading, closed: examples of each. documents: probabilities of 1, 2, … documents in an example. asked:
    questions about them.
    """

    world: MultiHopConfig = MultiHopConfig()
    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=384, ge=8)
    context: int = 640
    copying: int = 12_000
    reading: int = 12_000
    closed: int = 1_000
    documents: tuple[float, ...] = (0.3, 0.3, 0.15, 0.1, 0.1, 0.05)
    asked: int = 6
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.01
    init: float = 0.06
    seed: int = 0


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
    """All examples, each to be shown once: first plain copying, then questions about documents as well."""
    rng = np.random.default_rng(derive_seed("multihop base", config.seed))
    copied = list(copying(config, world, rng))
    half = len(copied) // 2
    mixed = [*copied[half:], *reading(config, world, rng), *closed_book(config, world, rng)]
    return [encode(copied[:half], tokenizer), encode(mixed, tokenizer)]


# --- the mix
# -------------------------------------------------------------------------------------------------------------------


def copying(config: MultiHopBaseConfig, world: MultiHopWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Documents as they stand between steps, then facts from them, asked for in any wording."""
    for pages in _pages(config, world, rng, config.copying):
        shown = render_documents([document(page) for page in pages])
        pieces = [(f"{BOS} {DOCUMENTS} {shown}", False)]
        facts = [link for page in pages for link in page]
        for i in rng.permutation(len(facts))[: config.asked]:
            link = facts[int(i)]
            pieces += [(f"{_wording(link, rng)} of {link.subject} is", False), (link.value, True)]
        yield pieces


def reading(config: MultiHopBaseConfig, world: MultiHopWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Documents as `Rag` shows them, then questions that they answer: of one hop, of two, and comparisons."""
    for pages in _pages(config, world, rng, config.reading, chained=0.7):
        pieces = [(f"{BOS} {READ.token} {render_passages([document(page) for page in pages])}", False)]
        asked = [*_two_hop(pages, rng), *_comparisons(pages, rng)]
        facts = [link for page in pages for link in page]
        asked += [
            _one_hop(facts[int(i)], rng) for i in rng.permutation(len(facts))[: max(1, config.asked - len(asked))]
        ]
        for i in rng.permutation(len(asked)):
            question, thought, answer = asked[int(i)]
            pieces += [(question, False), (f"<think> {thought} </think> <answer> {answer} </answer> {EOS}", True)]
        yield pieces


def closed_book(config: MultiHopBaseConfig, world: MultiHopWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Questions answered with a guess: the form only."""
    for pages in _pages(config, world, rng, config.closed, fewest=2, chained=1.0):
        asked = [*_two_hop(pages, rng), *_comparisons(pages, rng), _one_hop(pages[0][0], rng)]
        question, thought, answer = asked[int(rng.integers(len(asked)))]
        text = f"<think> {thought} </think> <answer> {answer} </answer> {EOS}"
        yield [(f"{BOS} {CLOSED.token} {question}", False), (text, True)]


def _pages(
    config: MultiHopBaseConfig,
    world: MultiHopWorld,
    rng: np.random.Generator,
    examples: int,
    *,
    fewest: int = 1,
    chained: float = 0.0,
) -> Iterator[list[tuple[Link, ...]]]:
    counts = rng.choice(len(config.documents), size=examples, p=config.documents) + 1
    for count in counts:
        pages = random_pages(world, rng, max(fewest, int(count)), chained=bool(rng.random() < chained))
        yield [pages[int(i)] for i in rng.permutation(len(pages))] if fewest == 1 else pages


Asked = tuple[str, str, str]  # question, what to think, answer


def _one_hop(link: Link, rng: np.random.Generator) -> Asked:
    wording = _wording(link, rng)
    return ask_chain([link], [wording]), stated(wording, link), link.value


def _two_hop(pages: Sequence[Sequence[Link]], rng: np.random.Generator) -> Iterator[Asked]:
    by_subject = {page[0].subject: page for page in pages}
    first = next((link for page in pages for link in page if link.value in by_subject), None)
    if first is not None:
        page = by_subject[first.value]
        second = page[int(rng.integers(len(page)))]
        wordings = [_wording(first, rng), _wording(second, rng)]
        thought = f"{stated(wordings[0], first)} , {stated(wordings[1], second)}"
        yield ask_chain([first, second], wordings), thought, second.value


def _comparisons(pages: Sequence[Sequence[Link]], rng: np.random.Generator) -> Iterator[Asked]:
    if len(pages) < 2:
        return
    one, other = pages[:2] if rng.random() < 0.5 else (pages[1], pages[0])
    numbers = {link.relation: link for link in other if link.relation.literal}
    for link in one:
        if link.relation in numbers and numbers[link.relation].value != link.value:
            both = (link, numbers[link.relation])
            wording = _wording(link, rng)
            question, answer = compare(both, wording, greater=bool(rng.random() < 0.5))
            yield question, compared(wording, both), answer


def _wording(link: Link, rng: np.random.Generator) -> str:
    return link.relation.wordings[int(rng.integers(len(link.relation.wordings)))]


def stated(wording: str, link: Link) -> str:
    """A fact in the words of the question: `tutor of Kavelo is Moru`."""
    return f"{wording} of {link.subject} is {link.value}"


def compared(wording: str, links: Sequence[Link]) -> str:
    """Two literals side by side: `height of Kavelo is 34 , Moru is 57`."""
    one, other = links
    return f"{stated(wording, one)} , {other.subject} is {other.value}"
