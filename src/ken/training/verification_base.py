"""The base models of the verification world: trained on traces of judging, with tools or without (card 28, Stage 1).

The cold start is the pretraining: a model that can read nothing but items of this world learns to judge them from
traces, in which only what the verifier itself writes is learnt; what tools returned is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ken.agents.tools import CODE, response
from ken.agents.verify_loop import Manner, shown, verify_instruction
from ken.core.seeding import derive_seed
from ken.lab.verification import (
    CONSTANTS,
    CONVERT,
    CORRECT,
    INCORRECT,
    KINDS,
    NAMES,
    TAIL,
    UNITS,
    Item,
    VerificationWorld,
    VerificationWorldConfig,
    draw,
)
from ken.metrics.expressions import read_expression
from ken.training.lab_checkpoint import LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example, Weigh

MANNERS: tuple[Manner, ...] = ("tools", "thoughts", "label")
CONTROLS = [verify_instruction(manner).token for manner in MANNERS]
TAGS = [f"<{slash}{tag}>" for tag in ("think", CODE, CONVERT, "response") for slash in ("", "/")]
LABELS = [f"[{CORRECT}]", f"[{INCORRECT}]"]
CHAT_TEMPLATE = "<bos>{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


class VerificationBaseConfig(LabBaseConfig):
    """World, and how the model judges.

    manner: of the traces. augmented: whether rare kinds are made more often in training. passes: how often every item
    is shown; a model whose traces are short gets more of them, so that all see as many tokens. copying: items of
    reading alone, before all else, with several parts to be copied each; an item's answer is found behind "answer is",
    its reference behind "Reference". texts: items of text, judged at once, shown after them and before the traces:
    among traces theirs is one learnt token in a hundred, and to compare two names is not learnt. noise: share of
    training labels that are flipped.
    """

    called = "verification"

    world: VerificationWorldConfig = VerificationWorldConfig()
    hidden_size: int = Field(default=160, ge=8)
    intermediate_size: int = Field(default=480, ge=8)
    context: int = 256
    weigh: Weigh = "token"
    manner: Literal["tools", "thoughts", "label"] = "tools"
    augmented: bool = True
    passes: float = Field(default=1.5, gt=0)
    copying: int = Field(default=8_000, ge=0)
    texts: int = Field(default=4_000, ge=0)
    noise: float = Field(default=0.0, ge=0, lt=0.5)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        from ken.training.verification_gates import measure_gates

        world = VerificationWorld(self.world)
        tokenizer = build_tokenizer()
        stages = pretraining_stages(self, world, tokenizer)
        return Recipe(tokenizer, stages, lambda model: measure_gates(model, world, self.manner))


def smoke_config(**changes: Any) -> VerificationBaseConfig:
    """A model built in seconds, which has learnt next to nothing."""
    tiny: dict[str, Any] = {
        "world": VerificationWorldConfig(train=48, dev=12, test=12, tail=4),
        "hidden_size": 32,
        "layers": 2,
        "heads": 2,
        "intermediate_size": 64,
        "copying": 32,
        "texts": 16,
        "gated": False,
    }
    return VerificationBaseConfig(**{**tiny, **changes})


def build_tokenizer() -> Any:
    """Digits, signs and spaces are tokens of one character; words are one, alone or with the space before them. Joined,
    tokens are the text again, but for blank lines around what a tool returned, which are no tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    rng = np.random.default_rng(0)
    split = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[^A-Za-z]"), "isolated")
    words: dict[str, None] = dict.fromkeys("0123456789+-*/^=.,:;()[]{}%<>\n ?'")
    config = VerificationWorldConfig()
    said = [f"to ERROR True False Question Reference Response e E {' '.join(NAMES)} option the element pure"]
    said += [f"{unit} {to}" for unit, to, _ in UNITS] + [f"{name} {name}" for name in CONSTANTS]
    for kind in (*KINDS, *TAIL):  # every template comes up in so many draws
        said += [
            f"{i.question}\n{i.reference}\n{i.response}"
            for i in (draw(kind, n % 2 == 0, config, rng) for n in range(200))
        ]
    for text in said:
        for piece, _ in split.pre_tokenize_str(text):
            words[piece] = words[piece.strip() or piece] = None
            if piece.strip().isalpha():
                words[f" {piece.strip()}"] = None
    vocabulary = dict.fromkeys([PAD, BOS, EOS, UNKNOWN, *CONTROLS, *TAGS, *LABELS, *words])
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Replace("\n\n", "")
    backend.pre_tokenizer = split
    backend.decoder = decoders.Fuse()
    special = (PAD, BOS, EOS, UNKNOWN, *CONTROLS)
    return fast_tokenizer(backend, special=special, tags=[*TAGS, *LABELS], chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: VerificationBaseConfig, world: VerificationWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: reading alone, comparing alone, then traces."""
    rng = np.random.default_rng(derive_seed("verification mix", config.seed))
    stages = [list(copying(config, rng)), list(compared(config, world)), list(traces(config, world, rng))]
    return [encode(stage, tokenizer) for stage in stages if stage]


def copying(config: VerificationBaseConfig, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """The answer and the reference, said again one after the other, then each in the brackets in which a call has
    them."""
    kinds = (*KINDS, *TAIL) if config.augmented else KINDS
    for _ in range(config.copying):
        item = draw(str(rng.choice(kinds)), bool(rng.random() < 0.5), config.world, rng)
        said = f"({item.answer})-({item.reference})" if rng.random() < 0.5 else f"{item.answer}=={item.reference}"
        yield [
            (prompt(item, config.manner), False),
            (f"<think>{item.answer};{item.reference};{said}</think>", True),
            (EOS, True),
        ]


def compared(config: VerificationBaseConfig, world: VerificationWorld) -> Iterator[list[Piece]]:
    """Texts, which no tool compares."""
    for item in world.of_kind("text", config.texts):
        yield trace(item, config.manner)


def traces(config: VerificationBaseConfig, world: VerificationWorld, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Every training item as often as there are passes, in random order."""
    items = world.training(augmented=config.augmented)
    size = round(config.passes * len(items))
    for place in np.concatenate([rng.permutation(len(items)) for _ in range(-(-size // len(items)))])[:size]:
        item = items[int(place)]
        wrong = config.noise > 0 and rng.random() < config.noise
        yield trace(item, config.manner, label=(INCORRECT if item.right else CORRECT) if wrong else item.label)


def prompt(item: Item, manner: Manner) -> str:
    """What the model sees before it writes, as its chat template renders it."""
    return f"{BOS}{verify_instruction(manner).token}\n{shown(item.question, item.reference, item.response)}\n"


def trace(item: Item, manner: Manner, *, label: str | None = None) -> list[Piece]:
    """How the item is judged: what the verifier writes, and what tools return to it (card 28, Stage 1)."""
    pieces: list[Piece] = [(prompt(item, manner), False)]
    if manner == "tools":
        for tool, content in item.calls:
            pieces.append((f"<{tool}>{content}</{tool}>", True))
            pieces.append((response(_returned(item, tool, content)), False))
    elif manner == "thoughts" and item.kind != "text":
        pieces.append((f"<think>{item.worked[1]};{item.worked[0]}</think>", True))
    return [*pieces, (f"[{label or item.label}]{EOS}", True)]


def _returned(item: Item, tool: str, content: str) -> str:
    """What the tool says, as it does when it is called (see `tests/test_verification_world.py`)."""
    if tool == CONVERT:
        return f"{item.converted} {content.rpartition(' to ')[2]}"
    return str(read_expression(content))


def tokens_of(examples: Sequence[Example]) -> int:
    """How many tokens they are."""
    return sum(len(example.ids) for example in examples)
