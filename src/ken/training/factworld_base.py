"""The base model of FactWorld: a tiny language model that knows a known part of a generated world (card 01, Base
model).

It stands for an instruct model before any training of its boundary: it recalls the facts it was shown, copies from
documents, and speaks the tags of the protocol. How it decides carries no information: the verdicts in its examples are
coin flips. In a world with mentors it also speaks of two hops (card 00), and on request its verdicts are right a little
more often than not and it can make up tasks (card 58).
"""

from __future__ import annotations

from typing import Any, Literal

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
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.factworld import FactWorld, FactWorldConfig
from ken.models.conversation import Instruction
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
