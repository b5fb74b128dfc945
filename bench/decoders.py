"""Decoders beside each other: tokens a second and peak memory, over the same prompts and the same model.

    python bench/decoders.py [--model lab/factworld] [--prompts 64] [--words 60] [--tokens 32] [--rounds 5]

`model` is the model by itself, which may take a faster way than through hooks (small plain models on a processor);
`greedy` computes the same as the decoders do. All take turns in one process, and medians are printed.
"""

from __future__ import annotations

import argparse
import random

import torch

import ken
from ken.agents.instructions import READ
from ken.models import Message
from ken.models.local import LocalModel
from ken.probing.benchmark import costs
from ken.probing.loading import load_decoder

NAMES = ("greedy", "lfd", "lfd:iks_over=head", "dola", "cad", "contrastive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab/factworld", help="hf/NAME_OR_PATH or lab/NAME")
    for name, default in (("prompts", 64), ("words", 60), ("tokens", 32), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = ken.load_model(given.model)
    assert isinstance(model, LocalModel), "decoders need a model in this process"
    words = [word for word in model.tokenizer.get_vocab() if word.isalpha()]
    rng = random.Random(0)
    conversations = [
        [
            Message("system", READ),
            Message("user", f"<information>Doc 1: {' '.join(rng.choices(words, k=given.words))}</information>\n\nWho?"),
        ]
        for _ in range(given.prompts)
    ]
    found = costs(
        model,
        {"model": None, **{name: load_decoder(name) for name in NAMES}},
        conversations,
        tokens=given.tokens,
        rounds=given.rounds,
    )
    print(f"{given.model}, torch {torch.__version__}, {given.threads} threads")
    print(f"{given.prompts} prompts, {given.tokens} tokens each")
    print(f"{'decoder':20}{'tokens/s':>10}{'of greedy':>11}{'peak MiB':>10}")
    for name, cost in found.items():
        share = cost.tokens_a_second / found["greedy"].tokens_a_second
        print(f"{name:20}{cost.tokens_a_second:>10,.0f}{share:>11.2f}{cost.peak_bytes / 2**20:>10.1f}")


if __name__ == "__main__":
    main()
