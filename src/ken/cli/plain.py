"""Text of documents and models on the terminal: shown, never obeyed."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])|\x9b[0-?]*[ -/]*[@-~]")
_BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # they can show text in another order than it has


def plain(text: str) -> str:
    """`text` without terminal escapes, control characters (line breaks and tabs stay) and direction overrides."""
    text = _BIDI.sub("", _ESCAPE.sub("", text))
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
