"""The map of the catalogue: where knowledge comes from, and where the signal comes from.

Both axes are the kinds of `ken.papers.kinds`, so a place on the map is a cell, and papers of one cell stand below each
other in the order of their numbers; no distance is made up. Each is a link with a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from ken.papers.kinds import OUTSIDE, SIGNAL, kinds
from ken.papers.paper import Entry

LEFT, COLUMN, LINE, HEAD, ROOM = 118, 184, 19, 60, 12
LONGEST = 22  # characters of a name


@dataclass(frozen=True, slots=True)
class Place:
    """A paper on the map. state: the CSS class of its point; shown: whether it is among what was asked for."""

    entry: Entry
    state: str
    standing: str
    shown: bool


def papers_map(places: Iterable[Place]) -> Markup:
    """The map as SVG. Papers without kinds are not on it."""
    cells: dict[tuple[str, str], list[Place]] = {}
    for place in places:
        if (kind := kinds(place.entry.slug)) is not None:
            cells.setdefault((kind.outside, kind.signal), []).append(place)
    columns, lines = list(OUTSIDE), list(reversed(SIGNAL))  # the signal grows upwards
    parts: list[Markup] = []
    names: list[Markup] = []
    y = float(HEAD)
    for number, outside in enumerate(columns):
        x = LEFT + number * COLUMN
        parts.append(_text("heading", x + 10, 18, outside))
        parts += [_text("tick", x + 10, 34 + 13 * i, words) for i, words in enumerate(_broken(OUTSIDE[outside], 28))]
    for signal in lines:
        most = max(1, *(len(cells.get((outside, signal), ())) for outside in columns))
        height = most * LINE + ROOM
        line = Markup('<line class="grid" x1="0" y1="{0}" x2="{1}" y2="{0}"/>').format(y, LEFT + COLUMN * len(columns))
        parts.append(line)
        names += [line, _text("heading", 0, y + 18, signal)]
        names += [_text("tick", 0, y + 33 + 13 * i, words) for i, words in enumerate(_broken(SIGNAL[signal], 19))]
        for number, outside in enumerate(columns):
            for i, place in enumerate(cells.get((outside, signal), ())):
                parts.append(_point(place, LEFT + number * COLUMN + 16, y + 15 + i * LINE, outside, signal))
        y += max(height, 40 + 13 * len(_broken(SIGNAL[signal], 19)))
    for number in range(len(columns)):
        x = LEFT + number * COLUMN
        parts.insert(0, Markup('<line class="grid" x1="{0}" y1="0" x2="{0}" y2="{1}"/>').format(x, y))
    # Two drawings of one scale: that of the rows' names stays where it is when the other is scrolled.
    return Markup(
        '<div class="map"><svg class="rows" style="flex: {0} 1 0" viewBox="0 0 {0} {2}" aria-hidden="true">{3}</svg>'
        '<svg style="flex: {1} 1 0" viewBox="{0} 0 {1} {2}" role="group" aria-label="{4}">{5}</svg></div>'
    ).format(
        LEFT,
        COLUMN * len(columns),
        y,
        Markup("").join(names),
        "Papers by where knowledge comes from and where the signal comes from",
        Markup("").join(parts),
    )


def _point(place: Place, x: float, y: float, outside: str, signal: str) -> Markup:
    entry = place.entry
    name = entry.name if len(entry.name) <= LONGEST else entry.name[: LONGEST - 1].rstrip() + "…"
    about = f"{entry.number} {entry.name}, {place.standing}; outside: {outside}; signal: {signal}"
    return Markup(
        '<a class="{}" href="/papers/{}" aria-label="{}"><title>{}</title>'
        '<rect class="target" x="{}" y="{}" width="{}" height="{}" rx="4"/>'
        '<circle class="{}" cx="{}" cy="{}" r="5"/><text class="label" x="{}" y="{}">{}</text></a>'
    ).format(
        "point" if place.shown else "point away",
        entry.slug,
        about,
        f"{entry.title}\ninside: {entry.inside}\noutside: {entry.outside}\nsignal: {entry.signal}",
        *(x - 8, y - LINE / 2, COLUMN - 12, LINE),
        place.state,
        *(x, y, x + 11, y + 4),
        name,
    )


def _text(style: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, x, y, text)


def _broken(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, as far as words allow."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
