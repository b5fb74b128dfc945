"""A verdict follows from the interval over seeds and the margin, and says so when there is too little to tell."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ken.metrics import over_seeds
from ken.papers import Claim
from ken.papers.verdict import judge, mean_interval, student_t

CLAIM = Claim("a is larger", "hard", 0.35, lambda arms: arms["a"]["em"])


def seeds(*values: float) -> dict[int, dict[str, dict[str, float]]]:
    return {seed: {"a": {"em": value}} for seed, value in enumerate(values)}


@given(df=st.integers(1, 400), level=st.floats(0.01, 0.9999))
def test_student_t_is_scipys(df, level):
    assert student_t(df, level) == pytest.approx(stats.t.ppf((1 + level) / 2, df), rel=1e-7)


@pytest.mark.parametrize(("df", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_student_t_is_that_of_the_printed_tables(df, t):
    assert student_t(df) == pytest.approx(t, abs=5e-4)


@pytest.mark.parametrize(("df", "level"), [(0, 0.95), (2, 0.0), (2, 1.0)])
def test_student_t_refuses_what_has_no_answer(df, level):
    with pytest.raises(ValueError, match="df must be at least 1 and level between 0 and 1"):
        student_t(df, level)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_the_interval_is_scipys(values):
    ours = mean_interval(values)
    spread = over_seeds(values)
    if spread.std == 0:
        assert (ours.low, ours.high) == (spread.mean, spread.mean)
    else:
        error = spread.std / math.sqrt(len(values))
        theirs = stats.t.interval(0.95, len(values) - 1, loc=spread.mean, scale=error)
        assert (ours.low, ours.high) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "verdict", "note"),
    [
        ((0.40, 0.41, 0.42), "holds", "the mean of 3 seeds meets the margin"),
        ((0.35, 0.35), "holds", "the mean of 2 seeds meets the margin"),  # reaching the margin is enough
        ((0.30, 0.31, 0.32), "fails", "the mean of 3 seeds misses the margin"),
        ((0.30, 0.40, 0.50), "inconclusive", "the mean of 3 seeds meets the margin"),
        ((0.20, 0.30, 0.40), "inconclusive", "the mean of 3 seeds misses the margin"),
        ((0.90,), "inconclusive", "its one seed meets the margin"),
        ((0.10,), "inconclusive", "its one seed misses the margin"),
        ((), "inconclusive", "no seed was run"),
    ],
)
def test_the_interval_decides_and_the_note_tells_the_mean(values, verdict, note):
    judged = judge(CLAIM, seeds(*values))
    assert (judged.verdict, judged.note) == (verdict, note)
    assert (judged.interval is None) == (len(values) < 2)
    assert judged.value == (pytest.approx(sum(values) / len(values)) if values else None)


def test_three_seeds_give_the_interval_of_the_textbook():
    judged = judge(CLAIM, seeds(0.40, 0.42, 0.44))  # s = 0.02, s/√3 = 0.011547, t = 4.303
    assert judged.interval == pytest.approx((0.42 - 0.04968, 0.42 + 0.04968), abs=1e-5)


def test_an_arm_that_did_not_run_leaves_the_claim_open_and_is_named():
    both = seeds(0.4, 0.4) | {2: {"b": {"em": 1.0}}}
    judged = judge(CLAIM, both, arms=["a", "b"])
    assert (judged.verdict, judged.value, judged.interval) == ("inconclusive", None, None)
    assert judged.note == "arm a has no result on seed 2"


@pytest.mark.parametrize(
    ("measure", "note"),
    [
        (lambda arms: math.nan, "it is undefined on seed 0, 1"),
        (lambda arms: arms["a"]["em"] / 0, "it cannot be computed (float division by zero) on seed 0, 1"),
    ],
)
def test_what_cannot_be_computed_is_no_verdict(measure, note):
    judged = judge(Claim("x", "soft", 0.0, measure), seeds(0.4, 0.5))
    assert (judged.verdict, judged.value) == ("inconclusive", None)
    assert judged.note == note


@pytest.mark.parametrize("measure", [lambda arms: arms["misspelt"]["em"], lambda arms: arms["a"]["misspelt"]])
def test_a_claim_about_what_does_not_exist_is_a_mistake_and_no_verdict(measure):
    with pytest.raises(KeyError, match="misspelt") as caught:
        judge(Claim("the claim", "soft", 0.0, measure), seeds(0.4, 0.5), arms=["a", "b"])
    if "a" in caught.value.args[0]:
        assert caught.value.__notes__ == ["asked for by the claim 'the claim'"]


def test_the_claims_own_note_comes_first():
    judged = judge(Claim("x", "soft", 0.1, CLAIM.measure, note="the margin was 0.2 before"), seeds(0.4, 0.5))
    assert judged.note == "the margin was 0.2 before; the mean of 2 seeds meets the margin"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(-1, 2), st.floats(0, 1))
def test_a_higher_margin_never_makes_a_claim_hold(values, margin, more):
    order = ["fails", "inconclusive", "holds"]
    lower, higher = (
        judge(Claim("x", "hard", m, CLAIM.measure), seeds(*values)).verdict for m in (margin, margin + more)
    )
    assert order.index(higher or "") <= order.index(lower or "")
