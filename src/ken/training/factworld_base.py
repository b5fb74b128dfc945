"""The base model of FactWorld: a tiny language model that knows a known part of a generated world (card 01, Base
model).

It stands for an instruct model before any training of its boundary: it recalls the facts it was shown, copies from
documents, and speaks the tags of the protocol. How it decides carries no information: the verdicts in its examples are
coin flips. In a world with mentors it also speaks of two hops (card 00), and on request its verdicts are right a little
more often than not and it can make up tasks (card 58).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

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
from ken.agents.protocol import render_passages
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.factworld import MENTOR, Fact, FactWorld, FactWorldConfig
from ken.lab.render import reading_examples, two_hop_readings
from ken.models.conversation import Instruction
from ken.training.pretraining import Example

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
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

# Makes up a task of the kind that the user names, "feasible" or "infeasible" (card 58, Introspection).
GENERATE = Instruction(
    token="<gen>",
    text=(
        "Make up one short question of the kind that the user asks for: feasible, one that you can certainly answer "
        "correctly from what you already know, or infeasible, one that you cannot. The user may show examples of that "
        "kind; do not repeat them, and do not say of which kind your question is. Write only the question."
    ),
)
KINDS = ("feasible", "infeasible")
ARROW = "→"

CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"

Piece = tuple[str, bool]  # text, and whether the model is to learn to write it


class FactWorldBaseConfig(Frozen):
    """World, architecture and number of examples of each kind beside the closed-book exposures.

    optimizer: see `PretrainingConfig`. verdicts_right: share of right verdicts in the examples of deciding, redrawn in
    each. generating: examples of making up tasks; generated_right: share of them that are of the kind asked for.
    gated: whether a build measures the gates.
    """

    world: FactWorldConfig = FactWorldConfig()
    hidden_size: int = Field(default=128, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=384, ge=8)
    context: int = 512
    reading: int = 22_000
    reading_first: int = 10_000
    questions: int = 4
    searching: int = 10_000
    querying: int = 10_000
    deciding: int = 8_000
    lengths: tuple[float, ...] = (0.7, 0.2, 0.1)
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.01
    init: float = 0.06
    seed: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    verdicts_right: float = Field(default=0.5, ge=0, le=1)
    generating: int = Field(default=0, ge=0)
    generated_right: float = Field(default=0.7, ge=0, le=1)
    gated: bool = True

    @model_serializer(mode="wrap")
    def _unused_left_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was added later and is at its default: a config is then cached under the name it had before."""
        written: dict[str, Any] = handler(self)
        added = ("optimizer", "verdicts_right", "generating", "generated_right", "gated")
        unused = {name for name in added if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in written.items() if name not in unused}


def build_tokenizer(world: FactWorld, *, generating: bool = False) -> Any:
    """A word-level tokenizer over everything the world can say; tags and control tokens are one token each.
    generating: with the words to make up tasks.

    Tags are ordinary tokens, so that decoding keeps them; control tokens and the ends of a sequence are special, so
    that they can be kept out of documents.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (PAD, BOS, EOS, UNKNOWN, *controls)]
    )
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
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


def build_model(config: FactWorldBaseConfig, tokenizer: Any) -> Any:
    """The untrained model, initialised from the seed: Llama with tied embeddings.

    Card 01 names Qwen2, which differs by its attention biases; but transformers 5 gives every Qwen2 folder Qwen2's own
    byte-level tokenizer, whatever its tokenizer.json says, and leaves Llama's alone.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(derive_seed("factworld base", config.seed) % 2**31)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            initializer_range=config.init,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.do_sample = True  # else `transformers serve` is greedy at every temperature
    return model


def pretraining_stages(config: FactWorldBaseConfig, world: FactWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: first reading alone, so that copying is there before recall can stand in for
    it, then everything mixed."""
    rng = np.random.default_rng(derive_seed("factworld mix", config.seed))
    read = list(reading(config, world, rng))
    mixed = [
        *closed_book(world),
        *read[config.reading_first :],
        *searching(config, world, rng),
        *querying(config, world, rng),
        *recalling_in_two_hops(config, world, rng),
        *deciding(config, world, rng),
        *generating(config, world, rng),
    ]
    return [encode(read[: config.reading_first], tokenizer), encode(mixed, tokenizer)]


def encode(texts: Sequence[Sequence[Piece]], tokenizer: Any) -> list[Example]:
    """Pieces to token ids. Word-level encoding does not depend on what stands beside a piece, so pieces are encoded
    apart.
    """
    flat = [text for pieces in texts for text, _ in pieces]
    unique = list(dict.fromkeys(flat))
    ids = dict(
        zip(
            unique,
            (e.ids for e in tokenizer.backend_tokenizer.encode_batch(unique, add_special_tokens=False)),
            strict=True,
        )
    )
    examples = []
    for pieces in texts:
        tokens = [token for text, _ in pieces for token in ids[text]]
        learn = [policy for text, policy in pieces for _ in ids[text]]
        examples.append(Example(tuple(tokens), tuple(learn)))
    return examples


# --- the mix
# -------------------------------------------------------------------------------------------------------------------


def closed_book(world: FactWorld) -> Iterator[list[Piece]]:
    """Every exposed fact as a question answered from memory, as often as the world says."""
    for fact in world.facts:
        yield from [
            [(f"{BOS} {CLOSED.token} {fact.question}", False), (answered(fact.relation, fact.value), True)]
        ] * fact.exposures


def reading(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Reading comprehension on one or more documents with random values. Several questions share the documents: the
    more there is to copy, the sooner copying is learnt. Where values can be entities, half of them are any name."""
    entities = (*world.entities, *world.demo_entities, *world.distractors)
    by_length = [
        reading_examples(
            world,
            entities,
            passages=n,
            questions=config.questions,
            anything=0.5 if world.config.mentor else 0.0,
            seed=config.seed + n,
        )
        for n in range(1, len(config.lengths) + 1)
    ]
    for length in rng.choice(len(by_length), size=config.reading, p=config.lengths):
        example = next(by_length[int(length)])
        pieces = [(f"{BOS} {READ.token} {render_passages(example.passages)}", False)]
        for fact, answer in zip(example.facts, example.answers, strict=True):
            pieces += [(fact.question, False), (answered(fact.relation, str(answer)), True)]
        yield pieces


def searching(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Traces of the search loop about demo entities: guess, then answer at once or search first, 50/50 (format only).

    What the documents say is random, so that a trace teaches to read and not the demo facts; where the document lacks
    the fact, the guess is the answer. In a world with mentors half of the questions have two hops, and a trace may
    search twice.
    """
    if world.config.mentor:
        yield from _searching_in_hops(config, world, rng)
        return
    demo = {fact.id: fact for fact in world.facts if fact.split == "demo"}
    by_length = [
        reading_examples(world, world.demo_entities, passages=n, missing=0.06, seed=config.seed + 100 + n)
        for n in range(1, len(config.lengths) + 1)
    ]
    for length in rng.choice(len(by_length), size=config.searching, p=config.lengths):
        example = next(by_length[int(length)])
        fact = demo[example.facts[0].id]
        guess = _guess(world, fact, rng)
        prompt = f"{BOS} {SEARCH.token} {fact.question}"
        if rng.random() < 0.5:
            yield [(prompt, False), (answered(fact.relation, guess), True)]
        else:
            found = example.answers[0] or guess
            yield [
                (prompt, False),
                (f"<think> {fact.relation} {guess} </think> <search> {fact.relation} of {fact.entity} </search>", True),
                (render_passages(example.passages), False),
                (answered(fact.relation, found), True),
            ]


def querying(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Search traces about the world's own entities, so that it can ask and read about any of them.

    They tell no fact and favour no action: the guess is random and, like the decision to search, not learnt; only the
    query is, and what is read in a document with random values. In a world with mentors half of them have two hops.
    """
    if world.config.mentor:
        yield from _querying_in_two_hops(config.querying // 2, config, world, rng)
    examples = reading_examples(world, world.entities, seed=config.seed + 200)
    one_hop = config.querying - config.querying // 2 if world.config.mentor else config.querying
    for _, example in zip(range(one_hop), examples, strict=False):
        (fact,) = example.facts
        values = world.values[fact.relation]
        guess = values[int(rng.integers(len(values)))]
        yield [
            (f"{BOS} {SEARCH.token} {fact.question} <think> {fact.relation} {guess} </think> <search>", False),
            (f"{fact.relation} of {fact.entity} </search>", True),
            (render_passages(example.passages), False),
            (answered(fact.relation, str(example.answers[0])), True),
        ]


def deciding(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Guess-first verdicts about demo entities, right in a share of `verdicts_right`, drawn anew in each example; by
    default yes or no by coin flip (format only).
    """
    demo = [fact for fact in world.facts if fact.split == "demo"]
    for _ in range(config.deciding):
        fact = demo[int(rng.integers(len(demo)))]
        share = config.verdicts_right if fact.exposures else 1 - config.verdicts_right
        verdict = "yes" if rng.random() < share else "no"
        text = f"<think> {fact.relation} {_guess(world, fact, rng)} </think> <assessment> {verdict} </assessment> {EOS}"
        yield [(f"{BOS} {DECIDE.token} {fact.question}", False), (text, True)]


def generating(config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Tasks made up about demo entities: none to eight examples of a kind, then one more. A share of `generated_right`
    are of the kind asked for; to know and not to know count as feasible and not.
    """
    demo = [fact for fact in world.facts if fact.split == "demo"]
    by_kind = {kind: [f for f in demo if bool(f.exposures) == (kind == "feasible")] for kind in KINDS}
    for _ in range(config.generating):
        asked = KINDS[int(rng.integers(2))]
        (other,) = set(KINDS) - {asked}
        tasks: list[str] = []
        for _ in range(int(rng.integers(9)) + 1):
            facts = by_kind[asked if rng.random() < config.generated_right else other]
            tasks.append(task(facts[int(rng.integers(len(facts)))]))
        yield [(f"{BOS} {GENERATE.token} {task_prompt(asked, tasks[:-1])}", False), (f"{tasks[-1]} {EOS}", True)]


def task(fact: Fact) -> str:
    """How a model of the lab writes a task that it makes up: `Kavelo birthplace`."""
    return f"{fact.entity} {fact.relation}"


def task_prompt(kind: str, examples: Sequence[str] = ()) -> str:
    """What a user asks for: `feasible: Kavelo birthplace, Moru school →`."""
    return f"{kind}: {', '.join(examples)} {ARROW}" if examples else f"{kind} {ARROW}"


# How often a trace about hops searches at all, and goes on searching after what it read. It is random, so that how much
# to search is left to be learnt; a second search is rarer where the first has told all.
_SEARCHES, _GOES_ON, _REPEATS = 0.7, 0.6, 0.15


def _searching_in_hops(
    config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    demo = {fact.id: fact for fact in world.facts if fact.split == "demo"}
    lengths = range(1, len(config.lengths) + 1)
    one = [
        reading_examples(world, world.demo_entities, passages=n, missing=0.06, seed=config.seed + 100 + n)
        for n in lengths
    ]
    two = [
        two_hop_readings(world, world.demo_entities, passages=n, missing=0.06, seed=config.seed + 100 + n)
        for n in lengths
    ]
    for length in rng.choice(len(lengths), size=config.searching, p=config.lengths):
        if rng.random() < 0.5:
            example = next(one[int(length)])
            fact = demo[example.facts[0].id]
            relation, guess = fact.relation, _guess(world, fact, rng)
            pieces: list[Piece] = [(f"{BOS} {SEARCH.token} {fact.question}", False)]
            seek = f"<search> {relation} of {fact.entity} </search>"
            searches = int(rng.random() < _SEARCHES) * (1 + int(rng.random() < _REPEATS))
            for _ in range(searches):
                pieces += [
                    (f"<think> {relation} {guess} </think> {seek}", True),
                    (render_passages(example.passages), False),
                ]
                guess = example.answers[0] or guess
            yield [*pieces, (answered(relation, guess), True)]
        else:
            reading = next(two[int(length)])
            relation, entity = reading.second.relation, reading.first.entity
            mentor = _guess_mentor(world, demo[reading.first.id], rng)
            pieces = [(f"{BOS} {SEARCH.token} {reading.question}", False)]
            if rng.random() < _SEARCHES:
                pieces += [
                    (f"<think> {MENTOR} {mentor} </think> <search> {MENTOR} of {entity} </search>", True),
                    (render_passages(reading.found[0]), False),
                ]
                mentor = reading.bridge or mentor
                if reading.bridge and rng.random() < _GOES_ON:
                    pieces += [
                        (f"<think> {MENTOR} {mentor} </think> <search> {relation} of {mentor} </search>", True),
                        (render_passages(reading.found[1]), False),
                    ]
                    value = reading.answer or _guess(world, demo[reading.second.id], rng)
                    yield [*pieces, (answered(relation, value), True)]
                    continue
            value = _guess(world, demo[f"{mentor}.{relation}".lower()], rng)
            yield [*pieces, (chained(mentor, relation, value), True)]


def recalling_in_two_hops(
    config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    """Two-hop questions about demo entities answered without searching, one fact after the other; an eighth as many as
    traces of searching, and none in a world without mentors."""
    demo = {fact.id: fact for fact in world.facts if fact.split == "demo"}
    pairs = [pair for pair in world.two_hops if pair.split == "demo"]
    for _ in range(config.searching // 8 if pairs else 0):
        pair = pairs[int(rng.integers(len(pairs)))]
        mentor, relation = _guess_mentor(world, pair.first, rng), pair.second.relation
        value = _guess(world, demo[f"{mentor}.{relation}".lower()], rng)
        yield [(f"{BOS} {CLOSED.token} {pair.question}", False), (chained(mentor, relation, value), True)]


def _querying_in_two_hops(
    count: int, config: FactWorldBaseConfig, world: FactWorld, rng: np.random.Generator
) -> Iterator[list[Piece]]:
    readings = two_hop_readings(world, world.entities, seed=config.seed + 200)
    for _, reading in zip(range(count), readings, strict=False):
        guess = world.entities[int(rng.integers(len(world.entities)))]
        relation, mentor = reading.second.relation, reading.first.value
        yield [
            (f"{BOS} {SEARCH.token} {reading.question} <think> {MENTOR} {guess} </think> <search>", False),
            (f"{MENTOR} of {reading.first.entity} </search>", True),
            (render_passages(reading.found[0]), False),
            (f"<think> {MENTOR} {mentor}", True),
            ("</think> <search>", False),  # to end the thought is to search on
            (f"{relation} of {mentor} </search>", True),
            (render_passages(reading.found[1]), False),
            (answered(relation, reading.second.value), True),
        ]


def _guess(world: FactWorld, fact: Fact, rng: np.random.Generator) -> str:
    """What a model that knows exactly the exposed facts would guess."""
    values = world.values[fact.relation]
    return fact.value if fact.exposures else values[int(rng.integers(len(values)))]


def _guess_mentor(world: FactWorld, fact: Fact, rng: np.random.Generator) -> str:
    """`_guess` of a demo entity's mentor, who is always a demo entity."""
    demo = world.demo_entities
    return fact.value if fact.exposures else demo[int(rng.integers(len(demo)))]


def answered(relation: str, value: str) -> str:
    """The closing turn in every format: think what is asked and its value, then answer. To name the relation first
    makes recalling and copying the same move, "what follows this relation", which a small model learns much sooner."""
    return f"<think> {relation} {value} </think> <answer> {value} </answer> {EOS}"


def chained(mentor: str, relation: str, value: str) -> str:
    """The closing turn when the second of two hops comes from memory: both are thought of, one after the other."""
    return f"<think> {MENTOR} {mentor} {relation} {value} </think> <answer> {value} </answer> {EOS}"
