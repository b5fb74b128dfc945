"""The JSON object in a model's reply, whatever stands around it."""

from __future__ import annotations

import json
from typing import Any

_DECODER = json.JSONDecoder()


def json_object(text: str) -> dict[str, Any] | None:
    """The last complete JSON object of a reply (models think aloud first), or None. Never raises.

    >>> json_object('Well {"label": 0} or rather {"label": 1, "confidence": 7}.')
    {'label': 1, 'confidence': 7}

    White space around keys is dropped: tokenizers that split at quotes write it.
    """
    found, start = None, text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found = value  # starting at a brace, it is an object
        start = text.find("{", end)
    return None if found is None else {key.strip(): value for key, value in found.items()}
