"""Answer from the documents of a group: all of them in the prompt, or as many as a budget of tokens takes.

These are the baselines of what condenses documents first (`Clusters`), behind the same call and with the same books:
`answer` gives the attempt and what it cost by part.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ken.agents.attempt import Attempt
from ken.agents.direct import write_answer
from ken.agents.instructions import READ
from ken.agents.protocol import escape
from ken.agents.strategy import Strategy
from ken.agents.summarising import render_lines
from ken.core import (
    Answer,
    BadInput,
    ModelError,
    Observation,
    Passage,
    Question,
    Sampling,
    Search,
    SourceError,
    Trajectory,
    Usage,
)
from ken.metrics.token_cost import TokenAccount
from ken.models import Instruction, Model
from ken.models.tokens import TokenCounter
from ken.sources import DocumentStore, Sources

Scope = Literal["product", "retrieved"]


@dataclass(frozen=True, slots=True)
class Context:
    """What the model is given to read, one text a line, under which instruction. once_prompt, once_completion: tokens
    of what was done once to get it; now: whether any of that was done just now."""

    instruction: Instruction
    lines: tuple[str, ...]
    once_prompt: int = 0
    once_completion: int = 0
    now: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """An attempt and what it cost by part; `trajectory.usage.seconds` is its latency."""

    trajectory: Trajectory
    account: TokenAccount

    @property
    def answer(self) -> str | None:
        return self.trajectory.answer


class Reader(Strategy):
    """A strategy that collects documents and answers from what it makes of them.

    scope: "product" takes all documents of a group, "retrieved" those that a search brings (`top_k`, or more if more
    are asked for elsewhere); by default the first where a group is given. The group is the one to which the index is
    limited (`ken ask --within`), or that a question names in `meta["group"]`.
    Raises `BadInput` for another scope or top_k < 1.
    """

    needs_search = True

    def __init__(self, *, scope: Scope | None = None, top_k: int = 60) -> None:
        if scope not in (None, "product", "retrieved"):
            raise BadInput(f"the scope is {scope!r}; choose 'product' or 'retrieved'")
        if top_k < 1:
            raise BadInput(f"top_k is {top_k}; a search must return at least one passage")
        self.scope, self.top_k = scope, top_k

    async def answer(
        self, question: Question, model: Model, sources: Sources, *, sampling: Sampling = Sampling()
    ) -> Reading:
        """Attempt `question`, as `run` does, and keep the books."""
        attempt = Attempt(question, model, sources, strategy=self.name, sampling=sampling)
        account = TokenAccount()
        try:
            account = await self._read(attempt)
        except (ModelError, SourceError) as error:
            attempt.error = str(error)
        return Reading(attempt.trajectory(), account)

    async def solve(self, attempt: Attempt) -> None:
        await self._read(attempt)

    async def _read(self, attempt: Attempt) -> TokenAccount:
        store, documents = await self._gather(attempt)
        if not documents:
            where = f" in {store.group!r}" if isinstance(store, DocumentStore) and store.group else ""
            attempt.steps.append(Answer(text=f"There is no data: nothing to read was found{where}."))
            return TokenAccount()
        counter = TokenCounter(attempt.model)
        context = await self.context(attempt, documents, counter)
        question = escape(attempt.question.text)
        attempt.begin(context.instruction, f"{render_lines(context.lines)}\n\n{question}")
        await write_answer(attempt)
        account = _account(attempt, counter, context, question, documents)
        attempt.steps.append(Observation(note=str(account)))
        return account

    @abstractmethod
    async def context(self, attempt: Attempt, documents: Sequence[Passage], counter: TokenCounter) -> Context:
        """What the model is to read of the documents, of which there is at least one."""

    async def _gather(self, attempt: Attempt) -> tuple[object, list[Passage]]:
        """The store, limited to the question's group, and the documents to read, empty and repeated ones left out.
        Raises `SourceError` for a group that there is not."""
        store = attempt.sources.search
        if isinstance(group := attempt.question.meta.get("group"), str) and group:
            store = await _inside(store, group)
        whole = isinstance(store, DocumentStore) and bool(store.group)
        if (self.scope or ("product" if whole else "retrieved")) == "retrieved":
            top_k = max(self.top_k, attempt.sources.top_k)
            attempt.sources = replace(attempt.sources, search=store, top_k=top_k)
            found = await attempt.search(attempt.question.text)
            if found is None:
                raise SourceError(f"the search failed: {attempt.steps[-1].note}")  # type: ignore[union-attr]
            return store, _kept(attempt, found, "the search")
        if not isinstance(store, DocumentStore) or not store.group:
            raise SourceError(
                "no group of documents is named; name a folder of the index with --within, or choose scope='retrieved'"
            )
        attempt.sources = replace(attempt.sources, search=store)
        attempt.steps.append(Search(query=f"{store.group}/"))  # it looks outside, though not for anything in particular
        attempt.count(Usage(search_calls=1))
        whole_group = await store.passages()
        attempt.steps.append(Observation(passages=tuple(whole_group)))
        return store, _kept(attempt, whole_group, repr(store.group))


class ReadAll(Reader):
    """All documents in the prompt: RAG as the card's baseline has it."""

    name = "read-all"
    answers_from = 1

    async def context(self, attempt: Attempt, documents: Sequence[Passage], counter: TokenCounter) -> Context:
        return Context(READ, tuple(document.text for document in documents))


class ReadBest(Reader):
    """The best documents for the question, as many as fit into `budget` tokens of context: RAG at the price of
    something else. Raises `BadInput` for a budget below 1."""

    name = "read-best"
    answers_from = 1

    def __init__(self, budget: int, *, scope: Scope | None = None, top_k: int = 60) -> None:
        super().__init__(scope=scope, top_k=top_k)
        if budget < 1:
            raise BadInput(f"the budget is {budget} tokens; at least one must fit")
        self.budget = budget

    async def context(self, attempt: Attempt, documents: Sequence[Passage], counter: TokenCounter) -> Context:
        ranked = await _ranked(attempt, documents)
        lines: list[str] = []
        while len(lines) < len(ranked) and counter(render_lines([*lines, ranked[len(lines)].text])) <= self.budget:
            lines.append(ranked[len(lines)].text)
        return Context(READ, tuple(lines) or (counter.cut(ranked[0].text, self.budget),))


async def _ranked(attempt: Attempt, documents: Sequence[Passage]) -> list[Passage]:
    """The documents in the order in which a search finds them; those that it does not find come last."""
    assert attempt.sources.search is not None
    if any(document.score is not None for document in documents):  # a search has brought them
        return list(documents)
    found = await attempt.sources.search.search(attempt.question.text, len(documents))
    place = {passage.id: i for i, passage in enumerate(found)}
    return sorted(documents, key=lambda document: place.get(document.id, len(found)))


async def _inside(store: object, group: str) -> DocumentStore:
    if not isinstance(store, DocumentStore):
        raise SourceError(f"this search engine cannot be limited to {group!r}; use an index of Ken's own")
    try:
        return await store.inside(group)
    except BadInput as error:
        raise SourceError(str(error)) from error


def _kept(attempt: Attempt, documents: Sequence[Passage], of: str) -> list[Passage]:
    """The documents without those that are empty or say what one before them says; what was left out is noted."""
    seen: set[str] = set()
    kept: list[Passage] = []
    empty = 0
    for document in documents:
        words = " ".join(document.text.casefold().split())
        empty += not words
        if words and words not in seen:
            seen.add(words)
            kept.append(document)
    out = [f"{n} {what}" for n, what in ((empty, "empty"), (len(documents) - empty - len(kept), "repeated")) if n]
    left_out = f"; {' and '.join(out)} left out" if out else ""
    attempt.steps.append(Observation(note=f"{len(kept)} documents of {of}{left_out}"))
    return kept


def _account(
    attempt: Attempt, counter: TokenCounter, context: Context, question: str, documents: Sequence[Passage]
) -> TokenAccount:
    """Prompt and answer as the model itself counted them where it tells, else as `counter` does."""
    segments = attempt.trajectory().segments
    last = max(i for i, segment in enumerate(segments) if segment.role == "prompt")
    prompt = segments[last]
    written = [s for s in segments[last:] if s.role == "policy"]
    return TokenAccount(
        prompt=counter(prompt.text) if prompt.token_ids is None else len(prompt.token_ids),
        context=counter(render_lines(context.lines)),
        question=counter(question),
        answer=sum(counter(s.text) if s.token_ids is None else len(s.token_ids) for s in written),
        documents=counter(render_lines(document.text for document in documents)),
        once_prompt=context.once_prompt,
        once_completion=context.once_completion,
        now=context.now,
        exact=counter.exact,
    )
