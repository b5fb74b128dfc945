"""The index: what is put in is found, changed and removed by id, and bad input changes nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, DataError, Passage, SourceError
from ken.sources.search.bm25 import TOKENIZERS
from ken.sources.search.index import Index

SHARED = Path(__file__).parents[2] / "shared" / "data" / "musique100"

DOCUMENTS = [
    Passage(id="curie", title="Marie Curie", text="She discovered polonium and radium with Pierre Curie in Paris."),
    Passage(id="bohr", title="Niels Bohr", text="He founded the Institute of Theoretical Physics in Copenhagen."),
    Passage(id="meitner", title="Lise Meitner", text="She explained nuclear fission, far from Berlin, in Sweden."),
]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.build(DOCUMENTS, tmp_path / "index")


def ids(passages: list[Passage]) -> list[str]:
    return [passage.id for passage in passages]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- finding ---


def test_a_passage_comes_back_as_it_was_put_in_with_a_score(index: Index) -> None:
    (found, *_) = index.search("who discovered radium?", k=1)
    assert found.score
    assert found.model_copy(update={"score": None, "document": ""}) == DOCUMENTS[0]
    assert found.document_id == "curie"


def test_an_index_can_be_opened_again_and_says_what_it_is(index: Index) -> None:
    again = Index.open(index.path)
    assert ids(again.search("fission")) == ["meitner"]
    info = again.info()
    assert (info.documents, info.passages, info.tokenizer, info.model) == (3, 3, "english", None)
    assert info.bytes > 1000
    assert len(again) == 3
    assert "bohr" in again
    assert "nobody" not in again


def test_a_title_counts_more_than_the_text(tmp_path: Path) -> None:
    filler = " and more words that say nothing"
    documents = [Passage(id="a", title="x", text="zebra" + filler), Passage(id="b", title="zebra", text="x" + filler)]
    assert ids(Index.build(documents, tmp_path / "i").search("zebra")) == ["b", "a"]


def test_many_queries_give_what_each_gives_alone(index: Index) -> None:
    queries = ["radium", "Copenhagen institute", "she", "nothing of the kind", "Berlin"] * 4
    assert index.search_many(queries, 2) == [index.search(query, 2) for query in queries]


def test_words_match_in_any_form_case_and_accent_in_english(tmp_path: Path) -> None:
    index = Index.build([Passage(id="a", text="The CAFÉS were founded by discoverers")], tmp_path / "i")
    assert all(index.search(query) for query in ("cafe", "Café", "founding", "DISCOVERER"))


def test_the_simple_tokenizer_does_not_stem_and_bigrams_find_unspaced_scripts(tmp_path: Path) -> None:
    document = Passage(id="a", text="houses 日本の首都は東京です")
    simple = Index.build([document], tmp_path / "simple", tokenizer="simple")
    assert simple.search("houses")
    assert not simple.search("housing")
    assert not simple.search("東京")
    assert Index.build([document], tmp_path / "bigram", tokenizer="bigram").search("東京")


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_tokenizer_finds_a_word_as_it_is_written(tmp_path: Path, tokenizer: str) -> None:
    index = Index.build([Passage(id="a", text="Größe вода ville")], tmp_path / "i", tokenizer=tokenizer)
    index = Index.open(index.path)
    assert all(index.search(query) for query in ("Größe", "вода", "ville"))


def test_equal_scores_come_in_the_same_order_however_the_index_was_built(tmp_path: Path) -> None:
    documents = [Passage(id=f"{i:03d}", title="same", text="the same words") for i in range(100)]
    best = Passage(id="best", title="same", text="the same words and a better one")
    orders = []
    for seed in range(3):
        random.Random(seed).shuffle(documents)
        index = Index.build(documents[:60], tmp_path / str(seed))
        index.add([*documents[60:], best])  # more than one segment
        orders.append(ids(index.search("same words better", 100)))
        for k in (1, 2, 7):
            assert ids(index.search("same words better", k)) == orders[0][:k], "and whatever k is"
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0] == "best"


def test_k_may_be_larger_than_the_index(index: Index) -> None:
    assert len(index.search("she he", k=10**9)) == 3


@settings(max_examples=200, deadline=None)
@given(query=st.text(max_size=60))
def test_no_query_is_an_error_or_an_operator(shared_index: Index, query: str) -> None:
    if query.strip():
        assert {p.id for p in shared_index.search(query, 10)} <= {"curie", "bohr", "meitner"}


@pytest.mark.parametrize(
    "query",
    ["title:radium", "radium AND Copenhagen", "NOT radium", "-radium +radium", '"radium', "rad*um radium", "(radium",
     "radium^0", "radium IN [a b]", "text:[a TO z] radium", "*:* radium", "\\radium\\", "/radium/", "radium~2"],
)  # fmt: skip
def test_query_syntax_of_the_engine_is_only_words(shared_index: Index, query: str) -> None:
    found = ids(shared_index.search(query))
    assert "curie" in found
    assert "bohr" in found or "Copenhagen" not in query


@pytest.fixture(scope="module")
def shared_index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(DOCUMENTS, tmp_path_factory.mktemp("shared") / "index")


def test_a_query_without_a_letter_or_digit_finds_nothing(index: Index) -> None:
    assert index.search("?! …") == []


def test_a_query_of_ten_thousand_words_is_answered(index: Index) -> None:
    assert ids(index.search("radium " + " ".join(f"w{i}" for i in range(10_000)), 1)) == ["curie"]


def test_bytes_that_are_no_text_in_a_query_or_an_id_do_no_harm(index: Index) -> None:
    assert ids(index.search("radium \udcff", 1)) == ["curie"]
    assert "\udcff" not in index
    with pytest.raises(BadInput, match="nothing was removed"):
        index.remove(["\udcff"])


# --- chunks ---


def test_long_documents_become_numbered_passages_of_their_document(tmp_path: Path) -> None:
    text = ". ".join(f"Sentence {i} says fact{i}" for i in range(200))
    index = Index.build(
        [Passage(id="long", title="Long", text=text), DOCUMENTS[0]], tmp_path / "i", chunk_words=50, overlap=10
    )
    (found,) = index.search("fact150", 1)
    assert found.id.startswith("long#")
    assert (found.document_id, found.title) == ("long", "Long")
    assert len(found.text.split()) <= 50
    assert (index.info().documents, index.info().passages > 15) == (2, True)
    index.remove(["long"])
    assert index.search("fact150") == []
    assert (index.info().documents, index.info().passages) == (1, 1)


# --- changing ---


def test_added_updated_and_removed_documents_are_seen_at_once_and_after_opening(index: Index) -> None:
    assert index.add([Passage(id="noether", title="Emmy Noether", text="Symmetry and conservation.")]) == 1
    assert index.update([Passage(id="bohr", text="The atom."), Passage(id="hahn", text="Chemistry.")]) == 2
    assert index.remove(["curie"]) == 1
    for state in (index, Index.open(index.path)):
        assert len(state) == 4
        assert ids(state.search("symmetry")) == ["noether"]
        assert ids(state.search("atom")) == ["bohr"]
        assert state.search("Copenhagen") == []
        assert state.search("radium") == []


def test_another_reader_sees_a_change_when_it_reloads(index: Index) -> None:
    reader = Index.open(index.path)
    index.remove(["bohr"])
    assert ids(reader.search("Copenhagen")) == ["bohr"]
    reader.reload()
    assert reader.search("Copenhagen") == []
    Index.build([Passage(id="new", text="Copenhagen")], index.path)
    assert len(reader.search("radium")) == 1, "a rebuild does not disturb who has the old index open"
    reader.reload()
    assert ids(reader.search("Copenhagen radium")) == ["new"]


actions = st.lists(
    st.tuples(
        st.sampled_from(["add", "update", "remove"]), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4)
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(actions=actions)
def test_an_index_behaves_like_a_dictionary(tmp_path_factory: pytest.TempPathFactory, actions: list) -> None:
    index = Index.build([Passage(id="z", text="common word0")], tmp_path_factory.mktemp("model") / "i")
    model = {"z": "common word0"}
    for number, (action, keys) in enumerate(actions, start=1):
        new = dict.fromkeys(keys, f"common word{number}")
        passages = [Passage(id=key, text=new[key]) for key in keys]
        duplicates = len(new) < len(keys)
        if action == "remove":
            refused = any(key not in model for key in keys)
            change = lambda: index.remove(keys)  # noqa: E731, B023
        else:
            refused = duplicates or (action == "add" and any(key in model for key in keys))
            change = lambda: getattr(index, action)(passages)  # noqa: E731, B023
        if refused:
            with pytest.raises(BadInput):
                change()
        else:
            change()
            if action == "remove":
                model = {key: text for key, text in model.items() if key not in keys}
            else:
                model |= new
        assert len(index) == len(model)
        assert {p.id: p.text for p in index.search("common", 50)} == model


# --- bad input ---


def test_an_empty_query_or_k_below_one_is_refused(index: Index) -> None:
    for query in ("", "  \n"):
        with pytest.raises(BadInput, match="query is empty"):
            index.search(query)
    for k in (0, -1):
        with pytest.raises(BadInput, match="k must be at least 1"):
            index.search("radium", k)
    with pytest.raises(BadInput, match="list of queries"):
        index.search_many("radium")
    with pytest.raises(BadInput, match="no vectors"):
        index.search("radium", mode="dense")
    with pytest.raises(BadInput, match="choose one of bm25, dense, hybrid"):
        index.search("radium", mode="magic")  # type: ignore[arg-type]


def test_duplicate_ids_are_named_with_both_places_and_leave_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        '\n{"id": "x", "contents": "one"}\n{"id": "y", "contents": "two"}\n{"id": "x", "contents": "three"}\n'
    )
    with pytest.raises(DataError, match=r"corpus\.jsonl:4: the id 'x' was used before, on line 2"):
        Index.build(corpus, tmp_path / "index")
    with pytest.raises(BadInput, match="documents 1 and 2 have the same id 'curie'"):
        Index.build([DOCUMENTS[0], DOCUMENTS[0]], tmp_path / "index")
    assert not (tmp_path / "index").exists()
    bad: list[DataError] = []
    index = Index.build(corpus, tmp_path / "index", bad=bad)
    assert ids(index.search("one two three")) == ["x", "y"]
    assert [error.line for error in bad] == [4]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "the source holds no documents"),
        ([Passage(id="", text="no id")], "has an id of 0 characters"),
        ([Passage(id="x" * 2000, text="long id")], "has an id of 2000 characters"),
        ([{"id": "1", "text": "a dict"}], "expected Passages to index, found dict"),
        ([Passage(id="1", text="\ud800")], "lone surrogate"),
        ("nowhere.jsonl", "check the path"),
    ],
)
def test_a_build_of_bad_documents_leaves_nothing(tmp_path: Path, source: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Index.build(source, tmp_path / "a" / "index")  # type: ignore[arg-type]
    assert not (tmp_path / "a" / "index").exists()


def test_a_failing_rebuild_leaves_the_index_as_it_was(index: Index) -> None:
    before = snapshot(index.path)
    with pytest.raises(BadInput):
        Index.build([DOCUMENTS[1], DOCUMENTS[1]], index.path)
    assert snapshot(index.path) == before


def test_a_failing_build_into_an_empty_folder_leaves_it_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput):
        Index.build([], tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_failing_change_leaves_the_documents_as_they_were(index: Index) -> None:
    with pytest.raises(BadInput, match=r"'bohr' is in the index already.*--update"):
        index.add([Passage(id="new", text="new"), Passage(id="bohr", text="again")])
    with pytest.raises(BadInput, match="nothing was removed: 'nobody'"):
        index.remove(["curie", "nobody"])
    with pytest.raises(BadInput, match="same id"):
        index.update([Passage(id="bohr", text="one"), Passage(id="bohr", text="two")])
    for state in (index, Index.open(index.path)):
        assert sorted(p.id for p in state.search("she he", 10)) == ["bohr", "curie", "meitner"]
        assert state.search("new again one two") == []


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    (tmp_path / "gen-00000000").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(BadInput, match="not empty and not a Ken index"):
        Index.build(DOCUMENTS, tmp_path)
    with pytest.raises(BadInput, match="is a file"):
        Index.build(DOCUMENTS, tmp_path / "thesis.tex")
    with pytest.raises(SourceError, match="is not a Ken index"):
        Index.open(tmp_path)
    with pytest.raises(SourceError, match=r"there is no index at .*ken index build"):
        Index.open(tmp_path / "nowhere")
    assert snapshot(tmp_path) == before


def test_settings_that_make_no_sense_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least 1 word"):
        Index.build(DOCUMENTS, tmp_path / "i", chunk_words=0)
    with pytest.raises(BadInput, match="overlap"):
        Index.build(DOCUMENTS, tmp_path / "i", chunk_words=10, overlap=10)
    with pytest.raises(BadInput, match=r"choose one of .*english"):
        Index.build(DOCUMENTS, tmp_path / "i", tokenizer="klingon")
    assert not (tmp_path / "i").exists()


# --- real text ---


@pytest.mark.skipif(not SHARED.exists(), reason="the shared musique100 data is not here")
def test_recall_on_musique_is_at_least_that_of_the_engine_with_its_defaults(tmp_path: Path) -> None:
    import tantivy

    questions = [json.loads(line) for line in (SHARED / "questions.jsonl").read_text().splitlines()]
    gold = [set(question["metadata"]["supporting_ids"]) for question in questions]

    def recall(found: list[list[str]]) -> float:
        return sum(len(g & set(ids)) / len(g) for g, ids in zip(gold, found, strict=True)) / len(gold)

    builder = tantivy.SchemaBuilder().add_text_field("id", stored=True, tokenizer_name="raw")
    raw = tantivy.Index(builder.add_text_field("title").add_text_field("text").build())
    writer = raw.writer(15_000_000, 1)
    for line in (SHARED / "corpus.jsonl").read_text().splitlines():
        writer.add_document(tantivy.Document(**json.loads(line)))
    writer.commit()
    raw.reload()
    searcher = raw.searcher()
    baseline = []
    for question in questions:
        words = "".join(c if c.isalnum() else " " for c in question["question"]).lower()  # its parser knows operators
        hits = searcher.search(raw.parse_query(words, ["title", "text"]), 5).hits
        baseline.append([searcher.doc(address)["id"][0] for _, address in hits])

    index = Index.build(SHARED / "corpus.jsonl", tmp_path / "i")
    assert len(index) == 1890
    results = index.search_many([question["question"] for question in questions], 5)
    assert recall([[p.document_id for p in passages] for passages in results]) >= recall(baseline) > 0.5
