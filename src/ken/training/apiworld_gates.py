"""Is the base model of an ApiWorld fit for experiments? What each stage says to what it has not seen, and what the
model can say without tools (card 49, Arm B, Model)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice

import numpy as np

from ken.agents.instructions import CLOSED
from ken.agents.protocol import parse_answer
from ken.agents.tool_stages.grammar import NEXT
from ken.core import Answer, Sampling
from ken.core.seeding import derive_seed
from ken.lab.apiworld import ApiWorld
from ken.metrics.statistics import mean
from ken.models import Message, Model
from ken.training.apiworld_base import (
    ApiWorldBaseConfig,
    Said,
    calling,
    choosing,
    continuing,
    filling,
    judging,
    planning,
    responding,
)
from ken.training.lab_checkpoint import Gate

MAX_TOKENS = 64  # of a reply; the longest plan takes 47


async def measure_gates(model: Model, config: ApiWorldBaseConfig, *, examples: int = 150) -> list[Gate]:
    """Share of replies that are word for word right, stage by stage, on questions and values drawn anew, and of
    questions of the dev split that are answered closed book."""
    world = ApiWorld(config.world)
    rng = np.random.default_rng(derive_seed("apiworld gates", config.world.seed))
    stages = {
        "plans": (planning, 0.9),
        "next sub-questions": (continuing, 0.9),
        "choices among tools": (choosing, 0.9),  # of an owner's home, either tool is right
        "arguments": (calling, 0.95),
        "single arguments": (filling, 0.0),  # reported: only the arm `schema-caller`, which is optional, asks for them
        "answers from results": (responding, 0.75),  # comparing is the hardest
        "verdicts whether a tool is needed": (judging, 0.97),
    }
    gates = []
    for name, (stage, low) in stages.items():
        right = await _right(model, list(islice(stage(config, world, rng), examples)))
        gates.append(Gate(name, right, low, 1.0, gating=low > 0))
    asked = world.questions("dev", 2 * examples)
    alone = await asyncio.gather(*(_says(model, Said(CLOSED, q.text, "")) for q in asked))
    answered = [
        isinstance(a := parse_answer(text), Answer) and a.text in q.answers
        for q, text in zip(asked, alone, strict=True)
    ]
    easy = [hit for q, hit in zip(asked, answered, strict=True) if q.meta["kind"] == "none"]
    hard = [hit for q, hit in zip(asked, answered, strict=True) if q.meta["kind"] != "none"]
    gates.append(Gate("questions without tools, closed book", mean(easy), 0.95, 1.0))
    gates.append(Gate("questions that need tools, closed book", mean(hard), 0.0, 0.25))
    return gates


async def _right(model: Model, examples: Sequence[Said]) -> float:
    replies = await asyncio.gather(*(_says(model, said) for said in examples))
    wanted = ["".join(said.reply.split()) for said in examples]
    return mean("".join(reply.split()) == right for reply, right in zip(replies, wanted, strict=True))


async def _says(model: Model, said: Said) -> str:
    conversation = [Message("system", said.instruction), Message("user", said.text)]
    stop = ("</step>", "<done/>") if said.instruction is NEXT else ()
    (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=MAX_TOKENS, stop=stop))
    return generation.text
