"""Labels that are all equal: a constant verdict is then perfect, and there is nothing to learn (card 01, Bad input)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class DegenerateLabels(UserWarning):
    """All labels of a stage are equal: there is nothing to learn from them."""


def all_equal(what: str, label: bool, tau: float) -> str:
    """The sentence to warn with. what: the labels, such as "all 64 labels"."""
    said = "yes" if label else "no"
    return (
        f"{what} are {said!r} at tau = {tau}, so a constant verdict is perfect; choose another tau, or questions of "
        "which the model knows some and not others"
    )


def _warn(problem: str) -> None:
    warnings.warn(problem, DegenerateLabels, stacklevel=4)


@dataclass(slots=True)
class EqualLabels:
    """Watches labels that are made on the way, a batch at a time, where no stage before could have looked at them.

    batches, labels: so many in a row that are all equal are degenerate; both are needed, so that neither one large
    batch nor a few of a single question are an alarm. say: told so, once until labels differ again; by default a
    warning, `DegenerateLabels`.
    """

    batches: int = 10
    labels: int = 100
    say: Callable[[str], None] = _warn
    _label: bool | None = None
    _batches: int = 0
    _labels: int = 0
    _said: bool = False

    def see(self, labels: Iterable[bool | None], tau: float) -> None:
        """Take the labels of one batch, made at the threshold `tau`; None is no label."""
        known = [label for label in labels if label is not None]
        if not known:
            return
        if {*known, self._label} != {known[0]}:
            self._label, self._batches, self._labels, self._said = known[0], 0, 0, False
        if len(set(known)) > 1:
            return
        self._batches += 1
        self._labels += len(known)
        if not self._said and self._batches >= self.batches and self._labels >= self.labels:
            self._said = True
            what = f"the verdicts cannot be learnt: the last {self._labels:,} labels, of {self._batches} batches,"
            self.say(all_equal(what, known[0], tau))
