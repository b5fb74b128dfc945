"""The pages of the papers: the catalogue as cards and as a map, and a page for every paper with its smoke run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ken.core import BadInput
from ken.papers.catalogue import entries, entry, rows, shipped
from ken.papers.described import Described
from ken.papers.kinds import INSIDE, OUTSIDE, SIGNAL, kinds
from ken.papers.paper import Entry
from ken.papers.results import ArmResult, Results
from ken.papers.search import CatalogueSearch
from ken.papers.standing import Standing, standing
from ken.serving.errors import ApiError
from ken.serving.jobs import Busy, Job, Jobs
from ken.serving.rows import Rows
from ken.serving.sse import EventStream, event
from ken.serving.web.metric_words import words_of
from ken.serving.web.pages import page
from ken.serving.web.papers_map import Place, papers_map
from ken.serving.web.plots import curves_over_seeds, curves_plot, over_seeds_plot, strip, uncrowded

STATES = {"verdicts": "judged here", "runs": "runs, not judged here", "planned": "planned"}
SORTS = {"number": "number", "date": "date, newest first", "authors": "most authors", "state": "state"}
BEST = "match"  # the order of a search


class Asked(BaseModel):
    """What the catalogue is asked for, as it stands in the address. "" leaves a filter out."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    q: str = ""
    state: str = ""
    inside: str = ""
    outside: str = ""
    signal: str = ""
    sort: str = ""
    view: Literal["cards", "map"] = "cards"

    @field_validator("state", "inside", "outside", "signal", "sort")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        known = {"state": STATES, "inside": INSIDE, "outside": OUTSIDE, "signal": SIGNAL, "sort": {**SORTS, BEST: ""}}
        return value if value in known[info.field_name] else ""  # an old or a mistyped link still shows the page

    def address(self, **changes: str) -> str:
        """The page with other choices."""
        from urllib.parse import urlencode

        chosen = {**self.model_dump(), **changes}
        given = {name: value for name, value in chosen.items() if value and (name, value) != ("view", "cards")}
        return f"/papers?{urlencode(given)}" if given else "/papers"


@dataclass(frozen=True, slots=True)
class Card:
    """A paper as the catalogue's page shows it."""

    entry: Entry
    standing: Standing

    @property
    def words(self) -> str:
        """How it stands, in a few words."""
        if self.standing.problem:
            return "results cannot be read"
        counts = ", ".join(f"{count} {verdict(word, count)}" for word, count in self.standing.verdicts.items())
        return counts or STATES[self.standing.state]


def verdict(word: str, count: int) -> str:
    """A verdict as it is said of several claims."""
    plural = {"holds": "hold", "fails": "fail"}
    return plural.get(word, word) if count != 1 else word


def mount(app: FastAPI) -> None:
    """Put the papers' pages on an application, and its jobs at `app.state.jobs`."""
    service = app.state.service
    jobs = app.state.jobs = Jobs()
    row_texts = app.state.rows = Rows(service.data)
    drawn: dict[str, tuple[Described | None, Results, list[Any], list[Any]]] = {}
    built: dict[tuple[Entry, ...], CatalogueSearch] = {}

    def search(known: tuple[Entry, ...], query: str) -> list[str]:
        if known not in built:  # the catalogue has changed, or this is the first search
            built.clear()
            built[known] = CatalogueSearch(known, service.data)
        return built[known](query)

    def draw(described: Described | None, results: Results) -> tuple[list[Any], list[Any]]:
        """The plots of results, drawn once as long as nothing has changed: their intervals are resampled."""
        before = drawn.get(results.slug)
        if before is None or before[0] is not described or before[1] is not results:
            before = drawn[results.slug] = (described, results, _plots(described, results), _curves(results))
        return before[2], before[3]

    @app.get("/papers", include_in_schema=False)
    async def catalogue(request: Request) -> Response:
        row_texts.ask()  # whoever sees the catalogue may open a paper next
        return await asyncio.to_thread(show, request)

    def show(request: Request) -> Response:
        try:
            asked = Asked.model_validate(dict(request.query_params))
        except ValidationError:
            asked = Asked()
        problem = ""
        try:
            known = tuple(entries().values())
        except BadInput as error:  # the user's own file; what Ken ships is shown all the same
            known, problem = tuple(shipped().values()), str(error)
        running = rows()
        cards = [Card(e, standing(e.slug, running, service.results)) for e in known]
        chosen = choose(cards, asked, search(known, asked.q) if asked.q.strip() else None)
        shown = {card.entry.slug for card in chosen}
        places = [Place(c.entry, _colour(c.standing), c.words, c.entry.slug in shown) for c in cards]
        return page(
            request,
            "papers.html",
            asked=asked,
            problem=problem,
            cards=chosen,
            total=len(cards),
            states={s: (words, sum(c.standing.state == s for c in cards)) for s, words in STATES.items()},
            inside=INSIDE,
            outside=OUTSIDE,
            signal=SIGNAL,
            sorts={BEST: "best match", **SORTS} if asked.q.strip() else SORTS,
            map=papers_map(places) if asked.view == "map" else "",
            verdict=verdict,
        )

    @app.get("/papers/{slug}", include_in_schema=False)
    async def paper(request: Request, slug: str) -> Response:
        wanted = _entry(slug)
        if wanted.slug != slug:
            return RedirectResponse(f"/papers/{wanted.slug}", status_code=307)
        row_texts.ask()
        return await asyncio.to_thread(show_paper, request, wanted)

    def show_paper(request: Request, wanted: Entry, refusal: str = "", status: int = 200) -> Response:
        stands = standing(wanted.slug, rows(), service.results)
        described = row_texts.now.get(wanted.slug) if row_texts.now is not None else None
        results, running = stands.results, jobs.running
        smoke = _measured(jobs.last(wanted.slug))
        reading = stands.state != "planned" and row_texts.now is None
        plots, curves = draw(described, results) if results and not reading else ([], [])  # the row says which
        return page(
            request,
            "paper.html",
            status=status,
            card=Card(wanted, stands),
            entry=wanted,
            kinds=kinds(wanted.slug),
            words={"inside": INSIDE, "outside": OUTSIDE, "signal": SIGNAL},
            reading=reading,
            row=described,
            problem=stands.problem,
            row_problem=(described.problem if described else "") or row_texts.problem,
            arms=_arms(described, results),
            columns=_columns(described, results.arms if results else {}),
            claims=results.claims if results else described.claims if described else (),
            results=results,
            machine=_machine(results) if results else [],
            plots=plots,
            curves=curves,
            strip=strip,
            words_of=words_of,
            job=jobs.last(wanted.slug),
            smoke=smoke,
            smoke_columns=_columns(described, smoke.arms if smoke else {}),
            busy=running if running and running.name != wanted.slug else None,
            refusal=refusal,
            verdict=verdict,
        )

    @app.post("/papers/{slug}/smoke", include_in_schema=False)
    async def start(request: Request, slug: str) -> Response:
        wanted = _entry(slug)
        if wanted.slug not in rows():
            problem = f"{wanted.name} is planned: it has no row yet, and so nothing that could be run."
            return await asyncio.to_thread(show_paper, request, wanted, problem, 409)
        try:
            await jobs.start(wanted.slug, "reproduce", wanted.slug, "--smoke", "--json")
        except Busy as error:
            return await asyncio.to_thread(show_paper, request, wanted, str(error), 409)
        except BadInput as error:
            return await asyncio.to_thread(show_paper, request, wanted, str(error), 503)
        return RedirectResponse(f"/papers/{wanted.slug}#smoke", status_code=303)

    @app.post("/papers/{slug}/smoke/cancel", include_in_schema=False)
    async def cancel(request: Request, slug: str) -> Response:
        job = jobs.last(slug)
        if job is None:
            raise ApiError(404, f"nothing was started for {_entry(slug).name} since the server began")
        await job.cancel()  # of one that has ended, nothing
        return RedirectResponse(f"/papers/{slug}#smoke", status_code=303)

    @app.get("/papers/{slug}/smoke/{number}/events", include_in_schema=False)
    async def follow(request: Request, slug: str, number: str, after: int = 0) -> Response:
        job = jobs.last(slug)
        if job is None or job.id != number:
            return Response(status_code=204)  # an EventSource that is told so does not ask again
        return EventStream(_events(job, max(0, after)))


async def _events(job: Job, after: int) -> AsyncIterator[str]:
    async for happened in job.events(after):
        if isinstance(happened, str):
            yield event(happened, "ended")
        else:
            yield event({"number": happened[0], "text": happened[1]}, "line")


def choose(cards: list[Card], asked: Asked, ranking: list[str] | None) -> list[Card]:
    """The cards that are asked for, in the order that is asked for. ranking: slugs that a search found, best first;
    None without a search."""
    place = {slug: i for i, slug in enumerate(ranking or ())}

    def wanted(card: Card) -> bool:
        kind = kinds(card.entry.slug)
        return (
            (ranking is None or card.entry.slug in place)
            and asked.state in ("", card.standing.state)
            and all(
                not choice or (kind is not None and getattr(kind, axis) == choice)
                for axis, choice in (("inside", asked.inside), ("outside", asked.outside), ("signal", asked.signal))
            )
        )

    chosen = sorted(filter(wanted, cards), key=lambda card: card.entry.number)
    order = asked.sort or (BEST if ranking is not None else "number")
    if order == BEST and ranking is not None:
        chosen.sort(key=lambda card: place[card.entry.slug])
    elif order == "date":
        chosen.sort(key=lambda card: card.entry.date, reverse=True)
    elif order == "authors":
        chosen.sort(key=lambda card: -(card.entry.authors or 0))
    elif order == "state":
        states = list(STATES)
        chosen.sort(key=lambda card: (states.index(card.standing.state), -card.standing.verdicts.get("holds", 0)))
    return chosen


def _entry(slug: str) -> Entry:
    """Raises `ApiError` with the nearest names for a paper that there is not."""
    try:
        return entry(slug)
    except BadInput as error:
        raise ApiError(404, str(error)) from error


def _colour(stands: Standing) -> str:
    """The CSS class of a paper's point: by its worst news."""
    if stands.problem or stands.verdicts.get("fails"):
        return "fails" if not stands.verdicts.get("holds") else "mixed"
    if stands.verdicts:
        return "mixed" if stands.verdicts.get("inconclusive") else "holds"
    return stands.state


def _arms(described: Described | None, results: Results | None) -> list[tuple[str, str, bool, ArmResult | None]]:
    """(name, text, optional, what it measured), in the row's order; what the row no longer has comes last."""
    measured = dict(results.arms) if results else {}
    listed = [(a.name, a.text, a.optional, measured.pop(a.name, None)) for a in (described.arms if described else ())]
    return listed + [(name, arm.text, False, arm) for name, arm in measured.items()]


def _columns(described: Described | None, arms: dict[str, ArmResult]) -> list[str]:
    """The metrics of the table: the row's choice, else all that are numbers."""
    there = list(dict.fromkeys(name for arm in arms.values() for name in arm.mean))
    chosen = [name for name in (described.columns if described else ()) if name in there]
    return chosen or there[:10]


def _plots(described: Described | None, results: Results) -> list[Any]:
    plots = []
    for metric in _columns(described, results.arms):
        arms = [
            (name, [v for seed in results.seeds if isinstance(v := arm.metrics.get(seed, {}).get(metric), float)])
            for name, arm in results.arms.items()
        ]
        plot = over_seeds_plot(metric, [(name, values) for name, values in arms if values])
        plots.append((metric, words_of(metric), plot))
    return plots


def _curves(results: Results) -> list[Any]:
    """(metric, its words, plot, names, points of running means) of what was measured along the way."""
    measured = {name: list(arm.metrics.values()) for name, arm in results.arms.items()}
    drawn = []
    for metric, curves in curves_over_seeds(measured).items():
        shown, reach = uncrowded(curves)
        names = [curve.name for curve in curves]
        drawn.append((metric, words_of(metric), curves_plot(metric, shown, small=False), names, reach))
    return drawn


def _machine(results: Results) -> list[str]:
    """What it was measured on."""
    known = {"processor": "{}", "cores": "{} cores", "memory_gib": "{} GiB", "gpu": "{}", "system": "{}"}
    there = [words.format(results.machine[name]) for name, words in known.items() if results.machine.get(name)]
    return there or ["an unknown machine"]


def _measured(job: Job | None) -> Results | None:
    """What a smoke run has measured, once it has ended well."""
    if job is None or job.state not in ("finished", "failed") or not job.output:
        return None
    try:
        return Results.model_validate_json(job.output)
    except ValidationError:
        return None
