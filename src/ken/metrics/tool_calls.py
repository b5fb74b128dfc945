"""Are the calls right? Measures of the calling stage (card 49, Metrics, 3)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Arguments = Mapping[str, Any]


def arguments_match(predicted: Arguments | None, gold: Arguments) -> bool:
    """Are the arguments the same? Texts are compared but for spaces around and between words, numbers by their value
    (12 is 12.0); None for a call that was not made."""
    return predicted is not None and _plain(predicted) == _plain(gold)


def arguments_f1(predicted: Arguments | None, gold: Arguments) -> float:
    """Harmonic mean of precision and recall of the (name, value) pairs, compared like `arguments_match`. In [0, 1]; two
    calls without arguments agree."""
    if predicted is None:
        return 0.0
    said, wanted = Counter(_plain(predicted).items()), Counter(_plain(gold).items())
    if not said and not wanted:
        return 1.0
    return 2 * (said & wanted).total() / (said.total() + wanted.total())


def valid_call_rate(problems: Sequence[str | None]) -> float:
    """Share of calls that reached their tool: neither unreadable, nor of an unknown tool, nor with arguments that do
    not fit. problems: of each try, None for one that worked. nan without any."""
    invalid = {"malformed", "unknown_tool", "bad_arguments"}
    return sum(problem not in invalid for problem in problems) / len(problems) if problems else float("nan")


def _plain(arguments: Arguments) -> dict[str, str]:
    return {name: _value(value) for name, value in arguments.items()}


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(" ".join(value.split()))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, sort_keys=True)
