"""Audits that people start from the web: each a folder, which outlives the server.

    DATA/questions/FILE                question files to pick from
    DATA/audits/NAME/order.json        what was ordered, and how it stands
    DATA/audits/NAME/questions.…       the questions, as they were then
    DATA/audits/NAME/run/              the folder of the audit (see `ken.auditing.folder`)

An audit that was running when the server ended goes on when it starts again. A folder that `ken audit --out` wrote can
be moved to DATA/audits/NAME; it is then shown and compared like the others.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ken.agents import Strategy
from ken.auditing.api import checked, rescore, settings_of
from ken.auditing.folder import LOG, REPORT, RUN, AuditSettings, read_settings, save
from ken.auditing.log import Key, Place, read_attempt, read_log
from ken.auditing.measure import measure
from ken.auditing.outcomes import Outcome, outcomes
from ken.auditing.report import AuditReport
from ken.auditing.run import Progress, run_audit
from ken.auditing.verdicts import NO_VERDICTS, read_verdicts
from ken.core import BadInput, KenError, Question, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.models import Model
from ken.serving.latest import Latest
from ken.serving.service import Service
from ken.serving.uploads import index_name
from ken.sources import Sources

ORDER = "order.json"
QUESTION_SUFFIXES = (".jsonl", ".json", ".txt")
KEPT = 4  # audits whose outcomes are held in memory

State = Literal["running", "cancelled", "stopped", "done"]


class Order(Frozen):
    """What was ordered. questions: the name of the file in the audit's folder; source: of the file it was copied from.
    model: a spec, index: a name, both of the server's. state: "running" until it ends: all attempts are made ("done"),
    somebody cancelled it, or it could not go on ("stopped", and `message` says why)."""

    questions: str
    source: str
    model: str
    index: str | None = None
    strategies: tuple[str, ...]
    samples: int = 8
    threshold: float = 0.5
    top_k: int = 3
    limit: int | None = None
    sampling: Sampling = Sampling()
    state: State = "running"
    message: str = ""


class Standing(Frozen):
    """How a running audit stands; `done` of `total` attempts, those of earlier runs included."""

    state: State | Literal["measuring"] = "running"
    done: int = 0
    total: int = 0
    failed: int = 0
    message: str = ""


@dataclass(frozen=True)
class Shown:
    """An audit that was read for the pages. places: where each attempt stands in `log`."""

    settings: AuditSettings
    report: AuditReport
    outcomes: list[Outcome]
    places: dict[Key, Place]
    log: Path

    def attempts(self, question_id: str) -> list[Trajectory]:
        """All attempts at a question, those that count first, in the order of the settings."""
        order = {name: number for number, name in enumerate(self.settings.strategies)}
        keys = [key for key in self.places if key[0] == question_id]
        keys.sort(key=lambda key: (key[2] is not None, order.get(key[1], 99), key[2] or 0))
        return [read_attempt(self.log, self.places[key]) for key in keys]

    def examples(self) -> list[Trajectory]:
        """The attempts that the report shows."""
        keys = [(example.question_id, example.strategy, None) for example in self.report.examples]
        return [read_attempt(self.log, self.places[key]) for key in dict.fromkeys(keys) if key in self.places]


@dataclass(frozen=True)
class _Ready:
    asked: Sequence[Question]
    strategies: Sequence[Strategy]
    model: Model
    sources: Sources
    settings: AuditSettings


class Audits:
    """The audits of a server: those that run, and those whose folders are there."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.folder, self.questions = service.data / "audits", service.data / "questions"
        self._running: dict[str, tuple[asyncio.Task[None], Latest[Standing]]] = {}
        self._cancelled: set[str] = set()
        self._shown: OrderedDict[tuple[str, int, int], Shown] = OrderedDict()
        self._reading = asyncio.Lock()

    # --- what there is ---

    def names(self) -> list[str]:
        """The audits, the newest first."""
        if not self.folder.is_dir():
            return []
        places = [p for p in self.folder.iterdir() if (p / ORDER).is_file() or (p / RUN).is_file()]
        return [p.name for p in sorted(places, key=lambda p: p.stat().st_mtime, reverse=True)]

    def question_files(self) -> list[str]:
        """The names of the files that can be picked."""
        if not self.questions.is_dir():
            return []
        files = [p for p in self.questions.iterdir() if p.suffix.lower() in QUESTION_SUFFIXES and p.is_file()]
        return sorted(p.name for p in files if not p.name.startswith("."))

    def order(self, name: str) -> Order | None:
        """What was ordered; None for an audit that `ken audit` made. Raises `BadInput` when there is no such audit."""
        place = self._place(name)
        try:
            return Order.model_validate_json((place / ORDER).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise BadInput(f"{place / ORDER} cannot be read; it was edited, or is of another version") from error

    def running(self, name: str) -> Latest[Standing] | None:
        """How the audit stands, if it runs here now."""
        found = self._running.get(name)
        return None if found is None else found[1]

    def run_folder(self, name: str) -> Path:
        """The folder of the audit proper."""
        place = self._place(name)
        return place / "run" if (place / ORDER).is_file() else place

    async def shown(self, name: str) -> Shown | None:
        """What there is to show of an audit, read anew when it has changed; None before the first attempt. Raises
        `BadInput` for one that cannot be read."""
        run = self.run_folder(name)
        if not (run / LOG).is_file() or not (run / RUN).is_file():
            return None
        async with self._reading:  # a large log takes seconds: two readers wait for one reading
            status = (run / LOG).stat()
            key = (name, status.st_mtime_ns, status.st_size)
            if key not in self._shown:
                found = await asyncio.to_thread(_read, run)
                if found is None:
                    return None
                self._shown[key] = found
                while len(self._shown) > KEPT:
                    self._shown.popitem(last=False)
            self._shown.move_to_end(key)
            return self._shown[key]

    # --- what is done ---

    async def start(self, name: str, source: Path, order: Order) -> None:
        """Begin a new audit of the questions in `source`. Raises `BadInput`, before anything is kept, for what cannot
        work."""
        name = index_name(name)
        if name == "compare":  # the address of another page
            raise BadInput("an audit cannot be called 'compare'; choose another name")
        await self._ready(source, order)
        place = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            place.mkdir()
        except FileExistsError as error:
            raise BadInput(f"there is an audit {name!r} already; choose another name") from error
        except OSError as error:
            raise BadInput(f"{place} cannot be made ({error.strerror or error})") from error
        try:
            await asyncio.to_thread(shutil.copyfile, source, place / order.questions)
            save(place / ORDER, order.model_dump_json(indent=2) + "\n")
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, OSError):
                raise BadInput(f"{place} cannot be written ({error.strerror or error})") from error
            raise
        self._begin(name, order)

    def resume(self, name: str) -> None:
        """Go on with an audit that was cancelled or stopped, or try its failed attempts again. Raises `BadInput` when
        it runs already, or was not ordered here."""
        if name in self._running:
            raise BadInput(f"the audit {name!r} is running already; wait for it, or cancel it")
        order = self.order(name)
        if order is None:
            raise BadInput(f"the audit {name!r} was made by `ken audit`; give that command again to go on with it")
        self._begin(name, order)

    async def cancel(self, name: str) -> None:
        """Stop an audit; what was answered is kept, and it can go on later. Nothing happens when it does not run."""
        self._place(name)
        if name in self._running:
            work, _ = self._running[name]
            self._cancelled.add(name)
            work.cancel()
            await asyncio.wait([work])
            self._cancelled.discard(name)

    async def resume_all(self) -> None:
        """Go on with what was running when the server ended."""
        for name in self.names():
            try:
                order = self.order(name)
            except BadInput:
                continue  # its page says so
            if order is not None and order.state == "running":
                self._begin(name, order)

    async def close(self) -> None:
        """Stop all, to go on when the server starts again."""
        tasks = [work for work, _ in self._running.values()]
        for work in tasks:
            work.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _place(self, name: str) -> Path:
        if name not in self.names():
            raise BadInput(f"there is no audit {name!r} on this server")
        return self.folder / name

    async def _ready(self, source: Path, order: Order) -> _Ready:
        """All that an audit needs. Raises `BadInput` for what cannot work."""
        model = self.service.model(order.model)
        asked, chosen = await asyncio.to_thread(
            checked, source, order.strategies, samples=order.samples, threshold=order.threshold
        )
        asked = asked[: order.limit]
        search = None if order.index is None else await self.service.retriever(order.index)
        sources = Sources(search=search, top_k=order.top_k, graph=self.service.graph)
        settings = settings_of(
            asked,
            chosen,
            model.spec,
            sources,
            samples=order.samples,
            threshold=order.threshold,
            sampling=order.sampling,
        )
        # An index by its name here: folders may move between two runs.
        return _Ready(asked, chosen, model, sources, settings.model_copy(update={"index": order.index or ""}))

    def _begin(self, name: str, order: Order) -> None:
        self._keep(name, order, "running")
        standing = Latest(Standing())
        self._running[name] = (asyncio.create_task(self._run(name, order, standing)), standing)

    def _keep(self, name: str, order: Order, state: State, message: str = "") -> None:
        changed = order.model_copy(update={"state": state, "message": message})
        save(self.folder / name / ORDER, changed.model_dump_json(indent=2) + "\n")

    async def _run(self, name: str, order: Order, standing: Latest[Standing]) -> None:
        place = self.folder / name

        def progress(now: Progress) -> None:
            standing.value = Standing(done=now.done, total=now.total, failed=now.failed)

        def end(state: State, message: str = "") -> None:
            try:
                self._keep(name, order, state, message)
            except BadInput as error:  # a full disk: the audit counts as interrupted
                message = str(error)
            standing.value = standing.value.model_copy(update={"state": state, "message": message})

        try:
            ready = await self._ready(place / order.questions, order)
            await run_audit(
                ready.asked,
                ready.model,
                ready.sources,
                place / "run",
                strategies=ready.strategies,
                settings=ready.settings,
                on_progress=progress,
            )
            standing.value = standing.value.model_copy(update={"state": "measuring"})
            report = await asyncio.to_thread(rescore, place / "run")
            end("stopped" if report.unasked else "done", report.settings.stopped)
        except asyncio.CancelledError:
            if name in self._cancelled:  # by somebody, not by the end of the server
                end("cancelled")
            raise
        except KenError as error:
            end("stopped", str(error))
        except Exception as error:
            end("stopped", f"something went wrong in the server ({type(error).__name__}); its log says what")
            raise
        finally:
            self._running.pop(name, None)


async def standings(standing: Latest[Standing]) -> AsyncIterator[Standing]:
    """How an audit stands, a few times a second, until it has ended."""
    async for now in standing.follow(lambda s: s.state in ("cancelled", "stopped", "done"), pause=0.25):
        yield now


def _read(run: Path) -> Shown | None:
    settings = read_settings(run)
    places: dict[Key, Place] = {}
    attempts = list(read_log(run / LOG, places=places).values())
    if not attempts:
        return None
    verdicts = read_verdicts(run, settings.judge) if settings.judge else NO_VERDICTS
    report = _measured(run) or measure(attempts, settings, verdicts)
    return Shown(settings, report, outcomes(attempts, settings), places, run / LOG)


def _measured(run: Path) -> AuditReport | None:
    """The numbers as they were written when the audit ended, unless attempts came after: measuring takes much longer
    than reading."""
    try:
        if (run / REPORT).stat().st_mtime_ns >= (run / LOG).stat().st_mtime_ns:
            return AuditReport.model_validate_json((run / REPORT).read_bytes())
    except (OSError, ValidationError):  # none, or of another version
        pass
    return None
