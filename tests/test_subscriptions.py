"""Subscriptions to the digest: asked for by a form, confirmed by a button behind a mailed link, ended by another."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from browser import PHONE, Chromium
from capitals import environment, run_ken
from mail_server import MailServer, mail
from running import ken_serve

from ken.core import BadInput, SourceError
from ken.papers.feed import Journal
from ken.papers.mail import Smtp, settings
from ken.serving.service import Service
from ken.serving.subscriptions import CONFIRM_WITHIN, DAY, HOUR, LIMITS, Subscriptions, TooMany

__all__ = ["mail"]  # a fixture

HERE = "192.0.2.7"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def listed(tmp_path: Path, clock: Clock) -> Subscriptions:
    return Subscriptions(tmp_path / "data", clock=clock)


def subscribe(listed: Subscriptions, address: str, client: str = HERE) -> str:
    """The token of the link to confirm."""
    asked = listed.request(address, client)
    assert asked.token is not None
    return asked.token


def addresses(listed: Subscriptions) -> list[str]:
    return [subscriber.address for subscriber in listed.confirmed()]


def test_an_address_is_on_the_list_from_its_confirmation_to_its_end(listed, clock):
    token = subscribe(listed, "Ada@Example.org")
    assert addresses(listed) == []
    clock.now += 60
    assert listed.confirm(token)
    assert addresses(listed) == ["Ada@example.org"]
    assert listed.confirmed()[0].confirmed == datetime.fromtimestamp(clock.now, UTC)
    assert listed.has("ada@EXAMPLE.org")
    ended = listed.unsubscribe_token("ada@example.org")
    assert listed.unsubscribe(ended) == "ada@example.org"
    assert addresses(listed) == []


def test_a_token_works_once_for_its_purpose_and_in_time(listed, clock):
    token = subscribe(listed, "ada@example.org")
    assert listed.unsubscribe(token) is None, "it is for something else"
    assert listed.confirm(token)
    assert not listed.confirm(token)
    for wrong in ("", "x", token[:-1], token + "x", "ä\x00"):
        assert not listed.confirm(wrong)
        assert listed.unsubscribe(wrong) is None

    late = subscribe(listed, "ben@example.org")
    clock.now += CONFIRM_WITHIN - 1
    early = subscribe(listed, "cyd@example.org")
    clock.now += 1
    assert not listed.confirm(late)
    assert listed.confirm(early)


def test_the_link_to_end_it_works_as_long_as_the_subscription_and_ends_all_others(listed, clock):
    assert listed.confirm(subscribe(listed, "ada@example.org"))
    old, new = listed.unsubscribe_token("ada@example.org"), listed.unsubscribe_token("ada@example.org")
    clock.now += 3 * 365 * DAY
    again = subscribe(listed, "ada@example.org")
    assert listed.unsubscribe(old) == "ada@example.org"
    assert listed.unsubscribe(new) is None
    assert not listed.confirm(again)
    assert addresses(listed) == []


def test_the_file_holds_no_token_that_works_and_no_address_that_left(listed):
    waiting = subscribe(listed, "ben@example.org")
    token = subscribe(listed, "ada@example.org")
    assert listed.confirm(token)
    end = listed.unsubscribe_token("ada@example.org")
    with sqlite3.connect(listed.path) as db:
        held = "\n".join(db.iterdump())
    assert not [secret for secret in (waiting, token, end) if secret in held]
    assert HERE not in held
    assert listed.unsubscribe(end)
    with sqlite3.connect(listed.path) as db:
        held = "\n".join(db.iterdump())
    assert "ada" not in held
    assert listed.path.stat().st_mode & 0o077 == 0, "nobody else on the machine reads it"


def test_too_many_requests_wait(listed, clock):
    most, seconds = LIMITS["client"]
    for number in range(most):
        subscribe(listed, f"a{number}@example.org")
        clock.now += 1
    with pytest.raises(TooMany) as caught:
        listed.request("b@example.org", HERE)
    assert caught.value.seconds == seconds - most
    subscribe(listed, "b@example.org", client="192.0.2.8")
    clock.now += caught.value.seconds
    subscribe(listed, "b@example.org")


def test_clients_of_one_network_share_a_limit(listed):
    for number in range(LIMITS["client"][0]):
        subscribe(listed, f"a{number}@example.org", client=f"2001:db8::{number}")
    with pytest.raises(TooMany):
        listed.request("b@example.org", "2001:db8::ffff")
    subscribe(listed, "b@example.org", client="2001:db8:0:1::1")


def test_all_together_are_limited(listed):
    for number in range(LIMITS["all"][0]):
        subscribe(listed, f"a{number}@example.org", client=f"192.0.{number // 250}.{number % 250}")
    with pytest.raises(TooMany):
        listed.request("b@example.org", "198.51.100.1")


def test_one_address_is_sent_few_letters_a_day_whoever_asks(listed, clock):
    most, seconds = LIMITS["address"]
    for number in range(most):
        subscribe(listed, "ada@example.org", client=f"192.0.2.{number}")
    assert listed.request("ADA@example.org", "192.0.2.99").token is None
    assert listed.request("ben@example.org", "192.0.2.99").token is not None
    clock.now += seconds
    assert listed.request("ada@example.org", "192.0.2.99").token is not None


def test_what_is_no_address_is_not_taken(listed):
    for wrong in ("", "ada", "ada@x.org\r\nBcc: eve@x.org", "a@b.org, c@d.org"):
        with pytest.raises(BadInput, match="is no mail address"):
            listed.request(wrong, HERE)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "subscriptions.sqlite").write_text("not a database, but long enough to look like one" * 9)
    with pytest.raises(SourceError, match=r"subscriptions\.sqlite cannot be used"):
        Subscriptions(tmp_path)


CONFIRMING = """
import sys
from pathlib import Path
from ken.serving.subscriptions import Subscriptions
listed = Subscriptions(Path(sys.argv[1]))
for line in sys.stdin:
    print(listed.confirm(line.strip()), flush=True)
"""


def test_what_was_confirmed_survives_a_kill(tmp_path):
    """A process is killed while it confirms one after the other; whom it has told stays on the list, and the rest can
    still confirm."""
    listed = Subscriptions(tmp_path)
    tokens = {f"a{n}@example.org": subscribe(listed, f"a{n}@example.org", client=f"192.0.2.{n}") for n in range(40)}
    process = subprocess.Popen(
        [sys.executable, "-c", CONFIRMING, str(tmp_path)],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"{token}\n" for token in tokens.values()))
    process.stdin.flush()
    told = [process.stdout.readline() for _ in range(7)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait()
    confirmed = len(told)
    there = addresses(listed)
    assert told == ["True\n"] * confirmed
    assert confirmed <= len(there) <= confirmed + 1, "the last may be written and not yet told"
    assert set(list(tokens)[:confirmed]) <= set(there)
    for address, token in tokens.items():
        assert listed.confirm(token) == (address not in there)
    assert len(addresses(listed)) == 40


def test_many_at_once_confirm_each_token_once(listed):
    token = subscribe(listed, "ada@example.org")
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(listed.confirm(token))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]


# The pages


@pytest.fixture
def smtp(mail: MailServer) -> Smtp:
    """Links in mails lead to an address that a test replaces by that of its server."""
    return settings(
        host="127.0.0.1", port=mail.port, security="none", sender="ken@example.org", url="https://ken.example.org"
    )


@pytest.fixture
def service(tmp_path: Path, smtp: Smtp) -> Service:
    return Service([], data=tmp_path / "data", results=tmp_path / "results", mail=smtp)


@pytest.fixture
def web(served: Callable[[Service], str], service: Service) -> httpx.Client:
    return httpx.Client(base_url=served(service), timeout=60)


def link(mail: MailServer) -> str:
    """The path of the link in the last letter."""
    text = mail.mails[-1].get_content()
    found = re.search(r"https://ken\.example\.org(/\w+\?token=[\w-]+)", text)
    assert found, text
    return found[1]


def pressed(web: httpx.Client, path: str) -> httpx.Response:
    """Open a link and press the button on the page, as a browser does."""
    page = web.get(path)
    assert page.status_code == 200
    action = re.search(r'<form method="post" action="([^"]+)"', page.text)
    token = re.search(r'name="token" value="([^"]+)"', page.text)
    assert action
    assert token
    return web.post(action[1], data={"token": token[1]})


def test_from_the_form_to_the_digest_to_the_end(web, mail, service, tmp_path):
    assert 'name="address"' in web.get("/subscribe").text
    reply = web.post("/subscribe", data={"address": "ada@example.org"})
    assert reply.status_code == 200
    assert "A mail is on its way" in reply.text
    assert mail.recipients == ["ada@example.org"]
    assert mail.mails[0]["Subject"] == "Ken: please confirm your address"
    assert mail.mails[0]["Auto-Submitted"] == "auto-generated"
    assert "You are subscribed" in pressed(web, link(mail)).text

    (tmp_path / "ken.toml").write_text(
        f'[papers.digest]\nhost = "127.0.0.1"\nport = {mail.port}\nsecurity = "none"\nsender = "ken@example.org"\n'
        'url = "https://ken.example.org"\ndata = "data"\n'
    )
    done = run_ken("papers", "digest", "--since", "2026-04-01", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent to ada@example.org: 1 new paper\n", "")
    digest = mail.mails[-1]
    assert digest["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    unsubscribe = re.fullmatch(
        r"<https://ken\.example\.org(/unsubscribe\?token=[\w-]{43})>", digest["List-Unsubscribe"]
    )
    assert unsubscribe, digest["List-Unsubscribe"]
    assert f"https://ken.example.org{unsubscribe[1]}" in digest.get_body(("plain",)).get_content()
    assert f"https://ken.example.org{unsubscribe[1]}" in digest.get_body(("html",)).get_content()
    assert Journal(service.data).sent("ada@example.org")

    assert "You are unsubscribed" in pressed(web, unsubscribe[1]).text
    assert addresses(Subscriptions(service.data)) == []
    assert Journal(service.data).sent("ada@example.org") == set()
    assert run_ken("papers", "digest", cwd=tmp_path).stdout.startswith("nobody has subscribed yet")


def test_a_subscriber_who_is_named_gets_the_link_too(mail, service, smtp, tmp_path):
    listed = Subscriptions(service.data)
    listed.confirm(subscribe(listed, "ada@example.org"))
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        mail.port,
        "--security",
        "none",
        "--sender",
        smtp.sender,
        "--data",
        "data",
    ]
    since = ["--since", "2026-04-01", "--to", "ben@example.org", "--to", "ada@example.org"]
    done = run_ken("papers", "digest", *since, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ken: subscribers need a link to unsubscribe; give --url")
    done = run_ken("papers", "digest", *since, *options, "--url", smtp.url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert mail.recipients == ["ben@example.org", "ada@example.org"]
    assert [came["List-Unsubscribe-Post"] for came in mail.mails] == [None, "List-Unsubscribe=One-Click"]


def test_opening_a_link_does_nothing(web, mail, service):
    """Mail scanners open every link they find."""
    web.post("/subscribe", data={"address": "ada@example.org"})
    for method in ("GET", "HEAD", "GET"):
        web.request(method, link(mail))
    assert addresses(Subscriptions(service.data)) == []
    pressed(web, link(mail))
    token = Subscriptions(service.data).unsubscribe_token("ada@example.org")
    for _ in range(3):
        web.get(f"/unsubscribe?token={token}")
    assert addresses(Subscriptions(service.data)) == ["ada@example.org"]


@pytest.mark.parametrize("shape", ["data", "files"])
def test_a_mail_program_unsubscribes_by_one_post(web, service, shape):
    """RFC 8058, section 3.2: a form of either encoding, to the address in the header, without anything else."""
    listed = Subscriptions(service.data)
    listed.confirm(subscribe(listed, "ada@example.org"))
    token = listed.unsubscribe_token("ada@example.org")
    body = {"data": {"List-Unsubscribe": "One-Click"}, "files": {"List-Unsubscribe": (None, "One-Click")}}[shape]
    reply = web.post(f"/unsubscribe?token={token}", **{shape: body})
    assert reply.status_code == 200
    assert addresses(listed) == []
    assert web.post(f"/unsubscribe?token={token}", **{shape: body}).status_code == 410


def test_known_and_unknown_addresses_get_the_same_reply_and_a_letter_each(web, mail, service):
    listed = Subscriptions(service.data)
    listed.confirm(subscribe(listed, "ada@example.org"))
    replies = [web.post("/subscribe", data={"address": f"{name}@example.org"}) for name in ("ada", "ben")]
    assert replies[0].text == replies[1].text
    kept = [{k: v for k, v in reply.headers.items() if k not in ("date", "x-request-id")} for reply in replies]
    assert kept[0] == kept[1]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert mail.recipients == ["ada@example.org", "ben@example.org"]
    assert mail.mails[0]["Subject"] == "Ken: you are subscribed already"
    assert "You are unsubscribed" in pressed(web, link_of(mail, 0)).text, "who does not want it can end it here"


def link_of(mail: MailServer, number: int) -> str:
    found = re.search(r"https://ken\.example\.org(/\w+\?token=[\w-]+)", mail.mails[number].get_content())
    assert found
    return found[1]


def test_known_and_unknown_addresses_cost_the_same_work(tmp_path):
    """The statements of the database, which are all that differs before the letter."""
    listed = Subscriptions(tmp_path)
    listed.confirm(subscribe(listed, "ada@example.org"))
    done: list[str] = []
    opened = sqlite3.connect

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        db = opened(*arguments, **options)  # type: ignore[call-overload]
        db.set_trace_callback(lambda statement: done.append(re.sub(r"'[^']*'|[\d.]+(e\d+)?", "?", statement)))
        return db

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite3, "connect", traced)
        known, unknown = [], []
        for address, into in (("ada@example.org", known), ("ben@example.org", unknown)):
            done.clear()
            listed.request(address, HERE)
            into.extend(done)
    assert known == unknown
    assert len(known) > 5


def test_an_address_that_the_mail_server_refuses_gets_the_same_reply(web, mail):
    mail.refused["gone@example.org"] = "550 No such user"
    replies = [web.post("/subscribe", data={"address": f"{name}@example.org"}) for name in ("gone", "ben")]
    assert replies[0].text == replies[1].text
    assert [reply.status_code for reply in replies] == [200, 200]
    assert mail.recipients == ["ben@example.org"]


def test_one_address_gets_few_letters_and_the_reply_does_not_tell(web, mail):
    replies = [web.post("/subscribe", data={"address": "ada@example.org"}) for _ in range(LIMITS["address"][0] + 1)]
    assert {reply.text for reply in replies} == {replies[0].text}
    assert len(mail.mails) == LIMITS["address"][0]


def test_too_many_requests_are_told_to_wait(web, mail):
    replies = [web.post("/subscribe", data={"address": f"a{n}@example.org"}) for n in range(LIMITS["client"][0] + 1)]
    assert [reply.status_code for reply in replies] == [200] * LIMITS["client"][0] + [429]
    assert 0 < int(replies[-1].headers["Retry-After"]) <= HOUR
    assert "try again later" in replies[-1].text
    assert len(mail.mails) == LIMITS["client"][0]


@pytest.mark.parametrize(
    "address", ["", "ada", "ada@example.org\r\nBcc: eve@example.org", "a@b.org,c@d.org", "<script>alert(1)</script>@x"]
)
def test_what_is_no_address_is_said_on_the_form_and_no_mail_is_sent(web, mail, address):
    reply = web.post("/subscribe", data={"address": address})
    assert reply.status_code == 400
    assert "is no mail address; it looks like name@example.org" in reply.text
    assert "<script>alert" not in reply.text
    assert mail.mails == []


def test_bad_forms(web, mail, service):
    assert web.post("/subscribe").status_code == 400
    assert web.post("/subscribe", json={"address": "ada@example.org"}).status_code == 400
    assert web.post("/subscribe", data={f"a{n}": "x" for n in range(50)}).status_code == 400
    assert web.post("/subscribe", files={"address": ("x.txt", b"ada@example.org")}).status_code == 400
    assert web.post("/subscribe", content=b"address=" + b"a" * 3_000_000).status_code in (400, 413)
    for path in ("/confirm", "/unsubscribe"):
        assert web.post(path).status_code == 410
        assert web.post(path, data={"token": "x" * 5000}).status_code == 410
        assert web.post(path, data={"token": "nonsense"}).status_code == 410
        assert "This link is not complete" in web.get(path).text
        page = web.get(path, params={"token": '"><script>alert(1)</script>'})
        assert "<script>alert" not in page.text
        assert page.headers["Cache-Control"] == "no-store"
        assert "no-referrer" in page.headers["Referrer-Policy"]
    cross = web.post("/subscribe", data={"address": "ada@example.org"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert cross.status_code == 403
    assert mail.mails == []
    assert addresses(Subscriptions(service.data)) == []


def test_a_mail_server_that_is_down_is_said_and_the_log_names_nobody(tmp_path, mail):
    (tmp_path / "ken.toml").write_text(
        '[papers.digest]\nhost = "127.0.0.1"\nport = 9\nsecurity = "none"\nsender = "ken@example.org"\n'
        'url = "https://ken.example.org"\n'
    )
    with ken_serve(folder=tmp_path) as server:
        reply = httpx.post(f"{server.address}/subscribe", data={"address": "ada@example.com"}, timeout=60)
        assert reply.status_code == 503
        assert "the mail cannot be sent now; try again later" in reply.text
        server.end(signal.SIGINT)
        assert "no mail server answers at 127.0.0.1 port 9" in server.log
        assert "ada" not in server.log


def test_a_server_without_mail_says_so_and_offers_the_feed(served, tmp_path):
    web = httpx.Client(base_url=served(Service([], data=tmp_path / "data", results=tmp_path)), timeout=60)
    for reply in (web.get("/subscribe"), web.post("/subscribe", data={"address": "ada@example.org"})):
        assert "This server sends no mail" in reply.text
        assert 'href="/feed.xml"' in reply.text
        assert "<form" not in reply.text
    assert not (tmp_path / "data" / "subscriptions.sqlite").exists()


def test_ken_serve_wants_the_password_before_it_listens(tmp_path):
    (tmp_path / "ken.toml").write_text(
        '[papers.digest]\nhost = "smtp.example.org"\nuser = "ken"\nsender = "ken@example.org"\nurl = "https://k.example"\n'
    )
    done = run_ken("serve", "--port", 0, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ken: the mail server wants ken's password; set it in $KEN_SMTP_PASSWORD\n"


def test_the_pages_in_a_browser(chromium: Chromium, served, service, mail, tmp_path):
    """By keyboard, on a phone, in the dark; links of mails open on the server of the test."""
    home = served(service)
    page = chromium.page(f"{home}/subscribe", size=PHONE, scheme="dark")
    page.get_by_label("Your mail address").fill("ada@example.org")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Look into your mail").wait_for()
    page.goto(home + link(mail))
    page.get_by_role("button", name="Yes, subscribe me").click()
    page.get_by_role("heading", name="You are subscribed").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(home + link(mail))
    page.get_by_role("button", name="Yes, subscribe me").click()
    page.get_by_role("heading", name="This link does not work any more").wait_for()
    token = Subscriptions(service.data).unsubscribe_token("ada@example.org")
    page.goto(f"{home}/unsubscribe?token={token}")
    page.get_by_role("button", name="Unsubscribe me").click()
    page.get_by_role("heading", name="You are unsubscribed").wait_for()
    page.goto(f"{home}/subscribe")
    page.get_by_label("Your mail address").fill("ada@localhost..")
    page.evaluate("document.querySelector('form').noValidate = true")
    page.keyboard.press("Enter")
    assert "is no mail address" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Your mail address").input_value() == "ada@localhost.."
