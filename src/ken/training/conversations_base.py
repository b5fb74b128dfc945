"""The base model of the world of conversations: a weak rewriter that stands for an instruct model (card 17, Model).

It has read the collection, so that names and the words of a relation go together, and has a weak habit of rewriting: it
names somebody who was mentioned, repeats the words of the query, and adds up to three words of some relation, about
half of which fit the query. No rewrite is shown because it is right: whom it names is drawn among all who were
mentioned.

Its tokenizer is word-level, but knows the line break as a word and writes tags without a space before them. So the
form, `<think>…</think>`, line break, `<rewrite>…</rewrite>`, can be kept or broken, and the strict rule reads here to
the letter as it does for a real model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pydantic import Field

from ken.agents.rewrite import REWRITE, Rewrite, render_history
from ken.core import Sampling
from ken.core.seeding import derive_seed
from ken.lab.conversations import RELATIONS, VOCABULARY, ConversationWorld, ConversationWorldConfig, Spoken
from ken.models import Message, Model
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.sources.search.index import Index
from ken.sources.search.ranks import RankService
from ken.training.lab_checkpoint import Gate, LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example

LINE = "\n"
TAGS = [f"<{slash}{tag}>" for tag in ("context", "think", "rewrite") for slash in ("", "/")]
MARKS = [*(f"{letter}{number}" for letter in "QA" for number in range(1, 10)), "Query", ":"]
WORDS = ["abcdef"]  # transformers encodes it to learn how a tokenizer spells

CHAT_TEMPLATE = "<bos>{% for message in messages %} {{ message['content'] }}{% endfor %}{{ '\\n' }}"

MAX_TOKENS = 24  # of a rollout: thought and rewrite of at most 6 and 10 tokens, their tags, line break and end


class ConversationsBaseConfig(LabBaseConfig):
    """World and number of examples of the habit. fits: probability that an added word is of the query's own relation,
    beyond chance. readings: how often every passage is read.
    """

    called = "conversations"

    world: ConversationWorldConfig = ConversationWorldConfig()
    context: int = 256
    habits: int = Field(default=24_000, ge=1)
    readings: int = Field(default=1, ge=0)
    fits: float = Field(default=0.55, ge=0, le=1)
    most_added: int = Field(default=3, ge=0)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        world = ConversationWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(tokenizer, pretraining_stages(self, world, tokenizer), lambda model: measure_gates(model, world))


def smoke_config() -> ConversationsBaseConfig:
    """A world and a model that are built in seconds, to run everything once; the model is not fit for experiments."""
    return ConversationsBaseConfig(
        world=ConversationWorldConfig(entities=20, distractors=100, train_turns=80, test_turns=30),
        hidden_size=48,
        layers=2,
        heads=2,
        intermediate_size=96,
        habits=4000,
        lr=1e-2,
        warmup=10,
        gated=False,
    )


def build_tokenizer(world: ConversationWorld) -> Any:
    """A word-level tokenizer over everything the world can say. Spaces separate words and are not kept; the line break
    and the tags are tokens, which decoding joins to what stands before them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = dict.fromkeys([PAD, BOS, EOS, UNKNOWN, REWRITE.token, LINE, *TAGS, *MARKS, *WORDS, *world.words])
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"), pre_tokenizers.Punctuation()]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # a space before every word but the first
            decoders.Replace(f" {LINE}", LINE),
            *(decoders.Replace(f" {tag}", tag) for tag in TAGS),
        ]
    )
    special = [PAD, BOS, EOS, UNKNOWN, REWRITE.token]
    return fast_tokenizer(backend, special=special, tags=(LINE, *TAGS), chat_template=CHAT_TEMPLATE)


def pretraining_stages(
    config: ConversationsBaseConfig, world: ConversationWorld, tokenizer: Any
) -> list[list[Example]]:
    """One stage, everything mixed, each example shown once."""
    rng = np.random.default_rng(derive_seed("conversations base", config.seed))
    texts = [*reading(config, world), *habit(config, world, rng)]
    return [encode(texts, tokenizer)]


def reading(config: ConversationsBaseConfig, world: ConversationWorld) -> Iterator[list[Piece]]:
    """The collection, passage by passage."""
    for _ in range(config.readings):
        for passage in world.passages:
            yield [(BOS, False), (f"{passage.title} {passage.text} {EOS}", True)]


def habit(config: ConversationsBaseConfig, world: ConversationWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Weak rewrites in conversations about invented people: see the module."""
    for spoken in islice(world.rehearsals(config.seed), config.habits):
        history = render_history(spoken.turn.history, spoken.turn.query)
        yield [(f"{BOS} {REWRITE.token} {history}{LINE}", False), (weak_rewrite(config, spoken, rng), True)]


def weak_rewrite(config: ConversationsBaseConfig, spoken: Spoken, rng: np.random.Generator) -> str:
    """What the base model is taught to write: thinks of anybody who was mentioned, and goes on from there."""
    name = spoken.entities[int(rng.integers(len(spoken.entities)))]
    added = []
    for _ in range(int(rng.integers(config.most_added + 1))):
        relation = spoken.relation if rng.random() < config.fits else RELATIONS[int(rng.integers(len(RELATIONS)))]
        added.append(str(rng.choice(VOCABULARY[relation])))
    rewrite = " ".join([name, *spoken.words, *added])
    return f"<think> {name}</think>{LINE}<rewrite> {rewrite}</rewrite> {EOS}"


async def measure_gates(model: Model, world: ConversationWorld) -> list[Gate]:
    """What card 17 expects of the base model, on training turns at T = 1. Gold passages that are not found rank beyond
    all others."""
    asked = world.turns("train")
    sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS)
    runs = (Rewrite().run(turn.question(), model, Sources(), sampling=sampling) for turn in asked)
    trajectories = await asyncio.gather(*runs)
    with TemporaryDirectory(prefix="ken-") as folder:
        service = RankService(world_index(world, Path(folder) / "index"))
        found = service.best_ranks([t.answer or "" for t in trajectories], [turn.gold for turn in asked])
    ranks = [rank or service.top_k + 1 for rank in found]
    return [
        Gate("responses in the exact form", float(np.mean([not t.malformed for t in trajectories])), 0.97, 1.0),
        Gate("gold passage first", float(np.mean([rank == 1 for rank in ranks])), 0.15, 0.3),
        Gate("median rank of the gold passage", float(np.median(ranks)), 20.0, 60.0),
        Gate("gold passage among the first 100", float(np.mean([bool(rank) for rank in found])), 0.0, 1.0, False),
    ]


def demonstration(policy: LocalModel, spoken: Spoken) -> Example:
    """A human rewrite of a turn, as an example for supervised fine-tuning of the base model: think of whom is meant,
    then write what the person wrote."""
    turn = spoken.turn
    _, prompt = policy.render([Message("system", REWRITE), Message("user", render_history(turn.history, turn.query))])
    response = f"<think> {spoken.entity}</think>{LINE}<rewrite> {turn.rewrite}</rewrite> {EOS}"
    written = policy.tokenizer.backend_tokenizer.encode(response, add_special_tokens=False).ids
    return Example((*prompt, *written), (False,) * len(prompt) + (True,) * len(written))


def world_index(world: ConversationWorld, folder: Path) -> Index:
    """The collection, indexed word by word: without stemming, so that vocabularies that differ stay apart."""
    return Index.build(world.passages, folder, tokenizer="simple", chunk_words=100)
