"""The plots of papers and runs: the report's plane, with intervals over seeds and with curves over steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ken.auditing.charts import TOP, Plane, Tick
from ken.metrics.statistics import bootstrap_mean

Point = tuple[float, float]

COLOURS = 6  # that papers.css has, s0 to s5 for areas and l0 to l5 for lines
CROWD = 4  # curves of a plot, beyond which their bands and their noise would hide each other
POINTS = 500  # of a curve, at most


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a plot. points: (step, value) in order of steps; where a value is not finite, the line has a gap.
    low, high: of a band around it, for each point, or neither. colour: its number, so that one name keeps one colour in
    many plots; None: by its place among the others."""

    name: str
    points: Sequence[Point]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: int | None = None


def over_seeds_plot(metric: str, arms: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    """arms: (name, values by seed). A row an arm: every seed a ring, their mean a dot, and the 95% bootstrap interval
    of the mean where there is more than one seed."""
    shown = [(name, [v for v in values if math.isfinite(v)]) for name, values in arms]
    everything = [v for _, values in shown for v in values]
    low, high, ticks = axis(everything, zero=bool(everything) and min(everything) >= 0 and max(everything) <= 1)
    rows = len(shown)
    plane = Plane(
        "",
        "",
        x_min=low - (high - low) * 0.03,  # a dot at the end does not touch the names
        x_max=high,
        y_min=-0.6,
        y_max=rows - 0.4,
        width=360,
        height=TOP + 26 * rows + 28,
        left=14 + 6.6 * max((len(name) for name, _ in shown), default=0),
        bottom=28,
        x_ticks=ticks,
        y_ticks=[(rows - 1 - i, name) for i, (name, _) in enumerate(shown)],
    )
    for i, (name, values) in enumerate(shown):
        y = rows - 1 - i
        if not values:
            continue
        mean = sum(values) / len(values)
        note = f"{name}: {metric} {mean:.3f}"
        if len(values) > 1:
            interval = bootstrap_mean(values)
            plane.line([(interval.low, y), (interval.high, y)], "interval")
            note += f", {interval.low:.3f} to {interval.high:.3f} (seeds {', '.join(f'{v:.3f}' for v in values)})"
            for value in values:
                plane.dot(value, y, "ring", radius=4, note=note)
        plane.dot(mean, y, "s0", radius=4.5, note=note)
    return plane.svg(f"{metric} of {rows} arms: mean over seeds with its 95% interval")


def strip(value: float | None, interval: tuple[float, float] | None, margin: float) -> Markup:
    """A claim in one line: its interval, its value, and the margin that it must reach."""
    places = [place for place in (value, margin, *(interval or ())) if place is not None and math.isfinite(place)]
    if value is None or not math.isfinite(value):
        return Markup("")
    low, high = min(places), max(places)
    room = (high - low) * 0.08 or 1.0
    width, height = 150, 22

    def x(place: float) -> float:
        return float(round((place - low + room) / (high - low + 2 * room) * width, 1))

    parts = [
        Markup('<rect class="wanted" x="{}" y="0" width="{}" height="{}"/>').format(
            x(margin), round(width - x(margin), 1), height
        ),
        Markup('<line class="margin" x1="{0}" y1="0" x2="{0}" y2="{1}"/>').format(x(margin), height),
    ]
    if interval is not None:
        parts.append(
            Markup('<line class="interval" x1="{}" y1="11" x2="{}" y2="11"/>').format(x(interval[0]), x(interval[1]))
        )
    parts.append(Markup('<circle class="s0" cx="{}" cy="11" r="4"/>').format(x(value)))
    where = f"95% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else "no interval"
    label = f"{value:.3f}, {where}, wanted at least {margin:g}"
    return Markup('<svg class="strip" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, label, Markup("").join(parts)
    )


def curves_plot(name: str, curves: Sequence[Curve], *, x_title: str = "step", small: bool = True) -> Markup:
    """Curves over steps. The first six have colours of their own, the next the same, dashed."""
    thinned = [_thin_curve(curve) for curve in curves]
    steps = [x for c in thinned for x, _ in c.points]
    values = [v for c in thinned for v in (*(y for _, y in c.points), *c.low, *c.high)]
    y_low, y_high, y_ticks = axis(values, count=4)
    x_low, x_high = (min(steps), max(steps)) if steps else (0.0, 1.0)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    plane = Plane(
        x_title,
        "",
        x_min=x_low,
        x_max=x_high,
        y_min=y_low,
        y_max=y_high,
        width=290 if small else 370,
        height=(170 if small else 235) - (0 if x_title else 16),
        bottom=44 if x_title else 28,
        x_ticks=[(t, text) for t, text in ticks_between(x_low, x_high, 4) if float(t).is_integer()],
        y_ticks=y_ticks,
    )
    for place, curve in enumerate(thinned):
        number = place if curve.colour is None else curve.colour
        colour = number % COLOURS
        if curve.low:
            outline = [(x, v) for (x, _), v in zip(curve.points, curve.low, strict=True)]
            outline += [(x, v) for (x, _), v in reversed(list(zip(curve.points, curve.high, strict=True)))]
            plane.line([point for point in outline if math.isfinite(point[1])], f"band b{colour}")
        for piece in _pieces(curve.points):
            if len(piece) == 1:
                plane.dot(*piece[0], f"s{colour}", radius=2.5, note=f"{curve.name} {piece[0][1]:.4g}")
            else:
                plane.line(piece, f"l{colour} dashed" if number >= COLOURS else f"l{colour}")
    last = ", ".join(
        f"{curve.name} {finite[-1]:.3g}" for curve in curves if (finite := [v for _, v in curve.points if _finite(v)])
    )
    return plane.svg(f"{name}: {last} at the end" if last else f"{name}: no values")


def curves_over_seeds(measured: Mapping[str, Sequence[Mapping[str, object]]]) -> dict[str, list[Curve]]:
    """By metric, a curve an arm: the mean over seeds at every step, in a band from the lowest to the highest, as far as
    all seeds go. measured: by arm, what each seed measured; metrics that are no curves are left out."""
    found: dict[str, list[Curve]] = {}
    for arm, seeds in measured.items():
        for metric in dict.fromkeys(name for metrics in seeds for name in metrics):
            curves = [c for metrics in seeds if isinstance(c := metrics.get(metric), tuple) and len(c) > 1]
            columns = list(zip(*curves, strict=False))
            points = [(float(i + 1), sum(column) / len(column)) for i, column in enumerate(columns)]
            band = ([min(c) for c in columns], [max(c) for c in columns]) if len(curves) > 1 else ((), ())
            if points:
                found.setdefault(metric, []).append(Curve(arm, points, *band))
    return found


def uncrowded(curves: Sequence[Curve]) -> tuple[list[Curve], int]:
    """Curves that can be told from each other: of more than `CROWD`, running means without bands. Beside them over how
    many points the means run; 0 where all is as it was measured."""
    if len(curves) <= CROWD:
        return list(curves), 0
    reach = max(1, max(len(curve.points) for curve in curves) // 40)
    return [Curve(c.name, running_mean(c.points, reach), colour=c.colour) for c in curves], 2 * reach + 1


def running_mean(points: Sequence[Point], reach: int) -> list[Point]:
    """Of every point the mean with up to `reach` finite ones on each side; a point that is not finite stays so."""
    means = []
    for i, (x, value) in enumerate(points):
        near = [v for _, v in points[max(0, i - reach) : i + reach + 1] if _finite(v)]
        means.append((x, sum(near) / len(near) if _finite(value) else math.nan))
    return means


def spark(name: str, points: Sequence[Point]) -> Markup:
    """A curve without axes, for a line of a list."""
    shown = [(x, y) for x, y in thin(points, 80) if _finite(y)]
    if len(shown) < 2:
        return Markup("")
    (x_low, x_high), values = (shown[0][0], shown[-1][0]), [y for _, y in shown]
    low, high = min(values), max(values)
    reach = high - low or 1.0
    path = " ".join(
        f"{round((x - x_low) / (x_high - x_low) * 116 + 2, 1)},{round(26 - (y - low) / reach * 24, 1)}"
        for x, y in shown
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 120 28" role="img" aria-label="{}"><polyline class="l0" points="{}"/></svg>'
    ).format(f"{name} from {values[0]:.3g} to {values[-1]:.3g}", path)


def thin(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most `most` points that look like all of them: the first, the last, and of equal runs between them the lowest
    and the highest, so that no spike is lost. A run without a finite value leaves a gap."""
    if len(points) <= most:
        return list(points)
    runs = max(1, (most - 2) // 2)
    inner, kept = points[1:-1], [points[0]]
    for i in range(runs):
        run = inner[i * len(inner) // runs : (i + 1) * len(inner) // runs]
        finite = [place for place, (_, value) in enumerate(run) if _finite(value)]
        if finite:
            low = min(finite, key=lambda place: run[place][1])
            high = max(finite, key=lambda place: run[place][1])
            kept += [run[place] for place in sorted({low, high})]
        elif run:
            kept.append(run[0])
    return [*kept, points[-1]]


def axis(values: Iterable[float], *, count: int = 5, zero: bool = False) -> tuple[float, float, list[Tick]]:
    """The ends of an axis that shows `values`, on round numbers, and its ticks. zero: begin at 0."""
    finite = [v for v in values if _finite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if zero:
        low = min(low, 0.0)
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        reach = abs(low) * 0.1
        low, high = (low - reach, high + reach) if reach else (0.0, 1.0)
    step = _round_step((high - low) / count)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high, ticks_between(low, high, count)


def ticks_between(low: float, high: float, count: int) -> list[Tick]:
    """About `count` round numbers between both."""
    step = _round_step((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    places = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(place, f"{place:.6g}" if abs(place) > step * 1e-6 else "0") for place in places]


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 5, 10 times a power of ten that is no less than `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _thin_curve(curve: Curve) -> Curve:
    if curve.low:  # bands are those of short curves, whose points are as many as their edges
        return curve
    return Curve(curve.name, thin(curve.points), colour=curve.colour)


def _pieces(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The stretches of finite values."""
    piece: list[Point] = []
    for point in points:
        if _finite(point[1]):
            piece.append(point)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _finite(value: float) -> bool:
    """Whether it can be drawn: finite, and far from the end of what a float can hold."""
    return abs(value) < 1e300  # false for nan
