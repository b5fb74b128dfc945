"""The base model of a reviews world: a tiny language model that condenses reviews, and says what most customers think
(card 38, Models).

It learns three skills on products of its own: a cluster of reviews becomes a summary with counts; a question is
answered from raw reviews, a few or all of them; and from the summaries of clusters. So neither CRAG nor the RAG that it
is compared with has to read what it was never shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents.instructions import READ
from ken.agents.protocol import parse_answer
from ken.agents.summarising import READ_SUMMARIES, SUMMARISE, render_extract, render_lines, render_share
from ken.core import Answer, Sampling
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.reviews import (
    ASPECTS,
    SMALL_TALK,
    VERDICTS,
    WORDINGS,
    Review,
    ReviewsConfig,
    counts,
    finding,
    gold_summary,
    opinion,
    product_names,
    question_text,
    random_product,
    verdict,
)
from ken.models import Message, Model
from ken.training.lab_checkpoint import Gate, LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"
CONTROLS = [READ.token, READ_SUMMARIES.token, SUMMARISE.token]
TAGS = [f"<{slash}{tag}>" for tag in ("think", "information", "answer") for slash in ("", "/")]
TOGETHER = 16  # prompts
NOTHING = "nothing"
SENTENCES = 24  # of a list
MENTIONS = 25  # of an aspect in a made-up summary, and fewer
ORDERS = 8
WORDS = [
    NOTHING,
    "positive",
    "negative",
    "What",
    "do",
    "customers",
    "say",
    "about",
    "the",
    "of",
    "documents",
    "?",
    ":",
    ";",
    ".",
    "-",
    "/",
    "abcdef",
]


class Stage(Frozen):
    """Some of the examples. labelled: lists of sentences, each with what it says of what. repeated: summaries, and
    again in other orders what they think. raw: contexts of `least` to `most` reviews, half of which are summarised and
    half asked about. condensed: contexts of the summaries of at most `clusters` clusters, all asked about."""

    labelled: int = Field(default=0, ge=0)
    repeated: int = Field(default=0, ge=0)
    raw: int = Field(default=0, ge=0)
    least: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1)
    condensed: int = Field(default=0, ge=0)
    clusters: int = Field(default=1, ge=1)


class ReviewsBaseConfig(LabBaseConfig):
    """World, and the examples, stage by stage.

    First come sentences, from which is learnt what is said of what, and single summaries, said again in other orders,
    from which is learnt to find what belongs to an aspect; then reviews, few of them at first, over which it is
    counted. extracted: share of the contexts of summaries in which reviews stand for summaries. noise: how far the
    counts of those summaries are off, relative to what they count, as those of a model will be.
    """

    called = "reviews"

    world: ReviewsConfig = ReviewsConfig()
    context: int = 2048
    batch: int = 12
    stages: tuple[Stage, ...] = (
        Stage(repeated=8500),  # found after 7,500, and all at once
        Stage(labelled=1000, repeated=500),
        Stage(labelled=200, raw=3000, least=1, most=3, condensed=1500, clusters=2),
        Stage(raw=4500, least=3, most=8, condensed=3000, clusters=4),
        Stage(raw=1500, least=3, most=75, condensed=3000, clusters=8),
    )
    extracted: float = Field(default=0.2, ge=0, le=1)
    noise: float = Field(default=0.1, ge=0)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        tokenizer = build_tokenizer(self.world)
        return Recipe(tokenizer, pretraining_stages(self, tokenizer), lambda model: measure_gates(model, self))


def smoke_config(*, seed: int = 0) -> ReviewsBaseConfig:
    """The same kind of base model, built in seconds. It speaks the formats and counts badly, and its gates do not
    count: for trying code, not for claims."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "layers": 1, "heads": 2, "batch": 8}
    world = ReviewsConfig(products=8, reviews=12, seed=seed)
    stages = (
        Stage(labelled=40, repeated=40),
        Stage(raw=320, most=2),
        Stage(raw=48, least=3, most=12, condensed=48, clusters=4),
    )
    return ReviewsBaseConfig(world=world, seed=seed, stages=stages, gated=False, **sizes)


def build_tokenizer(world: ReviewsConfig) -> Any:
    """A word-level tokenizer over everything the world can say."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    said = [text for praise, blame in WORDINGS.values() for text in (*praise, *blame)]
    texts = [*WORDS, *ASPECTS, *VERDICTS, *said, *SMALL_TALK, *map(str, range(world.reviews + 1)), *product_names()]
    words = [word for text in texts for word, _ in split.pre_tokenize_str(text)]
    special = [PAD, BOS, EOS, UNKNOWN, *CONTROLS]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *TAGS, *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = split
    return fast_tokenizer(backend, special=special, tags=TAGS, chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: ReviewsBaseConfig, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once, from few reviews to many."""
    rng = np.random.default_rng(derive_seed("reviews base", config.seed))
    stages = [
        [
            *labelled(stage.labelled, rng),
            *repeated(stage.repeated, rng),
            *raw(config, stage.raw, stage.least, stage.most, rng),
            *condensed(config, stage.condensed, stage.clusters, rng),
        ]
        for stage in config.stages
    ]
    return [[e for e in encode(stage, tokenizer) if len(e.ids) <= config.context] for stage in stages]


def labelled(examples: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Sentences of reviews, each with the aspect that it speaks of and how: so many at once that it is learnt at the
    end of a sentence, where counting finds it."""
    said = [
        (text, f"{a} {o}")
        for a, both in WORDINGS.items()
        for o, texts in zip(("positive", "negative"), both, strict=True)
        for text in texts
    ]
    said += [(text, NOTHING) for text in SMALL_TALK]
    for _ in range(examples):
        pieces: list[Piece] = [(BOS, False)]
        for i in rng.integers(len(said), size=SENTENCES):
            text, label = said[int(i)]
            pieces += [(text, False), (label, True)]
        yield pieces


def repeated(examples: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Summaries with any counts, which nothing but reading tells, and in other orders what they think of each aspect;
    the counts are not said again, since of several that follow the same word a model this small finds any."""
    for _ in range(examples):
        of = rng.integers(1, MENTIONS, size=len(ASPECTS))
        found = [(aspect, int(rng.integers(n + 1)), int(n)) for aspect, n in zip(ASPECTS, of, strict=True)]
        shown = " ; ".join(finding(*found[int(i)]) for i in rng.permutation(len(found)))
        pieces: list[Piece] = [(f"{BOS} {shown} .", False)]
        for _ in range(ORDERS):
            for i in rng.permutation(len(found)):
                aspect, good, n = found[int(i)]
                pieces += [(aspect, False), (opinion(good, n), True)]
        yield pieces


def raw(
    config: ReviewsBaseConfig, examples: int, least: int, most: int, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    """`least` to `most` reviews of one product, as they came or chosen for one aspect as a cluster would be, summarised
    or asked about in turn."""
    names = product_names()
    for number in range(examples):
        count = int(rng.integers(least, min(most, config.world.reviews) + 1))
        name = names[int(rng.integers(len(names)))]
        pool = config.world.model_copy(update={"reviews": min(config.world.reviews, 4 * count)})
        reviews = random_product(pool, name, rng).reviews
        chosen = _cluster(reviews, count, rng) if rng.random() < 0.5 else reviews[:count]
        shown = render_lines(review.text for review in chosen)
        if number % 2:
            yield [(f"{BOS} {SUMMARISE.token} {shown}", False), (f"{gold_summary(chosen)} {EOS}", True)]
        else:
            yield [(f"{BOS} {READ.token} {shown}", False), *_asked(name, chosen, rng)]


def condensed(config: ReviewsBaseConfig, examples: int, most: int, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """The summaries of 1 to `most` clusters of a product's reviews, the largest first, and questions about all of
    them. Some have reviews in the place of summaries, as where nothing but the middle of a cluster stands for it."""
    names = product_names()
    for _ in range(examples):
        count = int(rng.integers(1, config.world.reviews + 1))
        name = names[int(rng.integers(len(names)))]
        reviews = random_product(config.world, name, rng).reviews[:count]
        clusters = _partition(reviews, int(rng.integers(1, most + 1)), rng)
        middle = int(rng.integers(1, 4)) if rng.random() < config.extracted else 0
        said = [
            render_extract(review.text for review in cluster[:middle])
            if middle
            else noisy_summary(cluster, config.noise, rng)
            for cluster in clusters
        ]
        lines = [render_share(text, len(cluster), len(reviews)) for text, cluster in zip(said, clusters, strict=True)]
        yield [(f"{BOS} {READ_SUMMARIES.token} {render_lines(lines)}", False), *_asked(name, reviews, rng)]


def noisy_summary(reviews: Sequence[Review], noise: float, rng: np.random.Generator) -> str:
    """A summary whose counts are off by a factor of about 1 ± noise, and none of them by so much that it vanishes."""

    def off(count: int) -> int:
        return max(1, round(count * (1 + noise * rng.standard_normal()))) if count else 0

    heard = {aspect: (off(good), off(of - good)) for aspect, (good, of) in counts(reviews).items() if of}
    return " ; ".join(finding(aspect, good, good + bad) for aspect, (good, bad) in heard.items())


def _asked(name: str, reviews: Sequence[Review], rng: np.random.Generator) -> list[Piece]:
    """Questions about all aspects that are mentioned and at most two that are not, with their answers."""
    found = counts(reviews)
    order = [ASPECTS[int(i)] for i in rng.permutation(len(ASPECTS))]
    silent = [aspect for aspect in order if not found[aspect][1]][2:]
    pieces: list[Piece] = []
    for aspect in order:
        if aspect in silent:
            continue
        said = f"<think> {finding(aspect, *found[aspect])} </think> <answer> {verdict(*found[aspect])} </answer> {EOS}"
        pieces += [(question_text(aspect, name), False), (said, True)]
    return pieces


def _cluster(reviews: Sequence[Review], count: int, rng: np.random.Generator) -> list[Review]:
    """`count` reviews, first of all those that speak of one aspect."""
    aspect = ASPECTS[int(rng.integers(len(ASPECTS)))]
    noise = rng.random(len(reviews))
    ranked = sorted(range(len(reviews)), key=lambda i: (not any(a == aspect for a, _ in reviews[i].mentions), noise[i]))
    return [reviews[i] for i in sorted(ranked[:count])]


def _partition(reviews: Sequence[Review], k: int, rng: np.random.Generator) -> list[list[Review]]:
    """k groups at most, at random or by what the reviews speak of, the largest first."""
    by_topic = rng.random() < 0.5
    home = {aspect: int(rng.integers(k)) for aspect in ASPECTS}
    groups: list[list[Review]] = [[] for _ in range(k)]
    for review in reviews:
        one = review.mentions[int(rng.integers(len(review.mentions)))][0]
        groups[home[one] if by_topic and rng.random() < 0.9 else int(rng.integers(k))].append(review)
    return sorted(filter(None, groups), key=len, reverse=True)


async def measure_gates(
    model: Model, config: ReviewsBaseConfig, *, products: int = 12, seed: int = 2**20
) -> list[Gate]:
    """Accuracy of answers about products that were never shown: from 4, from 25 and from all raw reviews, and from true
    summaries of four clusters of all reviews; and, of summaries of 15 reviews, the share of aspects whose verdict is
    right, those neither mentioned nor spoken of left out.

    Answers from all reviews and from summaries are what the claims of the row compare: a model that cannot do either
    would decide them by itself."""
    rng = np.random.default_rng(derive_seed("reviews gates", config.seed, seed))
    names = product_names()
    says: list[tuple[str, list[Message], Any]] = []

    def ask(kind: str, instruction: Any, lines: Sequence[str], name: str, reviews: Sequence[Review]) -> None:
        for aspect, found in counts(reviews).items():
            text = f"{render_lines(lines)}\n\n{question_text(aspect, name)}"
            says.append((kind, [Message("system", instruction), Message("user", text)], verdict(*found)))

    most = config.world.reviews
    for _ in range(products):
        name = names[int(rng.integers(len(names)))]
        reviews = random_product(config.world, name, rng).reviews
        for count in (4, 25, most):
            ask(f"answers from {count} reviews", READ, [r.text for r in reviews[:count]], name, reviews[:count])
        clusters = _partition(reviews, 4, rng)
        lines = [render_share(gold_summary(cluster), len(cluster), most) for cluster in clusters]
        ask("answers from summaries", READ_SUMMARIES, lines, name, reviews)
        chosen = _cluster(reviews, 15, rng)
        text = render_lines(r.text for r in chosen)
        says.append(("verdicts in summaries", [Message("system", SUMMARISE), Message("user", text)], chosen))
    right: dict[str, list[float]] = {}
    sampling = Sampling(max_tokens=64, stop=("</answer>",))
    # Together only with those of about the same length, and few: what they attend to is padded to the longest.
    says.sort(key=lambda one: len(str(one[1][1].content)))
    for start in range(0, len(says), TOGETHER):
        batch = says[start : start + TOGETHER]
        replies = await asyncio.gather(*(model.generate(messages, sampling=sampling) for _, messages, _ in batch))
        for (kind, _, gold), (reply,) in zip(batch, replies, strict=True):
            if kind == "verdicts in summaries":
                right.setdefault(kind, []).append(summary_accuracy(reply.text, gold))
            else:
                answer = parse_answer(reply.text)
                right.setdefault(kind, []).append(isinstance(answer, Answer) and answer.text == gold)
    low = {f"answers from {most} reviews": 0.75, "answers from summaries": 0.85, "verdicts in summaries": 0.75}
    return [
        Gate(kind, sum(right[kind]) / len(right[kind]), low.get(kind, 0.0), 1.0, gating=kind in low)
        for kind in sorted(right)
    ]


def summary_accuracy(summary: str, reviews: Sequence[Review]) -> float:
    """Of the aspects that reviews mention or their summary speaks of, the share whose verdict is right."""
    found = {words[0]: words[1] for part in summary.split(";") if len(words := part.split()) > 1}
    true = {aspect: opinion(*of) for aspect, of in counts(reviews).items() if of[1]}
    spoken = set(true) | (set(found) & set(ASPECTS))
    hits = sum(aspect in true and found.get(aspect) == true[aspect] for aspect in spoken)
    return hits / len(spoken) if spoken else 1.0
