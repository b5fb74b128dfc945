"""LaRA's files, scores and released predictions: the shapes of the repository, judged without a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from capitals import run_ken
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from ken.core import BadInput, DataError
from ken.core.long_documents import (
    TASKS,
    Prediction,
    lara_document,
    lara_questions,
    predictions_name,
    question_record,
    read_long_questions,
    read_predictions,
)
from ken.metrics.agreement import cohen_kappa
from ken.metrics.long_documents import (
    Paired,
    advise,
    gap,
    overall,
    position_profile,
    recalls,
    refuses,
    right,
    task_scores,
)
from ken.metrics.statistics import Interval, stratified_bootstrap
from ken.papers.replay import replay

# --- judges -----------------------------------------------------------------------------------------------------------

# Of LaRA's golds and of its models' predictions.
REFUSED = [
    "The text does not provide the name of the tavern where Hartman enjoyed dining during the summer months.",
    "The document does not specify any measures being taken to mitigate foreign currency risk.",
    "The financial statements do not provide information on the impact of currency fluctuations.",
    "There is no mention of a tavern in the excerpt.",
    "The provided chunks don't contain that information.",
    "It cannot be determined from the text.",
    "not stated",
]
ANSWERED = [
    "The clerk must come in earlier the next day.",
    "$62.8 million.",
    "Revenue rose by 17.8% from $2,447 in 2022 to $2,883 in 2023.",
    "He was not amused, and left the house.",
    "Yes.",
]


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_is_seen(text: str) -> None:
    assert refuses(text)
    assert right("hallucination", text, REFUSED[0])


@pytest.mark.parametrize("text", ANSWERED)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert not refuses(text)
    assert not right("hallucination", text, REFUSED[0])


@pytest.mark.parametrize(
    ("prediction", "gold", "verdict"),
    [
        (
            "He must arrive earlier on the following day, the clerk.",
            "The clerk must come in earlier the next day.",
            True,
        ),
        ("About 62.8 million dollars", "$62.8 million.", True),
        ("$62.9 million.", "$62.8 million.", False),
        ("1234.50", "$1,234.5", True),
        ("The text does not say; it may be $62.8 million.", "$62.8 million.", False),
        ("Yes", "yes", True),
        ("No", "yes", False),
        ("The dog barked.", "The clerk must come in earlier the next day.", False),
    ],
)
def test_the_deterministic_judge_asks_for_half_of_numbers_and_words(prediction: str, gold: str, verdict: bool) -> None:
    assert recalls(prediction, gold) == verdict


@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from(TASKS))
def test_no_text_breaks_the_judge_and_nothing_is_never_right(prediction: str, gold: str, task) -> None:
    assert right(task, prediction, gold) in {True, False}
    assert not right(task, None, gold)
    assert not right(task, "  \n", gold)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_kappa_is_scikit_learns(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    ours = cohen_kappa(first, second)
    if len({*first, *second}) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(cohen_kappa_score(first, second))


def test_kappa_needs_a_verdict_of_each_for_every_item() -> None:
    with pytest.raises(ValueError, match="2 verdicts against 1"):
        cohen_kappa([True, False], [True])


# --- scores -----------------------------------------------------------------------------------------------------------


def test_accuracy_is_a_mean_over_types_then_tasks_and_not_over_items() -> None:
    cells = {("location", "book"): 1.0, ("location", "paper"): 0.0, ("comparison", "book"): 0.2}
    assert task_scores(cells) == {"location": 0.5, "comparison": 0.2}
    assert overall(cells) == pytest.approx(0.35)
    with pytest.raises(ValueError, match="no accuracy"):
        overall({})


def test_the_overall_of_the_papers_table_follows_from_its_tasks() -> None:
    llama = {("location", "all"): 69.1, ("reasoning", "all"): 36.6, ("comparison", "all"): 31.1}
    assert overall(llama | {("hallucination", "all"): 65.1}) == pytest.approx(50.5, abs=0.05)


@given(st.lists(st.tuples(st.sampled_from(TASKS), st.sampled_from("bp"), st.booleans(), st.booleans()), min_size=1))
def test_a_gap_is_the_difference_of_the_macro_means(answers) -> None:
    paired = [Paired(task, kind, float(lc), float(rag)) for task, kind, lc, rag in answers]

    def score(mode: str) -> float:
        cells: dict[tuple[str, str], list[float]] = {}
        for one in paired:
            cells.setdefault((one.task, one.kind), []).append(getattr(one, mode))
        return overall({cell: fmean(values) for cell, values in cells.items()})

    found = gap(paired, resamples=50)
    assert found.estimate == pytest.approx(score("lc") - score("rag"))
    assert found.low - 1e-9 <= found.high


def test_a_stratified_bootstrap_of_one_stratum_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [
        stratified_bootstrap([rng.normal(size=40), rng.normal(size=40)], [0.5, 0.5], resamples=300) for _ in range(100)
    ]
    covered = [one.low < 0 < one.high for one in found]
    assert 0.88 <= fmean(covered) <= 0.99
    with pytest.raises(ValueError, match="weights for"):
        stratified_bootstrap([[1.0]], [])


def test_advice_needs_an_interval_that_leaves_zero_out() -> None:
    assert [advise(Interval(low, low + 0.2, 0.95, low + 0.1)) for low in (0.1, -0.1, -0.3)] == [
        "lc",
        "no clear winner",
        "rag",
    ]


def test_the_position_profile_is_by_part() -> None:
    assert position_profile([(1, 1.0), (0, 0.0), (1, 0.0)]) == {0: 0.0, 1: 0.5}


# --- files ------------------------------------------------------------------------------------------------------------

GOLD = {"location": "47 ships", "reasoning": "12", "comparison": "Oslo", "hallucination": "The text does not say it."}
LEVEL = {"comparison": "comp", "hallucination": "hallu"}
WRONG = "Nobody knows exactly, 99."


def record(task: str, number: int, said: object) -> dict[str, object]:
    """As LaRA writes an answer down; its books' types are called otherwise."""
    place = {"comp_parts": [0, 2]} if task == "comparison" else {"context_order": number % 3}
    return {
        "type": "novelette_fake",
        "level": LEVEL.get(task, task),
        "file": "A Book.txt",
        **place,
        "question": f"{task} {number}?",
        "prediction": said,
        "ground_truth": GOLD[task],
    }


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """LaRA's folder of predictions in little: two models, both lengths, ten questions a file, of which so many are
    answered right as `RIGHT` says."""
    for model, lengths in RIGHT.items():
        for length, tasks in lengths.items():
            for task, modes in tasks.items():
                for mode, count in zip(("lc", "rag"), modes, strict=True):
                    for kind in ("book", "financial"):
                        wrong: object = False if task == "location" else WRONG
                        lines = [record(task, n, GOLD[task] if n < count else wrong) for n in range(10)]
                        path = tmp_path / "prediction" / model / predictions_name(model, mode, length, kind, task)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "prediction"


def shares(*pairs: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return dict(zip(TASKS, pairs, strict=True))


RIGHT = {
    "mistral-nemo": {"32k": shares((5, 5), (3, 4), (3, 2), (4, 6)), "128k": shares((3, 6), (1, 2), (3, 2), (2, 5))},
    "gpt-4o": {"32k": shares((9, 9), (8, 7), (8, 5), (7, 8)), "128k": shares((9, 8), (8, 7), (8, 4), (5, 7))},
}


def test_the_replay_finds_the_gaps_that_the_records_hold(released: Path) -> None:
    found = replay("lara", [released])
    assert len(found.files) == 64
    tables = {table.title: table for table in found.tables}
    assert tables["Accuracy at 32k: LC | RAG, %"].rows[0] == (
        "gpt-4o", "90.0 | 90.0", "80.0 | 70.0", "80.0 | 50.0", "70.0 | 80.0", "80.0 | 72.5",
    )  # fmt: skip
    gaps = {(row[0], row[1]): row[2] for row in tables["Mean gap over 2 models, points"].rows}
    assert gaps["32k", "comparison"] == pytest.approx(20.0)
    assert gaps["128k", "hallucination"] == pytest.approx(-25.0)
    assert gaps["128k", "overall"] == pytest.approx((-10 + 0 + 25 - 25) / 4)
    verdicts = {row[0]: row[2] for row in tables["What the card asserts, over 2 of its models"].rows}
    assert list(verdicts.values()) == ["holds"] * 9
    assert "52 are empty and count as wrong" in found.notes[0]


def test_an_assertion_fails_where_the_records_say_otherwise(released: Path) -> None:
    for path in released.glob("*/full_preds_*_128k_*_hallu.jsonl"):
        path.write_text(path.read_text().replace(json.dumps(WRONG), json.dumps(GOLD["hallucination"])))
    tables = {table.title: table for table in replay("lara", [released]).tables}
    verdicts = [row[2] for row in tables["What the card asserts, over 2 of its models"].rows]
    assert verdicts[1:4] == ["fails"] * 3


def test_what_the_records_lack_is_left_open(released: Path) -> None:
    (table,) = (t for t in replay("lara", sorted(released.glob("gpt-4o/*32k*"))).tables if t.title.startswith("What"))
    verdicts = {str(row[0]): row[2] for row in table.rows}
    assert verdicts["hallucination gap at 128k below −12"] == "–"
    assert verdicts["comparison gap at 32k above 0"] == "holds"


def test_the_command_prints_the_tables_and_says_where_missing_files_come_from(released: Path, tmp_path: Path) -> None:
    done = run_ken("replay", "lara", *sorted(released.glob("*/*32k*")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "What the card asserts" in done.stdout
    with pytest.raises(BadInput, match=r"github\.com/Alibaba-NLP/LaRA"):
        replay("lara", [tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no records"):
        replay("lara", [tmp_path / "empty"])
    broken = tmp_path / "full_preds_m_32k_book_location.jsonl"
    broken.write_text('{"file": "x"}\n')
    with pytest.raises(DataError, match="expected 'question' to be text"):
        replay("lara", [broken])


def test_a_folder_says_its_model_even_where_its_files_are_named_after_another(released: Path) -> None:
    (released / "gpt-4o-0806").mkdir()
    odd = released / "gpt-4o-0806" / "rag_preds_gpt-4o-mini_32k_book_comp.jsonl"
    odd.write_text(json.dumps(record("comparison", 0, "Oslo")) + "\n")
    (one,) = read_predictions(odd)
    assert (one.model, one.mode, one.kind, one.task) == ("gpt-4o-0806", "rag", "book", "comparison")
    assert one.comp_parts == (0, 2)
    with pytest.raises(BadInput, match="no file of LaRA's predictions"):
        list(read_predictions(released / "notes.jsonl"))


def test_an_answer_that_is_written_down_reads_back_as_it_was(tmp_path: Path) -> None:
    said = Prediction(
        model="m", mode="lc", length="32k", kind="book", task="hallucination", file="A Book.txt", question="Who?",
        gold="It does not say.", prediction=None, context_order="full", left_out=0.25, tokens=7, seconds=0.5,
        error="down",
    )  # fmt: skip
    path = tmp_path / predictions_name("m", "lc", "32k", "book", "hallucination")
    path.write_text(json.dumps(said.record()) + "\n")
    assert list(read_predictions(path)) == [said]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """LaRA's repository in little, one of its files missing, as in one stored snapshot."""
    for length in ("32k", "128k"):
        for kind in ("book", "financial", "paper"):
            folder = tmp_path / "datasets" / length / kind
            folder.mkdir(parents=True)
            (folder / "Philosopher’s Stone.txt").write_text("Once upon a time.")
            for task in TASKS:
                level = LEVEL.get(task, task)
                lines = [
                    {**_question(task, kind, length), "question": f"{task} {n}?"} for n in (0, 1, 1)
                ]  # one question stands there twice
                path = tmp_path / "datasets" / "query" / f"{length}_{kind}_{level}.jsonl"
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "datasets" / "query" / "128k_book_location.jsonl").unlink()
    return tmp_path


def _question(task: str, kind: str, length: str) -> dict[str, object]:
    place = {"comp_parts": [0, 2]} if task == "comparison" else {"context_order": "full"}
    level = LEVEL.get(task, task)
    return {"type": kind, "level": level, "length": length, "file": "Philosopher’s Stone.txt", **place, "answer": "x"}


def test_laras_folders_are_read_and_missing_files_named(repository: Path) -> None:
    with pytest.raises(BadInput, match="128k_book_location"):
        lara_questions(repository, ("128k",))
    missing: list[str] = []
    asked = lara_questions(repository, ("32k", "128k"), missing)
    assert (len(asked), missing) == (23 * 2, ["128k_book_location.jsonl"])
    assert {q.meta["level"] for q in asked} == set(TASKS)
    assert lara_document(repository, asked[0]).read_text() == "Once upon a time."
    with pytest.raises(BadInput, match="git clone"):
        lara_questions(repository / "nowhere", ("32k",))


def test_a_question_record_reads_back(repository: Path, tmp_path: Path) -> None:
    asked = lara_questions(repository, ("32k",))
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(question_record(q), ensure_ascii=False) + "\n" for q in asked))
    assert list(read_long_questions(path)) == asked
    path.write_text('{"level": "riddle", "file": "x", "question": "?", "answer": "y"}\n')
    with pytest.raises(DataError, match="'riddle'"):
        list(read_long_questions(path))
