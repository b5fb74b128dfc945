"""Settings of a claim check that a user changes: for a probe, a sweep, a larger machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from ken.core import BadInput
from ken.core.frozen import Frozen

Config = TypeVar("Config", bound=Frozen)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with the values of `changes`, by the setting's name; a dot leads into settings within settings:
    `{"lr": 1e-4, "base.world.seed": 1}`.

    Raises `BadInput` for a name that there is not, and a value that the setting does not take.
    """
    values = config.model_dump()
    for name, value in changes.items():
        *way, last = name.split(".")
        place: Any = values
        for step in way:
            place = place.get(step) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            known = place if isinstance(place, dict) else values
            raise BadInput(f"there is no setting {name!r}; the settings are {', '.join(known)}")
        place[last] = value
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the settings"
        raise BadInput(f"{name} cannot be {first['input']!r}: {first['msg'].lower()}") from error


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """What was typed as KEY=VALUE: JSON where it is that (`0.1`, `true`, `[1, 2]`), else text. `BadInput` without =."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadInput(f"--set {text} is not KEY=VALUE, such as --set lr=1e-4")
        try:
            changes[name.strip()] = json.loads(value)
        except ValueError:
            changes[name.strip()] = value
    return changes


def mark(changes: Mapping[str, Any]) -> str:
    """A short name of these changes, for files: the same whatever their order."""
    return hashlib.blake2b(json.dumps(changes, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()
