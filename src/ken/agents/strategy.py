"""The protocol of a strategy: how inside and outside meet on the way to an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import ClassVar

from ken.agents.attempt import Attempt
from ken.agents.watch import Watch
from ken.core import BadInput, ModelError, Origin, Question, Sampling, SourceError, Trajectory
from ken.core.errors import SHORTEN, PromptTooLong
from ken.models import Model
from ken.sources import Sources
from ken.sources.search.protocol import Library


class Strategy(ABC):
    """A way to answer questions. Subclasses write `solve` once, as a plain coroutine; it serves one question at the
    prompt, thousands in an audit, and rollouts in training.
    """

    name: ClassVar[str]
    needs_search: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    needs_documents: ClassVar[bool] = False  # whole ones, which not every search engine keeps
    # From this turn of the model on (the first is 1), the first complete <answer> of a turn is the answer, so that it
    # may be shown as it is written. None: only what ends up as the answer is one.
    answers_from: ClassVar[int | None] = None

    async def run(
        self,
        question: Question,
        model: Model,
        sources: Sources,
        *,
        sampling: Sampling = Sampling(),
        sample: int | None = None,
        watch: Watch | None = None,
    ) -> Trajectory:
        """Attempt `question`; `watch` is told what happens. A model or source that does not answer ends the attempt
        with `error` set; what happened until then is kept. Other errors (a defect, a thing the model does not support)
        are raised."""
        attempt = Attempt(question, model, sources, strategy=self.name, sampling=sampling, sample=sample, watch=watch)
        try:
            await self.solve(attempt)
        except PromptTooLong as error:
            alone = not attempt.consulted and not self.needs_documents
            attempt.error = f"{error.problem}; {SHORTEN}" if alone else str(error)
        except (ModelError, SourceError) as error:
            attempt.error = str(error)
        return attempt.trajectory()

    def lacks(self, there: Collection[Origin]) -> str | None:
        """What this strategy needs and is not among the sources that are there, in words; None when it can work."""
        if self.needs_search and "search" not in there:
            return "index"
        if self.needs_graph and "graph" not in there:
            return "knowledge graph"
        return None

    @abstractmethod
    async def solve(self, attempt: Attempt) -> None:
        """Work on `attempt` until it has an answer or gives up."""


def check_sources(strategies: Iterable[Strategy], sources: Sources) -> None:
    """Raise `BadInput` when a strategy needs a source that there is not."""
    chosen = list(strategies)
    lacking: dict[str, list[str]] = {}
    for strategy in chosen:
        if (lack := strategy.lacks(sources.there)) is not None:
            lacking.setdefault(lack, []).append(repr(strategy.name))
    for lack, names in lacking.items():
        verb = "needs" if len(names) == 1 else "need"
        raise BadInput(f"no {lack} was given, and {', '.join(names)} {verb} one; name one, or use only 'direct'")
    if not isinstance(sources.search, Library) and (reading := [repr(s.name) for s in chosen if s.needs_documents]):
        name = getattr(sources.search, "name", "the source")
        raise BadInput(
            f"{name} gives only passages, and {', '.join(reading)} must read whole documents; name the folder of an "
            "index"
        )
