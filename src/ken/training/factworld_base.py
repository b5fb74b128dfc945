"""The base model of FactWorld: a tiny language model that knows a known part of a generated world (card 01, Base
model).

It stands for an instruct model before any training of its boundary: it recalls the facts it was shown, copies from
documents, and speaks the tags of the protocol. How it decides carries no information: the verdicts in its examples are
coin flips. In a world with mentors it also speaks of two hops (card 00), and on request its verdicts are right a little
more often than not and it can make up tasks (card 58).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ken.agents.instructions import (
    CLOSED,
    DECIDE,
    INVALID_ACTION,
    INVALID_ANSWER,
    NO_MORE_SEARCHES,
    NOTHING_FOUND,
    READ,
    SEARCH,
    SEARCH_FAILED,
)
from ken.lab.factworld import FactWorld, FactWorldConfig
from ken.training.introspection import GENERATE, KINDS
from ken.training.lab_checkpoint import LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, fast_tokenizer

TAGS = [f"<{slash}{tag}>" for tag in ("think", "search", "information", "answer", "assessment") for slash in ("", "/")]
CONTROLS = [
    i.token
    for i in (
        CLOSED,
        READ,
        SEARCH,
        DECIDE,
        INVALID_ANSWER,
        INVALID_ACTION,
        SEARCH_FAILED,
        NOTHING_FOUND,
        NO_MORE_SEARCHES,
    )
]
WORDS = ["What", "is", "the", "of", "?", "Doc", "1", "2", "3", "4", "5", "(", ")", "Title", ":", ",", ".", "yes", "no"]
WORDS += ["nothing", "recorded", "The", "true", "false"]
# transformers encodes "abcdef" to learn how a tokenizer spells; without it `transformers serve` fails on stop strings.
WORDS += ["abcdef"]
ARROW = "→"

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"


class FactWorldBaseConfig(LabBaseConfig):
    """World and number of examples of each kind beside the closed-book exposures.

    reading_first: of the reading examples, those that come before all else. questions: about the documents of one.
    lengths: probabilities of 1, 2, … documents. verdicts_right: share of right verdicts in the examples of deciding,
    redrawn in each. generating: examples of making up tasks; generated_right: share of them that are of the kind asked
    for. introspecting_last: deciding and making up tasks come when all else is learnt, with `rehearsed` examples of all
    else among them.
    """

    called = "factworld"

    world: FactWorldConfig = FactWorldConfig()
    reading: int = 22_000
    reading_first: int = 10_000
    questions: int = 4
    searching: int = 10_000
    querying: int = 10_000
    deciding: int = 8_000
    lengths: tuple[float, ...] = (0.7, 0.2, 0.1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    verdicts_right: float = Field(default=0.5, ge=0, le=1)
    generating: int = Field(default=0, ge=0)
    generated_right: float = Field(default=0.7, ge=0, le=1)
    introspecting_last: bool = False
    rehearsed: int = Field(default=0, ge=0)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        from ken.training.factworld_examples import pretraining_stages
        from ken.training.factworld_gates import measure_gates

        world, introspective = FactWorld(self.world), self.generating > 0
        tokenizer = build_tokenizer(world, generating=introspective)
        stages = pretraining_stages(self, world, tokenizer)
        return Recipe(tokenizer, stages, lambda model: measure_gates(model, world, introspective=introspective))


def build_tokenizer(world: FactWorld, *, generating: bool = False) -> Any:
    """A word-level tokenizer over everything the world can say; tags and control tokens are one token each.
    generating: with the words to make up tasks.

    Tags are ordinary tokens, so that decoding keeps them; control tokens and the ends of a sequence are special, so
    that they can be kept out of documents.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = [
        *world.entities,
        *world.demo_entities,
        *world.distractors,
        *(v for r in world.relations for v in world.values[r]),
    ]
    controls = [*CONTROLS, GENERATE.token] if generating else CONTROLS
    words_for_tasks = [*KINDS, ARROW] if generating else []
    vocabulary = [PAD, BOS, EOS, UNKNOWN, *controls, *TAGS, *WORDS, *words_for_tasks, *world.relations, *names]
    words = list(dict.fromkeys(vocabulary))
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return fast_tokenizer(backend, special=(PAD, BOS, EOS, UNKNOWN, *controls), tags=TAGS, chat_template=CHAT_TEMPLATE)
