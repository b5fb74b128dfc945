"""What Ken's MCP tools `ask` and `search` reply, and how a trajectory becomes a reply."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ken.core import Passage, Trajectory
from ken.serving.citations import citations


class Source(BaseModel):
    """A passage. `score` compares within one search only."""

    id: str
    title: str
    text: str
    score: float | None = None
    source: str = Field(default="", description="The file or address that it came from.")


class SearchMade(BaseModel):
    """A search, and the ids of the passages that it found."""

    query: str
    passages: list[str]


class Asked(BaseModel):
    """An answer, and how it came about."""

    answer: str | None = Field(description="None: the model came to no answer.")
    strategy: str
    model: str
    knows: bool | None = Field(description="The model's decision whether it knows by itself; None: it made none.")
    confidence: float | None = Field(description="Its probability that it knows, if the model gives one.")
    rationale: str = Field(description="Why it decided so.")
    searches: list[SearchMade]
    citations: list[str] = Field(description="The ids of those sources that hold the words of the answer.")
    sources: list[Source] = Field(description="Every passage that the model was shown, once.")


class Found(BaseModel):
    """What a search found, the best first."""

    passages: list[Source]


def as_asked(t: Trajectory) -> Asked:
    """An attempt as a reply."""
    decision = t.decision
    found = [[p.id for p in observation.passages] for observation in t.search_results]
    return Asked(
        answer=t.answer,
        strategy=t.strategy,
        model=t.model,
        knows=decision.knows if decision else None,
        confidence=decision.confidence if decision else None,
        rationale=decision.rationale if decision else "",
        searches=[
            SearchMade(query=step.query, passages=found[place] if place < len(found) else [])  # the last was cut off
            for place, step in enumerate(t.searches)
        ],
        citations=[citation.id for citation in citations(t)],
        sources=[as_source(passage) for passage in t.passages],
    )


def as_source(passage: Passage) -> Source:
    """A passage as a reply."""
    return Source(id=passage.id, title=passage.title, text=passage.text, score=passage.score, source=passage.source)
