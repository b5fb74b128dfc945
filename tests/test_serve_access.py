"""Who may come in, and how much they may send."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import capitals
import httpx
import pytest
from running import ken_serve, running
from typer.testing import CliRunner

from ken.core import BadInput
from ken.core.errors import KenError
from ken.models.scripted import ScriptedModel
from ken.serving.access import Access, check_host, is_loopback
from ken.serving.keys import COOKIE, COOKIE_SECONDS, Keys
from ken.serving.limits import RateLimit, limited
from ken.serving.service import Service

KEY, OTHER = "the-first-key", "another-key-of-ours"
QUESTION = {"question": "Why?", "strategy": "direct"}
PAGE = {"Accept": "text/html"}


def service() -> Service:
    return Service([ScriptedModel(lambda _: "<answer>x</answer>")])


@pytest.fixture(scope="module")
def keyed() -> Iterator[str]:
    with running(service(), access=Access(keys=(KEY, OTHER))) as url:
        yield url


@pytest.fixture(scope="module")
def keyless() -> Iterator[str]:
    with running(service()) as url:
        yield url


def ask(url: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/ask", json=QUESTION, headers=headers)


# --- keys ---


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer  {OTHER}"])
def test_each_key_opens_the_api(keyed: str, header: str) -> None:
    assert ask(keyed, Authorization=header).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer \xff"]
)
def test_nothing_else_does(keyed: str, header: str) -> None:
    for path in ("/v1/ask", "/v1/chat/completions", "/nowhere"):
        reply = httpx.post(f"{keyed}{path}", json=QUESTION, headers={"Authorization": header.encode("latin-1")})
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"].startswith("Bearer")
    for path in ("/v1/models", "/metrics", "/openapi.json", "/ask"):
        assert httpx.get(f"{keyed}{path}", headers={"Authorization": header.encode("latin-1")}).status_code == 401


def test_whether_it_lives_and_how_it_looks_is_for_everybody(keyed: str) -> None:
    assert httpx.get(f"{keyed}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{keyed}/static/ken.css").status_code == 200
    assert httpx.get(f"{keyed}/static/../../keys.py").status_code in {401, 404}


def test_a_key_that_is_none_is_refused_at_the_start() -> None:
    for bad in ("", "short", "with a space in it", "line\nbreak-line"):
        with pytest.raises(BadInput, match="openssl rand"):
            Keys([bad])


def test_a_cookie_ends_and_cannot_be_made_by_hand() -> None:
    keys = Keys([KEY, OTHER])
    cookie = keys.cookie(2, now=1000.0)
    assert keys.of_cookie(cookie, now=1000.0 + COOKIE_SECONDS - 1) == 2
    assert keys.of_cookie(cookie, now=1000.0 + COOKIE_SECONDS + 1) is None
    ends, _, signature = cookie.partition(".")
    for forged in (
        f"{int(ends) + 1}.{signature}",
        f"{ends}.",
        ends,
        "",
        ".",
        f"{ends}.ü",
        "9" * 5000 + ".x",
        f"²{cookie}",
    ):
        assert keys.of_cookie(forged, now=1000.0) is None
    assert Keys([KEY]).of_cookie(cookie, now=1000.0) is None, "a key that was taken away ends its cookies"
    assert OTHER not in cookie


# --- logging in ---


def test_people_log_in_by_a_page(keyed: str) -> None:
    with httpx.Client(base_url=keyed, headers=PAGE) as browser:
        sent_away = browser.get("/ask?x=1")
        assert (sent_away.status_code, sent_away.headers["location"]) == (303, "/login?next=%2Fask%3Fx%3D1")
        form = browser.get(sent_away.headers["location"])
        assert form.status_code == 200
        assert 'value="/ask?x=1"' in form.text
        assert "default-src 'none'" in form.headers["content-security-policy"]
        wrong = browser.post("/login", data={"key": "wrong-wrong", "next": "/ask?x=1"})
        assert wrong.status_code == 401
        assert "none of the keys" in wrong.text
        assert "set-cookie" not in wrong.headers
        right = browser.post("/login", data={"key": KEY, "next": "/ask?x=1"})
        assert (right.status_code, right.headers["location"]) == (303, "/ask?x=1")
        cookie = right.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split(r"; ", cookie))
        assert KEY not in cookie
        assert browser.get("/openapi.json").status_code == 200
        assert browser.post("/v1/ask", json=QUESTION).status_code == 200
        browser.post("/logout")
        assert browser.get("/openapi.json").status_code == 303


@pytest.mark.parametrize(
    "after", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", "/a\tb", ""]
)
def test_a_login_leads_nowhere_else(keyed: str, after: str) -> None:
    assert httpx.post(f"{keyed}/login", data={"key": KEY, "next": after}).headers["location"] == "/"
    assert 'value="/"' in httpx.get(f"{keyed}/login", params={"next": after}).text


def test_a_form_that_is_no_login_is_refused(keyed: str) -> None:
    assert httpx.post(f"{keyed}/login", data={}).status_code == 401
    assert (
        httpx.post(f"{keyed}/login", content=b"\xff" * 100, headers={"Content-Type": "multipart/form-data"}).status_code
        == 400
    )
    files = {"key": ("x.txt", b"y")}
    assert httpx.post(f"{keyed}/login", files=files).status_code == 400


# --- browsers on this machine, and pages of others ---


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1:80", "[::1]:8080", "ken.localhost", "LOCALHOST:1"]
)
def test_names_of_this_machine_are_answered(keyless: str, host: str) -> None:
    assert ask(keyless, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "192.168.1.1", "localhost.evil.example", "127.0.0.1.evil.example", "[", ""]
)
def test_a_name_that_was_bent_to_this_machine_is_refused(keyless: str, host: str) -> None:
    for path in ("/v1/models", "/healthz", "/ask"):
        reply = httpx.get(f"{keyless}{path}", headers={"Host": host})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "wrong_host")


def test_with_a_key_the_server_may_have_any_name(keyed: str) -> None:
    assert ask(keyed, Host="ken.example", Authorization=f"Bearer {KEY}").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_cannot_make_a_browser_ask(keyless: str, headers: dict[str, str]) -> None:
    reply = ask(keyless, **headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "foreign_origin")
    assert httpx.get(f"{keyless}/v1/models", headers=headers).status_code == 200, "reading is what CORS forbids"


def test_its_own_pages_can(keyless: str, keyed: str) -> None:
    assert ask(keyless, Origin=keyless).status_code == 200
    assert (
        ask(keyless, **{"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"}).status_code == 200
    )
    assert ask(keyed, Origin="https://app.example", Authorization=f"Bearer {KEY}").status_code == 200, "a key is enough"


def test_a_cookie_alone_does_not_let_other_sites_in(keyed: str) -> None:
    cookie = {"Cookie": f"{COOKIE}={Keys([KEY]).cookie(1)}"}
    assert ask(keyed, **cookie).status_code == 200
    assert ask(keyed, **cookie, Origin="https://evil.example").status_code == 403


def test_without_a_key_only_this_machine_is_listened_to(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.1", "ken.example"):
        with pytest.raises(BadInput, match="--api-key"):
            check_host(host, ())
        check_host(host, (KEY,))
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        check_host(host, ())
        assert is_loopback(host)
    done = capitals.run_ken("serve", "--host", "0.0.0.0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"ken: without a key only this machine may ask, .*\n", done.stderr)


def test_the_command_takes_keys_from_the_environment_and_says_when_there_are_none(tmp_path: Path) -> None:
    with ken_serve("--host", "0.0.0.0", folder=tmp_path, KEN_API_KEY=f"{KEY} {OTHER}") as served:
        url = served.address
        assert url.startswith("http://127.0.0.1:"), "an address that can be opened"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {OTHER}"}).status_code == 200
        served.end()
        assert [json.loads(line)["client"] for line in served.log.splitlines()] == ["127.0.0.1", "key 2"]
        assert KEY not in served.log
    with ken_serve(folder=tmp_path) as served:
        assert served.process.stdout is not None
        assert served.process.stdout.readline() == "without --api-key, only programs on this machine may ask\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--api-key", "short"], "at least 8"),
        (["--rate", "0"], "--rate"),
        (["--strategy", "nonsense"], "is no strategy 'nonsense'"),
        (["--request-timeout", "0"], "more than 0"),
        (["--max-request", "0"], "--max-request"),
        (["--index", "=x"], "--index"),
        (["--index", ".."], "--index NAME=DIR"),
        (["--index", "..=index"], "--index NAME=DIR"),
        (["--index", "../x=index"], "there is no index at ../x=index"),
        (["--index", "people=nope"], "there is no index at nope"),
        (["--index", "people=thesis"], "is not a Ken index"),
        (["--index", "a=index", "--index", "a=index"], "two indexes are called 'a'"),
        (["--data", "file"], "--data file cannot be written"),
        (["--data", "file/below"], "--data file/below cannot be written"),
        (["--model", "nonsense"], "is not a model"),
        (["--model", "openai/m"], "set OPENAI_API_KEY or pass --api-key (--upstream-key where clients have keys"),
        (["--host", "999.1.1.1", "--api-key", KEY], "cannot listen"),
    ],
)
def test_options_that_cannot_work_end_with_a_sentence(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.cli import app

    if not app.app.registered_groups:
        app._assemble()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    capitals.build_index(tmp_path / "index")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "main.tex").touch()
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app.app, ["serve", *options])
    assert isinstance(done.exception, KenError)
    assert says in str(done.exception)


def test_a_temperature_that_no_client_could_ask_for_is_refused(tmp_path: Path) -> None:
    done = capitals.run_ken("serve", "--temperature", 9, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'--temperature': Input should be less than or equal to 2" in done.stderr


def test_the_key_of_the_model_in_the_settings_is_not_one_for_clients(tmp_path: Path) -> None:
    settings = 'api_key = "of-the-model"\nmodel = "openai/m"\nbase_url = "http://127.0.0.1:1/v1"\n'
    (tmp_path / "ken.toml").write_text(settings + f'[serve]\nclient_key = "{KEY}"\n')
    with ken_serve(folder=tmp_path) as served:
        for key, status in (("of-the-model", 401), (KEY, 200)):
            headers = {"Authorization": f"Bearer {key}"}
            assert httpx.get(f"{served.address}/v1/models", headers=headers).status_code == status


# --- how much ---


def test_a_request_over_the_limit_is_refused_whether_or_not_it_says_how_long_it_is() -> None:
    with running(service(), access=Access(request_bytes=1000, upload_bytes=2000)) as url:
        big = json.dumps({"question": "x" * 1000, "strategy": "direct"}).encode()
        headers = {"Content-Type": "application/json"}

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(big), 100):
                yield big[start : start + 100]

        sent: list[Callable[[], Any]] = [lambda: big, chunks]
        for content in sent:
            reply = httpx.post(f"{url}/v1/ask", content=content(), headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
            assert "1,000 bytes" in reply.json()["error"]["message"]
        assert ask(url).status_code == 200
        assert httpx.post(f"{url}/login", files={"a": b"x" * 1200}).status_code != 413, "forms may be larger"
        assert httpx.post(f"{url}/login", files={"a": b"x" * 3000}).status_code == 413


def test_a_body_without_an_end_is_cut_off_at_the_limit() -> None:
    """A client that goes on sending for ever is told so and closed."""
    with running(service(), access=Access(request_bytes=1000)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            head = "POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(11):
                client.sendall(b"64\r\n" + b"x" * 100 + b"\r\n")
            assert b"413" in client.recv(200)


@pytest.mark.parametrize("path", ["/v1/ask", "/ask/indexes"])
def test_a_body_that_does_not_arrive_is_not_waited_for(path: str) -> None:
    with running(service(), access=Access(seconds=0.2)) as url:
        host, port = url.removeprefix("http://").split(":")
        kind = "application/json" if path == "/v1/ask" else "multipart/form-data; boundary=x"
        with socket.create_connection((host, int(port)), timeout=30) as client:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 99\r\n\r\n"
            client.sendall(head.encode() + b"--x")
            with client.makefile("rb") as reply:
                said = reply.read()  # to the end, which the server makes
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in said
        assert ask(url).status_code == 200


def test_the_time_for_a_body_does_not_end_a_question_that_takes_longer() -> None:
    async def run() -> None:
        messages = iter([{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}])
        told = asyncio.Event()

        async def receive() -> dict[str, Any]:
            message = next(messages)
            if message["type"] == "http.disconnect":
                asyncio.get_running_loop().call_later(0.05, told.set)
                await told.wait()
            return message

        counted = limited(receive, 10, 0.02)
        assert [(await counted())["type"] for _ in range(2)] == ["http.request", "http.disconnect"]

    asyncio.run(run())


def test_more_requests_than_the_rate_are_told_when_to_come_back() -> None:
    with running(service(), access=Access(keys=(KEY, OTHER), rate=3)) as url:
        bearer = {"Authorization": f"Bearer {KEY}"}
        assert [ask(url, **bearer).status_code for _ in range(4)] == [200, 200, 200, 429]
        late = ask(url, **bearer)
        assert late.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(late.headers["retry-after"]) <= 20
        assert ask(url, Authorization=f"Bearer {OTHER}").status_code == 200, "each key has a rate of its own"
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert [ask(url).status_code for _ in range(4)] == [401, 401, 401, 429], "guessing keys is limited by address"


def test_the_rate_is_a_bucket_that_fills_again() -> None:
    now = 0.0
    limit = RateLimit(60, clock=lambda: now)
    assert [limit.wait("a") for _ in range(61)] == [0] * 60 + [1]
    now = 1.5
    assert [limit.wait("a"), limit.wait("a")] == [0, 1]
    now = 1e6
    assert [limit.wait("a") for _ in range(61)] == [0] * 60 + [1], "no more than a minute's worth"
    for number in range(20_000):
        limit.wait(str(number))
    assert len(limit._buckets) == 10_000, "memory is bounded, however many addresses there are"
    with pytest.raises(BadInput, match="--rate"):
        RateLimit(float("nan"))


def test_questions_stay_out_of_the_log_and_out_of_the_labels(tmp_path: Path) -> None:
    with ken_serve(folder=tmp_path) as served:
        httpx.get(f"{served.address}/v1/models/my-secret-model?q=my-secret-question")
        httpx.get(f"{served.address}/my-secret-page")
        httpx.request("MYSECRET", f"{served.address}/")
        counted = httpx.get(f"{served.address}/metrics").text
        assert 'route="/v1/models/{model:path}"' in counted
        assert "secret" not in counted.lower()
        served.end()
        assert "secret" not in served.log.lower()
        assert len(served.log.splitlines()) == 4


def test_a_line_of_the_log_is_json_whatever_is_sent(tmp_path: Path) -> None:
    with ken_serve("--log-texts", folder=tmp_path) as served:
        evil = {"question": 'x"\n{"event": "forged"}\u2028', "strategy": "direct"}
        httpx.post(f"{served.address}/v1/ask", json=evil)
        served.end()
        (line,) = served.log.split("\n")[:-1]
        assert json.loads(line)["question"] == evil["question"]


def test_help_names_every_option() -> None:
    said = subprocess.run(capitals.command("serve", "--help"), capture_output=True, text=True, check=True).stdout
    for option in ("--api-key", "--rate", "--concurrency", "--queue", "--request-timeout", "--log-texts", "--grace"):
        assert option in said
