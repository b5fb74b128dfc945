"""The catalogue: sixty papers, found by slug, name or number, as the page has them that it follows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import pytest

from ken.core import BadInput
from ken.papers import Arm, Paper, entry
from ken.papers.catalogue import LISTED, entries, load_paper, rows

PAGE = Path("/work/shared/seeds/daily-papers.txt")


def test_all_sixty_are_there_in_order():
    assert [e.number for e in entries().values()] == list(range(60))
    assert len({e.name for e in entries().values()}) == 60
    assert len({e.arxiv for e in entries().values()}) == 60


@pytest.mark.parametrize("e", entries().values(), ids=lambda e: e.slug)
def test_an_entry_is_complete_and_short_enough_for_a_table(e):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", e.slug)
    assert re.fullmatch(r"\d{4}\.\d{4,5}", e.arxiv)
    year = 2000 + int(e.arxiv[:2])  # an arXiv number starts with year and month
    assert e.year == year
    for words in (e.inside, e.outside, e.signal):
        assert 0 < len(words) <= 48
        assert not words.endswith(".")


@pytest.mark.parametrize("e", entries().values(), ids=lambda e: e.slug)
def test_an_entry_says_when_by_whom_and_what_was_found(e):
    assert date(2009, 1, 1) < date.fromisoformat(e.date) <= date.fromisoformat(LISTED)
    assert e.listed == LISTED
    # A paper's day may be the last before the month in its number, where the clocks of the two places differ.
    assert abs(int(e.date[2:4]) * 12 + int(e.date[5:7]) - int(e.arxiv[:2]) * 12 - int(e.arxiv[2:4])) <= 1
    assert not e.code or e.code.startswith("https://github.com/")
    assert not (e.authors and e.organisation)
    assert len(re.findall(r"[.?!](?= |$)", e.summary)) in (2, 3)
    assert 200 <= len(e.summary) <= 420


@dataclass
class Listed:
    """A paper as the page lists it."""

    title: str
    authors: int | None = None
    date: str = ""
    organisation: str = ""


def read_page() -> list[Listed]:
    """Title, abstract, and what stands below: "• 6 authors" or "handle Name", and "Dec 18, 2025 2" (with comments)."""
    lines = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line.strip(" ·\n")]
    lines = lines[lines.index("Apr 15") + 1 :]
    starts = [place - 1 for place, line in enumerate(lines) if len(line) > 250]
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        listed = Listed(lines[start])
        for line in lines[start + 2 : end]:
            if match := re.fullmatch(r"• (\d+) authors", line):
                listed.authors = int(match[1])
            elif match := re.fullmatch(r"(\w{3} \d+)(?:, (\d{4}))?(?: \d+)?", line):
                day = datetime.strptime(f"{match[1]} {match[2] or LISTED[:4]}", "%b %d %Y")
                listed.date = day.date().isoformat()
            else:
                listed.organisation = line.partition(" ")[2]
        found.append(listed)
    return found


@pytest.mark.skipif(not PAGE.is_file(), reason="the page is not part of the repository")
def test_titles_dates_authors_and_organisations_are_the_page_s():
    listed = read_page()
    assert len(listed) == 59
    assert sum(bool(p.date) for p in listed) == 57, "ERA and Memento-Skills have neither date nor authors there"
    for e, paper in zip([e for e in entries().values() if e.number], listed, strict=True):
        assert (e.title, e.authors, e.organisation) == (paper.title, paper.authors, paper.organisation)
        assert e.date == paper.date or not paper.date


@pytest.mark.skipif(not PAGE.is_file(), reason="the page is not part of the repository")
def test_no_summary_repeats_the_page():
    def runs(text: str, words: int = 8) -> set[tuple[str, ...]]:
        found = re.findall(r"[\w'’-]+", text.lower())
        return {tuple(found[place : place + words]) for place in range(len(found) - words + 1)}

    page = runs(PAGE.read_text(encoding="utf-8"))
    assert len(page) > 10_000
    assert {e.slug: shared for e in entries().values() if (shared := runs(e.summary) & page)} == {}


@pytest.mark.parametrize("name", ["think-on-graph", "ToG", "tog", "44", " Think-on-Graph "])
def test_a_paper_is_found_by_slug_name_and_number(name):
    assert entry(name).number == 44


@pytest.mark.parametrize(
    ("name", "meant"),
    [("adasarch", "did you mean adasearch?"), ("search", "search-r1"), ("60", "see `ken papers`"), ("", "see `ken")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, meant):
    with pytest.raises(BadInput, match=re.escape(meant)):
        entry(name)


def test_a_planned_paper_says_that_it_is_planned():
    planned = next(slug for slug in entries() if slug not in rows())
    with pytest.raises(BadInput, match=rf"\({planned}\) is planned and cannot be run yet; those that run: "):
        load_paper(planned)


@pytest.mark.parametrize("slug", rows())
def test_a_row_belongs_to_its_entry_and_its_claims_name_its_arms(slug):
    paper = load_paper(slug)
    assert paper.entry == entries()[slug]
    assert paper.summary
    assert paper.claims
    assert any(claim.kind == "hard" for claim in paper.claims)
    assert len({claim.text for claim in paper.claims}) == len(paper.claims)
    assert paper.smoke != paper.full


@pytest.mark.parametrize(
    ("names", "problem"),
    [((), "different names"), (("a", "a"), "different names"), (("A",), "'A'"), (("all",), "'all'"), (("a,b",), "a,b")],
)
def test_arms_must_be_named_so_that_one_can_ask_for_them(names, problem):
    arms = tuple(Arm(name, "", lambda bench: {}) for name in names)
    config = entry("adasearch")
    with pytest.raises(ValueError, match=problem):
        Paper(entry=config, summary="", full=config, smoke=config, prepare=lambda c, s: None, arms=arms, claims=())
