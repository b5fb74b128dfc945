"""A tiny world for reinforcement learning with a known optimum: an untrained model chooses one of a few words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ken.agents import Strategy
from ken.agents.attempt import Attempt
from ken.core import Answer, Question, Sampling, Trajectory
from ken.models.conversation import Instruction
from ken.models.local import LocalModel

WORDS = ("red", "green", "blue", "black")
CHOOSE = Instruction(text="choose", token="<choose>")
HEARD = "then the wind says"


def bandit_model(folder: Path, *, layers: int = 1) -> LocalModel:
    """A one-layer Llama over the words of this file; every word is one token."""
    save_untrained(folder, ["one", "two", *WORDS, *HEARD.split(), "loud", "soft"], layers=layers)
    return LocalModel(folder, device="cpu", control_tokens=True)


def tool_caller(folder: Path) -> None:
    """A model of the same kind whose every word is a whole action: it searches, computes and answers at random."""
    actions = ["<search>x</search>", "<code>1</code>", "<answer>7</answer>", "<answer>8</answer>"]
    save_untrained(folder, actions, positions=1024)


def save_untrained(folder: Path, vocabulary: Sequence[str], *, layers: int = 1, positions: int = 64) -> None:
    """An untrained Llama with one token for every word."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", "<choose>", *vocabulary]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(w, special=True, normalized=False) for w in words[:4]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        initializer_range=0.2,
        max_position_embeddings=positions,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Choose(Strategy):
    """Write one token; with `turns`, hear something and write again."""

    name = "choose"

    def __init__(self, turns: int = 1, heard: str = HEARD) -> None:
        self.turns, self.heard = turns, heard

    async def solve(self, attempt: Attempt) -> None:
        attempt.begin(CHOOSE, attempt.question.text)
        for turn in range(self.turns):
            if turn:
                attempt.observe(self.heard)
            generation = await attempt.generate(stop=())
            attempt.steps.append(Answer(text=generation.text.strip() or "-"))


ONE_TOKEN = Sampling(temperature=1.0, max_tokens=1)
QUESTIONS = tuple(Question(id=name, text=name, answers=(word,)) for name, word in (("one", "red"), ("two", "blue")))


def right_word(trajectory: Trajectory) -> float:
    """1 for the word that the question wants: the optimum is a policy that always says it."""
    return float(trajectory.answer in trajectory.question.answers)


def probability_of_right(model: LocalModel) -> float:
    """Of the right word, averaged over the questions."""
    import asyncio

    from ken.models import Message

    async def one(question: Question) -> float:
        import math

        messages = [Message("system", CHOOSE), Message("user", question.text)]
        return math.exp((await model.score(messages, question.answers[0])).total)

    async def mean() -> float:
        return sum([await one(q) for q in QUESTIONS]) / len(QUESTIONS)

    return asyncio.run(mean())


def settings(**changes: Any) -> dict[str, Any]:
    """Fields of RLConfig that suit the bandit."""
    return {
        "steps": 60, "units": 4, "group_size": 8, "sampling": ONE_TOKEN, "lr": 5e-3, "kl": 0.0, "warmup_steps": 0,
        "max_refills": 2, "critic_lr": 1e-2, **changes,
    }  # fmt: skip
