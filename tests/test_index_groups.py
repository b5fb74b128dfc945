"""Documents lie in groups, the folders of their ids: a group can be searched alone, listed, and added to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, Passage
from ken.sources import DocumentStore
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever, open_retriever

PAGES = [
    Passage(id=f"{product}/{n}", text=f"the battery is good {n}")
    for product in ("zorba", "zorbas", "ki")
    for n in range(12)
]
PAGES += [Passage(id="zorba/old/1", text="the battery was bad"), Passage(id="loose", text="a battery of tests")]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(PAGES, tmp_path_factory.mktemp("groups") / "index")


def test_a_group_is_listed_in_natural_order_with_its_subfolders(index: Index) -> None:
    ids = [p.id for p in index.passages("zorba")]
    assert ids == [*(f"zorba/{n}" for n in range(12)), "zorba/old/1"]
    assert len(index.passages()) == len(PAGES)
    assert index.folders() == {"": 1, "ki": 12, "zorba": 12, "zorba/old": 1, "zorbas": 12}


def test_a_search_within_a_group_finds_only_its_documents_and_scores_them_alike(index: Index) -> None:
    inside = index.search("battery good", 30, within="zorba/")
    assert {p.id.split("/")[0] for p in inside} == {"zorba"}
    assert len(inside) == 13
    everywhere = {p.id: p.score for p in index.search("battery good", 50)}
    assert all(p.score == everywhere[p.id] for p in inside)
    assert [p.id for p in index.search("bad", 5, within="zorba/old")] == ["zorba/old/1"]


def test_an_unknown_group_is_named_with_those_like_it(index: Index) -> None:
    with pytest.raises(BadInput, match=r"'Zorbaa'; did you mean .*'zorba'"):
        index.check_folder("Zorbaa")
    with pytest.raises(BadInput, match="it has ki, zorba, zorba/old, zorbas"):
        index.check_folder("xylophone")
    with pytest.raises(BadInput, match="lies in"):
        index.check_folder("")


def test_a_retriever_is_a_store_that_can_be_limited_to_a_group(index: Index) -> None:
    async def check() -> None:
        store = IndexRetriever(index)
        assert isinstance(store, DocumentStore)
        limited = await store.inside("ki")
        assert (limited.group, len(await limited.passages()), len(await store.passages())) == ("ki", 12, len(PAGES))
        assert {p.id.split("/")[0] for p in await limited.search("battery", 50)} == {"ki"}
        assert await limited.vectors([]) is None
        with pytest.raises(BadInput, match="did you mean 'ki'"):
            await store.inside("kii")

    asyncio.run(check())
    with pytest.raises(BadInput, match="cannot be limited"):
        open_retriever("http://localhost:1/retrieve", group="ki")


def test_what_is_added_to_a_group_is_in_it(tmp_path: Path) -> None:
    index = Index.build(PAGES[:12], tmp_path / "index")
    index.add([Passage(id="zorba/12", text="new"), Passage(id="ki/0", text="other")])
    assert [p.id for p in index.passages("zorba")] == [f"zorba/{n}" for n in range(13)]


NAMES = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=6).filter(
    lambda t: t.strip("/") == t and "//" not in t
)


@settings(max_examples=25)
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_any_name_can_be_a_group(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    pages = [Passage(id=f"{name}/{n}", text="x") for name in names for n in range(2)]
    index = Index.build(pages, tmp_path_factory.mktemp("names") / "index")
    for name in names:
        expected = {p.id for p in pages if p.id.startswith(f"{name}/")}
        assert {p.id for p in index.passages(index.check_folder(name))} == expected
