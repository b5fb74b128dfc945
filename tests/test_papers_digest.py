"""The digest: what is new goes to everyone once, whatever the mail server does on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from capitals import command, environment, run_ken
from mail_server import MailServer, certificate, mail, mail_server, tls

from ken.core import BadInput
from ken.papers.catalogue import OWN, add_own, entries, entry
from ken.papers.digest import Recipient, Sent, compose, send, since
from ken.papers.feed import Journal
from ken.papers.mail import MailError, Smtp, address, letter, settings
from ken.papers.results import Results, write_results
from ken.papers.verdict import Judged, Verdict

__all__ = ["certificate", "mail"]  # fixtures

APRIL = datetime(2026, 4, 1, tzinfo=UTC)  # of the page's papers one is later: the externalization review
MINE = {"slug": "own", "arxiv": "2611.00001", "listed": "2026-10-01", "number": 1001}
PEOPLE = ("ada@example.org", "ben@example.org", "cyd@example.org")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "data")


def judged(claims: dict[str, Verdict], folder: Path, slug: str = "ikea") -> None:
    """Write a results file with these verdicts."""
    found = [
        Judged(text=text, kind="hard", margin=0.1, value=0.2, interval=(0.1, 0.3), verdict=verdict, note="")
        for text, verdict in claims.items()
    ]
    made = Results(
        slug=slug, paper=entry(slug), config={}, seeds=(0,), versions={}, machine={}, wall_seconds=1.0, arms={},
        claims=tuple(found),
    )  # fmt: skip
    write_results(made, folder / f"{slug}.json")


def local(mail: MailServer, **changes: str) -> Smtp:
    return settings(**{"host": "127.0.0.1", "sender": "ken@example.org", "security": "none", **changes}, port=mail.port)


def sent_to(
    people: Sequence[str], journal: Journal, smtp: Smtp, results: Path, after: datetime | None = None
) -> list[Sent]:
    recipients = [Recipient(name, APRIL) for name in people]
    return list(send(recipients, journal, smtp, results=results, after=after))


class Links(HTMLParser):
    """The tags of a page, its links, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "background")]

    def handle_data(self, data: str) -> None:
        self.text += data


def parts(mail: object) -> tuple[str, str]:
    """The text and the HTML of a mail."""
    text, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[attr-defined]
    return text, html


def test_new_papers_and_verdicts_come_as_text_and_as_html(mail, journal, results):
    judged({"it learns": "holds", "it is best": "fails"}, results)
    assert [item.problem for item in sent_to(PEOPLE[:1], journal, local(mail), results)] == [""]
    (came,) = mail.mails
    assert came.get_content_type() == "multipart/alternative"
    assert (came["To"], came["From"]) == ("ada@example.org", "ken@example.org")
    assert came["Subject"] == "Ken: 1 new paper, verdicts on 1 paper"
    assert came["List-Unsubscribe"] == "<mailto:ken@example.org?subject=unsubscribe>"
    assert came["Date"]
    text, html = parts(came)
    read = Links(html)
    review = entry("externalization-review")
    for body in (" ".join(text.split()), " ".join(read.text.split())):
        assert review.title in body
        assert review.summary in body
        assert "2026-04-08" in body
        assert "21 authors" in body
        assert "IKEA: 1 holds, 1 fails" in body
        assert "fails: it is best" in body
    assert "https://arxiv.org/abs/2604.08224" in text
    assert "https://arxiv.org/abs/2604.08224" in read.links
    assert max(map(len, text.splitlines())) <= 78


def test_the_html_loads_nothing_runs_nothing_and_is_made_for_light_and_dark(mail, journal, results):
    judged({"it learns": "holds"}, results)
    sent_to(PEOPLE[:1], journal, local(mail), results, after=datetime(2009, 1, 1, tzinfo=UTC))
    html = parts(mail.mails[0])[1]
    read = Links(html)
    assert not read.tags & {"script", "img", "iframe", "form", "object", "embed", "link", "video", "svg", "base"}
    assert not [name for name in read.attributes if name.startswith("on")]
    assert all(link.startswith("https://") for link in read.links)
    assert "url(" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="color-scheme" content="light dark">' in html


def test_what_titles_and_claims_say_stays_text(tmp_path, mail, journal, results, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = '<script>alert("x")</script>\n.\nBcc: eve@example.org'
    made = entry("ikea").model_copy(
        update={
            "slug": "evil",
            "arxiv": "2611.00001",
            "title": evil,
            "name": evil,
            "listed": "2026-11-01",
            "number": 1001,
        }
    )
    add_own(made, tmp_path / OWN)
    judged({evil: "holds"}, results)
    sent_to(PEOPLE[:1], journal, local(mail), results)
    (came,) = mail.mails
    assert mail.recipients == ["ada@example.org"]
    assert came["Bcc"] is None
    text, html = parts(came)
    assert "script" not in Links(html).tags
    assert '<script>alert("x")</script>' in Links(html).text
    assert "Bcc: eve@example.org" in text
    assert text.rstrip().endswith("Ken was told your address."), "a lonely dot does not end the mail"


def test_nobody_gets_anything_twice_and_a_changed_verdict_says_what_it_was(mail, journal, results):
    judged({"it learns": "holds", "it is best": "fails"}, results)
    smtp = local(mail)
    sent_to(PEOPLE, journal, smtp, results)
    assert [len(mail.to(name)) for name in PEOPLE] == [1, 1, 1]
    assert [item.news for item in sent_to(PEOPLE, journal, smtp, results)] == [(), (), ()]
    judged({"it learns": "holds", "it is best": "inconclusive"}, results)
    sent_to(PEOPLE, journal, smtp, results)
    assert [len(mail.to(name)) for name in PEOPLE] == [2, 2, 2]
    text, html = parts(mail.to(PEOPLE[0])[1])
    assert "- inconclusive (was fails): it is best" in text
    assert "it learns" not in text
    assert "(was fails)" in Links(html).text
    assert mail.to(PEOPLE[0])[1]["Subject"] == "Ken: verdicts on 1 paper"
    judged({"it learns": "holds", "it is best": "inconclusive"}, results)  # measured again, with the same outcome
    assert [item.news for item in sent_to(PEOPLE, journal, smtp, results)] == [(), (), ()]


def test_the_first_digest_goes_back_to_a_day_and_later_ones_to_the_last(tmp_path, mail, journal, results, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smtp, late = local(mail), datetime(2026, 11, 1, tzinfo=UTC)

    def news(start: datetime, after: datetime | None = None) -> list[str]:
        (item,) = send([Recipient(PEOPLE[0], start)], journal, smtp, results=results, after=after)
        return [news.entry.slug for news in item.news]

    assert news(late) == [], "nothing is as late as that, which counts as a first digest"
    made = entry("ikea").model_copy(
        update={"slug": "own", "arxiv": "2611.00001", "listed": "2026-10-01", "number": 1001}
    )
    add_own(made, tmp_path / OWN)
    assert news(late, after=late) == [], "asked for nothing older"
    assert news(late) == ["own"], "came since, though it is older than a newcomer's digest goes back"
    assert news(late) == []
    assert len(mail.mails) == 1


def test_a_refused_recipient_keeps_nobody_else_from_theirs_and_gets_it_later(mail, journal, results):
    mail.refused["ben@example.org"] = "550 No such user here"
    found = sent_to(PEOPLE, journal, local(mail), results)
    assert [bool(item.problem) for item in found] == [False, True, False]
    assert "does not take mail for it (550 No such user here)" in found[1].problem
    assert mail.recipients == ["ada@example.org", "cyd@example.org"]
    mail.refused.clear()
    sent_to(PEOPLE, journal, local(mail), results)
    assert mail.recipients == ["ada@example.org", "cyd@example.org", "ben@example.org"]


def test_mail_that_is_refused_for_what_it_says_is_sent_later(mail, journal, results):
    mail.spam = "554 looks like advertisement"
    found = sent_to(PEOPLE, journal, local(mail), results)
    assert all("refuses the mail (554 looks like advertisement)" in item.problem for item in found)
    mail.spam = "421 too busy"  # and the server hangs up
    assert all(
        "refuses the mail (421 too busy)" in item.problem for item in sent_to(PEOPLE, journal, local(mail), results)
    )
    mail.spam = ""
    assert not any(item.problem for item in sent_to(PEOPLE, journal, local(mail), results))
    assert mail.recipients == list(PEOPLE)


def test_a_connection_that_breaks_is_opened_again_and_what_cannot_be_sent_is_sent_later(mail, journal, results):
    broken: list[int] = []
    mail.drop = lambda taken: not broken.append(taken) and len(broken) in (2, 4, 5)  # ben's first try, then cyd's two
    smtp = local(mail)
    with pytest.raises(MailError, match=r"127\.0\.0\.1 port \d+ broke off \(.*\); try again later"):
        sent_to(PEOPLE, journal, smtp, results)
    assert mail.recipients == ["ada@example.org", "ben@example.org"]
    mail.drop = lambda taken: False
    assert [bool(item.news) for item in sent_to(PEOPLE, journal, smtp, results)] == [False, False, True]
    assert mail.recipients == list(PEOPLE)


def test_a_digest_that_is_sent_again_after_a_kill_is_known_by_its_id(tmp_path, journal, results):
    """The server takes a mail, and the sender dies before it can write that down."""
    news = journal.news(results)
    to = Recipient(PEOPLE[0], APRIL)
    smtp = settings(host="127.0.0.1", sender="ken@example.org", security="none")
    first, again = (compose(news[:2], to=to, smtp=smtp)["Message-ID"] for _ in range(2))
    assert first == again
    assert compose(news[:3], to=to, smtp=smtp)["Message-ID"] != first
    assert compose(news[:2], to=Recipient(PEOPLE[1], APRIL), smtp=smtp)["Message-ID"] != first


def test_a_kill_in_the_middle_loses_nothing_and_repeats_nothing_that_was_written_down(tmp_path, mail):
    smtp = ["--host", "127.0.0.1", "--port", str(mail.port), "--security", "none", "--sender", "ken@example.org"]
    arguments = ["papers", "digest", "--since", "2026-04-01", *smtp, *(f"--to={name}" for name in PEOPLE)]
    mail.hold = threading.Semaphore(0)
    sending = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    assert mail.came.acquire(timeout=60)
    mail.hold.release()  # ada's is taken
    assert sending.stdout is not None
    assert sending.stdout.readline() == "sent to ada@example.org: 1 new paper\n"
    assert mail.came.acquire(timeout=60)  # ben's has come, and is not taken yet
    sending.send_signal(signal.SIGKILL)
    sending.wait(60)
    mail.hold.release(100)
    done = run_ken(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "nothing new for ada@example.org"
    assert len(mail.to("ada@example.org")) == 1
    assert len({came["Message-ID"] for came in mail.to("ben@example.org")}) == 1
    assert len(mail.to("cyd@example.org")) == 1


def test_two_digests_at_once_send_everyone_one(mail, journal, results):
    smtp = local(mail)
    threads = [threading.Thread(target=sent_to, args=(PEOPLE, journal, smtp, results)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(mail.recipients) == list(PEOPLE)


def test_over_tls_with_a_login_as_set_in_ken_toml(tmp_path, certificate):
    with mail_server(tls_context=tls(certificate), require_starttls=True, login=True) as mail:
        (tmp_path / "ken.toml").write_text(
            f'[papers.digest]\nhost = "127.0.0.1"\nport = {mail.port}\nuser = "ken"\nsender = "ken@example.org"\n'
        )
        arguments = ["papers", "digest", "--to", "ada@example.org", "--since", "2026-04-01"]
        trusted = {"SSL_CERT_FILE": str(certificate.with_suffix(".crt"))}

        def fails(said: str, **changes: str) -> None:
            done = run_ken(*arguments, cwd=tmp_path, **changes)
            assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
            assert said in done.stderr

        fails("the mail server wants ken's password; set it in $KEN_SMTP_PASSWORD", **trusted)
        fails("shows a certificate that cannot be trusted", KEN_SMTP_PASSWORD="right")
        fails("refuses ken's password (535 ", KEN_SMTP_PASSWORD="wrong", **trusted)
        assert mail.mails == []
        assert "wrong" not in run_ken(*arguments, cwd=tmp_path, KEN_SMTP_PASSWORD="wrong", **trusted).stderr
        done = run_ken(*arguments, cwd=tmp_path, KEN_SMTP_PASSWORD="right", **trusted)
        assert (done.returncode, done.stdout, done.stderr) == (0, "sent to ada@example.org: 1 new paper\n", "")
        assert mail.logins[-1] == ("ken", "right")
        assert mail.encrypted == [True]


def test_tls_from_the_first_byte(certificate, monkeypatch, journal, results):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
    with mail_server(ssl_context=tls(certificate)) as mail:
        sent_to(PEOPLE[:1], journal, local(mail, security="tls"), results)
        assert mail.recipients == ["ada@example.org"]


def test_a_server_without_tls_gets_neither_mail_nor_password(mail, journal, results, monkeypatch):
    monkeypatch.setenv("KEN_SMTP_PASSWORD", "right")
    smtp = local(mail, security="starttls", user="ken")
    with pytest.raises(MailError, match="does not offer STARTTLS; use security tls, or none on this machine"):
        sent_to(PEOPLE, journal, smtp, results)
    with pytest.raises(MailError, match="does not speak TLS"):
        sent_to(PEOPLE, journal, local(mail, security="tls", user="ken"), results)
    with pytest.raises(MailError, match="does not offer any login; leave out the user"):
        sent_to(PEOPLE, journal, local(mail, user="ken"), results)
    assert mail.mails == []
    assert mail.logins == []


def test_a_refused_sender_and_no_server_at_all(mail, journal, results):
    mail.senders["ken@example.org"] = "553 not yours"
    with pytest.raises(MailError, match=r"take mail from ken@example.org \(553 not yours\); set another sender"):
        sent_to(PEOPLE, journal, local(mail), results)
    nowhere = settings(host="127.0.0.1", sender="ken@example.org", security="none", port=9)
    with pytest.raises(MailError, match=r"no mail server answers at 127\.0\.0\.1 port 9"):
        sent_to(PEOPLE, journal, nowhere, results)
    mail.senders.clear()
    assert [bool(item.news) for item in sent_to(PEOPLE, journal, local(mail), results)] == [True] * 3


def test_a_dry_run_prints_it_and_sends_and_marks_nothing(tmp_path, mail):
    smtp = ["--host", "127.0.0.1", "--port", str(mail.port), "--security", "none", "--sender", "ken@example.org"]
    arguments = ["papers", "digest", "--since", "2026-04-01", "--to", "ada@example.org"]
    for _ in range(2):
        done = run_ken(*arguments, "--dry-run", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "To: ada@example.org\nSubject: Ken: 1 new paper\n" in done.stdout
        assert "https://arxiv.org/abs/2604.08224" in done.stdout
        assert "(and the same as HTML, " in done.stdout
    assert mail.mails == []
    assert run_ken(*arguments, *smtp, cwd=tmp_path).stdout == "sent to ada@example.org: 1 new paper\n"
    assert run_ken(*arguments, "--dry-run", cwd=tmp_path).stdout == "nothing new for ada@example.org\n"
    assert "Subject: Ken: 1 new paper" in run_ken(*arguments[:4], "--dry-run", cwd=tmp_path).stdout, "for a newcomer"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "--since 'yesterday' is no day; it looks like 2026-04-15"),
        (["--since", "2026-02-30"], "--since '2026-02-30' is no day"),
        (["--to", "ada"], "'ada' is no mail address; it looks like name@example.org"),
        ([], "mail needs a server and a sender; give --host HOST --sender ADDRESS"),
        (["--host", "127.0.0.1", "--sender", "ken"], "'ken' is no mail address"),
        (
            ["--host", "smtp.x", "--sender", "k@x", "--security", "ssl"],
            "--security 'ssl' is none of starttls, tls, none",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(tmp_path, arguments, said):
    done = run_ken("papers", "digest", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(f"ken: {said}")
    assert list(tmp_path.iterdir()) == []


def test_nobody_subscribed(tmp_path, mail):
    smtp = ["--host", "127.0.0.1", "--port", str(mail.port), "--security", "none", "--sender", "ken@example.org"]
    done = run_ken("papers", "digest", *smtp, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nobody has subscribed yet; name an address with --to\n")


@pytest.mark.parametrize(
    "text",
    [
        "", "ada", "@example.org", "ada@", "a b@example.org", "ada@exa mple.org", "ada@example..org", ".a@x.org",
        "ada@x.org\nBcc: eve@x.org", "ada@x.org\r\nBcc: e@x.org", "ada@x.org, eve@x.org", "<ada@x.org>", '"a b"@x.org',
        "ada@x.org>\nRCPT TO:<eve@x.org", "ada@-x.org", "ä@x.org", "a" * 65 + "@x.org", "a@" + "x." * 130 + "org",
        "ada@x.org\x00", "ada@[127.0.0.1]",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BadInput, match="is no mail address; it looks like name@example"):
        address(text)


def test_addresses_are_written_as_they_travel():
    assert address(" Ada.Lovelace+ken@Example.ORG ") == "Ada.Lovelace+ken@example.org"
    assert address("ada@bücher.example") == "ada@xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"host": "smtp.example.org", "user": "ken", "security": "none"},
            "would send the password to smtp.example.org",
        ),
        ({"host": "smtp.example.org:25"}, None),
        ({"host": "http://x/"}, "is no name of a server"),
        ({"url": "ken.example.org"}, "is no address of a web server"),
        ({"url": "https://ken.example.org/?x=<"}, "is no address of a web server"),
    ],
)
def test_settings_that_cannot_be_meant(changes, said):
    given = {"host": "smtp.example.org", "sender": "ken@example.org", **changes}
    with pytest.raises(BadInput, match=said):
        settings(**given)


def test_no_header_can_begin_another():
    with pytest.raises(BadInput, match="a header of a mail cannot be written"):
        letter(to="ada@x.org", sender="ken@x.org", subject="Hi\r\nBcc: eve@x.org", text="")


def test_since_is_the_start_of_a_day():
    assert since(" 2026-04-15 ") == datetime(2026, 4, 15, tzinfo=UTC)


def test_the_journal_gives_every_news_its_time_and_name_for_ever(tmp_path, results):
    journal = Journal(tmp_path / "data")
    judged({"it learns": "holds"}, results)
    first = journal.news(results)
    assert len(first) == len(entries()) + 1
    assert list(first) == sorted(first, key=lambda item: item.at, reverse=True)
    assert Journal(tmp_path / "data").news(results) == first, "another process reads the same"
    judged({"it learns": "fails"}, results)
    second = journal.news(results)
    changed = [item for item in second if item.changes]
    assert [(c.before, c.after) for item in changed for c in item.changes] == [("holds", "fails"), (None, "holds")]
    assert changed[0].at >= changed[1].at
    assert {item.id for item in first} < {item.id for item in second}
    assert len({item.id for item in second}) == len(second)
    assert other_ids(tmp_path, results) & {item.id for item in second} == {n.id for n in second if not n.changes}


def other_ids(tmp_path: Path, results: Path) -> set[str]:
    """Of a server with a folder of its own: papers are the same there, its verdicts are not ours."""
    return {item.id for item in Journal(tmp_path / "other").news(results)}


def test_a_results_file_that_was_put_back_or_is_broken_makes_no_false_news(tmp_path, results):
    journal = Journal(tmp_path / "data")
    judged({"it learns": "holds"}, results)
    before = journal.news(results)
    path = results / "ikea.json"
    good = path.read_bytes()
    for text in (b"{", b""):
        path.write_bytes(text)
        assert journal.news(results) == before
    path.unlink()
    assert journal.news(results) == before
    path.write_bytes(good)
    assert journal.news(results) == before


def test_changes_of_one_claim_are_told_in_order_though_the_clock_of_the_files_is_not(tmp_path, results):
    journal = Journal(tmp_path / "data")
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    told = []
    for hours, verdict in ((5, "holds"), (9, "fails"), (1, "inconclusive")):  # older and older files
        judged({"it learns": verdict}, results)
        stamp = (now - timedelta(hours=hours)).timestamp()
        os.utime(results / "ikea.json", (stamp, stamp))
        told.append(journal.news(results, now=now))
    news = [item for item in told[-1] if item.changes]
    assert [change.after for item in news for change in item.changes] == ["inconclusive", "fails", "holds"]
    assert news[0].at > news[1].at > news[2].at


def test_the_journal_names_nobody(tmp_path, mail, journal, results):
    sent_to(PEOPLE, journal, local(mail), results)
    held = journal.path.read_bytes()
    assert b"ada" not in held
    assert b"example.org" not in held
    journal.forget("ADA@example.org")
    assert journal.sent("ada@example.org") == set()
    assert journal.sent("ben@example.org")


def test_a_broken_journal_is_named(tmp_path):
    (tmp_path / "ken-data").mkdir()
    (tmp_path / "ken-data" / "news.sqlite").write_text("not a database, but long enough to look like one" * 9)
    done = run_ken("papers", "digest", "--dry-run", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "news.sqlite cannot be used (file is not a database); check it and its folder" in done.stderr
