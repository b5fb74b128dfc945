"""Who gets the digest: addresses that confirmed they want it, in `subscriptions.sqlite` in the data folder.

An address is on the list only after its owner pressed a button behind a link that was mailed to it. Links carry tokens
that work once; the file holds only their hashes, so that whoever reads it can use none. Every request does the same
work whether an address is known or not, and what a caller gets to see does not depend on it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ken.core.errors import BadInput, KenError
from ken.papers.database import opened, transaction
from ken.papers.mail import address as checked

HOUR, DAY = 3600.0, 86400.0

CONFIRM_WITHIN = 2 * DAY
"""Seconds for which the link of a confirmation works."""

LIMITS = {"client": (5, HOUR), "address": (3, DAY), "all": (200, HOUR)}
"""How many requests are taken from one client, for one address, and altogether, within how many seconds."""


class TooMany(KenError):
    """Too many requests; `seconds` until the next is taken."""

    def __init__(self, seconds: float) -> None:
        super().__init__("too many requests to subscribe came from here; try again later")
        self.seconds = max(1, round(seconds))


@dataclass(frozen=True)
class Asked:
    """A request that was taken. token: of the link to send: to confirm, or to unsubscribe if `known` already.
    None: this address was sent enough today, and is sent nothing."""

    address: str
    known: bool
    token: str | None


@dataclass(frozen=True)
class Subscriber:
    """An address that gets the digest, and since when, in UTC."""

    address: str
    confirmed: datetime


class Subscriptions:
    """The list. Several processes may use it at once, and a kill at any moment loses nothing that was said to be done.

    clock: seconds since 1970, for tests. Raises `BadInput` when the folder cannot be used, `SourceError` when the file
    is broken.
    """

    def __init__(self, data: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = data / "subscriptions.sqlite"
        self._clock = clock
        try:
            data.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # addresses are nobody else's business on this machine
        except OSError as error:
            raise BadInput(f"{self.path} cannot be made ({error.strerror}); name another folder with --data") from error
        with opened(self.path) as db:
            db.executescript(_SCHEMA)

    def request(self, address: str, client: str) -> Asked:
        """Take a request to subscribe from a client's IP address, and make the token for the link to mail.

        Raises `BadInput` for what is no mail address, `TooMany` when this client, or all together, ask too much.
        """
        address, now = checked(address), self._clock()
        keys = {"client": _client(client), "address": address.lower(), "all": ""}
        with opened(self.path) as db, transaction(db):
            db.execute("DELETE FROM asked WHERE at <= ?", (now - max(seconds for _, seconds in LIMITS.values()),))
            db.execute("DELETE FROM token WHERE expires <= ?", (now,))
            wait = {kind: self._wait(db, kind, key, now) for kind, key in keys.items()}
            if blocked := max(wait["client"], wait["all"]):
                raise TooMany(blocked)
            db.executemany("INSERT INTO asked VALUES (?, ?, ?)", [(k, _hash(key), now) for k, key in keys.items()])
            known = db.execute("SELECT 1 FROM subscriber WHERE address = ?", (address,)).fetchone() is not None
            token = self._token(db, address, "unsubscribe" if known else "confirm", now + CONFIRM_WITHIN)
        return Asked(address, known, None if wait["address"] else token)

    def confirm(self, token: str) -> bool:
        """Put the address of a token on the list. False for a token that was used, is too old, or was never made."""
        now = self._clock()
        with opened(self.path) as db, transaction(db):
            address = self._use(db, token, "confirm", now)
            if address is None:
                return False
            db.execute("INSERT OR IGNORE INTO subscriber VALUES (?, ?)", (address, now))
            db.execute("DELETE FROM token WHERE address = ? AND purpose = 'confirm'", (address,))
            return True

    def unsubscribe(self, token: str) -> str | None:
        """Take the address of a token off the list, with all that is kept about it. The address, None for a token that
        was used or never made."""
        with opened(self.path) as db, transaction(db):
            address = self._use(db, token, "unsubscribe", self._clock())
            if address is not None:
                db.execute("DELETE FROM subscriber WHERE address = ?", (address,))
                db.execute("DELETE FROM token WHERE address = ?", (address,))
            return address

    def unsubscribe_token(self, address: str) -> str:
        """A token for the link in a mail to a subscriber. It works as long as the subscription lasts."""
        with opened(self.path) as db, transaction(db):
            return self._token(db, address, "unsubscribe", None)

    def has(self, address: str) -> bool:
        """Whether an address is on the list."""
        with opened(self.path) as db:
            return db.execute("SELECT 1 FROM subscriber WHERE address = ?", (address,)).fetchone() is not None

    def confirmed(self) -> list[Subscriber]:
        """Everyone on the list, by address."""
        with opened(self.path) as db:
            rows = db.execute("SELECT address, confirmed FROM subscriber ORDER BY address").fetchall()
        return [Subscriber(address, datetime.fromtimestamp(at, UTC)) for address, at in rows]

    def _wait(self, db: sqlite3.Connection, kind: str, key: str, now: float) -> float:
        """Seconds until one more is taken of this kind; 0: now."""
        most, seconds = LIMITS[kind]
        times = db.execute(
            "SELECT at FROM asked WHERE kind = ? AND key = ? AND at > ? ORDER BY at DESC LIMIT ?",
            (kind, _hash(key), now - seconds, most),
        ).fetchall()
        return times[-1][0] + seconds - now if len(times) == most else 0.0

    def _token(
        self, db: sqlite3.Connection, address: str, purpose: Literal["confirm", "unsubscribe"], expires: float | None
    ) -> str:
        token = secrets.token_urlsafe(32)
        db.execute("INSERT INTO token VALUES (?, ?, ?, ?)", (_hash(token), purpose, address, expires))
        return token

    def _use(self, db: sqlite3.Connection, token: str, purpose: str, now: float) -> str | None:
        """The address of a token, which is gone afterwards."""
        row = db.execute(
            "DELETE FROM token WHERE hash = ? AND purpose = ? AND (expires IS NULL OR expires > ?) RETURNING address",
            (_hash(token), purpose, now),
        ).fetchone()
        return row[0] if row else None


_SCHEMA = """
CREATE TABLE IF NOT EXISTS subscriber (address TEXT PRIMARY KEY COLLATE NOCASE, confirmed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS token (
    hash TEXT PRIMARY KEY, purpose TEXT NOT NULL, address TEXT NOT NULL COLLATE NOCASE, expires REAL
);
CREATE TABLE IF NOT EXISTS asked (kind TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS asked_by ON asked (kind, key, at);
"""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _client(host: str) -> str:
    """Whom a limit is for: an address, and of IPv6 the network, of which one customer has all."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else str(ip)
