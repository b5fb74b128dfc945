"""The report's charts as inline SVG: no script, no font, no network, readable in light and dark.

Own code rather than a plotting library: four small charts do not weigh a dependency of the base install. Colours are
CSS classes of the report's template; every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44
LETTER = 7.3  # width of a letter of a label, roughly: what a wide font takes
LONGEST = 34  # letters of a name beside a bar
NUMBERED = 24  # letters of a label, beyond which points have numbers and their names stand below

Tick = tuple[float, str]
"""A place on an axis, and what is written there."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""


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
        self._lines: list[Box] = []
        self._spots: list[Box] = []
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
        """A polyline through data points; `style` is a CSS class. Labels keep off where it goes straight."""
        places = [(self.x(a), self.y(b)) for a, b in points]
        self._lines += [
            (min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1)
            for (a, b), (c, d) in pairwise(places)
            if a == c or b == d
        ]
        path = " ".join(f"{self.x(a)},{self.y(b)}" for a, b in points)
        self.parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, path))

    def dot(self, a: float, b: float, style: str, *, radius: float = 5, note: str = "") -> None:
        """A point with a note shown on hover."""
        x, y = self.x(a), self.y(b)
        self._spots.append((x - radius - 2, y - radius - 2, x + radius + 2, y + radius + 2))
        self.parts.append(
            Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
                style, x, y, radius, note
            )
        )

    def labels(self, labels: Sequence[tuple[float, float, str]]) -> None:
        """Words beside points: (x, y, text) in data units. One that would cover another, a point or a line gives way;
        from one that has to go far, a thin line leads to its point."""
        for (x, y), (box, _), (_, _, text) in zip(self._dots(labels), self._places(labels), labels, strict=True):
            after = box[0] > x
            at = box[0] if after else box[2]
            middle = (box[1] + box[3]) / 2
            if abs(middle - y) > 20:
                self.parts.append(
                    Markup('<line class="leader" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                        x, y, round(at + (-2 if after else 2), 1), round(middle, 1)
                    )
                )
            self.parts.append(
                Markup('<text class="label" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                    round(at, 1), round(box[1] + 12, 1), "start" if after else "end", text
                )
            )

    def has_room(self, labels: Sequence[tuple[float, float, str]]) -> bool:
        """Whether all of `labels` find a place near their points, where they cover nothing."""
        places = zip(self._places(labels), self._dots(labels), strict=True)
        return all(free and abs((box[1] + box[3]) / 2 - y) <= 64 for (box, free), (_, y) in places)

    def heaps(self, labels: Sequence[tuple[float, float, str]]) -> list[list[tuple[float, float, str]]]:
        """Labels in heaps whose dots touch each other: of those, nobody could say whose number is whose."""
        heaps: list[list[tuple[float, float, str]]] = []
        for label in labels:
            x, y = self.x(label[0]), self.y(label[1])
            near = [h for h in heaps if any(math.hypot(self.x(a) - x, self.y(b) - y) < 11 for a, b, _ in h)]
            kept = [h for h in heaps if h not in near]
            heaps = [*kept, [member for heap in near for member in heap] + [label]]
        return sorted(heaps, key=lambda heap: labels.index(heap[0]))

    def _dots(self, labels: Sequence[tuple[float, float, str]]) -> list[tuple[float, float]]:
        return [(self.x(a), self.y(b)) for a, b, _ in labels]

    def _places(self, labels: Sequence[tuple[float, float, str]]) -> list[tuple[Box, bool]]:
        """A box for each label, the nearest to its point that is free; and whether there was one."""
        dots, found = self._dots(labels), list[tuple[Box, bool]]()
        taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in dots] + self._spots + self._lines
        for (x, y), (_, _, text) in zip(dots, labels, strict=True):
            width = LETTER * len(text)
            boxes = [
                (left, y + shift - 8, left + width, y + shift + 8)
                for shift in (0, *(side * step for step in range(15, int(self.height), 15) for side in (-1, 1)))
                for gap in ((9,) if abs(shift) <= 30 else (9, 24, 48))
                for left in (x + gap, x - gap - width)
            ]
            inside = [
                b
                for b in boxes
                if b[0] > self.left and b[2] < self.width and b[1] > 0 and b[3] < self.height - self.bottom
            ]
            free = [b for b in inside if not any(_overlap(b, other) for other in taken)]
            found.append(((free or inside or boxes)[0], bool(free)))
            taken.append(found[-1][0])
        return found

    def svg(self, title: str) -> Markup:
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, title, Markup("").join(self.parts)
        )


def accuracy_against_lookups(points: Sequence[tuple[str, float, float]], *, word: str = "searches") -> Markup:
    """points: (strategy, mean lookups per question, accuracy in [0, 1]). word: what they are."""
    furthest = max([1.0, *(lookups for _, lookups, _ in points)])
    plane = Plane(f"{word} per question", "exact match", x_max=_round_up(furthest))
    title = f"Exact match against {word} per question"
    return _scatter(plane, points, title, lambda lookups: f"{lookups:.2f} {word} per question")


def accuracy_against_tokens(points: Sequence[tuple[str, float, float]], front: Sequence[tuple[float, float]]) -> Markup:
    """points: (strategy, mean tokens per question, accuracy in [0, 1]). front: (tokens, accuracy) of those that none
    beats, the cheapest first; drawn as the steps below which a strategy is beaten."""
    furthest = _nice(max([1.0, *(tokens for _, tokens, _ in points)]))
    plane = Plane("tokens per question", "exact match", x_max=furthest)
    steps = [(0.0, 0.0)] if front else []
    for tokens, accuracy in front:
        steps += [(tokens, steps[-1][1]), (tokens, accuracy)]
    plane.line([*steps[1:], (furthest, steps[-1][1])] if front else [], "ideal")
    title = "Exact match against tokens per question"
    return _scatter(plane, points, title, lambda tokens: f"{tokens:,.0f} tokens per question")


def _scatter(
    plane: Plane, points: Sequence[tuple[str, float, float]], title: str, cost: Callable[[float], str]
) -> Markup:
    """The drawing: a dot for each place, with the names of all strategies there. Where the names find no room beside
    the dots, these have numbers, dots that touch each other one together, and a list below says whose they are."""
    places: dict[tuple[float, float], list[str]] = {}
    for name, spent, accuracy in points:
        places.setdefault((round(spent, 2), round(accuracy, 2)), []).append(name)
    labels = [(*place, ", ".join(names)) for place, names in places.items()]
    numbered = any(len(text) > NUMBERED for *_, text in labels) or not plane.has_room(labels)
    for number, (spent, accuracy, names) in enumerate(labels):
        note = f"{names}: exact match {accuracy:.2f}, {cost(spent)}"
        plane.dot(spent, accuracy, "s0" if numbered else f"s{number % 6}", note=note)
    if not numbered:
        plane.labels(labels)
        return plane.svg(title)
    heaps = plane.heaps(labels)
    plane.labels([(*heap[0][:2], str(number)) for number, heap in enumerate(heaps, 1)])
    items = Markup("").join(Markup("<li>{}</li>").format(", ".join(names for *_, names in heap)) for heap in heaps)
    return Markup('{}<ol class="points">{}</ol>').format(plane.svg(title), items)


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
    height = 30
    shown = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name, _ in rows]
    label = 10 + LETTER * max(map(len, shown), default=0)
    parts: list[Markup] = []
    for index, (name, counts) in enumerate(rows):
        y, total, x = index * height, sum(count for _, count in counts) or 1, float(label)
        parts.append(
            Markup('<text class="label" x="{}" y="{}" text-anchor="end">{}</text>').format(
                round(label - 8, 1), y + 19, shown[index]
            )
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
                    Markup('<text class="inbar {}" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                        word, round(x + width / 2, 1), y + 19, count
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
