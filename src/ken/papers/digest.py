"""The digest: a mail of new papers and changed verdicts, to everyone what they have not had."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ken.core.errors import BadInput
from ken.papers.feed import Journal, News, arxiv_page, tally
from ken.papers.mail import Mailer, Refused, Smtp, letter
from ken.papers.results import RESULTS

if TYPE_CHECKING:
    from jinja2 import Template

WIDTH = 72  # of the text part

FIRST = "first"
"""What everyone was sent who was thought of once, though there was no news."""


@dataclass(frozen=True)
class Recipient:
    """Who is sent a digest.

    since: what is older than this is not sent to one who has had no digest yet.
    unsubscribe: makes the address at which a press of a button ends it; None for one who did not subscribe.
    """

    address: str
    since: datetime
    unsubscribe: Callable[[], str] | None = None


@dataclass(frozen=True)
class Sent:
    """What became of one recipient's digest. problem: why it could not be sent, "" when it was or nothing is new."""

    address: str
    news: tuple[News, ...]
    problem: str = ""


def since(text: str) -> datetime:
    """The start of a day in UTC. Raises `BadInput` for what is no day."""
    try:
        return datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise BadInput(f"--since {text!r} is no day; it looks like 2026-04-15") from error


def send(
    recipients: Iterable[Recipient],
    journal: Journal,
    smtp: Smtp,
    *,
    results: Path = RESULTS,
    after: datetime | None = None,
    mailer: Mailer | None = None,
) -> Iterator[Sent]:
    """Send everyone what is new to them, and say what became of it, one by one.

    after: nothing older, also for those who have had a digest before. What a recipient was sent is written down when
    the server has taken it: whoever is not reached gets it with the next digest, and nobody gets it twice. (A kill
    between the server's yes and that note repeats one mail, under the same Message-ID.)

    Raises `MailError` when nothing more can be sent, `BadInput` for settings that cannot work.
    """
    with Mailer(smtp) if mailer is None else nullcontext(mailer) as post, journal.delivering():
        news = journal.news(results)
        for recipient in recipients:
            sent = journal.sent(recipient.address)
            fresh = unsent(news, sent, since=recipient.since, after=after)
            try:
                if fresh:
                    post.send(compose(fresh, to=recipient, smtp=smtp))
            except Refused as refusal:
                yield Sent(recipient.address, fresh, str(refusal))
                continue
            if fresh or not sent:
                # The first time, what is too old counts as sent, or it would come the second time.
                journal.mark(recipient.address, [FIRST, *(item.id for item in (fresh if sent else news))])
            yield Sent(recipient.address, fresh)


def unsent(
    news: Sequence[News], sent: Collection[str], *, since: datetime, after: datetime | None = None
) -> tuple[News, ...]:
    """What of `news` someone is to be sent who was sent `sent`; for nothing, what came `since`."""
    start = after or (None if sent else since)
    return tuple(item for item in news if item.id not in sent and (start is None or item.at >= start))


def compose(news: Sequence[News], *, to: Recipient, smtp: Smtp) -> EmailMessage:
    """The digest as a mail of text and HTML. It can be stopped by one press in the mail program (RFC 8058)."""
    papers, changed = [n for n in news if not n.changes], [n for n in news if n.changes]
    unsubscribe = to.unsubscribe() if to.unsubscribe else ""
    stop = f"<{unsubscribe}>" if unsubscribe else f"<mailto:{smtp.sender}?subject=unsubscribe>"
    key = hashlib.sha256("\0".join([to.address, *sorted(n.id for n in news)]).encode()).hexdigest()[:32]
    headers = {
        "Message_ID": f"<{key}@{smtp.sender.rpartition('@')[2]}>",
        "List_Unsubscribe": stop,
    }
    if unsubscribe:
        headers["List_Unsubscribe_Post"] = "List-Unsubscribe=One-Click"
    values = {"papers": papers, "changed": changed, "home": smtp.url, "unsubscribe": unsubscribe, "sender": smtp.sender}
    return letter(
        to=to.address,
        sender=smtp.sender,
        subject=subject(papers, changed),
        text=_text(papers, changed, home=smtp.url, unsubscribe=unsubscribe),
        html=_template().render(**values, arxiv_page=arxiv_page, tally=tally),
        **headers,
    )


def subject(papers: Sequence[News], changed: Sequence[News]) -> str:
    """How much is new: "Ken: 3 new papers, verdicts on 1 paper"."""
    parts = []
    if papers:
        parts.append(f"{len(papers)} new paper{'s'[: len(papers) > 1]}")
    if changed:
        parts.append(f"verdicts on {len(changed)} paper{'s'[: len(changed) > 1]}")
    return f"Ken: {', '.join(parts)}"


def _text(papers: Sequence[News], changed: Sequence[News], *, home: str, unsubscribe: str) -> str:
    """The part for those who read mail as text."""
    blocks = []
    if papers:
        blocks.append(_heading("New papers"))
    for item in papers:
        e = item.entry
        by = ", ".join(str(part) for part in (e.date, e.authors and f"{e.authors} authors", e.organisation) if part)
        words = [f"  {word}: {text}" for word in ("inside", "outside", "signal") if (text := getattr(e, word))]
        links = [f"  {link}" for link in (arxiv_page(e), e.code) if link]
        about = [textwrap.fill(e.summary, WIDTH)] if e.summary else []
        blocks.append("\n".join([textwrap.fill(e.title, WIDTH), by, *about, *words, *links]))
    if changed:
        blocks.append(_heading("Verdicts"))
    for item in changed:
        lines = []
        for change in item.changes:
            was = f" (was {change.before})" if change.before else ""
            lines.append(textwrap.fill(f"- {change.after}{was}: {change.claim}", WIDTH, subsequent_indent="  "))
        page = [f"  {home}/papers/{item.entry.slug}"] if home else []
        blocks.append("\n".join([f"{item.entry.name}: {tally(item.changes)}", *lines, *page]))
    end = (
        f"To get no more of these: {unsubscribe}" if unsubscribe else "You get this because Ken was told your address."
    )
    return "\n\n".join([*blocks, f"-- \n{end}"]) + "\n"


def _heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ken.papers", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("digest.html")
