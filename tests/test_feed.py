"""The Atom feed, held against every MUST of RFC 4287 that concerns one like it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.papers.catalogue import entries, entry
from ken.papers.feed import Change, Journal, News, atom, tally
from ken.papers.mail import settings
from ken.serving.service import Service

RESULTS = Path(__file__).parents[1] / "results"
ATOM = "{http://www.w3.org/2005/Atom}"
JOURNAL = UUID(int=7)


def tags(element: ElementTree.Element) -> list[str]:
    return [child.tag.removeprefix(ATOM) for child in element]


def check(body: bytes) -> ElementTree.Element:
    """RFC 4287, by section. Raises `AssertionError` for what it forbids."""
    feed = ElementTree.fromstring(body)  # 2: well-formed XML
    assert feed.tag == f"{ATOM}feed"
    assert all(element.tag.startswith(ATOM) for element in feed.iter())
    items = feed.findall(f"{ATOM}entry")

    # 4.1.1: exactly one id, title and updated; at most one of the others; an author for whatever has none
    for tag in ("id", "title", "updated"):
        assert tags(feed).count(tag) == 1
    for tag in ("generator", "icon", "logo", "rights", "subtitle"):
        assert tags(feed).count(tag) <= 1
    assert tags(feed).count("author") >= 1 or all("author" in tags(item) for item in items)
    assert set(tags(feed)) <= {"author", "category", "contributor", "generator", "icon", "id", "link", "logo", "rights",
                               "subtitle", "title", "updated", "entry"}  # fmt: skip
    for item in items:  # 4.1.2
        for tag in ("id", "title", "updated"):
            assert tags(item).count(tag) == 1
        for tag in ("content", "published", "rights", "source", "summary"):
            assert tags(item).count(tag) <= 1
        assert "content" in tags(item) or any(link.get("rel") == "alternate" for link in links(item))
        assert set(tags(item)) <= {"author", "category", "content", "contributor", "id", "link", "published", "rights",
                                   "source", "summary", "title", "updated"}  # fmt: skip
        content = item.find(f"{ATOM}content")
        assert content is not None
        assert content.get("type") == "html"  # 4.1.3.3: no child elements; what it holds is HTML
        assert len(content) == 0
        HTMLParser().feed(content.text or "")

    for holder in (feed, *items):
        # 4.1.1, 4.1.2: of the alternates no two share type and language; one self (4.2.7.2)
        kinds = [(link.get("type"), link.get("hreflang")) for link in links(holder) if link.get("rel") == "alternate"]
        assert len(kinds) == len(set(kinds))
        for link in links(holder):  # 4.2.7: an href that is an IRI; here always a whole one
            assert urlsplit(link.get("href", "")).scheme in {"http", "https"}
            assert link.get("rel") in {"self", "alternate", "related"}
            assert re.fullmatch(r"[a-z]+/[a-z+]+", link.get("type", ""))
            assert len(link) == 0
        for title in holder.findall(f"{ATOM}title") + holder.findall(f"{ATOM}subtitle"):
            assert title.get("type", "text") == "text"  # 3.1.1.1: no child elements
            assert len(title) == 0
        for category in holder.findall(f"{ATOM}category"):
            assert category.get("term")  # 4.2.2.1
        identity = holder.findtext(f"{ATOM}id") or ""  # 4.2.6: an absolute IRI, as it was first written
        assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", identity)
        for tag in ("updated", "published"):  # 3.3: RFC 3339, capital T and Z
            for stamp in holder.findall(f"{ATOM}{tag}"):
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stamp.text or "")
                datetime.fromisoformat(stamp.text or "")
    for author in feed.findall(f"{ATOM}author"):  # 3.2: one name
        assert tags(author).count("name") == 1
        assert author.findtext(f"{ATOM}name")
    # 4.2.6: different entries have different ids; updated of the feed is its latest change
    ids = [item.findtext(f"{ATOM}id") for item in items]
    assert len(set(ids)) == len(ids)
    stamps = [item.findtext(f"{ATOM}updated") or "" for item in items]
    assert stamps == sorted(stamps, reverse=True)
    assert not stamps or feed.findtext(f"{ATOM}updated") == stamps[0]
    return feed


def links(element: ElementTree.Element) -> list[ElementTree.Element]:
    return element.findall(f"{ATOM}link")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "data")


def test_the_feed_of_the_catalogue_and_its_verdicts_is_valid(journal):
    body = atom(journal.news(RESULTS), id=journal.id, home="https://ken.example.org")
    feed = check(body)
    assert body.startswith(b'<?xml version="1.0" encoding="utf-8"?>\n')
    items = feed.findall(f"{ATOM}entry")
    assert len(items) == 60 + len(list(RESULTS.glob("*.json")))
    by_link = {link.get("href"): item for item in items for link in links(item)}
    paper = by_link["https://arxiv.org/abs/2604.08224"]
    assert paper.findtext(f"{ATOM}title") == entry("externalization-review").title
    assert paper.findtext(f"{ATOM}updated") == "2026-04-08T00:00:00Z"
    assert entry("externalization-review").inside in (paper.findtext(f"{ATOM}content") or "")
    verdicts = [item for item in items if item.find(f"{ATOM}category[@term='verdicts']") is not None]
    claims = json.loads((RESULTS / "ikea.json").read_text(encoding="utf-8"))["claims"]
    (ikea,) = [item for item in verdicts if (item.findtext(f"{ATOM}title") or "").startswith("IKEA: ")]
    assert (ikea.findtext(f"{ATOM}content") or "").count("<li>") == len(claims)


def test_a_feed_of_nothing_is_valid(journal):
    check(atom([], id=journal.id, home="http://127.0.0.1:8080"))


def test_only_the_latest_are_in_it(journal):
    feed = check(atom(journal.news(RESULTS), id=journal.id, home="https://ken.example.org", most=5))
    assert len(feed.findall(f"{ATOM}entry")) == 5


@given(st.text(), st.text(min_size=1), st.sampled_from(["holds", "fails", "inconclusive"]))
def test_whatever_papers_and_claims_say_the_feed_is_valid_and_shows_it(summary, claim, verdict):
    paper = entry("ikea").model_copy(update={"summary": summary, "title": claim, "inside": summary})
    at = datetime(2026, 11, 23, tzinfo=UTC)
    change = Change(claim=claim, before=None, after=verdict)
    news = [
        News(id="urn:uuid:00000000-0000-4000-8000-000000000001", at=at, entry=paper),
        News(id="urn:uuid:00000000-0000-4000-8000-000000000002", at=at, entry=paper, changes=(change,)),
    ]
    feed = check(atom(news, id=JOURNAL, home="https://ken.example.org"))
    contents = [item.findtext(f"{ATOM}content") or "" for item in feed.findall(f"{ATOM}entry")]
    text = Text("".join(contents)).text
    for said in (summary, claim):
        kept = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", said)
        assert " ".join(kept.split()) in " ".join(text.split())


class Text(HTMLParser):
    """What a page of HTML says, from elements that are text alone."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"p", "ul", "li"}
        assert attrs == []

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_check_finds_what_is_wrong(journal):
    good = atom(journal.news(RESULTS), id=journal.id, home="https://ken.example.org").decode()
    for right, wrong in (
        ("<title>", "<name>"),
        ("T00:00:00Z", " 00:00"),
        ("<author><name>Ken</name></author>", ""),
        ('type="html"', 'type="xhtml"'),
        ("urn:uuid:", "uuid:"),
        ('href="https://arxiv', 'href="arxiv'),
        ("<updated>", "<updated/><updated>"),
    ):
        broken = good.replace(right, wrong).replace("</title>", "</name>" if wrong == "<name>" else "</title>")
        assert broken != good
        with pytest.raises((AssertionError, ValueError)):
            check(broken.encode())


def test_headlines():
    at = datetime(2026, 11, 23, tzinfo=UTC)

    def of(*changes: tuple[str | None, str]) -> str:
        told = tuple(Change(claim=str(n), before=b, after=a) for n, (b, a) in enumerate(changes))  # type: ignore[arg-type]
        return News(id="urn:uuid:1", at=at, entry=entry("ikea"), changes=told).title

    assert of((None, "holds"), (None, "holds"), (None, "fails")) == "IKEA: 2 hold, 1 fails"
    assert of((None, "inconclusive"), (None, "inconclusive")) == "IKEA: 2 inconclusive"
    assert of(("fails", "holds")) == "IKEA: 1 verdict changed"
    assert of(("fails", "holds"), (None, "holds")) == "IKEA: 2 verdicts changed"
    assert of() == entry("ikea").title
    assert tally(()) == ""


Serve = Callable[[Service], str]


def test_the_server_serves_it_and_says_when_nothing_changed(served: Serve, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    home = served(Service([], data=tmp_path / "data", results=results))
    first = httpx.get(f"{home}/feed.xml")
    assert first.headers["content-type"] == "application/atom+xml"
    feed = check(first.content)
    assert [link.get("href") for link in links(feed)] == [f"{home}/feed.xml", f"{home}/papers"]
    assert len(feed.findall(f"{ATOM}entry")) == len(entries())
    assert httpx.get(f"{home}/feed.xml").content == first.content
    for held in (first.headers["etag"], f'"x", W/{first.headers["etag"]}', "*"):
        again = httpx.get(f"{home}/feed.xml", headers={"If-None-Match": held})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    (results / "ikea.json").write_bytes((RESULTS / "ikea.json").read_bytes())
    changed = httpx.get(f"{home}/feed.xml", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert len(check(changed.content).findall(f"{ATOM}entry")) == len(entries()) + 1
    assert httpx.head(f"{home}/feed.xml").headers["etag"] == changed.headers["etag"]


def test_its_links_are_those_of_the_public_address(served: Serve, tmp_path):
    mail = settings(host="127.0.0.1", sender="ken@example.org", url="https://ken.example.org/")
    home = served(Service([], data=tmp_path / "data", results=tmp_path, mail=mail))
    feed = check(httpx.get(f"{home}/feed.xml").content)
    assert links(feed)[0].get("href") == "https://ken.example.org/feed.xml"


def test_a_data_folder_that_cannot_be_used_is_an_error_with_a_sentence(served: Serve, tmp_path):
    (tmp_path / "data").write_text("a file")
    home = served(Service([], data=tmp_path / "data", results=tmp_path))
    reply = httpx.get(f"{home}/feed.xml")
    assert reply.status_code == 503
    assert reply.headers["Retry-After"] == "300"
    assert "the feed cannot be made" in reply.text
