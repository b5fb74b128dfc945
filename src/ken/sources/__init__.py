"""Outside: what a model can consult. Strategies receive one `Sources` and use what is there."""

from __future__ import annotations

from dataclasses import dataclass

from ken.core import Origin
from ken.sources.graph.protocol import KnowledgeGraph
from ken.sources.search.protocol import DocumentStore, Retriever

__all__ = ["DocumentStore", "KnowledgeGraph", "Retriever", "Sources"]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a strategy may consult. `top_k` is how many passages a search returns (3 in Search-R1, card 00)."""

    search: Retriever | None = None
    top_k: int = 3
    graph: KnowledgeGraph | None = None

    @property
    def there(self) -> frozenset[Origin]:
        """The sources outside that there are. Tools are a strategy's own."""
        given: dict[Origin, object] = {"search": self.search, "graph": self.graph}
        return frozenset(origin for origin, source in given.items() if source is not None)
