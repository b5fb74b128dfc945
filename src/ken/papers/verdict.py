"""From what the arms measured to a verdict on each claim."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

from ken.core.frozen import Frozen
from ken.metrics.statistics import Interval, over_seeds
from ken.papers.paper import Arms, Claim, Kind

Verdict = Literal["holds", "fails", "inconclusive"]

LEVEL = 0.95


class Judged(Frozen):
    """A claim with what was found.

    value: mean over seeds of what must reach the margin; None when some seed lacks it. interval: see `mean_interval`;
    None for fewer than two seeds. verdict: None where nothing was to be judged (a smoke run).
    """

    text: str
    kind: Kind
    margin: float
    value: float | None
    interval: tuple[float, float] | None
    verdict: Verdict | None
    note: str


def judge(claim: Claim, seeds: Mapping[int, Arms], *, arms: Collection[str] = ()) -> Judged:
    """The verdict over what the arms measured, by seed. arms: the names of all that could have run.

    holds: the whole interval of the mean reaches the margin (low ≥ margin). fails: all of it stays below
    (high < margin). inconclusive: the interval straddles the margin, or there is none: fewer than two seeds, or a seed
    on which the claim cannot be measured. The cards state their margins for the mean over seeds, so the note says also
    whether the mean alone meets the margin.

    Raises `KeyError` for a claim that asks for an arm or a metric that does not exist: a mistake in the row.
    """
    values: list[float] = []
    gaps: dict[str, list[str]] = {}  # why the claim cannot be measured, and on which seeds
    for seed, measured in seeds.items():
        try:
            value = float(claim.measure(_Measured(measured, arms)))
            gap = "" if math.isfinite(value) else "it is undefined"
        except _NotRun as missing:
            gap = f"arm {missing.args[0]} has no result"
        except (ArithmeticError, ValueError) as problem:
            gap = f"it cannot be computed ({problem})"
        except KeyError as defect:
            defect.add_note(f"asked for by the claim {claim.text!r}")
            raise
        if gap:
            gaps.setdefault(gap, []).append(str(seed))
        else:
            values.append(value)
    mean = over_seeds(values).mean if values and not gaps else None
    interval = mean_interval(values) if mean is not None and len(values) > 1 else None
    found = [f"{gap} on seed {', '.join(where)}" for gap, where in gaps.items()]
    if not gaps:
        found = [_of_the_mean(values, claim.margin)] if values else ["no seed was run"]
    return Judged(
        text=claim.text,
        kind=claim.kind,
        margin=claim.margin,
        value=mean,
        interval=(interval.low, interval.high) if interval else None,
        verdict=_verdict(interval, claim.margin),
        note="; ".join(part for part in (claim.note, *found) if part),
    )


def mean_interval(values: list[float], level: float = LEVEL) -> Interval:
    """Student's t interval of the mean over n ≥ 2 seeds: mean ± t(n − 1) · s / √n. `ValueError` for a single value.

    Seeds differ in world, training and questions at once, so the interval covers all three. With 3 seeds t is 4.30: a
    verdict then needs an effect well clear of its spread.
    """
    spread = over_seeds(values)
    if spread.std is None:
        raise ValueError("one value has no spread; run at least two seeds")
    half = student_t(spread.n - 1, level) * spread.std / math.sqrt(spread.n)
    return Interval(spread.mean - half, spread.mean + half, level, spread.mean)


def student_t(df: int, level: float = LEVEL) -> float:
    """The t with P(|T| ≤ t) = level for T of `df` ≥ 1 degrees of freedom.

    The probability is a finite sum in θ = atan(t / √df) (Abramowitz & Stegun 26.7.3 and 26.7.4), inverted by bisection.
    Raises `ValueError` for df < 1 or a level outside (0, 1).
    """
    if df < 1 or not 0 < level < 1:
        raise ValueError(f"df is {df} and level {level}; df must be at least 1 and level between 0 and 1")
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < level else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _within(theta: float, df: int) -> float:
    """P(|T| ≤ t) for t = √df · tan θ."""
    sine, square = math.sin(theta), math.cos(theta) ** 2
    if df % 2:
        term, total = math.cos(theta), 0.0
        for k in range(1, df, 2):  # cos θ, 2/3 cos³ θ, 2·4/(3·5) cos⁵ θ, …
            total += term
            term *= square * (k + 1) / (k + 2)
        return (theta + sine * total) * 2 / math.pi
    term, total = 1.0, 0.0
    for k in range(0, df, 2):  # 1, 1/2 cos² θ, 1·3/(2·4) cos⁴ θ, …
        total += term
        term *= square * (k + 1) / (k + 2)
    return sine * total


def _verdict(interval: Interval | None, margin: float) -> Verdict:
    if interval is None or interval.low < margin <= interval.high:
        return "inconclusive"
    return "holds" if interval.low >= margin else "fails"


def _of_the_mean(values: list[float], margin: float) -> str:
    met = "meets" if over_seeds(values).mean >= margin else "misses"
    return f"the mean of {len(values)} seeds {met} the margin" if len(values) > 1 else f"its one seed {met} the margin"


class _NotRun(Exception):
    """The arm, named in the first argument, has no result."""


class _Measured(dict[str, Mapping[str, Any]]):
    """What the arms of a seed measured; tells an arm that has not run from one that does not exist."""

    def __init__(self, measured: Arms, known: Collection[str]) -> None:
        super().__init__(measured)
        self.known = known

    def __missing__(self, arm: str) -> Mapping[str, Any]:
        raise _NotRun(arm) if arm in self.known else KeyError(arm)
