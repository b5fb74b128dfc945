"""Which uses of tools Ken covers: benefit × stage × method, as the survey of tool learning divides them (arXiv
2405.17935, sections 3 and 4; card 49), filled from what runs here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from ken.core.frozen import Frozen

Benefit = Literal[
    "knowledge acquisition",
    "expertise enhancement",
    "automation and efficiency",
    "interaction enhancement",
    "interpretability and trust",
    "robustness and adaptability",
]
Stage = Literal["awareness", "planning", "selection", "calling", "response"]
"""The survey's four stages, and before them the decision whether a tool is needed at all."""

BENEFITS: tuple[Benefit, ...] = get_args(Benefit)
STAGES: tuple[Stage, ...] = get_args(Stage)


class Covered(Frozen):
    """A method: what it is for, the stages that it has a say in, whether it is tuned, where it is (a module), and the
    row of the catalogue that checks it."""

    method: str
    benefits: tuple[Benefit, ...]
    stages: tuple[Stage, ...]
    tuned: bool
    module: str
    row: str


def _covered(
    method: str, benefits: tuple[Benefit, ...], stages: tuple[Stage, ...], module: str, row: str, *, tuned: bool = False
) -> Covered:
    return Covered(method=method, benefits=benefits, stages=stages, tuned=tuned, module=module, row=row)


_KNOWLEDGE: tuple[Benefit, ...] = ("knowledge acquisition",)
_BOTH: tuple[Benefit, ...] = ("knowledge acquisition", "expertise enhancement")
_ROBUST: tuple[Benefit, ...] = ("robustness and adaptability",)
_TRUST: tuple[Benefit, ...] = ("interpretability and trust",)
_SURVEY = "survey-tool-learning"

COVERED: tuple[Covered, ...] = (
    _covered("Search-R1", _KNOWLEDGE, ("planning", "calling"), "ken.agents.search", "search-r1", tuned=True),
    _covered("AdaSearch", (*_KNOWLEDGE, *_TRUST), ("awareness",), "ken.agents.adaptive", "adasearch", tuned=True),
    _covered("IKEA", _KNOWLEDGE, ("awareness", "calling"), "ken.agents.search", "ikea", tuned=True),
    _covered("ConvSearch-R1", _KNOWLEDGE, ("calling",), "ken.agents.rewrite", "convsearch-r1", tuned=True),
    _covered("R3-RAG", _KNOWLEDGE, ("planning", "calling"), "ken.agents.stepwise", "r3-rag", tuned=True),
    _covered("TAPO", _BOTH, ("planning", "selection", "calling"), "ken.agents.tools", "tapo", tuned=True),
    _covered("whole plan", _BOTH, ("planning",), "ken.agents.tool_stages.planning", _SURVEY),
    _covered("next step", (*_BOTH, *_ROBUST), ("planning",), "ken.agents.tool_stages.planning", _SURVEY),
    _covered("BM25 over tools", _BOTH, ("selection",), "ken.sources.tools.retrieval", _SURVEY),
    _covered("linear adapter", _BOTH, ("selection",), "ken.training.tool_adapter", _SURVEY, tuned=True),
    _covered("similar questions' tools", _BOTH, ("selection",), "ken.sources.tools.retrieval", _SURVEY),
    _covered("chooser with none", _BOTH, ("awareness", "selection"), "ken.agents.tool_stages.selection", _SURVEY),
    _covered("free call, repaired", (*_BOTH, *_ROBUST), ("calling",), "ken.agents.tool_stages.calling", _SURVEY),
    _covered("schema-led call", _BOTH, ("calling",), "ken.agents.tool_stages.calling", _SURVEY),
    _covered("insertion", _BOTH, ("response",), "ken.agents.tool_stages.responding", _SURVEY),
    _covered("integration", _BOTH, ("response",), "ken.agents.tool_stages.responding", _SURVEY),
)
"""What a row checks; parts without a row (reverse chains, tools of MCP servers, endpoints with side effects) are left
out."""


def coverage() -> Iterator[tuple[Benefit, dict[Stage, list[str]]]]:
    """Every benefit with the methods of each stage that bring it; empty lists are what Ken does not cover."""
    for benefit in BENEFITS:
        yield (
            benefit,
            {stage: [c.method for c in COVERED if benefit in c.benefits and stage in c.stages] for stage in STAGES},
        )


def as_markdown() -> str:
    """The map as a table: a row a benefit, a column a stage."""
    lines = [f"| | {' | '.join(STAGES)} |", f"|---{'|---' * len(STAGES)}|"]
    lines += [
        f"| {benefit} | {' | '.join(', '.join(methods[stage]) or '–' for stage in STAGES)} |"
        for benefit, methods in coverage()
    ]
    return "\n".join(lines)
