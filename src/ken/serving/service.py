"""What a server answers from: models, indexes, strategies, and a folder for what people make with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from ken.agents import STRATEGIES, load_strategy
from ken.agents.ask import as_question, open_sources
from ken.agents.watch import Watch
from ken.core import BadInput, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.models import Model
from ken.papers.mail import Smtp
from ken.sources import Retriever, Sources


class Ask(Frozen):
    """A question as clients ask it. None: the server's default."""

    question: str
    strategy: str = "adaptive"
    model: str | None = None  # the spec of one of the server's models
    index: str | None = None  # the name of one of the server's indexes
    top_k: int | None = Field(default=None, ge=1, le=100)
    sampling: Sampling | None = None


class Service:
    """Shared by all doors of a server: the OpenAI API, MCP and the web pages.

    models: loaded; the first is the default. indexes: folders or /retrieve addresses by the names that clients use; the
    first is the default. data: where uploads, audits and subscriptions are kept. runs: where training runs are looked
    for. results: the folder of the papers' results files. mail: the server that takes its mail; None: it sends none.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        indexes: Mapping[str, str | Path] | None = None,
        data: str | Path = "ken-data",
        runs: str | Path = ".",
        results: str | Path = "results",
        mail: Smtp | None = None,
        sampling: Sampling = Sampling(),
        top_k: int = 3,
    ) -> None:
        self.models = {model.spec: model for model in models}
        self.indexes: dict[str, str | Path] = dict(indexes or {})
        self.data, self.runs, self.results = Path(data), Path(runs), Path(results)
        self.mail = mail
        self.sampling, self.top_k = sampling, top_k
        self._opened: dict[str, Retriever] = {}
        self._opening = asyncio.Lock()

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names of the strategies that this server offers."""
        return tuple(STRATEGIES)

    def model(self, spec: str | None = None) -> Model:
        """A model by its spec; None: the first. Raises `BadInput` naming those there are."""
        if not self.models:
            raise BadInput("this server has no model; start it with --model SPEC")
        if spec is None:
            return next(iter(self.models.values()))
        if spec not in self.models:
            raise BadInput(f"this server has no model {spec!r}; it has {', '.join(self.models)}")
        return self.models[spec]

    async def retriever(self, name: str | None = None) -> Retriever | None:
        """An index by its name, opened once and kept open; None: the first, if there is any.

        Raises `BadInput` naming those there are, `SourceError` for one that is broken.
        """
        if name is None:
            name = next(iter(self.indexes), None)
            if name is None:
                return None
        if name not in self.indexes:
            there = f"it has {', '.join(self.indexes)}" if self.indexes else "it has none"
            raise BadInput(f"this server has no index {name!r}; {there}")
        async with self._opening:
            if name not in self._opened:
                sources = await asyncio.to_thread(open_sources, self.indexes[name], self.top_k)
                assert sources.search is not None
                self._opened[name] = sources.search
            return self._opened[name]

    async def attempt(self, asked: Ask, watch: Watch | None = None) -> Trajectory:
        """Answer; a model or an index that fails gives a trajectory with `error` set.

        Raises `BadInput` for what cannot work as asked.
        """
        strategy = load_strategy(asked.strategy)
        question, model = as_question(asked.question), self.model(asked.model)
        search = await self.retriever(asked.index)
        if strategy.needs_search and search is None:
            raise BadInput(
                f"the strategy {strategy.name!r} searches, but this server has no index; use the strategy 'direct', or "
                "start it with --index DIR"
            )
        sources = Sources(search=search, top_k=asked.top_k or self.top_k)
        return await strategy.run(question, model, sources, sampling=asked.sampling or self.sampling, watch=watch)

    async def close(self) -> None:
        """Close what it opened, and its models."""
        for retriever in self._opened.values():
            await retriever.close()
        self._opened.clear()
        for model in self.models.values():
            await model.close()
