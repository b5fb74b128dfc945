"""How inside and outside meet: one file a strategy, each written once for any model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ken.agents.adaptive import WITH_TOOLS, Adaptive, Decide
from ken.agents.choices import Choose, TripleDump
from ken.agents.clusters import Clusters
from ken.agents.direct import Direct, InputOutput
from ken.agents.graph import Graph, GraphRelations
from ken.agents.graph_dump import GraphDump
from ken.agents.ircot import Ircot
from ken.agents.long_context import LongContext
from ken.agents.rag import Rag
from ken.agents.reading import ReadAll
from ken.agents.router import Router
from ken.agents.search import SearchLoop
from ken.agents.self_ask import SelfAsk
from ken.agents.self_consistency import SelfConsistency
from ken.agents.self_questioning import MODES, SelfQuestioning, name_of
from ken.agents.solver import Solver
from ken.agents.stepwise import Stepwise
from ken.agents.strategy import Strategy
from ken.agents.tool_pipeline import ToolStages, ToolStagesIterative
from ken.agents.tools import ToolLoop
from ken.agents.tree import Tree
from ken.core import BadInput

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    s.name: s
    for s in (
        Direct,
        Rag,
        SearchLoop,
        Adaptive,
        Ircot,
        SelfAsk,
        Stepwise,
        ToolLoop,
        ToolStages,
        ToolStagesIterative,
        Tree,
        Router,
        LongContext,
        ReadAll,
        Clusters,
        GraphRelations,
        Graph,
        SelfConsistency,
        InputOutput,
        Solver,
        Choose,
        TripleDump,
    )
} | {
    WITH_TOOLS: lambda: Adaptive(tools=ToolLoop(search=False)),
    **{name_of(mode): partial(SelfQuestioning, mode) for mode in MODES},
}

__all__ = [
    "STRATEGIES",
    "Adaptive",
    "Choose",
    "Clusters",
    "Decide",
    "Direct",
    "Graph",
    "GraphDump",
    "GraphRelations",
    "InputOutput",
    "Ircot",
    "LongContext",
    "Rag",
    "ReadAll",
    "Router",
    "SearchLoop",
    "SelfAsk",
    "SelfConsistency",
    "SelfQuestioning",
    "Solver",
    "Stepwise",
    "Strategy",
    "ToolLoop",
    "ToolStages",
    "ToolStagesIterative",
    "Tree",
    "TripleDump",
    "load_strategy",
]


def load_strategy(name: str) -> Strategy:
    """The strategy called `name`; `router:FILE` is a router with the gaps that were measured into a file. Raises
    `BadInput` naming those there are."""
    kind, colon, argument = name.partition(":")
    if kind == Router.name and colon:
        return Router.from_argument(argument)
    if name not in STRATEGIES:
        raise BadInput(f"there is no strategy {name!r}; choose from {', '.join(STRATEGIES)}")
    return STRATEGIES[name]()
