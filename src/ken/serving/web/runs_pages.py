"""The pages of the runs: what trains or has trained, with curves that grow, and the finished arms of reproductions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s

from fastapi import FastAPI, Request
from fastapi.responses import Response
from markupsafe import Markup

from ken.papers.catalogue import shipped
from ken.papers.results import Run
from ken.serving.errors import ApiError
from ken.serving.reproductions import find_reproductions
from ken.serving.runs import Stage, TrainingRun, TrainingRuns
from ken.serving.sse import EventStream, event
from ken.serving.web.metric_words import TRAINING, words_of
from ken.serving.web.pages import page
from ken.serving.web.plots import Curve, curves_over_seeds, curves_plot, spark, uncrowded

LOOK = 1.0  # seconds between looks at a run that somebody watches

_DULL = {"epoch"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One small plot. name: of the statistic; about: what it is; latest: (curve, last value, number of its colour);
    means: over how many points its curves are running means, 0 for none."""

    name: str
    about: str
    plot: Markup
    latest: tuple[tuple[str, float, int], ...]
    means: int = 0


def mount(app: FastAPI) -> None:
    """Put the runs' pages on an application."""
    service = app.state.service
    runs = TrainingRuns(service.runs)

    @app.get("/runs", include_in_schema=False)
    def listing(request: Request) -> Response:
        mark = _mark(runs, "")
        known = runs.all()
        reproduced = find_reproductions(service.results)
        return page(
            request,
            "runs.html",
            root=service.runs.absolute(),
            mark=mark,
            runs=[(run, *_summary(run)) for run in known],
            reproduced=reproduced,
            papers=shipped(),
            ago=ago,
        )

    @app.get("/runs/training", include_in_schema=False)
    def training(request: Request, name: str = "") -> Response:
        run = runs.get(name)
        if run is None:
            raise ApiError(
                404, f"There is no run {name[:200]!r} below {service.runs.absolute()}; it may have been moved."
            )
        mark = _mark(runs, name)
        with run.lock:
            colours = colours_of(run.stages)
            stages = [(stage, *panels(stage, colours)) for stage in run.stages]
            return page(
                request,
                "run.html",
                run=run,
                mark=mark,
                stages=stages,
                started=any(stage.metrics.curves for stage in run.stages),
                papers=shipped(),
                ago=ago,
            )

    @app.get("/runs/events", include_in_schema=False)
    async def changes(name: str = "", seen: str = "") -> Response:
        return EventStream(_changes(runs, name, seen))

    @app.get("/runs/arms", include_in_schema=False)
    def arms(request: Request, slug: str = "", settings: str = "") -> Response:
        wanted = [r for r in find_reproductions(service.results) if (r.slug, r.settings) == (slug, settings)]
        if not wanted:
            raise ApiError(
                404, f"No arms of {slug[:100]!r} with these settings are in {service.results.absolute()}/.runs."
            )
        measured = list(wanted[0].runs())
        return page(
            request,
            "arms.html",
            one=wanted[0],
            measured=measured,
            metrics=list(dict.fromkeys(n for run in measured for n, v in run.metrics.items() if isinstance(v, float))),
            panels=_arm_panels(measured),
            failures=[(*pair, wanted[0].failure(*pair)) for pair in wanted[0].failed],
            papers=shipped(),
            ago=ago,
        )


def _mark(runs: TrainingRuns, name: str) -> str:
    """Another one whenever there is something new to see: of one run, or without a name of all."""
    watched = [run for run in [runs.get(name)] if run is not None] if name else runs.all()
    return blake2s("".join(run.mark for run in watched).encode(), digest_size=8).hexdigest()


async def _changes(runs: TrainingRuns, name: str, seen: str) -> AsyncIterator[str]:
    """An event whenever there is something new to see. seen: the mark of what the page shows, so that nothing is missed
    that was written before it listens. Comments between keep the connection open, and show the server that it is."""
    quiet = 0
    yield ": watching\n\n"
    while True:
        await asyncio.sleep(LOOK)
        now = await asyncio.to_thread(_mark, runs, name)
        quiet += 1
        if now != seen:
            seen, quiet = now, 0
            yield event({"at": round(time.time())}, "changed")
        elif quiet % 15 == 0:
            yield ": quiet\n\n"


def colours_of(stages: Sequence[Stage]) -> dict[str, int]:
    """A colour for every kind of tasks (`search` of `reward/search`), the same in all plots of all stages."""
    kinds = [name.partition("/")[2] for stage in stages for name in stage.metrics.curves]
    return {kind: number for number, kind in enumerate(dict.fromkeys(filter(None, kinds)), 1)}


def panels(stage: Stage, colours: Mapping[str, int]) -> tuple[list[Panel], list[Panel]]:
    """The small plots of a stage: the main ones, and the others. Statistics of one name, `reward/search`, share one.
    colours: of the kinds; what is of no kind has the first colour, 0."""
    grouped: dict[str, list[Curve]] = {}
    for name, (steps, values) in stage.metrics.curves.items():
        base, _, kind = name.partition("/")
        curve = Curve(kind or base, list(zip(steps, values, strict=False)), colour=colours[kind] if kind else 0)
        grouped.setdefault(base, []).append(curve)
    made = {}
    for name, curves in grouped.items():
        if name in _DULL or name == stage.metrics.step:
            continue
        latest = tuple((curve.name, curve.points[-1][1], curve.colour or 0) for curve in curves if curve.points)
        plot = curves_plot(name, curves, x_title=stage.metrics.step)
        made[name] = Panel(name, TRAINING.get(name, ""), plot, latest)
    first = [made[name] for name in TRAINING if name in made]
    return first, [made[name] for name in sorted(made) if name not in TRAINING]


def _summary(run: TrainingRun) -> tuple[int, Markup, str]:
    """(steps, a small curve, the last value) of a run's last stage that has any."""
    with run.lock:
        for stage in reversed(run.stages):
            for name in ("reward", "loss"):
                points = list(zip(*stage.metrics.curves.get(name, ((), ())), strict=False))
                if points:
                    last = f"{name} {points[-1][1]:.4g}"  # as on its page
                    return stage.metrics.last_step, spark(name, points), last
    return 0, Markup(""), ""


def _arm_panels(measured: Sequence[Run]) -> list[Panel]:
    """A plot for every metric that is a curve."""
    arms: dict[str, list[Mapping[str, object]]] = {}
    for run in measured:
        arms.setdefault(run.arm, []).append(run.metrics)
    drawn = []
    for name, curves in sorted(curves_over_seeds(arms).items()):
        shown, means = uncrowded(curves)
        latest = tuple((curve.name, curve.points[-1][1], number) for number, curve in enumerate(curves))
        drawn.append(Panel(name, words_of(name), curves_plot(name, shown, small=False), latest, means))
    return drawn


def ago(moment: float) -> str:
    """How long since, in one unit."""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return f"{int(seconds)} s ago"
