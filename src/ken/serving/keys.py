"""API keys: how they are compared, and the cookie by which a browser stays logged in."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence

from ken.core import BadInput

SHORTEST = 8  # characters
COOKIE = "ken_session"
COOKIE_SECONDS = 7 * 24 * 3600


class Keys:
    """The keys that open a server; with none of them it is open to whoever can reach it.

    Raises `BadInput` for a key that is too short to be one or that no header can carry.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        for key in keys:
            if len(key) < SHORTEST or not all("!" <= character <= "~" for character in key):
                raise BadInput(
                    f"an API key has at least {SHORTEST} characters, none of them a space; `openssl rand -hex 24` "
                    "makes a good one"
                )
        self._keys = tuple(dict.fromkeys(keys))
        self._digests = [_digest(key) for key in self._keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, given: str) -> int | None:
        """Which key this is, counted from 1; None for none of them. Takes as long for a wrong key as for a right one,
        whatever its length."""
        digest, found = _digest(given), None
        for number, known in enumerate(self._digests, start=1):
            if hmac.compare_digest(digest, known):
                found = number
        return found

    def of_bearer(self, header: str) -> int | None:
        """The key of an `Authorization` header."""
        scheme, _, key = header.partition(" ")
        return self.find(key.strip()) if scheme.lower() == "bearer" else None

    def cookie(self, number: int, *, now: float | None = None) -> str:
        """A cookie for whoever gave key `number`: when it ends, and a signature by that key. It holds no secret that
        opens more than the server itself does, and ends when the key is taken away."""
        ends = str(int((time.time() if now is None else now) + COOKIE_SECONDS))
        return f"{ends}.{self._signature(number, ends)}"

    def of_cookie(self, value: str, *, now: float | None = None) -> int | None:
        """The key by which a cookie was signed; None when it is none of ours or has ended."""
        ends, _, signature = value.partition(".")
        if not (ends.isascii() and ends.isdigit()) or int(ends[:20]) < (time.time() if now is None else now):
            return None
        found = None
        for number in range(1, len(self._keys) + 1):
            if hmac.compare_digest(self._signature(number, ends).encode(), signature.encode(errors="replace")):
                found = number
        return found

    def _signature(self, number: int, ends: str) -> str:
        return hmac.new(self._keys[number - 1].encode(), f"ken session {ends}".encode(), hashlib.sha256).hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
