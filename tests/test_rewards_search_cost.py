"""Rewards that price a search: naive shaping, IKEA and both forms of OTC, by the numbers of cards 01 and 42."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import RIGHT, SEARCH, WRONG, closed_book, failed, group, question, searching

from ken.core import BadInput, Passage, Trajectory
from ken.training.rewards.search_cost import broken, ikea, otc_group, otc_ppo, search_penalty


def tried(searches: int, last: str = RIGHT) -> Trajectory:
    return searching(*[SEARCH] * searches, last, turns=6)


@pytest.mark.parametrize(
    ("searches", "last", "cost", "reward"),
    [(0, RIGHT, 0.2, 1), (2, RIGHT, 0.2, 0.6), (0, WRONG, 0.2, 0), (3, WRONG, 0.1, -0.3), (3, RIGHT, 0, 1)],
)
def test_naive_shaping_is_em_minus_cost_per_search(searches: int, last: str, cost: float, reward: float) -> None:
    assert search_penalty(tried(searches, last), cost=cost) == pytest.approx(reward)


@pytest.mark.parametrize(("searches", "right"), [(0, 1.6), (1, 1.4), (2, 1.2), (3, 1.0), (4, 1.0)])
def test_ikea_pays_fewer_searches_for_right_answers_and_a_crumb_for_having_searched(
    searches: int, right: float
) -> None:
    wrong = 0.05 if searches else 0.0
    assert ikea(tried(searches)) == pytest.approx(right)
    assert ikea(tried(searches, WRONG)) == wrong
    for last in (RIGHT, WRONG):
        assert ikea(tried(searches, last.replace("I know", "[search"))) == -1


def test_the_parts_of_ikea_can_be_switched_off() -> None:
    assert ikea(tried(0), plus=0) == 1
    assert ikea(tried(1, WRONG), minus=0) == 0
    assert ikea(tried(1), plus=1.0, most=2) == 1.5


THINK = "<think> hm </think>"
IN_THOUGHT = "<think> {} </think><answer> Lisbon </answer>"


@pytest.mark.parametrize(
    ("outputs", "is_broken"),
    [
        ([RIGHT], False),
        ([SEARCH, RIGHT], False),
        (["hm", RIGHT], True),  # the environment had to remind of the format
        ([THINK + "<search> </search>", RIGHT], True),  # an empty query
        (["<answer> Lisbon </answer>"], True),
        (["<think> hm <answer> Lisbon </answer>"], True),
        ([IN_THOUGHT.format("(search) it")], True),
        ([IN_THOUGHT.format("search]")], True),
        ([IN_THOUGHT.format("[answer")], True),
        ([IN_THOUGHT.format("think)")], True),
        ([IN_THOUGHT.format("research (deep) on thinking")], False),
    ],
)
def test_ikeas_format_rule(outputs: list[str], is_broken: bool) -> None:
    trajectory = searching(*outputs)
    assert broken(trajectory) is is_broken
    assert (ikea(trajectory) == -1) is is_broken


def test_brackets_in_a_document_do_not_break_the_format() -> None:
    trajectory = searching(SEARCH, RIGHT, results=[(Passage(id="p", text="press [search] (answer)"),)])
    assert ikea(trajectory) == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("searches", "smoothing", "reward"),
    [
        (0, 4, 1.0),
        (1, 4, math.sqrt(3) / 2),  # cos(π/6)
        (2, 4, math.sqrt(2) / 2),  # cos(2π/8)
        (4, 4, 0.5),  # cos(4π/12)
        (1, 1, 0.5),  # cos(π/3)
    ],
)
def test_otc_ppo_is_a_cosine_of_the_searches(searches: int, smoothing: float, reward: float) -> None:
    assert otc_ppo(tried(searches), smoothing=smoothing) == pytest.approx(reward)
    assert otc_ppo(tried(searches), smoothing=smoothing, scale=2) == pytest.approx(2 * reward)
    assert otc_ppo(tried(searches, WRONG), smoothing=smoothing) == 0


@pytest.mark.parametrize(
    ("members", "rewards"),
    [
        ([(0, RIGHT), (0, RIGHT)], [1, 1]),
        ([(0, RIGHT), (1, RIGHT), (4, RIGHT)], [1, math.sqrt(3) / 2, 0.5]),  # n = 0: the cosine
        ([(0, WRONG), (1, RIGHT), (2, RIGHT)], [0, 1, math.sqrt(3) / 2]),  # the fewest of the *right*: n = 1, sin(2π/3)
        ([(2, RIGHT), (4, RIGHT), (1, WRONG)], [1, math.sqrt(3) / 2, 0]),
        ([(1, RIGHT), (5, RIGHT)], [1, 0.5]),  # sin(5π/6)
        ([(0, WRONG), (2, WRONG)], [0, 0]),
    ],
)
def test_otc_grpo_compares_with_the_fewest_calls_of_a_right_rollout(
    members: list[tuple[int, str]], rewards: list[float]
) -> None:
    assert otc_group(group(*[tried(*m) for m in members])) == pytest.approx(rewards)


@given(st.integers(1, 12), st.integers(0, 12))
def test_the_sine_of_otc_is_the_formula_of_the_card(fewest: int, more: int) -> None:
    searches = fewest + more
    f = 2 * fewest * searches / (searches + fewest)
    first, second = tried(0), tried(0)
    counted = [
        t.model_copy(update={"steps": tried(1).searches * n + t.steps})
        for t, n in ((first, fewest), (second, searches))
    ]
    assert otc_group(group(*counted)) == pytest.approx([1, math.sin(f * math.pi / (2 * fewest))])


def test_an_error_earns_nothing_in_any_form() -> None:
    trajectory = failed(closed_book(RIGHT))
    assert [search_penalty(trajectory), ikea(trajectory), otc_ppo(trajectory)] == [0, 0, 0]
    assert search_penalty(failed(tried(2))) == 0
    assert otc_group(group(trajectory, closed_book(RIGHT))) == [0, 1]


def test_bad_options_and_missing_golds_are_refused() -> None:
    for reward, options in [
        (search_penalty, {"cost": -1}),
        (ikea, {"most": 0}),
        (otc_ppo, {"smoothing": 0}),
        (lambda t, **o: otc_group(group(t), **o), {"smoothing": -1}),
    ]:
        with pytest.raises(BadInput):
            reward(tried(1), **options)
        with pytest.raises(BadInput, match="no gold answers"):
            reward(closed_book(RIGHT, asked=question(golds=[])))


@given(st.text(max_size=60))
def test_nothing_that_is_written_makes_a_reward_raise(output: str) -> None:
    trajectory = searching(output, SEARCH + output, output, turns=2)
    assert ikea(trajectory) in {-1, 0, 0.05, 1, 1.2, 1.4, 1.6}
    assert -2 <= search_penalty(trajectory) <= 1
    assert 0 <= otc_ppo(trajectory) <= 1
