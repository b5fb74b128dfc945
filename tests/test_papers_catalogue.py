"""The catalogue: sixty papers, found by slug, name or number."""

from __future__ import annotations

import re

import pytest

from ken.core import BadInput
from ken.papers import Arm, Paper, entry
from ken.papers.catalogue import entries, load_paper, rows


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
