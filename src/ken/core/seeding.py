"""Seeds that depend on what is drawn and not on the order of drawing."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from `parts` (their `str`), stable across processes, machines and Python versions.

    Concurrent work finishes in any order; seeding each draw by *what* it is for makes results independent of that
    order.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
