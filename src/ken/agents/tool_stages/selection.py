"""Stage 2, selection: which tool answers a sub-question, if any (card 49, Method)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ken.agents.attempt import Attempt
from ken.agents.tool_stages.grammar import CHOOSE, NONE, listing, read_tool
from ken.core import BadInput, Malformed
from ken.sources.tools.retrieval import ToolRetriever
from ken.sources.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Selection:
    """The tools that were looked at, best first, and the one that was chosen; None for none of them. problem: of a
    reply that could not be read, or named no tool of the list."""

    candidates: tuple[str, ...]
    tool: str | None
    problem: Malformed | None = None


class Selector(ABC):
    """Chooses a tool for a sub-question. Raises `ModelError`."""

    @abstractmethod
    async def select(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Selection:
        """The tool for `question`."""


class BestRetrieved(Selector):
    """What the retriever puts first; the model is not asked. k: how many are noted as candidates."""

    def __init__(self, retriever: ToolRetriever, *, k: int = 5) -> None:
        self.retriever, self.k = retriever, _checked(k)

    async def select(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Selection:
        found = tuple(name for name in self.retriever.rank(question, self.k) if name in tools)
        return Selection(found, found[0] if found else None)


class Chooser(Selector):
    """The model chooses among `k` tools that the retriever brings, or says "none". Without a retriever, or where there
    are no more than `k`, it reads them all.

    tries: how often it is asked where its reply names no tool of the list. Raises `BadInput` for k or tries < 1.
    """

    def __init__(self, retriever: ToolRetriever | None = None, *, k: int = 5, tries: int = 2) -> None:
        self.retriever, self.k, self.tries = retriever, _checked(k), tries
        if tries < 1:
            raise BadInput(f"tries is {tries}; the chooser must be asked at least once")

    async def select(self, attempt: Attempt, question: str, tools: dict[str, Tool]) -> Selection:
        if self.retriever is None or len(tools) <= self.k:
            candidates = tuple(tools)
        else:
            candidates = tuple(name for name in self.retriever.rank(question, self.k) if name in tools)
        if not candidates:
            return Selection((), None)
        text = listing(question, [tools[name] for name in candidates])
        problem: Malformed | None = None
        for _ in range(self.tries):
            written = (await attempt.aside(CHOOSE, text, stop=("</tool>",))).text
            name = read_tool(written)
            if isinstance(name, str) and (name in candidates or name.lower() == NONE):
                return Selection(candidates, None if name not in candidates else name)
            problem = (
                name if isinstance(name, Malformed) else Malformed(text=written, problem=f"no tool {name!r} is listed")
            )
            attempt.steps.append(problem)
            text = f"{listing(question, [tools[name] for name in candidates])}\n[ERROR] {problem.problem}; choose again"
        return Selection(candidates, None, problem)


def _checked(k: int) -> int:
    if k < 1:
        raise BadInput(f"k is {k}; a selector must look at one tool at least")
    return k
