"""The base models of a conflict world: tiny language models that remember facts and read documents (card 57, Model).

*constructed*: it first learns to read, and nothing to remember, with a loss on the lens of layers 4 to 8, so that
these can be read. Then embeddings, head and the first half are frozen, and the other half learns facts by heart: what
it remembers is written into the deep layers, where the paper finds it in large models. This installs the demarcation on
purpose. Training ends at the first check at which greedy decoding follows a contradicting document in 40 to 70% of
questions that are kept for this, so that there is something to gain; no decoder is looked at.

*natural*: facts and reading in one mix, and what comes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from ken.agents.instructions import CLOSED, READ
from ken.agents.protocol import render_passages
from ken.core import Sampling
from ken.core.seeding import derive_seed
from ken.lab.conflict import Case, ConflictConfig, ConflictWorld, Stated, passage, shares
from ken.models import Message, Model
from ken.training.factworld_base import TAGS
from ken.training.lab_checkpoint import Gate, LabBaseConfig, OnStep, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example, masked_loss, padded, pretrain

CONTROLS = [CLOSED.token, READ.token]
WORDS = ["Doc", *map(str, range(1, 10)), ":", "of", "."]
WORDS += ["abcdef"]  # transformers encodes it to learn how a tokenizer spells
CHAT_TEMPLATE = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"

ENDS = Sampling(max_tokens=2)  # a value and the end mark


class ConflictBaseConfig(LabBaseConfig):
    """World, and how much of each kind is learnt.

    arm: see above. reading: examples of reading. documents: probabilities of 1, 2, … documents in one. remembering:
    examples of facts, at most, and mixed: those of the natural model, whose training does not end early; each holds one
    fact of every attribute. batch_remembering, lr_remembering: of those. shown: share of them that have documents,
    which state some of the facts and none of the others. lens_weight: of the loss on the lens beside the loss of the
    last layer. room: greedy accuracy on conflicts at which the constructed model is done, if it answers at least
    `remembered` of the same questions closed book by then (a model that has unlearnt to read, and remembers nothing,
    lies in the same range); checked: every so many steps.

    While the second half learns facts it also overwrites a part of what was read about anybody: 0.74 of what a document
    says of a new entity is still answered then, 0.97 before. That is what the decoder is to mend, so only 0.7 is asked
    for. Where the facts were learnt beside documents about new entities nothing was overwritten, and no document that
    contradicts either (0.99 followed it, of 480 facts 0.67 remembered): there is nothing to gain then.

    By default 80 entities are known, not the card's 500: with frozen embeddings facts are learnt slowly. Of 3,000 none
    was remembered after 22 exposures (a probe with another form of question), of 900 less than a half after 160; 480
    are shown up to 600 times.
    """

    called = "conflict"

    world: ConflictConfig = ConflictConfig(known=80)
    arm: Literal["constructed", "natural"] = "constructed"
    layers: int = Field(default=8, ge=4)
    context: int = 128
    warmup: int = Field(default=40, ge=0)
    reading: int = Field(default=6_400, ge=1)
    documents: tuple[float, ...] = (0.3, 0.2, 0.2, 0.15, 0.15)
    remembering: int = Field(default=60_000, ge=1)
    mixed: int = Field(default=16_000, ge=1)
    batch_remembering: int = Field(default=16, ge=1)
    lr_remembering: float = Field(default=6e-3, gt=0)
    shown: float = Field(default=0.45, ge=0, le=1)
    lens_weight: float = Field(default=0.3, ge=0)
    room: tuple[float, float] = (0.4, 0.7)
    remembered: float = Field(default=0.7, ge=0, le=1)
    checked: int = Field(default=20, ge=1)

    @property
    def half(self) -> int:
        """The last layer that is frozen when facts are learnt, and the first whose lens is taught."""
        return self.layers // 2

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        world = ConflictWorld(self.world)
        tokenizer = build_tokenizer(world)
        rng = np.random.default_rng(derive_seed("conflict base", self.seed))
        read = encode(list(reading(world, self.reading, rng, self.documents)), tokenizer)
        natural = self.arm == "natural"
        examples = self.mixed if natural else self.remembering
        facts = encode(
            list(remembering(world, examples, rng, self.documents, shown=self.shown)),
            tokenizer,
        )
        stages = [[*read, *facts]] if natural else [read, facts]

        def measure(model: Model) -> Any:
            room, remembered = ((0.0, 1.0), 0.0) if natural else (self.room, self.remembered)
            return measure_gates(model, world, room=room, remembered=remembered)

        if natural:
            return Recipe(tokenizer, stages, measure)
        return Recipe(
            tokenizer, stages, measure, lambda model, told: construct(self, model, world, tokenizer, stages, told)
        )


def smoke_config(*, arm: Literal["constructed", "natural"] = "constructed", seed: int = 0) -> ConflictBaseConfig:
    """The same kind of base model in a small world, built in seconds. It speaks the format and knows nothing; its gates
    do not count."""
    world = ConflictConfig(known=20, new=12, values=5, seed=seed)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "layers": 4, "heads": 2}
    return ConflictBaseConfig(
        world=world, arm=arm, seed=seed, reading=320, remembering=160, mixed=160, gated=False, **sizes
    )


def build_tokenizer(world: ConflictWorld) -> Any:
    """A word-level tokenizer over everything the world can say."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    values = [value for attribute in world.attributes for value in world.values[attribute]]
    vocabulary = [PAD, BOS, EOS, UNKNOWN, *CONTROLS, *TAGS, *WORDS, *world.attributes, *values, *world.entities]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    special = [PAD, BOS, EOS, UNKNOWN, *CONTROLS]
    return fast_tokenizer(backend, special=special, tags=TAGS, chat_template=CHAT_TEMPLATE)


def prompt(case: Case, noise: int = 0) -> list[Message]:
    """A case as a model is asked: documents, then the beginning of the sentence that the answer ends."""
    return [
        Message("system", READ),
        Message("user", f"{render_passages(case.documents(noise))}\n\n{case.question.text}"),
    ]


# --- examples --------------------------------------------------------------------------------------------------------


def reading(
    world: ConflictWorld,
    examples: int,
    rng: np.random.Generator,
    documents: Sequence[float],
) -> Iterator[list[Piece]]:
    """Documents with random values, about any entities, all asked for: what they say is in no memory."""
    for count in rng.choice(len(documents), size=examples, p=documents) + 1:
        chosen = [world.random(e, a, rng) for e, a in _subjects(world, world.entities, int(count), rng)]
        yield _shown(chosen, [chosen[int(i)] for i in rng.permutation(len(chosen))])


def remembering(
    world: ConflictWorld,
    examples: int,
    rng: np.random.Generator,
    documents: Sequence[float],
    *,
    shown: float,
) -> Iterator[list[Piece]]:
    """True facts, one of each attribute, about different entities: asked without documents, or with some that agree
    with some of the facts and say nothing of the others."""
    for _ in range(examples):
        facts = [world.true(e, a) for e, a in _subjects(world, world.known, len(world.attributes), rng)]
        if rng.random() >= shown:
            control = CLOSED if rng.random() < 0.5 else READ  # without documents it does not matter which
            yield [(f"{BOS} {control.token} ", False), *_answered(facts)]
        else:
            count = int(rng.choice(len(documents), p=documents)) + 1
            yield _shown(facts[:count], [facts[int(i)] for i in rng.permutation(len(facts))])


def _subjects(
    world: ConflictWorld, entities: Sequence[str], count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Different entities with different attributes. Two of one attribute could not be told apart: at this size models
    read by the kind of a value, not by the name beside it (see `ken.lab.conflict`)."""
    chosen = rng.choice(len(entities), size=count, replace=False)
    attributes = rng.permutation(len(world.attributes))[:count]
    return [(entities[int(e)], world.attributes[int(a)]) for e, a in zip(chosen, attributes, strict=True)]


def _shown(stated: Sequence[Stated], asked: Sequence[Stated]) -> list[Piece]:
    documents = render_passages([passage(one) for one in stated])
    return [(f"{BOS} {READ.token} {documents}\n\n", False), *_answered(asked)]


def _answered(asked: Sequence[Stated]) -> list[Piece]:
    return [piece for one in asked for piece in ((f"{one.question} ", False), (f"{one.value} {EOS} ", True))]


# --- training --------------------------------------------------------------------------------------------------------


def construct(  # noqa: PLR0917
    config: ConflictBaseConfig,
    model: Any,
    world: ConflictWorld,
    tokenizer: Any,
    stages: Sequence[Sequence[Example]],
    on_step: OnStep,
) -> float:
    """Train both stages of the constructed model in place; wall seconds."""
    read, facts = stages
    pad = tokenizer.pad_token_id

    def with_lens(model: Any, batch: Sequence[Example], pad_id: int) -> torch.Tensor:
        return lens_loss(model, batch, pad_id, config.half, config.lens_weight)

    seconds = pretrain(model, [read], config.pretraining, pad_id=pad, on_step=on_step, loss_of=with_lens)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in model.model.layers[config.half :]:
        layer.requires_grad_(True)
    conflicts, memories = dev_conflicts(world, tokenizer), dev_conflicts(world, tokenizer, closed=True)

    def enough(step: int) -> bool:
        if step % config.checked or not (
            config.room[0] <= greedy_accuracy(model, *conflicts, pad_id=pad) <= config.room[1]
        ):
            return False
        return greedy_accuracy(model, *memories, pad_id=pad) >= config.remembered

    changed = {"batch": config.batch_remembering, "lr": config.lr_remembering}
    second = config.pretraining.__class__(**{**_fields(config.pretraining), **changed})
    try:
        seconds += pretrain(model, [facts], second, pad_id=pad, on_step=on_step, enough=enough)
    finally:
        model.requires_grad_(True)
    return seconds


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__slots__}


def lens_loss(model: Any, batch: Sequence[Example], pad_id: int, first: int, weight: float) -> torch.Tensor:
    """The loss of the last layer, and `weight` times the mean loss of the lens of layers `first` … L − 1, in nats."""
    if not weight:
        return masked_loss(model, batch, pad_id)
    ids, wanted = padded(batch, pad_id)
    target = ids[:, 1:][wanted]
    states = model.model(input_ids=ids[:, :-1], use_cache=False, output_hidden_states=True).hidden_states
    losses = [functional.cross_entropy(model.lm_head(model.model.norm(h[wanted])), target) for h in states[first:-1]]
    # Transformers has applied the norm to the last state already.
    return functional.cross_entropy(model.lm_head(states[-1][wanted]), target) + weight * torch.stack(losses).mean()


def dev_conflicts(
    world: ConflictWorld, tokenizer: Any, most: int = 300, *, closed: bool = False
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Prompts in which the only document contradicts memory, and the ids of what it states; or, `closed`, the same
    questions without a document, and the ids of what is to be remembered. Not those of the tests."""
    cases = world.cases("conflict", min(most, len(world.facts) // 2), "dev")
    if closed:
        texts = [[(f"{BOS} {CLOSED.token} {case.question.text}", False)] for case in cases]
        wanted = [case.memory for case in cases]
    else:
        shown = [render_passages(case.documents()) for case in cases]
        texts = [
            [(f"{BOS} {READ.token} {documents}\n\n{case.question.text}", False)]
            for documents, case in zip(shown, cases, strict=True)
        ]
        wanted = [case.context for case in cases]
    return [e.ids for e in encode(texts, tokenizer)], [tokenizer.convert_tokens_to_ids(value) for value in wanted]


@torch.no_grad()
def greedy_accuracy(model: Any, prompts: Sequence[tuple[int, ...]], wanted: Sequence[int], *, pad_id: int) -> float:
    """Share of prompts whose likeliest next token is the wanted one. model: in any mode, without dropout."""
    from ken.models.decoding import left_padded

    ids, mask = left_padded(prompts, pad_id, model.device)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1).logits
    return float((logits[:, -1].argmax(-1) == torch.tensor(wanted, device=ids.device)).float().mean())


async def measure_gates(
    model: Model, world: ConflictWorld, *, room: tuple[float, float], remembered: float, examples: int = 300
) -> list[Gate]:
    """On questions kept for this: how often a base model follows a document about what it has never heard of (one
    document, and among four others), and one that contradicts it; how often it remembers, closed book and beside a
    document about something else, and how often it agrees with a document that agrees with it."""
    rates = {}
    asked: list[tuple[str, list[Case], Callable[[Case], list[Message]]]] = [
        ("a new entity, one document", world.cases("new-entity", _some(world, "new", examples), "dev"), prompt),
        ("a new entity, five documents", world.cases("new-entity", _some(world, "new", examples), "dev"), _crowded),
        ("the document contradicts", world.cases("conflict", _some(world, "known", examples), "dev"), prompt),
        ("the document agrees", world.cases("agree", _some(world, "known", examples), "dev"), prompt),
        ("the document is about another", world.cases("no-evidence", _some(world, "known", examples), "dev"), prompt),
        ("closed book", world.cases("no-evidence", _some(world, "known", examples), "dev"), _closed),
    ]
    for name, cases, shown in asked:
        replies = await asyncio.gather(*(model.generate(shown(case), sampling=ENDS) for case in cases))
        rates[name] = shares(cases, [answer_of(reply[0].text) for reply in replies])["acc"]
    bounds = {
        "a new entity, one document": (0.7, 1.0),
        "the document contradicts": room,
        "closed book": (0.9 * remembered, 1.0),  # other facts than those that training was ended by
    }
    return [Gate(name, rate, *bounds.get(name, (0.0, 1.0)), gating=name in bounds) for name, rate in rates.items()]


def answer_of(text: str) -> str | None:
    """What a model of this world answered: the first word that it wrote."""
    words = text.replace(EOS, " ").split()
    return words[0] if words else None


def _crowded(case: Case) -> list[Message]:
    return prompt(case, 4)


def _closed(case: Case) -> list[Message]:
    return [Message("system", CLOSED), Message("user", case.question.text)]


def _some(world: ConflictWorld, who: Literal["known", "new"], most: int) -> int:
    return min(most, len(world.known if who == "known" else world.new) * len(world.attributes) // 2)
