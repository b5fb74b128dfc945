"""Outside: what a model can consult. Strategies receive one `Sources` and use what is there."""

from __future__ import annotations

from dataclasses import dataclass

from ken.sources.graph.protocol import KnowledgeGraph
from ken.sources.search.protocol import DocumentStore, Retriever

__all__ = ["DocumentStore", "KnowledgeGraph", "Retriever", "Sources"]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a strategy may consult. `top_k` is how many passages a search returns (3 in Search-R1, card 00)."""

    search: Retriever | None = None
    top_k: int = 3
    graph: KnowledgeGraph | None = None
