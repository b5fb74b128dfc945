"""What happens during an attempt, told as it happens: for a page or a client that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ken.core import Step


class Watch:
    """Told about one attempt; derive from it and override what matters. Called on the loop that runs the attempt, and
    soon waited for: it must not block."""

    def turn(self) -> None:
        """The model begins to write."""

    def wrote(self, text: str) -> None:
        """The model wrote this, next. In pieces from models that stream, else all of a turn at once."""

    def retracted(self) -> None:
        """What the model wrote in its last turn is thrown away."""

    def noted(self, step: Step) -> None:
        """A step was added to the record."""


class WatchedSteps(list[Step]):
    """A list of steps that says what is appended."""

    def __init__(self, noted: Callable[[Step], None]) -> None:
        super().__init__()
        self._noted = noted

    def append(self, step: Step) -> None:
        super().append(step)
        self._noted(step)

    def extend(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.append(step)
