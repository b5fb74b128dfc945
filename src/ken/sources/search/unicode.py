"""Text that cannot be written as UTF-8.

Python strings can hold lone surrogates (from `"\\ud800"` in JSON, or from bytes of a command line that are not UTF-8);
no engine, file or network can.
"""

from __future__ import annotations


def is_well_formed(text: str) -> bool:
    """Whether `text` can be written as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def well_formed(text: str) -> str:
    """`text` with lone surrogates replaced by question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()
