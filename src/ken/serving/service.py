"""What a server answers from: models, indexes, strategies, and a folder for what people make with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from ken.agents import STRATEGIES, Strategy, load_strategy
from ken.agents.ask import as_question, open_sources
from ken.agents.rewrite import Rewrite, render_history
from ken.agents.watch import Watch
from ken.core import BadInput, Origin, Question, Sampling, Trajectory, Unsupported
from ken.core.conversation import ConversationTurn, Exchange
from ken.core.errors import KenError
from ken.core.frozen import Frozen
from ken.models import Model
from ken.papers.mail import Smtp
from ken.serving.guided import Guided, takes_control_tokens
from ken.serving.queue import Queue
from ken.sources import KnowledgeGraph, Retriever, Sources

MAX_EXCHANGES = 200
REWRITE_TOKENS = 1024  # most new tokens of a rewriting, as in `ken.agents.rewrite`


class TooSlow(KenError):
    """An attempt took longer than the server allows."""


class Unknown(BadInput):
    """A name that this server does not know, of a strategy, a model or an index; the message names those there are."""

    def __init__(self, kind: Literal["strategy", "model", "index"], name: str, known: Iterable[str]) -> None:
        super().__init__(f"this server has no {kind} {name!r}; it has {', '.join(known) or 'none'}")
        self.kind = kind


class Ask(Frozen):
    """A question as clients ask it. None: the server's default.

    history: what was said before, oldest first. The question is then rewritten by the model into one that stands for
        itself, and that is what the strategy is asked. instructions: wishes of the application, for the answer itself.
    """

    question: str
    strategy: str = "adaptive"
    model: str | None = None  # the spec of one of the server's models
    index: str | None = None  # the name of one of the server's indexes
    top_k: int | None = Field(default=None, ge=1, le=100)
    sampling: Sampling | None = None
    history: tuple[Exchange, ...] = Field(default=(), max_length=MAX_EXCHANGES)
    instructions: str = ""


class Service:
    """Shared by all doors of a server: the OpenAI API, MCP and the web pages.

    models: loaded; the first is the default. indexes: folders or /retrieve addresses by the names that clients use; the
    first is the default. graph: a knowledge graph, for strategies that walk one. data: where uploads, audits and
    subscriptions are kept. runs: where training runs are looked for. results: the folder of the papers' results files.
    mail: the server that takes its mail; None: it sends none. offered: the strategies; None: all.
    queue: how many questions are worked on at once. seconds: the longest that one may take, waiting included; None:
    for ever.

    `observers` are told of every attempt, with its trajectory, or None where it was cut off.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        indexes: Mapping[str, str | Path] | None = None,
        graph: KnowledgeGraph | None = None,
        data: str | Path = "ken-data",
        runs: str | Path = ".",
        results: str | Path = "results",
        mail: Smtp | None = None,
        sampling: Sampling = Sampling(),
        top_k: int = 3,
        offered: Sequence[str] | None = None,
        queue: Queue | None = None,
        seconds: float | None = None,
    ) -> None:
        if seconds is not None and not seconds > 0:
            raise BadInput(f"the longest time for a question is {seconds:g} s; it must be more than 0")
        without_graph = [name for name, make in STRATEGIES.items() if not make().needs_graph]  # a server has none
        self._offered = tuple(without_graph if offered is None else dict.fromkeys(offered))
        for name in self._offered:
            load_strategy(name)
        self.queue, self.seconds = queue or Queue(), seconds
        self.observers: list[Callable[[Ask, Trajectory | None], None]] = []
        self.models = {model.spec: model for model in models}
        self.graph = graph
        self.indexes: dict[str, str | Path] = dict(indexes or {})
        self.data, self.runs, self.results = Path(data), Path(runs), Path(results)
        self.mail = mail
        self.sampling, self.top_k = sampling, top_k
        self._opened: dict[str, Retriever] = {}
        self._opening = asyncio.Lock()

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names of the strategies that this server offers."""
        return self._offered

    def strategy(self, name: str) -> Strategy:
        """A strategy by its name. Raises `Unknown`."""
        if name not in self._offered:
            raise Unknown("strategy", name, self._offered)
        return load_strategy(name)

    def able(self, name: str) -> bool:
        """Whether a strategy has here what it needs."""
        given: dict[Origin, object] = {"search": self.indexes, "graph": self.graph}
        return self.strategy(name).lacks([origin for origin, source in given.items() if source]) is None

    def model(self, spec: str | None = None) -> Model:
        """A model by its spec; None: the first. Raises `Unknown`, or `BadInput` when there is none at all."""
        if not self.models:
            raise BadInput("this server has no model; start it with --model SPEC")
        if spec is None:
            return next(iter(self.models.values()))
        if spec not in self.models:
            raise Unknown("model", spec, self.models)
        return self.models[spec]

    async def retriever(self, name: str | None = None) -> Retriever | None:
        """An index by its name, opened once and kept open; None: the first, if there is any.

        Raises `Unknown`, and `SourceError` for one that is broken.
        """
        if name is None:
            name = next(iter(self.indexes), None)
            if name is None:
                return None
        if name not in self.indexes:
            raise Unknown("index", name, self.indexes)
        async with self._opening:
            if name not in self._opened:
                sources = await asyncio.to_thread(open_sources, self.indexes[name], self.top_k)
                assert sources.search is not None
                self._opened[name] = sources.search
            return self._opened[name]

    async def sources(
        self, index: str | None = None, top_k: int | None = None, *, strategies: Iterable[Strategy] = ()
    ) -> Sources:
        """What strategies consult here: the index of that name (None: the first), and the graph. Raises as `retriever`
        does, and `BadInput` when one of `strategies` needs what there is not."""
        found = Sources(search=await self.retriever(index), top_k=top_k or self.top_k, graph=self.graph)
        for strategy in strategies:
            if (lack := strategy.lacks(found.there)) is not None:
                option = "--index DIR" if lack == "index" else "--graph FILE"
                raise BadInput(
                    f"this server has no {lack}, and {strategy.name!r} needs one; use the strategy 'direct', or start "
                    f"the server with {option}"
                )
        return found

    async def attempt(self, asked: Ask, watch: Watch | None = None) -> Trajectory:
        """Answer, when there is a place for it; a model or an index that fails gives a trajectory with `error` set.

        The question of the trajectory is the one that the strategy was asked; where a history made it another than the
        user's, `meta` holds both (`query`, `history`).

        Raises `BadInput` and `Unsupported` for what cannot work as asked, `Busy` and `Closing` (`ken.serving.queue`)
        when there is no place, `TooSlow` after `seconds`.
        """
        strategy = self.strategy(asked.strategy)
        question, model = as_question(asked.question), self.model(asked.model)
        sources = await self.sources(asked.index, asked.top_k, strategies=[strategy])
        if asked.instructions.strip():
            model = Guided(model, asked.instructions.strip())
        sampling = asked.sampling or self.sampling
        try:
            async with asyncio.timeout(self.seconds), self.queue.place():
                trajectory = None
                try:
                    trajectory = await _attempted(strategy, question, asked.history, model, sources, sampling, watch)
                finally:
                    for observe in self.observers:
                        observe(asked, trajectory)
                return trajectory
        except TimeoutError:
            raise TooSlow(
                f"no answer within {self.seconds:g} s; ask something simpler, or start the server with a longer "
                "--request-timeout"
            ) from None

    async def close(self) -> None:
        """Close what it opened, its graph and its models."""
        for retriever in self._opened.values():
            await retriever.close()
        self._opened.clear()
        if self.graph is not None:
            await self.graph.close()
        for model in self.models.values():
            await model.close()


async def _attempted(  # noqa: PLR0917
    strategy: Strategy,
    question: Question,
    history: Sequence[Exchange],
    model: Model,
    sources: Sources,
    sampling: Sampling,
    watch: Watch | None,
) -> Trajectory:
    """The attempt, at the rewritten question if there is a history."""
    if not history:
        return await strategy.run(question, model, sources, sampling=sampling, watch=watch)
    before = await _rewritten(question, history, model, sampling)
    if before.error:
        return before.model_copy(update={"strategy": strategy.name})
    trajectory = await strategy.run(before.question, model, sources, sampling=sampling, watch=watch)
    return trajectory.model_copy(update={"usage": before.usage + trajectory.usage})


async def _rewritten(question: Question, history: Sequence[Exchange], model: Model, sampling: Sampling) -> Trajectory:
    """The rewriting of a question that leans on what was said before; its question is the rewritten one.

    A model that writes no rewrite is asked with the conversation before the question instead, which costs searches
    their aim but loses nothing. Raises `Unsupported` where the model could not read that either.
    """
    turn = ConversationTurn(id=question.id, query=question.text, history=tuple(history)).question()
    made = await Rewrite().run(turn, model, Sources(), sampling=sampling.but(max_tokens=REWRITE_TOKENS))
    text = made.answer
    if text is None and not made.error:
        if takes_control_tokens(model):
            raise Unsupported(f"{model.spec} follows no conversation; send the question alone")
        text = render_history(history, question.text)
    meta = {**turn.meta, "query": question.text}
    return made.model_copy(update={"question": Question(id=question.id, text=text or question.text, meta=meta)})
