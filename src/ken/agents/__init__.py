"""How inside and outside meet: one file a strategy, each written once for any model."""

from __future__ import annotations

from collections.abc import Callable

from ken.agents.adaptive import Adaptive, Decide
from ken.agents.clusters import Clusters
from ken.agents.direct import Direct
from ken.agents.ircot import Ircot
from ken.agents.rag import Rag
from ken.agents.reading import ReadAll
from ken.agents.search import SearchLoop
from ken.agents.self_ask import SelfAsk
from ken.agents.stepwise import Stepwise
from ken.agents.strategy import Strategy
from ken.agents.tools import ToolLoop
from ken.core import BadInput

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    s.name: s for s in (Direct, Rag, SearchLoop, Adaptive, Ircot, SelfAsk, Stepwise, ToolLoop, Clusters, ReadAll)
}

__all__ = [
    "STRATEGIES",
    "Adaptive",
    "Clusters",
    "Decide",
    "Direct",
    "Ircot",
    "Rag",
    "ReadAll",
    "SearchLoop",
    "SelfAsk",
    "Stepwise",
    "Strategy",
    "ToolLoop",
    "load_strategy",
]


def load_strategy(name: str) -> Strategy:
    """The strategy called `name`. Raises `BadInput` naming those there are."""
    if name not in STRATEGIES:
        raise BadInput(f"there is no strategy {name!r}; choose from {', '.join(STRATEGIES)}")
    return STRATEGIES[name]()
