"""What of a tool's result is shown: trimmed by the schema of what it returns, then cut (card 49, Stage 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ken.sources.tools.tool import cut


def trimmed(text: str, returns: Mapping[str, Any] | None, characters: int = 2000) -> str:
    """The result without what does not matter, at most `characters` long.

    returns: the JSON schema of the tool's result, whose `required` properties are what matters; one alone is shown as
    its bare value. A result that is no such object is only cut.

    >>> trimmed('{"city": "Sines", "record": 418}', {"required": ["city"]})
    'Sines'
    """
    given = _matters(text, returns)
    if given is None:
        return cut(text.strip(), characters)
    values = list(given.values())
    return cut(_plain(values[0]) if len(values) == 1 else json.dumps(given, ensure_ascii=False), characters)


def value_of(text: str, returns: Mapping[str, Any] | None, characters: int = 300) -> str:
    """What stands for the result where another call needs it: the first value that matters, else the text."""
    given = _matters(text, returns)
    return cut(" ".join((text if given is None else _plain(next(iter(given.values())))).split()), characters)


def _matters(text: str, returns: Mapping[str, Any] | None) -> dict[str, Any] | None:
    wanted = (returns or {}).get("required")
    if not isinstance(wanted, list) or not wanted:
        return None
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or not all(name in given for name in wanted):
        return None
    return {name: given[name] for name in wanted}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
