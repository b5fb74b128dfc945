"""How inside and outside meet: one file a strategy, each written once for any model."""

from __future__ import annotations

from collections.abc import Callable

from ken.agents.adaptive import Adaptive, Decide
from ken.agents.direct import Direct
from ken.agents.ircot import Ircot
from ken.agents.long_context import LongContext
from ken.agents.rag import Rag
from ken.agents.router import Router
from ken.agents.search import SearchLoop
from ken.agents.self_ask import SelfAsk
from ken.agents.stepwise import Stepwise
from ken.agents.strategy import Strategy
from ken.agents.tools import ToolLoop
from ken.core import BadInput

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    s.name: s for s in (Direct, Rag, SearchLoop, Adaptive, Ircot, SelfAsk, Stepwise, ToolLoop, LongContext, Router)
}

__all__ = [
    "STRATEGIES",
    "Adaptive",
    "Decide",
    "Direct",
    "Ircot",
    "LongContext",
    "Rag",
    "Router",
    "SearchLoop",
    "SelfAsk",
    "Stepwise",
    "Strategy",
    "ToolLoop",
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
