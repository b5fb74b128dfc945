"""Is the policy collapsing? Search agents trained with GRPO are known to (Search-R1 issues 89 and 186).

Each monitor watches one statistic of a step; when it stays beyond its threshold for `patience` steps, it warns, or
stops the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Monitor:
    """One statistic and its bounds; a bound that is None is not watched. problem: what to tell the user."""

    statistic: str
    problem: str
    low: float | None = None
    high: float | None = None
    patience: int = 10
    action: Literal["warn", "stop"] = "warn"

    def beyond(self, value: float) -> bool:
        """Whether the value is outside of the bounds; NaN is."""
        return (
            math.isnan(value)
            or (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
        )


# Shares are of the rollouts (or groups) of one step. The thresholds are chosen to be far from any healthy run: an
# untrained lab policy has an entropy above 0.1 nats a token, formats nearly always right, mixed decisions.
DEFAULTS: tuple[Monitor, ...] = (
    Monitor("entropy", "the policy has become deterministic, so that groups no longer differ", low=0.01),
    Monitor("kl", "the policy has run away from the model it started from; raise kl or lower lr", high=1.0, patience=5),
    Monitor("format", "most rollouts break the format, so that rewards say little else", low=0.3),
    Monitor("truncated", "most rollouts are cut at max_tokens: they grow without end", high=0.5),
    Monitor("reward_std", "all rollouts of a step earn the same: there is nothing left to learn", low=1e-6),
    Monitor("zero_variance", "nearly all groups score alike, so that the batch carries almost no signal", high=0.98),
    Monitor("one_decision", "nearly all decisions are the same: the policy no longer looks at the question", high=0.98),
)

# For trainings that filter groups by right answers (TAPO): not an endless loop, but an alarm.
STARVED = Monitor(
    "filled_up", "hardly any group has both right and wrong rollouts, so unfiltered ones fill the batch", high=0.5
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A monitor that fired: at which step, with which value."""

    monitor: Monitor
    step: int
    value: float

    def __str__(self) -> str:
        bound = (
            f"below {self.monitor.low:g}"
            if self.monitor.low is not None and not (self.value > self.monitor.low)
            else f"above {self.monitor.high:g}"
        )
        return (
            f"step {self.step}: {self.monitor.statistic} = {self.value:.4g}, {bound} for {self.monitor.patience} "
            f"steps: {self.monitor.problem}"
        )


@dataclass(slots=True)
class Watch:
    """Monitors at work. An alarm is given once, and again only after the statistic was healthy in between."""

    monitors: Sequence[Monitor] = DEFAULTS
    streaks: dict[str, int] = field(default_factory=dict)

    def see(self, step: int, statistics: Mapping[str, float]) -> list[Alarm]:
        """Take the statistics of one step; those a step does not have are left as they were."""
        alarms = []
        for monitor in self.monitors:
            value = statistics.get(monitor.statistic)
            if value is None:
                continue
            streak = self.streaks.get(monitor.statistic, 0) + 1 if monitor.beyond(value) else 0
            self.streaks[monitor.statistic] = streak
            if streak == monitor.patience:
                alarms.append(Alarm(monitor, step, value))
        return alarms
