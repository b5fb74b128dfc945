"""What is new, papers and verdicts that changed, and all of it as an Atom feed (RFC 4287).

Nothing says when a verdict changed but the results files themselves. So a journal in the data folder keeps what they
said last, and every look at it records what they say now: news keep their times and names from then on.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import get_args

from ken.core.errors import BadInput
from ken.core.files import lock_file
from ken.core.frozen import Frozen
from ken.papers.catalogue import entries, shipped
from ken.papers.database import opened, transaction
from ken.papers.paper import Entry
from ken.papers.results import RESULTS, read_results
from ken.papers.verdict import Verdict

Verdicts = Mapping[str, Verdict]
"""By the text of the claim."""


class Change(Frozen):
    """A claim whose verdict is new (`before` is None) or another than it was."""

    claim: str
    before: Verdict | None
    after: Verdict


class News(Frozen):
    """A paper that came, or verdicts of one that changed.

    id: a URN, the same for the same news for ever. at: when, in UTC; for a paper that Ken ships the day of the paper,
    for one of the user's own the day on which it was added. changes: () for a new paper.
    """

    id: str
    at: datetime
    entry: Entry
    changes: tuple[Change, ...] = ()

    @property
    def title(self) -> str:
        """A headline: the paper's title, or how its verdicts changed."""
        if not self.changes:
            return self.entry.title
        if all(change.before is None for change in self.changes):
            return f"{self.entry.name}: {tally(self.changes)}"
        several = "verdicts" if len(self.changes) > 1 else "verdict"
        return f"{self.entry.name}: {len(self.changes)} {several} changed"


def tally(changes: Sequence[Change]) -> str:
    """How many verdicts there are of each kind: "7 hold, 1 fails"."""
    counts = {word: sum(change.after == word for change in changes) for word in get_args(Verdict)}
    plural = {"holds": "hold", "fails": "fail", "inconclusive": "inconclusive"}
    return ", ".join(f"{n} {word if n == 1 else plural[word]}" for word, n in counts.items() if n)


class Journal:
    """What was seen of the results, and which news went to whom: `news.sqlite` in the data folder.

    Several processes may use it at once, and a kill at any moment loses nothing that was said to be written.
    Raises `BadInput` when the folder cannot be used, `SourceError` when the file is broken.
    """

    def __init__(self, data: Path) -> None:
        self.path = data / "news.sqlite"
        try:
            data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{data} cannot be made ({error.strerror}); name another folder with --data") from error
        with opened(self.path) as db:
            db.executescript(_SCHEMA)
            if db.execute("SELECT 1 FROM journal").fetchone() is None:
                db.execute("INSERT OR IGNORE INTO journal (one, id) VALUES (1, ?)", (str(uuid.uuid4()),))

    @property
    def id(self) -> uuid.UUID:
        """Made with the journal: what names its news apart from those of other servers."""
        with opened(self.path) as db:
            return uuid.UUID(db.execute("SELECT id FROM journal").fetchone()[0])

    def news(self, results: Path = RESULTS, *, now: datetime | None = None) -> tuple[News, ...]:
        """All news, the latest first, after recording what the results say now.

        A results file that cannot be read is left as it was seen last. Raises as the class does.
        """
        papers = entries()
        now = now or datetime.now(UTC)
        with opened(self.path) as db:
            for slug in papers:
                self._look(db, slug, results / f"{slug}.json", now)
            space = uuid.UUID(db.execute("SELECT id FROM journal").fetchone()[0])
            rows = db.execute("SELECT number, slug, at, changes FROM event").fetchall()
        found = [News(id=_urn(_PAPERS, e.arxiv), at=_day(e), entry=e) for e in papers.values()]
        for number, slug, at, changes in rows:
            if slug in papers:
                told = tuple(Change.model_validate(change) for change in json.loads(changes))
                when = datetime.fromisoformat(at)
                found.append(News(id=_urn(space, f"{slug} {number}"), at=when, entry=papers[slug], changes=told))
        return tuple(sorted(found, key=lambda item: (item.at, item.entry.number, item.id), reverse=True))

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Others who would deliver wait meanwhile, so that nobody is sent the same by two."""
        try:
            handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise BadInput(f"{self.path.parent} cannot be written ({error.strerror}); name another --data") from error
        try:
            lock_file(handle)
            yield
        finally:
            os.close(handle)

    def mark(self, address: str, items: Iterable[str]) -> None:
        """Note that `address` was sent the news with these ids."""
        key = _key(address)
        with opened(self.path) as db, transaction(db):
            db.executemany("INSERT OR IGNORE INTO sent VALUES (?, ?)", [(key, item) for item in items])

    def sent(self, address: str) -> set[str]:
        """The ids of what `address` was sent."""
        with opened(self.path) as db:
            return _sent(db, _key(address))

    def forget(self, address: str) -> None:
        """Drop what is known of an address: it has unsubscribed."""
        with opened(self.path) as db:
            db.execute("DELETE FROM sent WHERE address = ?", (_key(address),))

    def _look(self, db: sqlite3.Connection, slug: str, path: Path, now: datetime) -> None:
        """Record the verdicts in a results file, if they are others than those seen last."""
        try:
            stat = path.stat()
            verdicts = _read(path.stem, path.parent.resolve(), stat.st_mtime_ns, stat.st_size)
        except (OSError, BadInput):
            return
        state = json.dumps(verdicts, sort_keys=True)
        if (seen := _seen(db, slug)) is not None and seen == state:
            return
        with transaction(db):
            before: Verdicts = json.loads(_seen(db, slug) or "{}")  # perhaps another process was faster
            changes = [
                Change(claim=claim, before=before.get(claim), after=after)
                for claim, after in verdicts.items()
                if before.get(claim) != after
            ]
            last = db.execute("SELECT max(at) FROM event WHERE slug = ?", (slug,)).fetchone()[0]
            at = min(datetime.fromtimestamp(int(stat.st_mtime), UTC), now)
            if last is not None and at <= datetime.fromisoformat(last):  # a file that was put back
                at = max(now, datetime.fromisoformat(last) + timedelta(seconds=1))
            if changes:
                told = json.dumps([change.model_dump() for change in changes])
                db.execute("INSERT INTO event (slug, at, changes) VALUES (?, ?, ?)", (slug, at.isoformat(), told))
            db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (slug, state))


_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (slug TEXT PRIMARY KEY, verdicts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT, slug TEXT NOT NULL, at TEXT NOT NULL, changes TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS sent (address TEXT, item TEXT, PRIMARY KEY (address, item)) WITHOUT ROWID;
"""

_PAPERS = uuid.uuid5(uuid.NAMESPACE_URL, "https://arxiv.org/abs/")
"""Names papers: alike on all servers, since it is the same paper."""


def atom(news: Sequence[News], *, id: uuid.UUID, home: str, most: int = 100) -> bytes:
    """The feed of the `most` latest `news`, which are sorted.

    id: of the journal that they are from. home: the address of the server, without a final slash.
    """
    from xml.etree.ElementTree import Element, SubElement, tostring

    def add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
        child = SubElement(parent, tag, attributes)
        child.text = _xml(text) or None
        return child

    feed = Element("feed", {"xmlns": "http://www.w3.org/2005/Atom", "xml:lang": "en"})
    add(feed, "id", _urn(id, "feed"))
    add(feed, "title", "Ken: papers and verdicts")
    add(feed, "subtitle", "What is inside a model, what outside, and which claims hold")
    add(feed, "updated", _rfc3339(news[0].at if news else datetime.fromtimestamp(0, UTC)))
    add(add(feed, "author"), "name", "Ken")
    add(feed, "link", rel="self", type="application/atom+xml", href=f"{home}/feed.xml")
    add(feed, "link", rel="alternate", type="text/html", href=f"{home}/papers")
    for item in news[:most]:
        entry = add(feed, "entry")
        add(entry, "id", item.id)
        add(entry, "title", item.title)
        add(entry, "updated", _rfc3339(item.at))
        add(entry, "published", _rfc3339(item.at))
        add(entry, "link", rel="alternate", type="text/html", href=f"{home}/papers/{item.entry.slug}")
        add(entry, "link", rel="related", type="text/html", href=arxiv_page(item.entry))
        add(entry, "category", term="verdicts" if item.changes else "paper")
        add(entry, "content", _content(item), type="html")
    text: str = tostring(feed, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def arxiv_page(entry: Entry) -> str:
    """The address of a paper on arXiv."""
    return f"https://arxiv.org/abs/{entry.arxiv}"


def _content(item: News) -> str:
    """An entry's text as HTML without anything live."""
    e = item.entry
    if item.changes:
        lines = [
            f"{change.after}{f' (was {change.before})' if change.before else ''}: {change.claim}"
            for change in item.changes
        ]
        return f"<p>{html.escape(e.title)}</p><ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"
    words = [(word, getattr(e, word)) for word in ("inside", "outside", "signal")]
    lines = [f"<li>{word}: {html.escape(text)}</li>" for word, text in words if text]
    return (f"<p>{html.escape(e.summary)}</p>" if e.summary else "") + (f"<ul>{''.join(lines)}</ul>" if lines else "")


@lru_cache(maxsize=256)
def _read(slug: str, folder: Path, changed: int, size: int) -> dict[str, Verdict]:
    """The verdicts of a paper, read once for every state of its file."""
    results = read_results(slug, folder)
    return {claim.text: claim.verdict for claim in results.claims if claim.verdict} if results else {}


def _seen(db: sqlite3.Connection, slug: str) -> str | None:
    row = db.execute("SELECT verdicts FROM seen WHERE slug = ?", (slug,)).fetchone()
    return row[0] if row else None


def _sent(db: sqlite3.Connection, key: str) -> set[str]:
    return {row[0] for row in db.execute("SELECT item FROM sent WHERE address = ?", (key,))}


def _day(e: Entry) -> datetime:
    day = (e.date if e.slug in shipped() else e.listed) or e.date or f"{e.year}-01-01"
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def _urn(space: uuid.UUID, name: str) -> str:
    return uuid.uuid5(space, name).urn


def _key(address: str) -> str:
    """The file names nobody: an address is kept as its hash."""
    return hashlib.sha256(address.lower().encode()).hexdigest()


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _xml(text: str) -> str:
    """`text` without the characters that XML 1.0 has no way to write."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
