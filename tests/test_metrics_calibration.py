"""Calibration measures agree with scikit-learn and with their definitions computed the slow way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from ken.metrics import auroc, brier_score, expected_calibration_error, reliability, risk_coverage

# a coarse grid makes ties and bin edges common
confidences = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.6, 0.9, 1.0]))
attempts = st.lists(st.tuples(confidences, st.booleans()), min_size=1, max_size=50)
Rows = list[tuple[float, bool]]


def columns(rows: Rows) -> tuple[list[float], list[bool]]:
    return [p for p, _ in rows], [y for _, y in rows]


# --- reliability and ECE ---------------------------------------------------------------------------------------------


def test_ece_of_a_hand_made_example() -> None:
    # (0.4, 0.6]: two at 0.5, one right; (0.8, 1.0]: two at 0.9, one right
    scores, right = [0.5, 0.5, 0.9, 0.9], [True, False, True, False]
    assert expected_calibration_error(scores, right, bins=5) == pytest.approx(0.5 * 0.0 + 0.5 * 0.4)
    low, high = reliability(scores, right, bins=5)
    assert (low.low, low.high, low.count, low.confidence, low.accuracy) == pytest.approx((0.4, 0.6, 2, 0.5, 0.5))
    assert (high.low, high.high, high.count, high.confidence, high.accuracy) == pytest.approx((0.8, 1.0, 2, 0.9, 0.5))


def test_a_bin_holds_its_upper_edge_and_the_first_also_zero() -> None:
    curve = reliability([0.0, 0.5, 0.75, 1.0], [True] * 4, bins=4)
    assert [(b.low, b.high) for b in curve] == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]


@given(attempts, st.integers(1, 20))
def test_the_reliability_curve_agrees_with_scikit_learn(rows: Rows, bins: int) -> None:
    scores, right = columns(rows)
    accuracy, confidence = calibration_curve(right, scores, n_bins=bins, strategy="uniform")
    curve = reliability(scores, right, bins=bins)
    assert [b.accuracy for b in curve] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in curve] == pytest.approx(confidence.tolist())


@given(attempts, st.integers(1, 20), st.booleans())
def test_every_attempt_is_in_exactly_one_bin_and_ece_is_their_weighted_gap(
    rows: Rows, bins: int, equal_mass: bool
) -> None:
    scores, right = columns(rows)
    curve = reliability(scores, right, bins=bins, equal_mass=equal_mass)
    assert sum(b.count for b in curve) == len(rows)
    assert len(curve) <= bins
    assert sum(b.count * b.accuracy for b in curve) == pytest.approx(sum(right))
    assert all(b.low - 1e-12 <= b.confidence <= b.high + 1e-12 for b in curve)
    assert all(a.high <= b.low for a, b in itertools.pairwise(curve))
    ece = expected_calibration_error(scores, right, bins=bins, equal_mass=equal_mass)
    assert ece == pytest.approx(sum(b.count / len(rows) * abs(b.accuracy - b.confidence) for b in curve))
    assert 0.0 <= ece <= 1.0
    # the gap of a coarser view cannot be larger: |mean of gaps| ≤ mean of |gaps|
    assert abs(np.mean(right) - np.mean(scores)) <= ece + 1e-12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60, unique=True), st.integers(1, 20))
def test_bins_of_equal_mass_differ_by_at_most_one_attempt(scores: list[float], bins: int) -> None:
    counts = [b.count for b in reliability(scores, [True] * len(scores), bins=bins, equal_mass=True)]
    assert max(counts) - min(counts) <= 1
    assert len(counts) == min(bins, len(scores))


def test_tied_confidences_share_the_bin_of_the_last_of_them() -> None:
    curve = reliability([0.1, 0.2, 0.2, 0.9], [True, False, True, True], bins=2, equal_mass=True)
    assert [(b.low, b.high, b.count) for b in curve] == [(0.1, 0.1, 1), (0.2, 0.9, 3)]


@given(attempts, st.randoms(), st.booleans())
def test_calibration_does_not_depend_on_the_order_of_attempts(rows: Rows, random, equal_mass: bool) -> None:
    shuffled = random.sample(rows, len(rows))
    for measure in (
        lambda p, y: expected_calibration_error(p, y, bins=7, equal_mass=equal_mass),
        brier_score,
        lambda p, y: auroc(p, y) or -1.0,
        lambda p, y: risk_coverage(p, y).aurc,
    ):
        assert measure(*columns(rows)) == pytest.approx(measure(*columns(shuffled)))


def test_a_calibrated_forecaster_has_a_small_error_and_an_overconfident_one_its_gap() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random(200_000)
    right = generator.random(200_000) < scores
    for equal_mass in (False, True):
        assert expected_calibration_error(scores, right, equal_mass=equal_mass) < 0.01
    assert expected_calibration_error([1.0] * 4, [True, False, False, False]) == 0.75


# --- Brier and AUROC -------------------------------------------------------------------------------------------------


@given(attempts)
def test_brier_agrees_with_scikit_learn(rows: Rows) -> None:
    scores, right = columns(rows)
    assert brier_score(scores, right) == pytest.approx(brier_score_loss(right, scores, labels=[False, True]))


def test_brier_of_known_forecasts() -> None:
    assert brier_score([1.0, 0.0], [True, False]) == 0.0
    assert brier_score([1.0, 0.0], [False, True]) == 1.0
    assert brier_score([0.5], [True]) == 0.25
    assert brier_score([0.8, 0.4], [True, False]) == pytest.approx((0.04 + 0.16) / 2)


@given(attempts)
def test_auroc_agrees_with_scikit_learn_and_with_all_pairs(rows: Rows) -> None:
    scores, right = columns(rows)
    value = auroc(scores, right)
    above = [p for p, y in rows if y]
    below = [p for p, y in rows if not y]
    if not above or not below:
        assert value is None
        return
    assert value == pytest.approx(roc_auc_score(right, scores))
    wins = sum((a > b) + 0.5 * (a == b) for a in above for b in below)
    assert value == pytest.approx(wins / (len(above) * len(below)))


@given(attempts)
def test_auroc_turns_over_with_the_scores_and_sees_only_their_order(rows: Rows) -> None:
    scores, right = columns(rows)
    value = auroc(scores, right)
    assume(value is not None)
    assert value is not None
    assert auroc([-p for p in scores], right) == pytest.approx(1 - value)
    assert auroc(scores, [not y for y in right]) == pytest.approx(1 - value)
    ranks = {p: i for i, p in enumerate(sorted(set(scores)))}
    assert auroc([ranks[p] * 100 - 7 for p in scores], right) == pytest.approx(value)


def test_auroc_of_known_scores() -> None:
    assert auroc([0.9, 0.8, 0.2, 0.1], [True, True, False, False]) == 1.0
    assert auroc([0.1, 0.9], [True, False]) == 0.0
    assert auroc([0.5] * 4, [True, False, True, False]) == 0.5
    assert auroc([3.0, -math.inf], [True, False]) == 1.0  # any ordered numbers, such as log-probabilities
    assert auroc([0.5], [True]) is None


# --- risk and coverage -----------------------------------------------------------------------------------------------


def test_risk_coverage_of_a_hand_made_example() -> None:
    curve = risk_coverage([0.9, 0.8, 0.7, 0.6], [True, False, True, True])
    assert curve.thresholds == (0.9, 0.8, 0.7, 0.6)
    assert curve.coverage == (0.25, 0.5, 0.75, 1.0)
    assert curve.risk == pytest.approx((0, 1 / 2, 1 / 3, 1 / 4))
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert curve.excess_aurc == pytest.approx(curve.aurc - (0 + 0 + 0 + 1 / 4) / 4)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_aurc_with_ties_is_the_mean_over_all_their_orders(rows: Rows) -> None:
    areas = []
    for order in itertools.permutations(rows):
        if any(a[0] < b[0] for a, b in itertools.pairwise(order)):
            continue  # not in falling confidence
        wrong = np.cumsum([not y for _, y in order])
        areas.append(np.mean(wrong / np.arange(1, len(order) + 1)))
    assert risk_coverage(*columns(rows)).aurc == pytest.approx(np.mean(areas))


@given(attempts)
def test_each_point_is_the_risk_of_answering_above_its_threshold(rows: Rows) -> None:
    scores, right = columns(rows)
    curve = risk_coverage(scores, right)
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        answered = [y for p, y in rows if p >= threshold]
        assert coverage == pytest.approx(len(answered) / len(rows))
        assert risk == pytest.approx(1 - sum(answered) / len(answered))
    assert list(curve.thresholds) == sorted(set(scores), reverse=True)
    assert curve.coverage[-1] == 1.0
    assert curve.risk[-1] == pytest.approx(1 - np.mean(right))
    assert 0.0 <= curve.excess_aurc <= curve.aurc + 1e-12 <= 1.0 + 1e-12


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_perfect_confidence_has_no_excess_and_a_constant_one_the_base_risk(right: list[bool]) -> None:
    assert risk_coverage([float(y) for y in right], right).excess_aurc == pytest.approx(0.0, abs=1e-12)
    constant = risk_coverage([0.5] * len(right), right)
    assert constant.aurc == pytest.approx(1 - np.mean(right))
    assert len(constant.risk) == 1


def test_a_grade_such_as_f1_is_averaged_like_being_right() -> None:
    (low, high) = reliability([0.2, 0.2, 0.9], [0.5, 1.0, 0.25], bins=2)
    assert (low.count, low.accuracy, high.accuracy) == (2, 0.75, 0.25)
    assert expected_calibration_error([0.75], [0.5]) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="grade"):
        reliability([0.5], [1.5])


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [reliability, expected_calibration_error, brier_score, auroc, risk_coverage])
def test_empty_unequal_or_nan_input_is_an_error(measure) -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure([], [])
    with pytest.raises(ValueError, match="2 confidences but 1"):
        measure([0.1, 0.2], [True])
    with pytest.raises(ValueError, match="nan"):
        measure([float("nan")], [True])


@pytest.mark.parametrize("measure", [reliability, expected_calibration_error, brier_score])
@pytest.mark.parametrize("score", [-0.1, 1.1, math.inf])
def test_a_confidence_that_is_no_probability_is_an_error(measure, score: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        measure([score], [True])


def test_no_bins_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        reliability([0.5], [True], bins=0)
