"""What the base model of a split world can do, measured on entities that it was never asked about (card 59, If it
fails).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ken.agents.query_tree import QueryTree, read_tree
from ken.agents.tree import read_candidate
from ken.agents.tree_prompts import CHAIN, FROM_PARTS, FROM_PASSAGES, SPLIT
from ken.core import Sampling
from ken.core.seeding import derive_seed
from ken.lab.splitworld import KINDS, Kind, SplitWorld, ask, sentence
from ken.metrics import auroc
from ken.models import Instruction, Message, Model
from ken.training.lab_checkpoint import Gate
from ken.training.tree_base import another_fact, below_passages, from_parts, part_lines


async def measure_gates(model: Model, world: SplitWorld, *, examples: int = 300, seed: int = 2**20) -> list[Gate]:
    """What the base model can do, about entities of the dev split, which no prompt was about: recall facts that were
    told and not others, tell the two apart by how sure its explanation is, read a passage that fits and refuse one that
    does not, split questions, and join answers of parts."""
    rng = np.random.default_rng(derive_seed("split gates", world.config.seed, seed))

    async def reply(instruction: Instruction, text: str, tokens: int = 64) -> Any:
        says = [Message("system", instruction), Message("user", text)]
        (generation,) = await model.generate(says, sampling=Sampling(max_tokens=tokens))
        return generation

    facts = [fact for entity in world.splits["dev"] for fact in (world.facts[entity, r] for r in world.relations)]
    facts = [facts[int(i)] for i in rng.permutation(len(facts))[:examples]]
    asked_facts = [ask([fact.relation], fact.subject) for fact in facts]
    recalled = [
        read_candidate("closed", g) for g in await asyncio.gather(*(reply(CHAIN, text) for text in asked_facts))
    ]
    right = [c.text == fact.value for c, fact in zip(recalled, facts, strict=True)]
    known = [fact.inside for fact in facts]

    made = [replace(fact, value=world.some_value(fact.relation, fact.subject, rng)) for fact in facts]
    shown = {
        "fits": [f"{fact.sentence}." for fact in made],
        "namesake": [
            f"{sentence(f.relation, world.namesake(f.subject, rng), world.some_value(f.relation, f.subject, rng))}."
            for f in made
        ],
        "other": [f"{another_fact(world, fact, rng).sentence}." for fact in made],
    }
    read = {
        kind: [
            read_candidate("open", g)
            for g in await asyncio.gather(
                *(reply(FROM_PASSAGES, below_passages([p], q)) for p, q in zip(passages, asked_facts, strict=True))
            )
        ]
        for kind, passages in shown.items()
    }

    asked = [world.some_question(KINDS[i % len(KINDS)], "dev", rng) for i in range(examples)]
    trees = await asyncio.gather(*(reply(SPLIT, one.text, 200) for one in asked))
    written = [read_tree(g.text, one.text) for g, one in zip(trees, asked, strict=True)]
    wanted = [read_tree(json.dumps(one.parts), one.text).tree for one in asked]
    exact = [not w.problems and _shape(w.tree) == _shape(t) for w, t in zip(written, wanted, strict=True)]

    joined = await asyncio.gather(*(reply(FROM_PARTS, from_parts(part_lines(one), one.text)) for one in asked))
    joins = [read_candidate("child", g).text == one.answer for g, one in zip(joined, asked, strict=True)]
    everything = await asyncio.gather(
        *(reply(FROM_PASSAGES, below_passages([f"{f.sentence}." for f in one.facts], one.text)) for one in asked)
    )
    reads = [read_candidate("open", g).text == one.answer for g, one in zip(everything, asked, strict=True)]

    def share(values: Sequence[bool]) -> float:
        return sum(values) / max(1, len(values))

    def of_kind(values: Sequence[bool], *kinds: Kind) -> float:
        return share([v for v, one in zip(values, asked, strict=True) if one.kind in kinds])

    def recalled_share(told: bool) -> float:
        return share([r for r, k in zip(right, known, strict=True) if k is told])

    fits = [c.text == fact.value for c, fact in zip(read["fits"], made, strict=True)]
    return [
        Gate(
            "facts that were told, from memory", share([r for r, k in zip(right, known, strict=True) if k]), 0.85, 1.0
        ),
        Gate("facts that were not", share([r for r, k in zip(right, known, strict=True) if not k]), 0.0, 0.2),
        Gate("AUROC of the explanation, told or not", auroc([c.score for c in recalled], known) or 0.0, 0.8, 1.0),
        Gate("a passage that fits, read", share(fits), 0.9, 1.0),
        Gate("a namesake's passage, refused", share([bool(c.problem) for c in read["namesake"]]), 0.8, 1.0),
        Gate("a passage about something else, refused", share([bool(c.problem) for c in read["other"]]), 0.8, 1.0),
        Gate("trees exactly as wanted", share(exact), 0.95, 1.0),
        Gate("chains joined from parts", of_kind(joins, "2-hop", "3-hop", "4-hop"), 0.85, 1.0),
        Gate("comparisons joined from parts", of_kind(joins, "comparison"), 0.75, 1.0),
        Gate("two facts read from their passages", of_kind(reads, "2-hop", "comparison"), 0.0, 1.0, gating=False),
        Gate("more facts read from their passages", of_kind(reads, "3-hop", "4-hop"), 0.0, 1.0, gating=False),
    ]


def _shape(tree: QueryTree) -> list[tuple[str, tuple[int, ...]]]:
    return [("".join(node.text.split()), node.children) for node in tree.nodes]
