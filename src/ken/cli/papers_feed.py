"""`ken papers add` and `ken papers digest`: what is new in the catalogue, and who hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ken.papers.digest import Recipient, Sent
    from ken.papers.feed import Journal
    from ken.papers.mail import Smtp

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def add(  # noqa: PLR0917 (typer reads the options from the signature)
    arxiv: Annotated[str, typer.Argument(metavar="ARXIV_ID", help="Such as 2503.09516, or the address of its page.")],
    name: Annotated[str, typer.Option(help="What it is called for short (default: from its title).")] = "",
    inside: Annotated[str, typer.Option(help="What the model holds.")] = "",
    outside: Annotated[str, typer.Option(help="What it gets from elsewhere.")] = "",
    signal: Annotated[str, typer.Option(help="What it learns from.")] = "",
    summary: Annotated[str, typer.Option(help="Two or three sentences of your own.")] = "",
    code: Annotated[str, typer.Option(metavar="URL", help="Their repository (default: one that arXiv names).")] = "",
    api: Annotated[str, typer.Option(metavar="URL", help="Another address of arXiv's API, such as a mirror.")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for arXiv to answer.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Add a paper to your own catalogue, papers.toml in the working directory, with what arXiv says about it."""
    from pydantic import ValidationError

    from ken.core.errors import BadInput
    from ken.papers.arxiv import API, arxiv_id, as_entry, look_up
    from ken.papers.catalogue import OWN, add_own, entries

    wanted = arxiv_id(arxiv)
    if there := next((e for e in entries().values() if e.arxiv == wanted), None):  # without asking anybody
        raise BadInput(f"{there.name} ({wanted}) is in the catalogue already; see `ken papers {there.slug}`")
    found = look_up(wanted, api=api or API, timeout=timeout)
    words = {"inside": inside, "outside": outside, "signal": signal, "code": code, "summary": summary, "name": name}
    try:
        entry = as_entry(found, known=entries().values(), listed=datetime.now().date().isoformat(), **words)
    except ValidationError as error:
        raise BadInput(f"--{error.errors()[0]['loc'][0]} cannot be used: {error.errors()[0]['msg']}") from error
    entry = add_own(entry)
    if as_json:
        typer.echo(entry.model_dump_json(indent=2))
    else:
        typer.echo(f"{entry.number} {entry.name}: {entry.title} ({entry.date})")
        typer.echo(f"added to {OWN}; see `ken papers {entry.slug}`")


A_WEEK = timedelta(days=7)


def digest(  # noqa: PLR0917 (typer reads the options from the signature)
    since: Annotated[str, typer.Option(metavar="DATE", help="Nothing older than this day, such as 2026-04-15.")] = "",
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="May be repeated; default: everyone who subscribed and confirmed."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
    data: Annotated[
        Path, typer.Option(help="The data folder of `ken serve`: what was sent, and who subscribed.")
    ] = Path("ken-data"),
    results: Annotated[Path, typer.Option(help="Folder of the papers' results.")] = Path("results"),
    host: Annotated[str, typer.Option(help="The mail server; its password stands in $KEN_SMTP_PASSWORD.")] = "",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 587 for starttls, 465 for tls, 25 for none.")
    ] = None,
    user: Annotated[str, typer.Option(help="Name for its login; without one there is none.")] = "",
    security: Annotated[str, typer.Option(metavar="starttls|tls|none", help="How the connection is kept secret.")] = (
        "starttls"
    ),
    sender: Annotated[str, typer.Option(metavar="ADDRESS", help="From whom the mail comes.")] = "",
    url: Annotated[
        str, typer.Option(help="Public address of `ken serve`, for links to unsubscribe and to results.")
    ] = "",
) -> None:
    """Mail new papers, and claims whose verdict changed, to those who have not had them yet.

    Settings are best kept under [papers.digest] in ken.toml. Someone's first digest goes back to --since, else to the
    day of the subscription, or a week. Exit status: 0 when everything was sent (or nothing is new), 1 when some mail
    was refused, 2 when the input cannot be used or the server broke off; the same command then sends the rest.
    """
    from ken.papers.digest import since as day
    from ken.papers.feed import Journal
    from ken.papers.mail import address, settings

    after = day(since) if since else None
    named = list(dict.fromkeys(address(text) for text in to or ()))
    if dry_run:
        smtp = settings(host=host or "localhost", sender=sender or "ken@localhost", security=security, url=url)
        _preview(named, Journal(data), smtp, data=data, results=results, after=after)
        return
    smtp = settings(host=host, sender=sender, port=port, user=user, security=security, url=url)
    journal = Journal(data)
    refused = people = 0
    for sent in _send(named, journal, smtp, data=data, results=results, after=after):
        people += 1
        refused += bool(sent.problem)
        _report(sent)
    if not people:
        typer.echo("nobody has subscribed yet; name an address with --to")
    if refused:
        raise typer.Exit(1)


def _send(
    named: list[str], journal: Journal, smtp: Smtp, *, data: Path, results: Path, after: datetime | None
) -> Iterator[Sent]:
    from ken.papers.digest import send

    recipients = _recipients(named, smtp, data=data)
    return send(recipients, journal, smtp, results=results, after=after)


def _recipients(named: list[str], smtp: Smtp, *, data: Path, dry: bool = False) -> Iterator[Recipient]:
    """Those who are named, or who subscribed: one after the other, so that who unsubscribes meanwhile is left out."""
    from ken.core.errors import BadInput
    from ken.papers.digest import Recipient
    from ken.serving.subscriptions import Subscriptions

    subscriptions = Subscriptions(data)
    people = subscriptions.confirmed()
    confirmed = {subscriber.address.lower(): subscriber.confirmed for subscriber in people}
    for address in named or [subscriber.address for subscriber in people]:
        if not subscriptions.has(address):
            if named:
                yield Recipient(address, datetime.now(UTC) - A_WEEK)
            continue
        if not smtp.url:
            raise BadInput("subscribers need a link to unsubscribe; give --url, the public address of `ken serve`")

        def link(address: str = address) -> str:
            token = "…" if dry else subscriptions.unsubscribe_token(address)
            return f"{smtp.url}/unsubscribe?token={token}"

        since = confirmed.get(address.lower(), datetime.now(UTC)).replace(hour=0, minute=0, second=0, microsecond=0)
        yield Recipient(address, since, link)


def _preview(
    named: list[str], journal: Journal, smtp: Smtp, *, data: Path, results: Path, after: datetime | None
) -> None:
    """Print the mails; without anybody to send them to, the one that a newcomer would get."""
    from ken.cli.plain import plain
    from ken.papers.digest import Recipient, compose, unsent

    news = journal.news(results)
    recipients = list(_recipients(named, smtp, data=data, dry=True))
    recipients = recipients or [Recipient("newcomer@localhost", datetime.now(UTC) - A_WEEK)]
    for recipient in recipients:
        fresh = unsent(news, journal.sent(recipient.address), since=recipient.since, after=after)
        if not fresh:
            typer.echo(f"nothing new for {recipient.address}")
            continue
        mail = compose(fresh, to=recipient, smtp=smtp)
        for name in ("From", "To", "Subject", "List-Unsubscribe"):
            typer.echo(plain(f"{name}: {mail[name]}"))
        text, html = mail.get_body(("plain",)), mail.get_body(("html",))
        assert text is not None
        assert html is not None
        typer.echo(f"\n{plain(text.get_content())}\n(and the same as HTML, {len(html.get_content()):,} characters)\n")


def _report(sent: Sent) -> None:
    from ken.papers.digest import subject

    if sent.problem:
        typer.echo(f"ken: {sent.address}: {sent.problem}", err=True)
    elif sent.news:
        what = subject([n for n in sent.news if not n.changes], [n for n in sent.news if n.changes])
        typer.echo(f"sent to {sent.address}: {what.removeprefix('Ken: ')}")
    else:
        typer.echo(f"nothing new for {sent.address}")
