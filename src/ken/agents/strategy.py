"""The protocol of a strategy: how inside and outside meet on the way to an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from ken.agents.attempt import Attempt
from ken.agents.watch import Watch
from ken.core import BadInput, ModelError, Question, Sampling, SourceError, Trajectory
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
        except (ModelError, SourceError) as error:
            attempt.error = str(error)
        return attempt.trajectory()

    @abstractmethod
    async def solve(self, attempt: Attempt) -> None:
        """Work on `attempt` until it has an answer or gives up."""


def check_sources(strategies: Iterable[Strategy], sources: Sources) -> None:
    """Raise `BadInput` when a strategy needs a source that there is not."""
    chosen = list(strategies)
    if sources.search is None and (searching := [s.name for s in chosen if s.needs_search]):
        raise BadInput(f"no index was given, and {_names(searching)} must search; name one, or use only 'direct'")
    if not isinstance(sources.search, Library) and (reading := [s.name for s in chosen if s.needs_documents]):
        name = getattr(sources.search, "name", "the source")
        raise BadInput(
            f"{name} gives only passages, and {_names(reading)} must read whole documents; name the folder of an index"
        )
    if sources.graph is None and (walking := [s.name for s in chosen if s.needs_graph]):
        raise BadInput(f"no knowledge graph was given, and {_names(walking)} must walk one; name one with --graph")


def _names(names: list[str]) -> str:
    return ", ".join(map(repr, names))
