"""`ken papers add`: a paper's metadata from arXiv's API, replayed by a local server, into the user's own catalogue."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from capitals import command, environment, run_ken
from hypothesis import assume, given
from hypothesis import strategies as st

from ken.core import BadInput, SourceError
from ken.papers.arxiv import Metadata, arxiv_id, as_entry, look_up, parse_reply
from ken.papers.catalogue import add_own, clean, entries, entry, own_entries
from ken.papers.paper import Entry

FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <link href="http://arxiv.org/api/query?search_query%3D%26id_list%3D" rel="self" type="application/atom+xml"/>
  <title type="html">ArXiv Query: search_query=&amp;id_list=&amp;start=0&amp;max_results=1</title>
  <id>http://arxiv.org/api/cHxbiOdZaP56ODnBPIenZhzg5f8</id>
  <updated>2026-11-20T00:00:00-05:00</updated>
  <opensearch:totalResults xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">1</opensearch:totalResults>
  {entry}
</feed>
"""
ENTRY = """<entry>
    <id>http://arxiv.org/abs/2611.01234v2</id>
    <updated>2026-11-12T09:30:01Z</updated>
    <published>2026-11-03T17:59:59Z</published>
    <title>Lanterns &amp; Ledgers: Remembering
  What Was "Looked" Up</title>
    <summary>  An invented abstract, as long as this test needs it.
</summary>
    <author><name>Ada Example</name></author>
    <author><name>Józef Przykład</name></author>
    <author><name>Li Wei</name></author>
    <arxiv:comment xmlns:arxiv="http://arxiv.org/schemas/atom">9 pages. Code: https://github.com/a/lanterns.</arxiv:comment>
    <link href="http://arxiv.org/abs/2611.01234v2" rel="alternate" type="text/html"/>
    <link title="pdf" href="http://arxiv.org/pdf/2611.01234v2" rel="related" type="application/pdf"/>
    <arxiv:primary_category xmlns:arxiv="http://arxiv.org/schemas/atom" term="cs.CL"/>
    <category term="cs.CL" scheme="http://arxiv.org/schemas/atom"/>
  </entry>"""
REFUSED = """<entry>
    <id>http://arxiv.org/api/errors#incorrect_id_format_for_2611.99999</id>
    <title>Error</title>
    <summary>incorrect id format for 2611.99999</summary>
    <updated>2026-11-20T00:00:00-05:00</updated>
    <author><name>arXiv api core</name></author>
  </entry>"""
BOMB = """<?xml version="1.0"?>
<!DOCTYPE feed [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">
<!ENTITY f SYSTEM "file:///etc/passwd">]>
<feed xmlns="http://www.w3.org/2005/Atom"><entry><title>&c;&f;</title></entry></feed>"""

Replay = Callable[..., str]


@pytest.fixture
def arxiv() -> Iterator[Replay]:
    """A function that makes the server answer with a status and a body, and returns its address. It asks what the API
    asks for: an `id_list`."""
    replies: list[tuple[int, bytes]] = []
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.extend(parse_qs(urlsplit(self.path).query).get("id_list", ["nothing"]))
            status, body = replies[-1]
            self.send_response(status)
            self.send_header("Content-Type", "application/atom+xml; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def replay(entry: str | bytes = ENTRY, status: int = 200) -> str:
        replies.append((status, entry if isinstance(entry, bytes) else FEED.format(entry=entry).encode()))
        return f"http://127.0.0.1:{server.server_address[1]}/api/query"

    replay.asked = asked  # type: ignore[attr-defined]
    yield replay
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_paper_is_added_with_what_arxiv_says_and_shown_as_the_others_are(arxiv, tmp_path):
    words = ["--inside", "what it looked up before", "--outside", "a ledger", "--signal", "none", "--summary", "Ours."]
    done = run_ken("papers", "add", "arXiv:2611.01234v1", *words, "--api", arxiv(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        '1001 Lanterns & Ledgers: Lanterns & Ledgers: Remembering What Was "Looked" Up (2026-11-03)',
        "added to papers.toml; see `ken papers lanterns-ledgers`",
    ]
    assert arxiv.asked == ["2611.01234"]
    shown = json.loads(run_ken("papers", "lanterns-ledgers", "--json", cwd=tmp_path).stdout)
    assert (shown["number"], shown["authors"], shown["date"], shown["year"]) == (1001, 3, "2026-11-03", 2026)
    assert shown["code"] == "https://github.com/a/lanterns"
    assert shown["listed"] == date.today().isoformat()
    assert (shown["inside"], shown["summary"], shown["state"]) == ("what it looked up before", "Ours.", "planned")
    listed = json.loads(run_ken("papers", "--json", cwd=tmp_path).stdout)
    assert [paper["number"] for paper in listed] == [*range(60), 1001]
    assert "Lanterns" in run_ken("papers", cwd=tmp_path).stdout
    by_number = run_ken("papers", 1001, cwd=tmp_path).stdout
    assert "2026-11-03, 3 authors" in by_number


def test_the_example_of_the_documentation_adds_a_paper(arxiv, tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "papers-feed.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ken (papers add .*)$", page, re.MULTILINE)
    arguments = shlex.split(line)
    api = arxiv(ENTRY.replace("2611.01234", arguments[2]))
    done = run_ken(*arguments, "--api", api, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [paper.arxiv for paper in own_entries(tmp_path / "papers.toml").values()] == [arguments[2]]


def test_no_paper_is_added_twice_and_none_that_ken_ships(arxiv, tmp_path):
    assert run_ken("papers", "add", "2611.01234", "--api", arxiv(), cwd=tmp_path).returncode == 0
    before = (tmp_path / "papers.toml").read_bytes()
    for twice, slug in (("https://arxiv.org/abs/2611.01234v2", "lanterns-ledgers"), ("2512.16883", "adasearch")):
        done = run_ken("papers", "add", twice, "--api", arxiv(), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith(f"is in the catalogue already; see `ken papers {slug}`\n")
    assert arxiv.asked == ["2611.01234"], "arXiv is not asked for what is known"
    assert (tmp_path / "papers.toml").read_bytes() == before


def test_many_added_at_once_are_all_there(tmp_path):
    """Processes of their own append to one file."""
    papers = [f"2611.0{n}" for n in range(2000, 2006)]
    adding = """
import sys
from ken.papers.arxiv import Metadata, as_entry
from ken.papers.catalogue import add_own, entries
found = Metadata(arxiv=sys.argv[1], title=f"Paper {sys.argv[1]}", published="2026-11-03", authors=1, code="")
entry = as_entry(found, known=entries().values(), listed="2026-11-23")
print("ready", flush=True)
sys.stdin.readline()
add_own(entry)
"""
    python = str(Path(command()[0]).with_name("python"))
    running = [
        subprocess.Popen(
            [python, "-c", adding, paper],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for paper in papers
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.wait(60) for process in running] == [0] * 6
    assert sorted(e.arxiv for e in own_entries(tmp_path / "papers.toml").values()) == papers
    assert sorted(e.number for e in own_entries(tmp_path / "papers.toml").values()) == [*range(1001, 1007)]


@pytest.mark.parametrize(
    ("status", "reply", "said"),
    [
        (400, REFUSED, "arXiv refuses 2611.99999: incorrect id format for 2611.99999; check the identifier"),
        (200, REFUSED, "arXiv refuses 2611.99999: incorrect id format for 2611.99999; check the identifier"),
        (200, "", "arXiv has no paper 2611.99999; check the identifier"),
        (200, ENTRY, "arXiv answers with another paper (http://arxiv.org/abs/2611.01234v2) than 2611.99999"),
        (200, b"<html><body>Welcome to the hotel<br></body>", "arXiv's reply is not XML"),
        (200, b"", "arXiv's reply is not XML"),
        (200, BOMB.encode(), "arXiv's reply declares a document type"),
        (200, BOMB.encode("utf-16"), "arXiv's reply declares a document type"),
        (200, b"<feed>" + b" " * 2_000_000, "sends more than 1,000,000 bytes for one paper"),
        (503, b"", "arXiv asks for a pause (503); try again in a minute"),
        (429, b"Rate exceeded.", "arXiv asks for a pause (429); try again in a minute"),
        (500, b"oops", "answers 500; try later, or check the address"),
    ],
)
def test_what_arxiv_refuses_or_garbles_is_explained(arxiv, status, reply, said):
    with pytest.raises((BadInput, SourceError), match=re.escape(said)) as caught:
        look_up("2611.99999", api=arxiv(reply, status))
    assert "\n" not in str(caught.value)


def test_what_arxiv_refuses_adds_nothing(arxiv, tmp_path):
    done = run_ken("papers", "add", "2611.99999", "--api", arxiv(REFUSED, 400), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ken: arXiv refuses 2611.99999: incorrect id format for 2611.99999; check the identifier\n"
    assert list(tmp_path.iterdir()) == []


def test_offline_is_one_sentence(tmp_path):
    done = run_ken("papers", "add", "2611.01234", "--api", "http://127.0.0.1:9/api/query", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("ken: arXiv does not answer at http://127.0.0.1:9/api/query (")
    assert done.stderr.endswith("check the network, or try later\n")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_ends_its_reply_is_given_up():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(SourceError, match=r"arXiv does not answer at .* \(timed out\); check the network, or try later"),
    ):
        look_up("2611.01234", api=f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.3)


def test_an_address_that_is_none_is_named():
    with pytest.raises(BadInput, match=r"nowhere is not an address that can be asked \(.*\); give http://HOST/PATH"):
        look_up("2611.01234", api="nowhere")


@pytest.mark.parametrize("text", ["nonsense", "2611.1", "https://example.org/abs/2611.01234", "", "../2611.01234"])
def test_what_is_no_identifier_is_refused(text):
    with pytest.raises(BadInput, match=r"is no arXiv identifier; it looks like 2503\.09516 or hep-th/9901001"):
        arxiv_id(text)


def test_an_address_of_code_that_is_none_is_refused(arxiv, tmp_path):
    done = run_ken("papers", "add", "2611.01234", "--code", "javascript:alert(1)", "--api", arxiv(), cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("ken: --code cannot be used")
    assert not (tmp_path / "papers.toml").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2503.09516", "2503.09516"),
        (" arXiv:2503.09516v2 ", "2503.09516"),
        ("https://arxiv.org/pdf/2503.09516v3.pdf", "2503.09516"),
        ("http://export.arxiv.org/abs/hep-th/9901001", "hep-th/9901001"),
        ("math.GT/0309136", "math.GT/0309136"),
    ],
)
def test_an_identifier_is_known_in_all_its_spellings(text, found):
    assert arxiv_id(text) == found


def test_a_hand_edited_file_keeps_its_comments_and_a_broken_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "papers.toml"
    add_own(made("2611.00001", "First"))
    own.write_text("# mine\n" + own.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    add_own(made("2611.00002", "Second"))
    assert own.read_text(encoding="utf-8").startswith("# mine\n[first]\n")
    assert [e.number for e in entries().values()][-2:] == [1001, 1002]
    first = own_entries()["first"]
    with pytest.raises(BadInput, match=r"First \(2611.00001\) is in papers.toml already"):
        add_own(first)
    with pytest.raises(BadInput, match=r"another paper called first; give this one another --name"):
        add_own(first.model_copy(update={"arxiv": "2611.00009"}))

    good = own.read_text(encoding="utf-8")
    for bad, said in (
        (good + "[third\n", r"papers.toml is not TOML \(.*\); mend it, or move it away"),
        (
            good.replace("First", "x").replace('arxiv = "2611.00001"', 'arxiv = "../x"'),
            r"papers.toml \[first\]: arxiv: ",
        ),
        ("title = 3\n", "papers.toml: title is no table"),
        (good.replace("[first]", "['../../x']"), r"papers.toml \[../../x\]: slug: "),
    ):
        own.write_text(bad, encoding="utf-8")
        with pytest.raises(BadInput, match=said):
            entries()
        assert entry("adasearch").number == 1, "what Ken ships is found all the same"
    done = run_ken("papers", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_hand_written_file_shows_nothing_that_a_terminal_obeys(tmp_path):
    text = '[x]\nnumber = 1001\nname = "X\\u001b[31m"\ntitle = "a\\u202eb\\nc"\narxiv = "2611.00001"\nyear = 2026\n'
    (tmp_path / "papers.toml").write_text(text + 'inside = ""\noutside = ""\nsignal = ""\n', encoding="utf-8")
    for arguments in ([], ["x"]):
        done = run_ken("papers", *arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert "\u202e" not in done.stdout
    assert own_entries(tmp_path / "papers.toml")["x"].title == "ab c"


def test_a_paper_that_ken_has_come_to_ship_is_listed_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_own(made("2611.00001", "First"))
    own = tmp_path / "papers.toml"
    own.write_text(own.read_text(encoding="utf-8").replace("2611.00001", "2512.16883"), encoding="utf-8")
    assert len(entries()) == 60


def made(arxiv: str, title: str, **words: str) -> Entry:
    found = Metadata(arxiv=arxiv, title=title, published="2026-11-03", authors=2, code="")
    return as_entry(found, known=entries().values(), listed="2026-11-23", **words)


@given(st.text(min_size=1, max_size=200), st.text(max_size=80), st.text(max_size=80))
def test_whatever_a_title_says_the_file_reads_back_as_it_was_written(tmp_path_factory, title, name, inside):
    assume(clean(title))  # arXiv's are not empty
    path = tmp_path_factory.mktemp("own") / "papers.toml"
    made = as_entry(
        Metadata(arxiv="2611.00001", title=title, published="2026-11-03", authors=2, code=""),
        known=[],
        listed="2026-11-23",
        name=name,
        inside=inside,
    )
    add_own(made, path)
    assert own_entries(path) == {made.slug: made}


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise_anything_but_its_own_errors(body):
    for reply in (body, FEED.format(entry=body.decode("latin-1")).encode()):
        with pytest.raises((BadInput, SourceError)):
            parse_reply(reply, "2611.01234")


def test_names_and_slugs():
    def of(title: str, name: str = "") -> tuple[str, str]:
        made = as_entry(
            Metadata(arxiv="2611.00001", title=title, published="2026-11-03", authors=2, code=""),
            known=entries().values(),
            listed="2026-11-23",
            name=name,
        )
        return made.name, made.slug

    assert of("Lamp: A Light") == ("Lamp", "lamp")
    assert of("Attention to What Is Outside of the Model at All Times") == (
        "Attention to What Is Outside",
        "attention-to-what-is-outside",
    )
    assert of("Żółw: A Turtle") == ("Żółw", "zow"), "what has no ASCII letter is left out"
    assert of("知識") == ("知識", "arxiv-2611-00001")
    assert of("Add: A Command") == ("Add", "add-2611-00001"), "`ken papers add` is a command"
    assert of("IKEA: Another") == ("IKEA", "ikea-2611-00001"), "taken"
    assert of("44: A Number") == ("44", "44-2611-00001"), "`ken papers 44` is a number"
    assert of("X", name="My\x1b[31m Name\u202e") == ("My[31m Name", "my-31m-name")


def test_the_file_is_toml_that_other_readers_read(tmp_path):
    title = 'A "quoted" \\ title\x7f with 知識'
    add_own(made("2611.00001", "X").model_copy(update={"title": title}), tmp_path / "papers.toml")
    table = tomllib.loads((tmp_path / "papers.toml").read_text(encoding="utf-8"))
    assert next(iter(table.values()))["title"] == title
