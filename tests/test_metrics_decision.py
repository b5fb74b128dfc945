"""F1_aware, its oracles and the decision table follow card 01: the positive class is "knows"."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ken.core import Answer, Decision, Observation, Question, Search, Step, Trajectory
from ken.metrics import (
    DecisionTable,
    decision_of,
    decision_table,
    exact_match,
    f1_aware,
    f1_aware_difference,
    f1_aware_interval,
    oracle_greedy,
    oracle_ksample,
    solve_rate,
)

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


# --- the oracles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "threshold", "solvable"),
    [
        (["Paris", "Lyon"], 0.5, True),  # at the threshold counts as knowing
        (["Paris", "Lyon", "Nice"], 0.5, False),
        (["it is Paris", None], 0.5, True),  # SubEM; a missing answer is wrong
        ([None, None], 0.0, True),
        ([None], 0.01, False),
        (["Paris"] * 8, 1.0, True),
        (["Paris"] * 7 + ["Rome"], 1.0, False),
    ],
)
def test_a_question_is_solvable_when_enough_samples_are_right(
    answers: list[str | None], threshold: float, solvable: bool
) -> None:
    assert oracle_ksample(answers, ["Paris"], threshold) is solvable


def test_the_matcher_of_the_oracle_can_be_chosen() -> None:
    assert oracle_ksample(["it is Paris"], ["Paris"]) is True
    assert oracle_ksample(["it is Paris"], ["Paris"], matcher=exact_match) is False
    assert oracle_greedy("it is Paris", ["Paris"]) is False  # the greedy oracle is exact match
    assert oracle_greedy("the paris", ["Paris"]) is True
    assert oracle_greedy(None, ["Paris"]) is False


def test_the_solve_rate_is_the_share_of_right_samples() -> None:
    assert solve_rate(["Paris", "Lyon", None, "in Paris"], ["Paris"]) == 0.5


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan")])
def test_a_threshold_outside_the_unit_interval_is_an_error(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        oracle_ksample(["x"], ["x"], threshold)


def test_no_samples_and_no_golds_are_errors() -> None:
    with pytest.raises(ValueError, match="K = 0"):
        oracle_ksample([], ["x"])
    with pytest.raises(ValueError, match="no gold answer"):
        oracle_ksample(["x"], [])
    with pytest.raises(ValueError, match="no gold answer"):
        oracle_greedy("x", [])
    with pytest.raises(TypeError, match="one string"):
        solve_rate("Paris", ["Paris"])


# --- decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "decided"),
    [
        ((Decision(knows=True), Answer(text="x")), True),
        ((Decision(knows=True), Search(query="q"), Answer(text="x")), True),  # an explicit verdict counts, not the act
        ((Decision(knows=False), Answer(text="x")), False),
        ((Decision(knows=None), Search(query="q")), None),
        ((Answer(text="x"),), True),  # implicit: no search call
        ((Search(query="q"), Observation(), Answer(text="x")), False),
        ((), True),
    ],
)
def test_a_decision_is_explicit_or_implied_by_the_search_calls(steps: tuple[Step, ...], decided: bool | None) -> None:
    assert decision_of(Trajectory(question=Question(id="1", text="q"), strategy="s", steps=steps)) is decided


# --- F1_aware --------------------------------------------------------------------------------------------------------


def test_f1_aware_of_a_hand_made_table() -> None:
    decisions = [True] * 3 + [True] + [False] * 2 + [False] * 4
    solvable = [True] * 3 + [False] + [True] * 2 + [False] * 4
    scores = f1_aware(decisions, solvable)
    assert scores.table == DecisionTable(answered_known=3, answered_unknown=1, searched_known=2, searched_unknown=4)
    assert (scores.precision, scores.recall) == (3 / 4, 3 / 5)
    assert scores.f1 == pytest.approx(2 / 3)
    assert scores.table.n == 10
    assert scores.table.accuracy == 0.7
    assert scores.table.known_rate == 0.5
    assert scores.table.answer_rate == 0.4


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_always_searching_scores_zero_and_never_searching_2p_over_1_plus_p(solvable: list[bool]) -> None:
    p = sum(solvable) / len(solvable)
    assert f1_aware([False] * len(solvable), solvable).f1 == 0.0
    assert f1_aware([True] * len(solvable), solvable).f1 == pytest.approx(2 * p / (1 + p))
    if p:
        assert f1_aware(solvable, solvable).f1 == 1.0
    assert f1_aware([not s for s in solvable], solvable).f1 == 0.0


@given(pairs)
def test_f1_aware_agrees_with_scikit_learn(rows: list[tuple[bool, bool]]) -> None:
    decisions, solvable = [d for d, _ in rows], [s for _, s in rows]
    scores = f1_aware(decisions, solvable)
    precision, recall, f1, _ = precision_recall_fscore_support(
        solvable, decisions, pos_label=True, average="binary", zero_division=0
    )
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((precision, recall, f1))
    (tn, fp), (fn, tp) = confusion_matrix(solvable, decisions, labels=[False, True])
    assert scores.table == DecisionTable(tp, fp, fn, tn)
    assert scores.table.n == len(rows)
    assert scores.table.accuracy == pytest.approx(np.mean([d == s for d, s in rows]))


@given(pairs, st.randoms())
def test_f1_aware_does_not_depend_on_the_order_of_questions(rows: list[tuple[bool, bool]], random) -> None:
    shuffled = random.sample(rows, len(rows))
    assert f1_aware([d for d, _ in rows], [s for _, s in rows]) == f1_aware(
        [d for d, _ in shuffled], [s for _, s in shuffled]
    )


def test_an_unreadable_decision_counts_as_a_search_and_is_reported() -> None:
    table = decision_table([None, None, True, False], [True, False, True, False])
    assert table == DecisionTable(1, 0, 1, 2, malformed=2)
    assert table.n == 4


def test_arrays_serve_as_well_as_lists() -> None:
    decisions, solvable = np.array([True, False, True]), np.array([True, True, False])
    assert f1_aware(decisions, solvable) == f1_aware(decisions.tolist(), solvable.tolist())


def test_no_decisions_and_unequal_lengths_are_errors() -> None:
    with pytest.raises(ValueError, match="no decisions"):
        f1_aware([], [])
    with pytest.raises(ValueError, match="2 decisions but 1"):
        f1_aware([True, False], [True])
    with pytest.raises(ValueError, match="same questions"):
        f1_aware_difference([True], [True, True], [True], solvable_second=[True, False])


# --- its uncertainty -------------------------------------------------------------------------------------------------


@given(pairs, st.integers(0, 3))
def test_the_interval_of_f1_aware_is_bounded_and_estimates_f1_aware(rows: list[tuple[bool, bool]], seed: int) -> None:
    decisions, solvable = [d for d, _ in rows], [s for _, s in rows]
    interval = f1_aware_interval(decisions, solvable, resamples=200, seed=seed)
    assert 0.0 <= interval.low <= interval.high <= 1.0
    assert interval.estimate == pytest.approx(f1_aware(decisions, solvable).f1)


@given(pairs)
def test_the_difference_of_a_strategy_to_itself_is_exactly_zero(rows: list[tuple[bool, bool]]) -> None:
    decisions, solvable = [d for d, _ in rows], [s for _, s in rows]
    interval = f1_aware_difference(decisions, decisions, solvable, resamples=50)
    assert (interval.low, interval.estimate, interval.high) == (0.0, 0.0, 0.0)


def test_a_better_decider_is_told_from_a_worse_one_with_each_model_on_its_own_oracle() -> None:
    generator = np.random.default_rng(0)
    known = generator.random(400) < 0.5
    other = generator.random(400) < 0.5
    good = np.where(generator.random(400) < 0.9, known, ~known)
    coin = generator.random(400) < 0.5
    one = f1_aware_difference(good.tolist(), coin.tolist(), known.tolist(), resamples=1000)
    two = f1_aware_difference(
        good.tolist(), coin.tolist(), known.tolist(), solvable_second=other.tolist(), resamples=1000
    )
    assert one.low > 0.2
    assert one.estimate == pytest.approx(
        f1_aware(good.tolist(), known.tolist()).f1 - f1_aware(coin.tolist(), known.tolist()).f1
    )
    assert two.estimate == pytest.approx(
        f1_aware(good.tolist(), known.tolist()).f1 - f1_aware(coin.tolist(), other.tolist()).f1
    )


@given(pairs)
def test_the_resampled_f1_is_that_of_the_resampled_questions(rows: list[tuple[bool, bool]]) -> None:
    assume(len(rows) > 1)
    decisions, solvable = np.array([d for d, _ in rows]), np.array([s for _, s in rows])
    draws = np.random.default_rng(5).integers(0, len(rows), size=(60, len(rows)))
    values = [f1_aware(decisions[d].tolist(), solvable[d].tolist()).f1 for d in draws]
    low, high = np.quantile(values, [0.1, 0.9])
    interval = f1_aware_interval(decisions.tolist(), solvable.tolist(), level=0.8, resamples=60, seed=5)
    assert (interval.low, interval.high) == pytest.approx((low, high))
