"""The report's charts as inline SVG: no script, no font, no network, readable in light and dark.

Own code rather than a plotting library: four small charts do not weigh a dependency of the base install. Colours are
CSS classes of the report's template; every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44


Tick = tuple[float, str]
"""A place on an axis, and what is written there."""


class Plane:
    """A coordinate plane with grid, ticks and axis titles.

    x_min … y_max: what it shows, in data units. width, height: in the drawing's own, which scale with the page; left,
    bottom: room for ticks and titles. x_ticks, y_ticks: by default six from end to end, numbered.
    """

    def __init__(
        self,
        x_title: str,
        y_title: str,
        *,
        x_min: float = 0.0,
        x_max: float = 1.0,
        y_min: float = 0.0,
        y_max: float = 1.0,
        width: float = WIDTH,
        height: float = HEIGHT,
        left: float = LEFT,
        bottom: float = BOTTOM,
        x_ticks: Sequence[Tick] | None = None,
        y_ticks: Sequence[Tick] | None = None,
    ) -> None:
        self.x_min, self.x_max, self.y_min, self.y_max = x_min, x_max, y_min, y_max
        self.width, self.height, self.left, self.bottom = width, height, left, bottom
        self.parts: list[Markup] = []
        for value, text in _six(y_min, y_max) if y_ticks is None else y_ticks:
            y = self.y(value)
            self.parts.append(
                Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(left, y, width - RIGHT, y)
            )
            self.parts.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(left - 6, y + 4, text)
            )
        for value, text in _six(x_min, x_max) if x_ticks is None else x_ticks:
            self.parts.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    self.x(value), height - bottom + 16, text
                )
            )
        if x_title:
            self.parts.append(
                Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    (left + width - RIGHT) / 2, height - 8, x_title
                )
            )
        if y_title:
            self.parts.append(
                Markup(
                    '<text class="axis" transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>'
                ).format((TOP + height - bottom) / 2, y_title)
            )

    def x(self, value: float) -> float:
        share = (value - self.x_min) / (self.x_max - self.x_min)
        return round(self.left + share * (self.width - self.left - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_min) / (self.y_max - self.y_min)
        return round(self.height - self.bottom - share * (self.height - TOP - self.bottom), 1)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A polyline through data points; `style` is a CSS class."""
        path = " ".join(f"{self.x(a)},{self.y(b)}" for a, b in points)
        self.parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, path))

    def dot(self, a: float, b: float, style: str, *, radius: float = 5, note: str = "") -> None:
        """A point with a note shown on hover."""
        self.parts.append(
            Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
                style, self.x(a), self.y(b), radius, note
            )
        )

    def labels(self, labels: Sequence[tuple[float, float, str]]) -> None:
        """Words beside points: (x, y, text) in data units. One that would cover another, or a point, gives way."""
        dots = [(self.x(a), self.y(b)) for a, b, _ in labels]
        taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in dots]
        for (x, y), (_, _, text) in zip(dots, labels, strict=True):
            width = 7 * len(text)
            boxes = [
                (left, y + shift - 8, left + width, y + shift + 8)
                for shift in (0, *(side * step for step in range(15, int(self.height), 15) for side in (-1, 1)))
                for left in (x + 9, x - 9 - width)
            ]
            inside = [
                b
                for b in boxes
                if b[0] > self.left and b[2] < self.width and b[1] > 0 and b[3] < self.height - self.bottom
            ]
            box = next((b for b in inside if not any(_overlap(b, other) for other in taken)), boxes[0])
            taken.append(box)
            self.parts.append(
                Markup('<text class="label" x="{}" y="{}">{}</text>').format(
                    round(box[0], 1), round(box[1] + 12, 1), text
                )
            )

    def svg(self, title: str) -> Markup:
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, title, Markup("").join(self.parts)
        )


def accuracy_against_lookups(points: Sequence[tuple[str, float, float]], *, word: str = "searches") -> Markup:
    """points: (strategy, mean lookups per question, accuracy in [0, 1]). word: what they are."""
    furthest = max([1.0, *(lookups for _, lookups, _ in points)])
    plane = Plane(f"{word} per question", "exact match", x_max=_round_up(furthest))
    _scatter(plane, points, lambda lookups: f"{lookups:.2f} {word} per question")
    return plane.svg(f"Exact match against {word} per question")


def accuracy_against_tokens(points: Sequence[tuple[str, float, float]], front: Sequence[tuple[float, float]]) -> Markup:
    """points: (strategy, mean tokens per question, accuracy in [0, 1]). front: (tokens, accuracy) of those that none
    beats, the cheapest first; drawn as the steps below which a strategy is beaten."""
    furthest = _nice(max([1.0, *(tokens for _, tokens, _ in points)]))
    plane = Plane("tokens per question", "exact match", x_max=furthest)
    steps = [(0.0, 0.0)] if front else []
    for tokens, accuracy in front:
        steps += [(tokens, steps[-1][1]), (tokens, accuracy)]
    plane.line([*steps[1:], (furthest, steps[-1][1])] if front else [], "ideal")
    _scatter(plane, points, lambda tokens: f"{tokens:,.0f} tokens per question")
    return plane.svg("Exact match against tokens per question")


def _scatter(plane: Plane, points: Sequence[tuple[str, float, float]], cost: Callable[[float], str]) -> None:
    """A dot for each place, with the names of all strategies there."""
    places: dict[tuple[float, float], list[str]] = {}
    for name, spent, accuracy in points:
        places.setdefault((round(spent, 2), round(accuracy, 2)), []).append(name)
    for number, ((spent, accuracy), names) in enumerate(places.items()):
        plane.dot(
            spent, accuracy, f"s{number % 6}", note=f"{', '.join(names)}: exact match {accuracy:.2f}, {cost(spent)}"
        )
    plane.labels([(*place, ", ".join(names)) for place, names in places.items()])


def reliability_diagram(bins: Sequence[tuple[float, float, int]]) -> Markup:
    """bins: (mean confidence, accuracy, count); the dot's area follows the count."""
    plane = Plane("confidence", "share right")
    plane.line([(0, 0), (1, 1)], "ideal")
    plane.line([(confidence, accuracy) for confidence, accuracy, _ in bins], "curve")
    most = max((count for *_, count in bins), default=1)
    for confidence, accuracy, count in bins:
        note = f"confidence {confidence:.2f}: {accuracy:.2f} right of {count}"
        plane.dot(confidence, accuracy, "s0", radius=round(3 + 6 * (count / most) ** 0.5, 1), note=note)
    return plane.svg("Reliability diagram")


def risk_coverage_curve(coverage: Sequence[float], risk: Sequence[float]) -> Markup:
    """Share wrong among the most confident, for each share that is answered."""
    plane = Plane("coverage (share answered, most confident first)", "risk (share wrong)")
    plane.line(list(zip(coverage, risk, strict=True)), "curve")
    return plane.svg("Risk against coverage")


def stacked_bars(rows: Sequence[tuple[str, Sequence[tuple[str, int]]]]) -> Markup:
    """rows: (name, parts); a part is (CSS class and word, count). Each bar fills the width."""
    height, label = 34, 72
    parts: list[Markup] = []
    for index, (name, counts) in enumerate(rows):
        y, total, x = index * height, sum(count for _, count in counts) or 1, float(label)
        parts.append(
            Markup('<text class="label" x="{}" y="{}" text-anchor="end">{}</text>').format(label - 8, y + 20, name)
        )
        for word, count in counts:
            width = round(count / total * (WIDTH - label), 1)
            note = f"{name}: {count} {word} ({count / total:.0%})"
            parts.append(
                Markup('<rect class="use {}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    word, round(x, 1), y + 3, width, height - 8, note
                )
            )
            if width > 9 * len(str(count)):
                parts.append(
                    Markup('<text class="inbar" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                        round(x + width / 2, 1), y + 20, count
                    )
                )
            x += width
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="Use of searches">{}</svg>').format(
        WIDTH, height * len(rows), Markup("").join(parts)
    )


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _six(low: float, high: float) -> list[Tick]:
    """Six ticks from end to end."""
    places = [low + i / 5 * (high - low) for i in range(6)]
    return [(place, _tick(place)) for place in places]


def _tick(value: float) -> str:
    return str(escape(f"{value:g}" if abs(value) >= 0.095 or value == 0 else f"{value:.2g}"))


def _nice(value: float) -> float:
    """At least `value`: the next of 1, 2, 5, 10, 20, … so that five ticks fall on round numbers."""
    size = 10.0 ** math.floor(math.log10(value))
    return next(step * size for step in (1, 2, 5, 10) if step * size >= value)


def _round_up(value: float) -> float:
    """The next multiple of a half, so that five ticks fall on round numbers."""
    return -(-value * 2 // 1) / 2
