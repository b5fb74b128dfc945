"""Retrieval of tools, collections of tools from files, and the measures of selection, plans and calls."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.core import BadInput
from ken.metrics import bleu, complete_at_k, exact_match, ndcg_at_k, recall_at_k, rouge_l
from ken.metrics.plans import PlanScore, plan_score
from ken.metrics.tool_calls import arguments_f1, arguments_match, valid_call_rate
from ken.sources.tools.collections import ToolCollection, ToolQuestion, load_beir, load_metatool
from ken.sources.tools.retrieval import Bm25Tools, DenseTools, NeighbourTools, NeighbourVectors

DOCUMENTS = {"weather": "forecast of the weather in a city", "stocks": "price of a share", "news": "what is new today"}


class Encoder:
    """Vectors of words that are known; questions call the tools by other words."""

    WORDS = ("weather", "share", "new", "rain", "money", "headlines")

    def documents(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        return self._vectors([text for _, text in passages])

    def queries(self, queries: Sequence[str]) -> np.ndarray:
        return self._vectors(queries)

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[float(word in text) for word in self.WORDS] for text in texts], dtype=np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- retrievers ---


def test_bm25_finds_a_tool_by_the_words_of_its_document() -> None:
    retriever = Bm25Tools(DOCUMENTS)
    assert retriever.rank("weather in the city of Lisbon", 1) == ["weather"]
    assert retriever.rank_many(["share price", "", "zzz"], 2)[0][0] == "stocks"
    with pytest.raises(BadInput, match="no tools"):
        Bm25Tools({})


def test_neighbours_vote_for_the_tools_that_they_needed() -> None:
    past = ["will it rain tomorrow", "rain this weekend", "what is my money worth"]
    needed = [{"weather"}, {"weather", "news"}, {"stocks"}]
    retriever = NeighbourTools(past, needed, neighbours=2)
    assert retriever.rank("rain tomorrow", 5) == ["weather", "news"]
    assert retriever.rank("money", 5) == ["stocks"]
    assert retriever.rank("something else", 5) == []
    with pytest.raises(BadInput):
        NeighbourTools(past, needed[:2])
    with pytest.raises(BadInput):
        NeighbourTools([], [])


def test_an_adapter_learns_which_tools_questions_mean() -> None:
    from ken.training.tool_adapter import AdapterConfig, learn_adapter

    encoder = Encoder()
    plain = DenseTools(DOCUMENTS, encoder)  # type: ignore[arg-type]
    questions = ["rain", "money", "headlines", "rain and headlines"]
    needed = [[0], [1], [2], [0, 2]]
    assert plain.rank_many(questions[:3], 1) != [["weather"], ["stocks"], ["news"]]
    config = AdapterConfig(epochs=60, lr=0.05)
    adapter = learn_adapter(encoder.queries(questions), plain.vectors, needed, config)
    assert (adapter == learn_adapter(encoder.queries(questions), plain.vectors, needed, config)).all()
    adapted = DenseTools(DOCUMENTS, encoder, adapter=adapter)  # type: ignore[arg-type]
    assert adapted.rank_many(questions[:3], 1) == [["weather"], ["stocks"], ["news"]]
    assert set(adapted.rank(questions[3], 2)) == {"weather", "news"}
    names = list(DOCUMENTS)
    voted = NeighbourVectors(questions, [{names[i] for i in some} for some in needed], adapted, neighbours=1)
    assert voted.rank("rain and headlines", 3) == ["news", "weather"]
    with pytest.raises(BadInput, match="no pairs"):
        learn_adapter(encoder.queries(["x"]), plain.vectors, [[]])


# --- collections ---


def toollens(folder: Path, *, qrels: str = "query-id\tcorpus-id\tscore\n7\t0\t1\n7\t1\t1\n8\t1\t0\n") -> Path:
    (folder / "qrels").mkdir(parents=True)
    tools = [{"_id": "0", "title": "", "text": "tool_name:A"}, {"_id": "1", "title": "B", "text": "tool_name:B"}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, tools)) + "\n")
    queries = [{"_id": "7", "text": "both", "metadata": {}}, {"_id": "8", "text": "none"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "test.tsv").write_text(qrels)
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n8\t1\t1\n")
    return folder


def test_a_collection_in_the_layout_of_toollens_is_read(tmp_path: Path) -> None:
    read = load_beir(toollens(tmp_path / "ToolLens"))
    assert read.documents == {"0": "tool_name:A", "1": "B tool_name:B"}
    assert read.questions == {
        "train": [ToolQuestion("8", "none", frozenset({"1"}))],
        "test": [ToolQuestion("7", "both", frozenset({"0", "1"}))],
    }


def test_what_is_missing_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="quchangle1/COLT"):
        load_beir(tmp_path / "none")
    with pytest.raises(BadInput, match="HowieHwong/MetaTool"):
        load_metatool(tmp_path / "none")
    folder = toollens(tmp_path / "ToolLens")
    for path in (folder / "qrels").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="no qrels"):
        load_beir(folder)


@pytest.mark.parametrize(
    ("qrels", "says"),
    [
        ("7\t9\t1\n", "no tool '9'"),
        ("9\t0\t1\n", "no question '9'"),
        ("7 0 1\n", "line 1: a line is query"),
        ("7\t0\tmany\n", "line 1: a line is query"),
    ],
)
def test_qrels_that_fit_nothing_are_refused(tmp_path: Path, qrels: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        load_beir(toollens(tmp_path / "ToolLens", qrels=qrels))


def test_metatool_is_read_with_its_questions_that_need_no_tool(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "plugin_des.json").write_text('{"A": "does a", "B": "does b"}')
    (tmp_path / "data" / "all_clean_data.csv").write_text('Query,Tool\n"Do a, please",A\nDo b,B\n')
    (tmp_path / "data" / "multi_tool_query_golden.json").write_text('[{"query": "both", "tool": ["A", "B"]}]')
    read = load_metatool(tmp_path)
    assert read.documents == {"A": "does a", "B": "does b"}
    assert [(q.text, set(q.tools)) for q in read.questions["single"]] == [("Do a, please", {"A"}), ("Do b", {"B"})]
    assert read.questions["multi"][0].tools == {"A", "B"}
    assert "awareness" not in read.questions
    (tmp_path / "tmp_dataset").mkdir()
    items = [{"query": "now?", "label": "positive"}, {"query": "2 + 2", "label": "negative"}]
    (tmp_path / "tmp_dataset" / "Task1.json").write_text(json.dumps(items))
    assert [bool(q.tools) for q in load_metatool(tmp_path).questions["awareness"]] == [True, False]
    (tmp_path / "data" / "all_clean_data.csv").write_text("Frage,Werkzeug\n")
    with pytest.raises(BadInput, match="columns Query and Tool"):
        load_metatool(tmp_path)


def test_a_split_by_sets_shares_no_set_of_tools() -> None:
    questions = [ToolQuestion(str(i), f"q{i}", frozenset({str(i % 10), str(i % 3)})) for i in range(60)]
    split = ToolCollection({}, {"train": questions[:50], "test": questions[50:]}).unseen_sets(0.2, seed=1).questions
    assert not {q.tools for q in split["train"]} & {q.tools for q in split["test"]}
    assert len(split["train"]) + len(split["test"]) == 60
    with pytest.raises(BadInput, match="held out"):
        ToolCollection({}, {"train": questions[:1]}).unseen_sets(0.2)


# --- measures ---

RANKING = ["a", "x", "b", "y", "c"]


@pytest.mark.parametrize(
    ("gold", "k", "recall", "ndcg", "complete"),
    [
        ({"a"}, 1, 1.0, 1.0, True),
        ({"a", "b"}, 1, 0.5, 1.0, False),  # one of two at rank 1 is the best that one place can hold
        ({"a", "b"}, 3, 1.0, (1 + 1 / 2) / (1 + 1 / math.log2(3)), True),
        ({"a", "b", "c"}, 3, 2 / 3, (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2), False),
        ({"z"}, 5, 0.0, 0.0, False),
    ],
)
def test_selection_is_measured_as_colt_has_it(
    gold: set[str], k: int, recall: float, ndcg: float, complete: bool
) -> None:
    assert recall_at_k(RANKING, gold, k) == pytest.approx(recall)
    assert ndcg_at_k(RANKING, gold, k) == pytest.approx(ndcg)
    assert complete_at_k(RANKING, gold, k) is complete


@given(st.permutations("abcde"), st.sets(st.sampled_from("abcdez"), min_size=1), st.integers(1, 6))
def test_complete_means_that_all_are_recalled(ranking: list[str], gold: set[str], k: int) -> None:
    assert complete_at_k(ranking, gold, k) == (recall_at_k(ranking, gold, k) == 1.0)


@pytest.mark.parametrize("gold", [set(), frozenset()])
def test_a_question_without_gold_tools_has_no_completeness(gold: set[str]) -> None:
    with pytest.raises(ValueError, match="no relevant"):
        complete_at_k(RANKING, gold, 3)


def plan(*names: str) -> list[tuple[str, str]]:
    return [(name, "") for name in names]


@pytest.mark.parametrize(
    ("predicted", "gold", "score"),
    [
        (plan("a", "b"), plan("a", "b"), PlanScore(1, 1, 1)),
        (plan("a"), plan("a", "b"), PlanScore(1, 0.5, 2 / 3)),
        (plan("b", "a"), plan("a", "b"), PlanScore(0.5, 0.5, 0.5)),  # out of order: the longest stretch is one
        (plan("a", "a", "b"), plan("a", "b"), PlanScore(2 / 3, 1, 0.8)),  # one to one
        (plan("x"), plan("a"), PlanScore(0, 0, 0)),
        (plan(), plan("a"), PlanScore(0, 0, 0)),
        (plan(), plan(), PlanScore(1, 1, 1)),
    ],
)
def test_plans_are_matched_one_to_one_and_in_order(
    predicted: list[tuple[str, str]], gold: list[tuple[str, str]], score: PlanScore
) -> None:
    found = plan_score(predicted, gold)
    assert (found.precision, found.recall, found.f1) == pytest.approx((score.precision, score.recall, score.f1))


def test_arguments_weigh_a_tenth_and_the_threshold_decides() -> None:
    gold = [("weather", "Lisbon")]
    assert plan_score([("weather", "Porto")], gold).f1 == 1
    assert plan_score([("weather", "Porto")], gold, threshold=0.95).f1 == 0
    assert plan_score([("news", "Lisbon")], gold).f1 == 0


@given(st.lists(st.sampled_from("abcd"), max_size=5), st.lists(st.sampled_from("abcd"), max_size=5))
def test_the_matching_is_the_best_there_is(predicted: list[str], gold: list[str]) -> None:
    """Against scipy's, on the share of steps matched when order is kept by sorting."""
    scipy = pytest.importorskip("scipy.optimize")
    if not predicted or not gold:
        return
    found = plan_score(plan(*sorted(predicted)), plan(*sorted(gold)))
    same = np.array([[float(p == g) for g in sorted(gold)] for p in sorted(predicted)])
    rows, columns = scipy.linear_sum_assignment(-same)
    assert found.precision == pytest.approx(same[rows, columns].sum() / len(predicted))


@pytest.mark.parametrize(
    ("predicted", "gold", "same", "f1"),
    [
        ({"a": 1, "b": "x"}, {"a": 1.0, "b": " x "}, True, 1.0),
        ({"a": 1}, {"a": 1, "b": "x"}, False, 2 / 3),
        ({"a": "1"}, {"a": 1}, False, 0.0),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, True, 1.0),
        ({}, {}, True, 1.0),
        (None, {}, False, 0.0),
    ],
)
def test_arguments_are_compared_by_value(predicted: dict | None, gold: dict, same: bool, f1: float) -> None:  # type: ignore[type-arg]
    assert arguments_match(predicted, gold) is same
    assert arguments_f1(predicted, gold) == pytest.approx(f1)


def test_calls_that_reached_their_tool_are_valid_even_when_it_failed() -> None:
    assert valid_call_rate([None, "failed", "timeout", "bad_arguments", "malformed", "unknown_tool"]) == 0.5
    assert math.isnan(valid_call_rate([]))


@pytest.mark.parametrize(
    ("said", "golds", "rouge", "score"),
    [
        ("the cat sat", ["a cat sat"], 1.0, 1.0),
        ("police killed the gunman", ["police kill the gunman"], 2 / 3, None),  # Lin 2004, without the article
        ("gunman police", ["police kill the gunman"], 0.4, None),
        (None, ["x"], 0.0, 0.0),
        ("", ["x"], 0.0, 0.0),
        ("y", ["x", "y"], 1.0, 1.0),
        ("p q r s t", ["q r s t p"], 0.8, None),
    ],
)
def test_answers_are_compared_by_common_subsequences(
    said: str | None, golds: list[str], rouge: float, score: float | None
) -> None:
    assert rouge_l(said, golds) == pytest.approx(rouge)
    assert 0 <= bleu(said, golds) <= 1
    if score is not None:
        assert bleu(said, golds) == pytest.approx(score)


def test_bleu_counts_each_word_as_often_as_a_gold_has_it_and_punishes_brevity() -> None:
    """The example of Papineni et al. 2002: "the" seven times against one that has it twice. (Articles are normalised
    away here, so another word stands for it.)"""
    seven = "so so so so so so so"
    assert bleu(seven, ["so cat is on so mat"], order=1) == pytest.approx(2 / 7)
    assert bleu("cat is", ["cat is on mat"], order=1) == pytest.approx(math.exp(1 - 4 / 2))


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_is_equal_scores_one(said: str, gold: str) -> None:
    if exact_match(said, [gold]):
        assert rouge_l(said, [gold]) == 1.0
    assert 0 <= rouge_l(said, [gold]) <= 1
    assert 0 <= bleu(said, [gold]) <= 1
