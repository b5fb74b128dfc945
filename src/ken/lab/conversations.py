"""A world of conversations: passages about entities, and questions that lean on what was said before (card 17).

Every (entity, relation) has one passage of 18 to 25 words: the entity's name as its title (as Wikipedia's passages have
one), a few words of the relation's own vocabulary, and noise. Of most relations the passages never use the words of the
question ("who praised her": "laurels, ovation, tribute"), so the question spelled out in full is not the best query: a
rewriter has to find out, from ranks alone, which words the collection uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ken.core import BadInput, Passage
from ken.core.conversation import ConversationTurn, Exchange
from ken.core.explained import Explained
from ken.core.seeding import derive_seed
from ken.lab.names import invented_names

# What was done to an entity, as a question says it, and the words in which passages tell of it. The first five share no
# word with their question; passages of the last three always hold the question's own word.
MISMATCHED = {
    "praised": "laurels ovation tribute acclaim applause medal garland eulogy toast cheers",
    "feared": "dread menace terror omen curse nightmare shudder peril hush trembling",
    "visited": "pilgrim caravan guest inn journey ferry lodging wayfarer threshold luggage",
    "funded": "patron ledger coins treasury loan dowry purse bequest silver invoice",
    "guarded": "sentry watchman halberd garrison rampart patrol lantern shield gatehouse hounds",
}
MATCHED = {
    "painted": "painted canvas easel pigment brush portrait varnish palette fresco sketch",
    "renamed": "renamed title decree scribe seal parchment herald christening signboard registry",
    "copied": "copied replica forger mould imprint stencil twin counterfeit tracing workshop",
}
VOCABULARY = {verb: tuple(words.split()) for verb, words in (MISMATCHED | MATCHED).items()}
RELATIONS = tuple(VOCABULARY)

# X is the entity or what stands for it. With a pronoun, or nothing at all, the entity is to be found before.
QUESTIONS = ("who {verb} X", "by whom was X {verb}", "and who {verb} X", "tell me who {verb} X")
ELLIPSES = ("and {verb} by whom", "who else {verb}", "{verb} by whom then")
SWITCHES = ("what about X", "and X", "the same for X please")  # the relation is to be found before
PRONOUNS = ("her", "him", "it")
ANSWERS = ("it was Y", "some say Y", "Y did", "that was Y")
NOBODY = ("nobody knows", "the record is lost", "no one did")

# Words of no relation and no question.
_NOISE = (
    "amber anchor apple arch ash autumn barley basket beacon bell birch blossom border bread breeze bridge bronze "
    "brook candle canyon cedar cellar chalk chimney clay cliff clock cloud clover coast cobble comet copper coral "
    "corner cotton cradle creek crow crystal curtain cypress dawn desert dew dove dusk dust eagle echo elm ember "
    "evening fabric falcon feather fence fern field fig finch flame flax flint flood flute foam fog forest fountain "
    "fox frost garden glass glen goat grain granite grape grass gravel grove gull hammer harbour harvest hawk hazel "
    "hearth heath hedge hill honey horn ice indigo iron island ivory ivy jade jasmine juniper kettle kiln lake lamb "
    "lark lavender leaf lemon lichen lily lime linen loom maple marble marsh meadow midnight milk mill mint mirror "
    "mist moon moss mountain needle nettle night oak oat ocean olive onyx orchard otter owl oyster paper path pearl "
    "pebble pepper petal pillar pine plain plum pond poplar poppy quarry quartz quill rain raven reed resin ribbon "
    "ridge river robin rock rope rose rye saffron sage sail salt sand sapphire shadow shell shore slate smoke snow "
    "spark sparrow spring stable stag steam stone storm straw stream summer sun swan sycamore tar thicket thistle "
    "thorn thread thunder tide timber tower tulip valley vase velvet vine violet walnut water wave weaver well wheat "
    "wheel willow wind window wine winter wolf wood wool yard yarn yew zinc"
)
NOISE = tuple(_NOISE.split())

Split = Literal["train", "test"]


class ConversationWorldConfig(Explained):
    """Sizes and shares.

    distractors: passages that share an entity (`about_entities` of them) or a relation with others; 12,000 rather than
        about 6,000, so that the median rank of a weak rewriter lies between 20 and 60, as the card asks.
    unseen: share of the entities that no training conversation mentions, and of test conversations about them.
    mentions: probability that an answer names anybody; family: that this is somebody of the same family, who shares a
        word of the name.
    switch: probability that a turn is about somebody else.

    Raises `BadInput` for a value out of range.
    """

    called = "a ConversationWorld"

    entities: int = Field(default=400, ge=10)
    distractors: int = Field(default=12_000, ge=0)
    about_entities: float = Field(default=0.9, ge=0, le=1)
    train_turns: int = Field(default=2000, ge=1)
    test_turns: int = Field(default=500, ge=1)
    min_turns: int = Field(default=3, ge=1)
    max_turns: int = Field(default=6, ge=1)
    unseen: float = Field(default=0.2, ge=0, le=0.9)
    two_words: float = Field(default=0.6, ge=0, le=1)
    mentions: float = Field(default=0.6, ge=0, le=1)
    family: float = Field(default=0.6, ge=0, le=1)
    switch: float = Field(default=0.2, ge=0, le=1)
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> ConversationWorldConfig:
        if self.max_turns < self.min_turns:
            raise BadInput(f"max_turns ({self.max_turns}) is below min_turns ({self.min_turns}); raise it")
        return self


@dataclass(frozen=True, slots=True)
class Entity:
    """Somebody or something with a name of one or two words; the second is shared with a family."""

    name: str
    pronoun: str
    unseen: bool = False

    @property
    def family(self) -> str:
        """The shared word of the name, or "" for a name of one word."""
        return self.name.partition(" ")[2]


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a turn is about, behind its words: for the passage it needs, and for weak habits in pretraining.

    entities: names of everybody mentioned so far, this query included, in order. words: the query without names.
    """

    turn: ConversationTurn
    entity: str
    relation: str
    entities: tuple[str, ...]
    words: tuple[str, ...]


class ConversationWorld:
    """A world: entities, their passages and distractors, and conversations about them, all fixed by the config."""

    def __init__(self, config: ConversationWorldConfig | None = None) -> None:
        self.config = config or ConversationWorldConfig()
        c = self.config
        names = invented_names(np.random.default_rng(derive_seed("conversation names", c.seed)))
        double = round(c.entities * c.two_words)
        self.singles = tuple(islice(names, c.entities - double))
        self.families = tuple(islice(names, max(1, double // 4)))
        self.firsts = tuple(islice(names, max(2, double // 2)))
        rng = np.random.default_rng(derive_seed("conversation entities", c.seed))
        pairs = [f"{first} {family}" for first in self.firsts for family in self.families]
        order = rng.permutation(len(pairs))
        chosen = [*self.singles, *(pairs[i] for i in order[:double])]
        self.strangers = tuple(pairs[i] for i in order[double:])  # names that only distractors tell of
        unseen = set(rng.permutation(len(chosen))[: round(c.unseen * len(chosen))].tolist())
        self.entities = tuple(
            Entity(name, PRONOUNS[int(rng.integers(len(PRONOUNS)))], i in unseen) for i, name in enumerate(chosen)
        )

    @property
    def words(self) -> list[str]:
        """Every word the world can say, each once: names, relations, noise, questions and answers."""
        said = [*QUESTIONS, *ELLIPSES, *SWITCHES, *ANSWERS, *NOBODY]
        plain = [w for text in said for w in text.split() if w not in {"X", "Y", "{verb}"}]
        told = [word for words in VOCABULARY.values() for word in words]
        return list(
            dict.fromkeys([*RELATIONS, *plain, *PRONOUNS, *told, *NOISE, *self.singles, *self.families, *self.firsts])
        )

    # --- the collection ---

    @cached_property
    def passages(self) -> tuple[Passage, ...]:
        """The collection: one passage per entity and relation, then the distractors. Ids are `entity.relation` and
        `distractor-i`."""
        c = self.config
        rng = np.random.default_rng(derive_seed("conversation passages", c.seed))
        told = [
            _passage(gold_id(entity.name, relation), entity.name, _content(relation, rng), rng)
            for entity in self.entities
            for relation in RELATIONS
        ]
        for number in range(c.distractors):
            relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
            if rng.random() < c.about_entities:  # about an entity, but hardly about the relation
                name = self.entities[number % len(self.entities)].name
                words = _some(VOCABULARY[relation], int(rng.integers(0, 3)), rng)
            else:
                name = self.strangers[int(rng.integers(len(self.strangers)))]
                words = _content(relation, rng)
            told.append(_passage(f"distractor-{number}", name, words, rng))
        return tuple(told)

    # --- conversations ---

    def turns(self, split: Split) -> list[ConversationTurn]:
        """The turns of a split, conversation after conversation. `meta`: relation, mismatched, unseen, ellipsis."""
        return [spoken.turn for spoken in self.spoken(split)]

    def spoken(self, split: Split) -> list[Spoken]:
        """`turns` with what is behind them. Unseen entities occur in the test split only."""
        c = self.config
        rng = np.random.default_rng(derive_seed("conversations", c.seed, split))
        seen = [entity for entity in self.entities if not entity.unseen]
        unseen = [entity for entity in self.entities if entity.unseen]
        wanted = c.train_turns if split == "train" else c.test_turns
        spoken: list[Spoken] = []
        number = 0
        while len(spoken) < wanted:
            pool = unseen if split == "test" and unseen and rng.random() < c.unseen else seen
            others = seen if split == "train" else self.entities
            spoken += self._conversation(f"{split}-{number}", pool, others, rng)
            number += 1
        return spoken[:wanted]

    def rehearsals(self, seed: int = 0) -> Iterator[Spoken]:
        """Endless turns of conversations about invented people, whose names are the world's words put together anew.

        For pretraining: every name is learnt as a word, and nothing is told about the entities.
        """
        rng = np.random.default_rng(derive_seed("conversation rehearsals", self.config.seed, seed))
        while True:
            family = str(rng.choice(self.families))
            cast = [Entity(self._any_name(rng, family), str(rng.choice(PRONOUNS))) for _ in range(8)]
            yield from self._conversation("rehearsal", cast, cast, rng)

    def _any_name(self, rng: np.random.Generator, family: str) -> str:
        """A name of one word, or of two, often with the given second."""
        if self.singles and rng.random() >= self.config.two_words:
            return str(rng.choice(self.singles))
        return f"{rng.choice(self.firsts)} {family if rng.random() < 0.5 else rng.choice(self.families)}"

    def _conversation(
        self, name: str, pool: Sequence[Entity], others: Sequence[Entity], rng: np.random.Generator
    ) -> list[Spoken]:
        c = self.config
        subject = pool[int(rng.integers(len(pool)))]
        relation = ""
        left: list[str] = []
        history: list[Exchange] = []
        mentioned: list[str] = []
        spoken = []
        for number in range(int(rng.integers(c.min_turns, c.max_turns + 1))):
            kind = "full" if not number else "switch" if rng.random() < c.switch else "pronoun"
            if kind == "switch":
                subject = pool[int(rng.integers(len(pool)))]
                if rng.random() < 0.5:
                    kind, relation = "new topic", ""
                left = []
            elif kind == "pronoun" and rng.random() < 0.35:
                kind = "omission"
            if kind != "switch":
                left = left or [RELATIONS[i] for i in rng.permutation(len(RELATIONS))]
                relation = left.pop()
            shapes = {"switch": SWITCHES, "omission": ELLIPSES}.get(kind, QUESTIONS)
            shape = shapes[int(rng.integers(len(shapes)))].format(verb=relation)
            named = kind in {"full", "switch", "new topic"}
            query = _filled(shape, "X", subject.name if named else subject.pronoun)
            if named:
                mentioned.append(subject.name)
            turn = ConversationTurn(
                id=f"{name}_{number + 1}",
                query=query,
                history=tuple(history),
                gold=(gold_id(subject.name, relation),),
                rewrite=f"who {relation} {subject.name}",
                meta={
                    "relation": relation,
                    "mismatched": relation in MISMATCHED,
                    "unseen": subject.unseen,
                    "ellipsis": kind,
                },
            )
            words = tuple(_filled(shape, "X", "" if named else subject.pronoun).split())
            spoken.append(Spoken(turn, subject.name, relation, tuple(dict.fromkeys(mentioned)), words))
            answer = NOBODY[int(rng.integers(len(NOBODY)))]
            if rng.random() < c.mentions:
                further = self._further(subject, others, rng)
                answer = _filled(ANSWERS[int(rng.integers(len(ANSWERS)))], "Y", further)
                mentioned.append(further)
            history.append(Exchange(query=query, answer=answer))
        return spoken

    def _further(self, subject: Entity, others: Sequence[Entity], rng: np.random.Generator) -> str:
        """Somebody else whom an answer names, often of the same family."""
        if subject.family and rng.random() < self.config.family:
            relatives = [e for e in others if e.family == subject.family and e.name != subject.name]
            if relatives:
                return relatives[int(rng.integers(len(relatives)))].name
        return others[int(rng.integers(len(others)))].name


def gold_id(entity: str, relation: str) -> str:
    """The id of the passage about an entity and a relation."""
    return f"{entity}.{relation}".lower().replace(" ", "-")


def _content(relation: str, rng: np.random.Generator) -> list[str]:
    """3 to 5 words of a relation; of a matched one, the question's own word is among them."""
    words = VOCABULARY[relation]
    count = int(rng.integers(3, 6))
    if relation in MATCHED:
        return [words[0], *_some(words[1:], count - 1, rng)]
    return _some(words, count, rng)


def _some(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [str(word) for word in rng.choice(words, size=count, replace=False)]


def _passage(identifier: str, name: str, content: Sequence[str], rng: np.random.Generator) -> Passage:
    """18 to 25 words, title included; those of the text in random order."""
    length = int(rng.integers(18, 26)) - len(name.split()) - len(content)
    words = [*content, *(str(word) for word in rng.choice(NOISE, size=length))]
    return Passage(id=identifier, title=name, text=" ".join(words[i] for i in rng.permutation(len(words))))


def _filled(shape: str, mark: str, filling: str) -> str:
    """`shape` with `filling` in place of the word `mark`."""
    return " ".join(part for word in shape.split() if (part := filling if word == mark else word))
