"""Every number of the report, on attempts made by hand, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ken.auditing import AuditReport, AuditSettings, measure
from ken.core import (
    Answer,
    Decision,
    Malformed,
    Observation,
    Passage,
    Question,
    Search,
    Step,
    Trajectory,
    Usage,
)

PARIS = Question(id="paris", text="Capital of France?", answers=("Paris",))
OSLO = Question(id="oslo", text="Capital of Norway?", answers=("Oslo",), meta={"supporting_ids": ["d1", "d2"]})
LIMA = Question(id="lima", text="Capital of Peru?", answers=("Lima",))
ROME = Question(id="rome", text="Capital of Italy?", answers=("Rome",), meta={"supporting_ids": ["d3"]})
OPEN = Question(id="open", text="What is love?")

SETTINGS = AuditSettings(model="m", strategies=("direct", "adaptive"), samples=2, threshold=0.5)


def attempt(
    question: Question,
    strategy: str,
    answer: str | None = None,
    *,
    sample: int | None = None,
    knows: bool | None = None,
    decides: bool = False,
    sure: float | None = None,
    confidence: float | None = None,
    passages: tuple[tuple[Passage, ...], ...] = (),
    malformed: bool = False,
    error: str | None = None,
    **usage: Any,
) -> Trajectory:
    """`passages` holds the result of each search."""
    steps: list[Step] = [Malformed(text="??", problem="no verdict")] if malformed else []
    if decides:
        steps.append(Decision(knows=knows, confidence=sure))
    for found in passages:
        steps += [Search(query="q"), Observation(passages=found)]
    if answer is not None:
        steps.append(Answer(text=answer, confidence=confidence))
    return Trajectory(
        question=question, strategy=strategy, sample=sample, steps=tuple(steps), usage=Usage(**usage), error=error
    )


def samples(question: Question, *answers: str | None) -> list[Trajectory]:
    return [attempt(question, "direct", answer, sample=i) for i, answer in enumerate(answers)]


ATTEMPTS = [
    *samples(PARIS, "Paris", "paris."),
    *samples(OSLO, "Oslo", "Bergen"),
    *samples(LIMA, "Cusco", None),
    *samples(ROME, "Milan", "Turin"),
    *samples(OPEN, "love", "baby"),
    attempt(PARIS, "direct", "Paris", confidence=0.9, prompt_tokens=10, completion_tokens=4, model_calls=1),
    attempt(OSLO, "direct", "Bergen", confidence=0.6, prompt_tokens=10, completion_tokens=4, model_calls=1),
    attempt(LIMA, "direct", "Quito", confidence=0.4, prompt_tokens=10, completion_tokens=4, model_calls=1),
    attempt(ROME, "direct", "Rome", confidence=0.3, prompt_tokens=10, completion_tokens=4, model_calls=1),
    attempt(OPEN, "direct", None, malformed=True, prompt_tokens=10, completion_tokens=9, model_calls=2),
    attempt(PARIS, "adaptive", "Paris", decides=True, knows=True, sure=0.9, model_calls=2, seconds=1.0),
    attempt(
        OSLO,
        "adaptive",
        "Oslo",
        decides=True,
        knows=False,
        sure=0.2,
        passages=((Passage(id="d1", text="Oslo it is"), Passage(id="d9", text="no")),),
        model_calls=3,
        prompt_tokens=100,
        completion_tokens=20,
        search_calls=1,
        seconds=3.0,
    ),
    attempt(LIMA, "adaptive", "Quito", decides=True, knows=True, sure=0.8, model_calls=2, seconds=2.0),
    attempt(
        ROME,
        "adaptive",
        "city of Rome",
        decides=True,
        knows=None,
        malformed=True,
        passages=((Passage(id="d8", text="nothing"),), (Passage(id="d7", text="nothing"),)),
        model_calls=4,
        search_calls=2,
        seconds=9.0,
    ),
    attempt(OPEN, "adaptive", "love", decides=True, knows=True, model_calls=2, seconds=5.0),
]


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return measure(ATTEMPTS, SETTINGS)


def of(report: AuditReport, name: str) -> Any:
    return next(s for s in report.strategies if s.strategy == name)


def calibration(report: AuditReport, name: str) -> Any:
    return next(c for c in report.calibration if c.name == name)


def test_it_counts_questions_and_what_the_model_knows(report):
    assert (report.questions, report.with_golds, report.failed, report.unasked) == (5, 4, 0, 0)
    assert report.oracle == "samples"
    assert report.known == 0.5, "paris (2 of 2) and oslo (1 of 2, the threshold) of four"
    assert report.known_interval == pytest.approx((0.1500, 0.8500), abs=1e-4), "Wilson, 2 of 4"


def test_accuracy_is_over_questions_with_golds(report):
    direct, adaptive = of(report, "direct"), of(report, "adaptive")
    assert (direct.scored, direct.em, direct.sub_em, direct.f1) == (4, 0.5, 0.5, 0.5)
    assert (adaptive.scored, adaptive.em, adaptive.sub_em) == (4, 0.5, 0.75)
    assert adaptive.f1 == pytest.approx((1 + 1 + 0 + 0.5) / 4), "'city of Rome': precision 1/3, recall 1"
    assert direct.em_gain is None
    assert adaptive.em_gain.estimate == 0
    assert adaptive.em_gain.low < 0 < adaptive.em_gain.high


def test_attempts_are_counted_by_how_they_ended(report):
    direct, adaptive = of(report, "direct"), of(report, "adaptive")
    assert (direct.questions, direct.answered, direct.unfinished, direct.malformed, direct.failed) == (5, 4, 1, 1, 0)
    assert (adaptive.questions, adaptive.answered, adaptive.unfinished, adaptive.malformed) == (5, 5, 0, 1)


def test_decisions_by_the_oracle_of_samples(report):
    boundary = of(report, "adaptive").boundaries[0]
    assert (boundary.oracle, boundary.questions) == ("samples", 4)
    table = boundary.aware.table
    assert (table.answered_known, table.answered_unknown, table.searched_known, table.searched_unknown) == (1, 1, 1, 1)
    assert table.malformed == 1
    assert (boundary.aware.precision, boundary.aware.recall, boundary.aware.f1) == (0.5, 0.5, 0.5)
    assert boundary.aware_interval.estimate == 0.5
    use = boundary.use
    assert (use.saved, use.wasted, use.missed, use.needed, use.harmful) == (1, 1, 1, 1, 0)
    assert (use.needed_correct, use.needed_calls, use.unneeded_calls) == (0, 2, 1)


def test_decisions_by_the_greedy_oracle(report):
    boundary = of(report, "adaptive").boundaries[1]
    assert (boundary.oracle, boundary.questions) == ("greedy", 4)
    table = boundary.aware.table
    assert (table.answered_known, table.answered_unknown, table.searched_known, table.searched_unknown) == (1, 1, 1, 1)
    use = boundary.use
    assert (use.saved, use.wasted, use.missed, use.needed, use.harmful) == (1, 0, 1, 1, 1)
    assert (use.needed_correct, use.needed_calls, use.unneeded_calls) == (1, 1, 2)


def test_closed_book_always_claims_to_know(report):
    boundary = of(report, "direct").boundaries[0]
    assert (boundary.aware.precision, boundary.aware.recall) == (0.5, 1.0)
    assert boundary.aware.f1 == pytest.approx(2 / 3), "2p / (1 + p) with p = ½"
    assert (boundary.use.saved, boundary.use.missed) == (2, 2)


def test_retrieval_is_measured_where_there_was_a_search(report):
    adaptive, direct = of(report, "adaptive"), of(report, "direct")
    assert adaptive.recall == 0.25, "half of oslo's two documents, none of rome's one"
    assert adaptive.answer_found == 0.5
    assert direct.recall is None
    assert direct.answer_found is None


def test_cost_is_a_mean_over_answered_questions(report):
    cost = of(report, "adaptive").cost
    assert cost.searches == pytest.approx(3 / 5)
    assert cost.model_calls == pytest.approx(13 / 5)
    assert (cost.prompt_tokens, cost.completion_tokens) == (20.0, 4.0)
    assert cost.seconds_median == 3.0
    assert of(report, "direct").cost.completion_tokens == 5.0


def test_calibration_of_self_consistency(report):
    found = calibration(report, "self-consistency")
    assert (found.questions, found.accuracy) == (4, 0.5)
    assert found.auroc == 0.625, "agreement 1 and 0 where right, ½ and 0 where wrong"
    assert found.brier == pytest.approx(1.25 / 4)
    assert found.ece == pytest.approx((1 * 0 + 1 * 0.5 + 2 * 0.5) / 4)
    assert [(b.confidence, b.accuracy, b.count) for b in found.bins] == [(0, 0.5, 2), (0.5, 0, 1), (1, 1, 1)]


def test_calibration_of_the_answer_probability(report):
    found = calibration(report, "answer probability")
    assert found.auroc == 0.5
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.16 + 0.49) / 4)
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.4 + 0.7) / 4)
    assert found.coverage == pytest.approx((0.25, 0.5, 0.75, 1.0))
    assert found.risk == pytest.approx((0, 1 / 2, 2 / 3, 2 / 4))
    assert found.aurc == pytest.approx((0 + 1 / 2 + 2 / 3 + 2 / 4) / 4)


def test_calibration_of_the_verdict_is_against_the_oracle(report):
    found = calibration(report, "verdict")
    assert found.questions == 3, "rome's verdict had no probability, and nothing is known of love"
    assert found.brier == pytest.approx((0.01 + 0.64 + 0.64) / 3)
    assert found.auroc == 0.5


def test_examples_are_the_mistakes(report):
    shown = [(e.kind, e.strategy, e.question_id, e.solve_rate) for e in report.examples]
    assert shown == [
        ("missed", "adaptive", "lima", 0.0),
        ("wasted", "adaptive", "oslo", 0.5),
        ("malformed", "direct", "open", None),
        ("malformed", "adaptive", "rome", 0.0),
    ]


def test_the_order_of_attempts_changes_nothing(report):
    assert measure(ATTEMPTS[::-1], SETTINGS) == report


def test_questions_without_golds_count_only_for_searches_and_cost(report):
    assert any("1 of 5 questions has no accepted answer" in note for note in report.notes)


def test_without_any_gold_nothing_about_right_or_wrong_is_claimed():
    bare = [t.model_copy(update={"question": t.question.model_copy(update={"answers": ()})}) for t in ATTEMPTS]
    report = measure(bare, SETTINGS)
    assert (report.with_golds, report.known, report.oracle, report.calibration) == (0, None, None, ())
    for strategy in report.strategies:
        assert (strategy.em, strategy.f1, strategy.em_gain, strategy.boundaries) == (None, None, None, ())
        assert strategy.cost is not None
    assert of(report, "adaptive").cost.searches == pytest.approx(3 / 5)
    assert "cannot be measured; decisions, searches and cost can" in report.notes[0]
    assert [e.kind for e in report.examples] == ["malformed", "malformed"]


def test_without_samples_the_one_closed_book_answer_is_the_oracle():
    greedy = [t for t in ATTEMPTS if t.sample is None]
    report = measure(greedy, SETTINGS.model_copy(update={"samples": 0}))
    assert (report.oracle, report.known) == ("greedy", 0.5)
    assert [b.oracle for b in of(report, "adaptive").boundaries] == ["greedy"]
    assert [c.name for c in report.calibration] == ["answer probability", "verdict"]
    assert any("--samples 0" in note for note in report.notes)


def test_a_failed_sample_takes_its_question_out_of_the_oracle_and_the_report_says_so():
    failed = [
        t.model_copy(update={"steps": (), "error": "it is down"}) if (t.question.id, t.sample) == ("paris", 1) else t
        for t in ATTEMPTS
    ]
    report = measure(failed, SETTINGS)
    assert report.known == pytest.approx(1 / 3), "oslo of oslo, lima, rome"
    assert [b.questions for b in of(report, "adaptive").boundaries] == [3, 4]
    assert report.failures == (("paris", "direct, sample 1", "it is down"),)
    assert any(note.startswith("1 of 4 questions lacks closed-book attempts") for note in report.notes)


def test_when_every_sample_failed_the_report_does_not_speak_of_samples():
    failed = [t if t.sample is None else t.model_copy(update={"steps": (), "error": "down"}) for t in ATTEMPTS]
    report = measure(failed, SETTINGS)
    assert (report.oracle, report.known) == ("greedy", 0.5)
    assert any("No question has all its closed-book samples" in note for note in report.notes)


def test_failed_attempts_are_not_scored_but_counted():
    failed = [
        t.model_copy(update={"steps": (), "error": "down"})
        if t.strategy == "adaptive" and t.question.id != "oslo"
        else t
        for t in ATTEMPTS
    ]
    adaptive = of(measure(failed, SETTINGS), "adaptive")
    assert (adaptive.questions, adaptive.failed, adaptive.answered, adaptive.scored, adaptive.em) == (5, 4, 1, 1, 1.0)
    assert adaptive.cost.searches == 1
    assert adaptive.boundaries[0].questions == 1


def test_when_all_failed_there_is_still_a_report():
    failed = [t.model_copy(update={"steps": (), "error": "down"}) for t in ATTEMPTS]
    report = measure(failed, SETTINGS)
    assert report.failed == len(ATTEMPTS)
    assert (report.known, report.calibration, report.examples) == (None, (), ())
    assert [(s.em, s.cost, s.failed) for s in report.strategies] == [(None, None, 5), (None, None, 5)]


def test_one_question_is_enough():
    report = measure([t for t in ATTEMPTS if t.question.id == "oslo"], SETTINGS)
    assert (report.questions, report.known) == (1, 1.0)
    assert calibration(report, "self-consistency").auroc is None, "one class only"
    assert of(report, "adaptive").em_gain.estimate == 1.0


def test_attempts_that_are_missing_are_counted():
    settings = SETTINGS.model_copy(update={"questions_count": 6, "stopped": "direct failed 20 times in a row (x)"})
    report = measure(ATTEMPTS, settings)
    assert report.unasked == 6 * 4 - len(ATTEMPTS)
    assert report.notes[0].startswith("4 of 24 attempts were not made: direct failed 20 times in a row (x); ")


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("seed", "other samples"), ("temperature", "temperature that it chose"), ("top_k", "left out")],
)
def test_parameters_that_the_server_refused_are_noted(name, meaning):
    report = measure(ATTEMPTS, SETTINGS.model_copy(update={"dropped": (name,)}))
    [note] = [note for note in report.notes if f"does not take the parameter {name}:" in note]
    assert meaning in note


def test_the_report_survives_json(report):
    assert AuditReport.model_validate_json(report.model_dump_json()) == report
