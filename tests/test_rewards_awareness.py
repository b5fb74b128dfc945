"""Rewards for knowing what one knows: verdicts against labels, AdaSearch's bonus and E2E label, KnowRL's consensus."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import NO, RIGHT, SEARCH, WRONG, YES, closed_book, deciding, failed, group, question, searching

from ken.core import BadInput, Decision, Trajectory
from ken.training.labels import DegenerateLabels
from ken.training.rewards.awareness import OwnSolveRate, aware, decided, label_of, verdict, verdict_matches
from ken.training.rewards.consensus import (
    agree,
    agree_as_intended,
    agree_weighted,
    consensus,
    consensus_rewards,
    intended_rewards,
    majority,
    majority_rewards,
    within_bounds,
)

KNOWN, UNKNOWN = question(knows=True), question(knows=False)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (YES, True),
        (NO, False),
        ("<assessment> No. </assessment>", False),
        ("<think> hm </think>", None),  # missing
        ("<assessment>perhaps</assessment>", None),
        ("<assessment>yes no</assessment>", None),
        ("<think><assessment>yes</assessment></think>", None),  # only thought, not said
        ("<assessment>yes", None),
        ("", None),
    ],
)
def test_a_verdict_earns_one_iff_it_is_the_label(output: str, said: bool | None) -> None:
    trajectory = deciding(output)
    assert verdict(trajectory) is said
    for label in (True, False):
        assert verdict_matches(trajectory, label) == float(said is label)
        assert verdict_matches(failed(trajectory), label) == 0


def test_a_doubled_verdict_matches_nothing() -> None:
    # the scripted model ends at the first </assessment>; a model without stop strings writes on
    twice = deciding(YES).model_copy(update={"steps": (Decision(knows=True), Decision(knows=True))})
    assert verdict(twice) is None
    assert verdict_matches(twice, True) == verdict_matches(twice, False) == 0
    assert verdict_matches(closed_book(RIGHT), False) == 0  # an agent without a verdict has none


def test_labels_come_from_a_mapping_or_from_the_question() -> None:
    assert (label_of(KNOWN), label_of(UNKNOWN)) == (True, False)
    assert label_of(KNOWN, {"q": False}) is False
    assert decided(deciding(YES, asked=KNOWN)) == 1
    assert decided(deciding(YES, asked=KNOWN), labels={"q": False}) == 0
    for asked, labels in [(question(), None), (KNOWN, {}), (question(knows="yes"), None), (question(knows=1), None)]:
        with pytest.raises(BadInput, match="'q' has no label"):
            label_of(asked, labels)


@pytest.mark.parametrize(
    ("outputs", "knows", "reward"),
    [
        ([RIGHT], True, 1.2),
        ([RIGHT], False, 1.0),
        ([SEARCH, RIGHT], True, 1.0),
        ([SEARCH, RIGHT], False, 1.2),
        ([WRONG], True, 0.2),
        ([WRONG], False, 0.0),
        ([SEARCH, WRONG], False, 0.2),
        ([SEARCH, WRONG], True, 0.0),
    ],
)
def test_the_bonus_for_searching_exactly_when_needed(outputs: list[str], knows: bool, reward: float) -> None:
    trajectory = searching(*outputs, asked=question(knows=knows))
    assert aware(trajectory) == pytest.approx(reward)
    assert aware(trajectory, labels={"q": not knows}) != aware(trajectory)
    assert aware(trajectory, bonus=0) == float(outputs[-1] is RIGHT)
    assert aware(failed(trajectory)) == 0


# --- labels on the fly (AdaSearch-E2E) ---


def unit(outputs: list[str], verdicts: list[str], id: str = "q") -> list:
    asked = question(id)
    return [
        group(*[closed_book(o, asked=asked) for o in outputs], kind="inside"),
        group(searching(SEARCH, RIGHT, asked=asked), searching(WRONG, asked=asked), kind="search"),
        group(*[deciding(v, asked=asked) for v in verdicts], kind="decide"),
    ]


SUBSTRING = "<answer> It is Lisbon </answer>"  # SubEM, but not EM


@pytest.mark.parametrize(
    ("outputs", "threshold", "label"),
    [
        ([RIGHT, RIGHT], 0.5, True),
        ([RIGHT, WRONG], 0.5, True),  # p ≥ τ, not p > τ
        ([RIGHT, WRONG, WRONG], 0.5, False),
        ([SUBSTRING, SUBSTRING], 1.0, True),
        ([SUBSTRING, WRONG, WRONG, WRONG], 0.25, True),
        ([WRONG, "hm"], 0.0, True),
        ([WRONG, "hm"], 0.01, False),
    ],
)
def test_the_label_is_the_solve_rate_of_the_same_steps_closed_book_rollouts(
    outputs: list[str], threshold: float, label: bool
) -> None:
    groups, reward = unit(outputs, [YES, NO, "hm"]), OwnSolveRate(threshold)
    assert reward.labels(groups) == {"q": label}
    inside, search, decide = reward(groups)
    assert inside == [float(o is RIGHT) for o in outputs]  # EM, though the label is by SubEM
    assert search == [1, 0]
    assert decide == [float(label), float(not label), 0]


def test_every_question_is_judged_by_its_own_rollouts_whatever_the_order() -> None:
    easy, hard = unit([RIGHT], [YES], "easy"), unit([WRONG], [YES], "hard")
    groups = [hard[2], easy[2], easy[0], hard[0]]
    assert OwnSolveRate()(groups) == [[0], [1], [1], [0]]


def test_rollouts_that_failed_say_nothing_about_knowledge() -> None:
    asked = question()
    right, broken = closed_book(RIGHT), failed(closed_book(WRONG))
    decide = group(deciding(YES, asked=asked), deciding(NO, asked=asked), kind="decide")
    assert OwnSolveRate(1.0)([group(right, broken, kind="inside"), decide])[1] == [1, 0]
    assert OwnSolveRate()([group(broken, broken, kind="inside"), decide])[1] == [0, 0]


def test_labels_that_stay_equal_are_warned_of_where_verdicts_are_learnt_from_them() -> None:
    many = [g for i in range(10) for g in unit([WRONG], [YES], f"q{i}")]
    reward = OwnSolveRate()
    for _ in range(9):
        reward(many)
    with pytest.warns(DegenerateLabels, match=r"last 100 labels, of 10 batches, are 'no'"):
        reward(many)
    mixed = [*many, *unit([RIGHT], [YES], "known")]
    reward = OwnSolveRate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            reward(mixed)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_of_the_unit_interval_is_refused(threshold: float) -> None:
    with pytest.raises(BadInput, match=r"must lie in \[0, 1\]"):
        OwnSolveRate(threshold)


def test_a_decision_without_closed_book_rollouts_is_refused() -> None:
    with pytest.raises(BadInput, match="without a group of kind 'inside'"):
        OwnSolveRate()(unit([RIGHT], [YES])[1:])
    with pytest.raises(BadInput, match="without a group of kind 'param'"):
        OwnSolveRate(inside="param")(unit([RIGHT], [YES]))


# --- consensus (KnowRL) ---

Y, N, U = True, False, None


@pytest.mark.parametrize(
    ("verdicts", "winner", "share", "rewards"),
    [
        ([Y] * 8, Y, 1.0, [1] * 8),
        ([Y] * 7 + [N], Y, 0.875, [1] * 7 + [0]),
        ([N] * 5 + [Y] * 3, N, 0.625, [1] * 5 + [0] * 3),
        ([Y] * 4 + [N] * 4, None, 0.0, [0] * 8),  # a tie has no majority
        ([Y] * 3 + [N] * 3 + [U] * 2, None, 0.0, [0] * 8),
        ([Y] * 3 + [N] * 2 + [U] * 3, Y, 0.375, [1] * 3 + [0] * 5),  # unreadable ones never win
        ([U] * 8, None, 0.0, [0] * 8),
    ],
)
def test_the_consensus_table(verdicts: list, winner: bool | None, share: float, rewards: list[float]) -> None:
    assert majority(verdicts) is winner
    assert consensus(verdicts) == share
    assert majority_rewards(verdicts) == rewards
    assert consensus_rewards(verdicts) == pytest.approx([share * r for r in rewards])
    for intended in (True, False):
        assert intended_rewards(verdicts, intended) == (rewards if winner is intended else [0] * len(verdicts))


@given(st.lists(st.sampled_from([Y, N, U]), max_size=9))
def test_consensus_is_the_mean_reward_and_is_blind_to_names(verdicts: list) -> None:
    rewards = majority_rewards(verdicts)
    assert consensus(verdicts) == pytest.approx(sum(rewards) / len(rewards) if rewards else 0)
    assert majority_rewards([None if v is None else not v for v in verdicts]) == rewards
    assert all(v is not None for v, r in zip(verdicts, rewards, strict=True) if r)


def test_a_group_of_rollouts_votes() -> None:
    asked = question(feasible=False)
    votes = [deciding(v, asked=asked) for v in (YES, YES, NO, "hm")]
    assert agree(group(*votes)) == [1, 1, 0, 0]
    assert agree_weighted(group(*votes)) == [0.5, 0.5, 0, 0]
    assert agree_as_intended(group(*votes)) == [0, 0, 0, 0]
    assert agree_as_intended(group(*votes[2:], deciding(NO, asked=asked))) == [1, 0, 1]
    assert agree(group(failed(votes[0]), *votes[1:])) == [0, 0, 0, 0]  # one yes, one no


def test_consensus_refuses_what_it_cannot_judge() -> None:
    alone: Trajectory = deciding(YES, asked=question(feasible=True))
    for reward in (agree, agree_weighted, agree_as_intended):
        with pytest.raises(BadInput, match="group size of at least 2"):
            reward(group(alone))
    with pytest.raises(BadInput, match="which kind it was meant to be"):
        agree_as_intended(group(deciding(YES), deciding(YES)))


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [([0, 0, 0, 0, 1], True), ([1, 1, 1, 1, 0], True), ([1, 1], False), ([0, 0], False), ([0.1], False)],
)
def test_groups_outside_of_the_bounds_of_difficulty_are_dropped(rewards: list[float], kept: bool) -> None:
    assert within_bounds(rewards) is kept
    assert within_bounds(rewards, low=0, high=1)


def test_bounds_of_difficulty_that_are_none_are_refused() -> None:
    for low, high in [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.1)]:
        with pytest.raises(BadInput, match="bounds of difficulty"):
            within_bounds([1], low=low, high=high)
    with pytest.raises(BadInput, match="without rollouts"):
        within_bounds([])
