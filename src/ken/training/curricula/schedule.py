"""When to make it harder: one level up as soon as the recent accuracy passes a threshold (Wiki-R1, scheduler)."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ken.core import BadInput


class StuckCurriculum(UserWarning):
    """Training ended before the curriculum reached its last level."""


@dataclass(frozen=True, slots=True)
class LevelChange:
    """At `step` the mean accuracy of the window was `accuracy`, so from then on `level` is trained."""

    step: int
    level: int
    accuracy: float


class GapScheduler:
    """Levels 0 … `levels` (G); one up when the mean of the last `window` accuracies exceeds `threshold` (τ).

    One accuracy per question and step: the mean reward of its rollouts (with 32 questions a step, about 9 steps fill
    the window of 300). A window that is not full decides nothing. On a rise it is cleared, and so are the accuracies
    still to come of that step: they belong to the level that was left.

    Raises `BadInput` for τ outside (0, 1), G < 1, or a window < 1.
    """

    def __init__(self, *, window: int = 300, threshold: float = 0.55, levels: int = 6) -> None:
        if window < 1:
            raise BadInput(f"the window is {window}; it must hold at least one accuracy")
        if not 0 < threshold < 1:
            raise BadInput(
                f"the threshold of the curriculum is {threshold}; it must lie between 0 and 1, both excluded"
            )
        if levels < 1:
            raise BadInput(f"the curriculum has {levels} levels above the first; it needs at least one")
        self.window, self.threshold, self.levels = window, threshold, levels
        self.level = 0
        self.changes: list[LevelChange] = []
        self._recent: deque[float] = deque(maxlen=window)

    @property
    def accuracy(self) -> float | None:
        """Mean of what is in the window, or None while it is empty."""
        return math.fsum(self._recent) / len(self._recent) if self._recent else None

    def observe(self, step: int, accuracies: Iterable[float]) -> bool:
        """Take in the accuracies of a step, in order; True when the level rose: forget what was observed below it.

        Raises `BadInput` for an accuracy outside [0, 1].
        """
        for value in accuracies:
            if not 0 <= value <= 1:
                raise BadInput(f"an accuracy of {value} was observed; it must lie in [0, 1]")
            self._recent.append(float(value))
            mean = math.fsum(self._recent) / len(self._recent)
            if self.level < self.levels and len(self._recent) == self.window and mean > self.threshold:
                self.level += 1
                self.changes.append(LevelChange(step, self.level, mean))
                self._recent.clear()
                return True
        return False

    def finish(self) -> None:
        """To be called when training ends; warns with `StuckCurriculum` when the last level was never reached."""
        if self.level < self.levels:
            seen = "nothing was observed" if self.accuracy is None else f"accuracy there is {self.accuracy:.2f}"
            warnings.warn(
                f"training ends at gap level {self.level} of {self.levels} ({seen}, the threshold {self.threshold}), "
                "so real retrieval was never trained; train longer, or lower the threshold or the window",
                StuckCurriculum,
                stacklevel=2,
            )

    def state(self) -> dict[str, Any]:
        """Level, window and level changes, as JSON."""
        return {"level": self.level, "recent": list(self._recent), "changes": [asdict(c) for c in self.changes]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises `BadInput` when it is that of a longer curriculum."""
        if not 0 <= state["level"] <= self.levels or len(state["recent"]) > self.window:
            raise BadInput(
                f"the saved curriculum is at level {state['level']} with {len(state['recent'])} accuracies, this one "
                f"has {self.levels} levels and a window of {self.window}; resume with the settings it was started with"
            )
        self.level = int(state["level"])
        self._recent = deque(map(float, state["recent"]), maxlen=self.window)
        self.changes = [LevelChange(**change) for change in state["changes"]]
