"""The audit as one self-contained web page."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import groupby

from markupsafe import Markup

from ken.auditing import charts
from ken.auditing.report import AS_BEFORE, AuditReport, Boundary, StrategyReport
from ken.core import Trajectory
from ken.metrics import SearchUse
from ken.metrics.source_use import NEEDS

MEANINGS = {
    "needed": "searched, and could not answer alone",
    "wasted": "searched though it could answer alone, and is still right",
    "harmful": "searched though it could answer alone, and is now wrong",
    "missed": "did not search though it could not answer alone",
    "saved": "did not search, and could answer alone",
    "malformed": "wrote something that does not follow the protocol",
}


def render_html(report: AuditReport, trajectories: Iterable[Trajectory]) -> str:
    """The page. Questions, documents and model output are escaped by the template: they are data, never markup."""
    return _render("audit.html", report, trajectories)


def render_body(
    report: AuditReport, trajectories: Iterable[Trajectory], *, again: str = AS_BEFORE
) -> tuple[Markup, Markup]:
    """(style, body) of the report without its heading, for a page of another frame, whose element of class `report`
    holds the body. trajectories: at least those of `report.examples`. again: what goes on with the audit there."""
    return Markup(_render("report.css", report, ())), Markup(_render("report.html", report, trajectories, again))


def _render(template: str, report: AuditReport, trajectories: Iterable[Trajectory], again: str = AS_BEFORE) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ken.auditing", "templates"),
        autoescape=True,
        finalize=inert,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    attempts = {(t.strategy, t.question.id): t for t in trajectories if t.sample is None and t.error is None}
    measured = [s for s in report.strategies if s.em is not None and s.cost is not None]
    shown = [  # by kind
        (example, attempts[example.strategy, example.question_id])
        for example in report.examples
        if (example.strategy, example.question_id) in attempts
    ]
    return environment.get_template(template).render(
        report=report,
        as_before=AS_BEFORE,
        again=again,
        main=main_boundary,
        meanings=MEANINGS,
        lookups="lookups" if report.other_sources else "searches",
        scatter=charts.accuracy_against_lookups(
            [(s.strategy, s.cost.lookups, s.em) for s in measured if s.cost and s.em is not None],
            word="lookups" if report.other_sources else "searches",
        )
        if measured
        else "",
        front=_front(report),
        sources=_sources(report),
        bars=_bars(report),
        uses=[use.value for use in SearchUse],
        calibrations=[
            (
                c,
                charts.reliability_diagram([(b.confidence, b.accuracy, b.count) for b in c.bins]),
                charts.risk_coverage_curve(c.coverage, c.risk),
            )
            for c in report.calibration
        ],
        examples=[(kind, list(group)) for kind, group in groupby(shown, key=lambda pair: pair[0].kind)],
    )


def main_boundary(strategy: StrategyReport) -> Boundary | None:
    """The boundary by the better oracle: closed-book samples if there are any."""
    return strategy.boundaries[0] if strategy.boundaries else None


def _front(report: AuditReport) -> object:
    if len(report.tradeoffs) < 2:
        return ""
    best = sorted((t.tokens, t.accuracy) for t in report.tradeoffs if t.best)
    return charts.accuracy_against_tokens([(t.strategy, t.tokens, t.accuracy) for t in report.tradeoffs], best)


def _sources(report: AuditReport) -> list[str]:
    """The columns of the table of sources: those that any question needed, or any strategy chose."""
    if report.sources is None:
        return []
    chosen = {c for t in report.sources.strategies.values() for c, row in t.table.items() if any(row.values())}
    return [need for need in NEEDS if report.sources.needed[need] or need in chosen]


def _bars(report: AuditReport) -> object:
    rows = []
    for strategy in report.strategies:
        if boundary := main_boundary(strategy):
            rows.append((strategy.strategy, [(use.value, getattr(boundary.use, use.value)) for use in SearchUse]))
    return charts.stacked_bars(rows) if rows else ""


def inert(value: object) -> object:
    """What a template prints, without characters that are no text: HTML has no place for control characters, and
    direction overrides (Trojan Source, CVE-2021-42574) would show words in another order than they have.
    """
    if type(value) is not str:  # charts are Markup, which is ours
        return value
    return "".join("�" if c not in "\n\t" and (unicodedata.category(c) in _NO_TEXT or c in _BIDI) else c for c in value)


_NO_TEXT = {"Cc", "Cs"}
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
