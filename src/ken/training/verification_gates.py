"""Is the base model of the verification world fit for experiments? Whether it copies what a tool is to be asked, and
how it judges (card 28, If it fails)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ken.agents.verify_loop import CONVERT, Manner, VerifyLoop
from ken.core import Sampling, ToolCall, Trajectory
from ken.lab.verification import KINDS, Item, VerificationWorld
from ken.metrics.statistics import mean
from ken.models import Model
from ken.sources import Sources
from ken.sources.tools.exact import ExactAlgebra
from ken.sources.tools.tool import Tool
from ken.sources.tools.units import UnitTool
from ken.training.lab_checkpoint import Gate

MAX_TOKENS = 64  # of one turn
MAX_TURNS = 3


def lab_tools() -> tuple[Tool, ...]:
    """Exact algebra in place of Python, and the unit converter."""
    return ExactAlgebra(), UnitTool()


def lab_loop(manner: Manner) -> VerifyLoop:
    """The verifier of the lab, with its tools where its manner takes them."""
    return VerifyLoop(lab_tools() if manner == "tools" else (), manner=manner, max_turns=MAX_TURNS)


async def judged(
    model: Model, items: Sequence[Item], manner: Manner, *, sampling: Sampling = Sampling(max_tokens=MAX_TOKENS)
) -> list[Trajectory]:
    """One attempt at every item."""
    loop = lab_loop(manner)
    questions = [item.as_question(str(number)) for number, item in enumerate(items)]
    return list(await asyncio.gather(*(loop.run(q, model, Sources(), sampling=sampling) for q in questions)))


async def measure_gates(model: Model, world: VerificationWorld, manner: Manner) -> list[Gate]:
    """Accuracy on dev items, greedily, overall and by kind; of a verifier with tools, the share of first calls that are
    copied without a fault, and of calls that failed."""
    items = world.dev
    attempts = await judged(model, items, manner)
    right = [attempt.answer == item.label for attempt, item in zip(attempts, items, strict=True)]
    gates = [Gate("right labels", mean(right), 0.8 if manner == "tools" else 0.5, 1.0)]
    for kind in KINDS:
        of = [hit for hit, item in zip(right, items, strict=True) if item.kind == kind]
        gates.append(Gate(f"right labels, {kind}", mean(of), 0.0, 1.0, gating=False))
    gates.append(Gate("judgements without a label", mean(a.unfinished for a in attempts), 0.0, 0.1))
    if manner == "tools":
        wanted = [(attempt, item) for attempt, item in zip(attempts, items, strict=True) if item.calls]
        gates.append(Gate("first calls without a fault", mean(_as_meant(a, i) for a, i in wanted), 0.85, 1.0))
    return gates


def _as_meant(attempt: Trajectory, item: Item) -> bool:
    """Whether the first call is the one that decides."""
    call = next((step for step in attempt.steps if isinstance(step, ToolCall)), None)
    tool, content = item.calls[0]
    if call is None or call.name != tool:
        return False
    arguments = dict(UnitTool().read(content)) if tool == CONVERT else {"code": content}
    return dict(call.arguments) == arguments
