"""Advantages agree with slow, independent implementations of their definitions, and with numbers worked out by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ken.core import BadInput
from ken.training.advantages import (
    gae,
    group_normalised,
    leave_one_out,
    mean_centred,
    whiten_masked,
    whitened,
    zero_variance,
)

finite = st.floats(-10, 10).map(lambda x: round(x, 6))
batches = st.lists(st.tuples(finite, st.sampled_from(["a", "b", 3])), min_size=1, max_size=20)
paired = batches.map(lambda rows: [(r, k) for r, k in rows for _ in range(2)])  # no group of one


def parts(rows: list) -> tuple[list[float], list]:
    return [r for r, _ in rows], [k for _, k in rows]


@pytest.mark.parametrize(
    ("rewards", "groups", "normalised", "centred"),
    [
        # mean ½, standard deviation √(1/3) with n − 1 below the line
        ([1, 1, 0, 0], [0, 0, 0, 0], [math.sqrt(3) / 2] * 2 + [-math.sqrt(3) / 2] * 2, [0.5, 0.5, -0.5, -0.5]),
        ([1, 0, 3, 1], [0, 0, 1, 1], [math.sqrt(0.5), -math.sqrt(0.5)] * 2, [0.5, -0.5, 1, -1]),
        ([1, 3, 0, 1], [0, 1, 0, 1], [math.sqrt(0.5)] * 2 + [-math.sqrt(0.5)] * 2, [0.5, 1, -0.5, -1]),  # interleaved
        ([1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]),
        ([0.7], [0], [0.7], [0]),  # a group of one: mean 0, standard deviation 1; only centring makes it 0
        ([0.7, 1, 0], ["x", "y", "y"], [0.7, math.sqrt(0.5), -math.sqrt(0.5)], [0, 0.5, -0.5]),
    ],
)
def test_group_advantages_of_known_rewards(rewards: list, groups: list, normalised: list, centred: list) -> None:
    assert group_normalised(rewards, groups) == pytest.approx(normalised, abs=1e-5)
    assert mean_centred(rewards, groups) == pytest.approx(centred)


@given(batches)
def test_group_normalisation_is_its_definition(rows: list) -> None:
    rewards, groups = parts(rows)
    for reward, key, advantage in zip(rewards, groups, group_normalised(rewards, groups), strict=True):
        peers = [r for r, k in rows if k == key]
        mean, deviation = (statistics.fmean(peers), statistics.stdev(peers)) if len(peers) > 1 else (0.0, 1.0)
        assert advantage == pytest.approx((reward - mean) / (deviation + 1e-6), rel=1e-6, abs=1e-6)


@given(paired, st.floats(0.1, 10), st.floats(-10, 10))
def test_group_normalisation_does_not_see_scale_or_shift(rows: list, scale: float, shift: float) -> None:
    rewards, groups = parts(rows)
    if any(np.ptp([r for r, k in rows if k == key]) < 0.1 for key in groups):
        return  # where eps counts, or there is nothing to see
    moved = group_normalised(np.array(rewards) * scale + shift, groups)
    assert moved == pytest.approx(group_normalised(rewards, groups), rel=1e-2, abs=1e-3)
    assert group_normalised(np.array(rewards) * scale + shift, groups, eps=0) == pytest.approx(
        group_normalised(rewards, groups, eps=0), rel=1e-6, abs=1e-6
    )


@given(paired)
def test_leave_one_out_compares_with_the_others(rows: list) -> None:
    rewards, groups = parts(rows)
    advantages = leave_one_out(rewards, groups)
    for place, (reward, key) in enumerate(rows):
        others = [r for i, (r, k) in enumerate(rows) if k == key and i != place]
        assert advantages[place] == pytest.approx(reward - statistics.fmean(others), abs=1e-9)
    n = np.array([groups.count(key) for key in groups])
    assert advantages == pytest.approx(n / (n - 1) * mean_centred(rewards, groups), abs=1e-9)


def test_leave_one_out_needs_others() -> None:
    assert leave_one_out([1, 0, 0], [0, 0, 0]) == pytest.approx([1, -0.5, -0.5])
    with pytest.raises(BadInput, match="group size of at least 2"):
        leave_one_out([1, 0, 0], [0, 0, 1])


@given(batches, st.booleans())
def test_whitening_is_its_definition(rows: list, by_key: bool) -> None:
    rewards, keys = parts(rows)
    advantages = whitened(rewards, keys if by_key else None)
    for reward, key, advantage in zip(rewards, keys, advantages, strict=True):
        peers = [r for r, k in rows if k == key or not by_key]
        expected = (reward - statistics.fmean(peers)) / (statistics.pstdev(peers) + 1e-8)
        assert advantage == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_whitening_looks_across_groups() -> None:
    # the unanimous group [1, 1] has no advantage within itself, but one over the batch
    assert whitened([1, 1, 0, 0]) == pytest.approx([1, 1, -1, -1])
    assert whitened([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx([0, 0, 0, 0])
    assert whitened([5, 1, 0], ["alone", "b", "b"]) == pytest.approx([0, 1, -1])


def test_groups_without_variance_are_named() -> None:
    found = zero_variance([1, 1, 0, 1, 0.1 + 0.2, 0.3, 5], ["a", "a", "b", "b", "c", "c", "d"])
    assert (found.share, found.groups) == (0.75, ("a", "c", "d"))
    assert zero_variance([0, 1], [0, 0]) == zero_variance([1, 0], ["q", "q"])
    assert zero_variance([0, 0.05], [0, 0], tolerance=0.1).share == 1


@given(batches)
def test_groups_without_variance_are_those_whose_centred_rewards_vanish(rows: list) -> None:
    rewards, groups = parts(rows)
    centred = mean_centred(rewards, groups)
    moving = {k for k, c in zip(groups, centred, strict=True) if abs(c) > 1e-8}
    assert set(zero_variance(rewards, groups).groups) == set(groups) - moving


@pytest.mark.parametrize(
    ("rewards", "groups", "problem"),
    [
        ([], [], "no rewards"),
        ([1, 0], [0], "one key per reward"),
        ([[1, 0]], [0, 0], "one key per reward"),
        ([1, float("nan")], [0, 0], "not finite"),
        ([1, float("inf")], [0, 0], "not finite"),
    ],
)
def test_rewards_that_cannot_be_compared_are_refused(rewards: list, groups: list, problem: str) -> None:
    for function in (group_normalised, mean_centred, leave_one_out, whitened, zero_variance):
        with pytest.raises(BadInput, match=problem):
            function(rewards, groups)


# --- GAE ---


def slow_gae(rewards, values, mask, turns, *, gamma, lam):
    """Â_t = Σ_k (γλ)^k δ_{t+k} over the counted positions of one turn, one row and one position at a time."""
    advantages, returns = np.zeros_like(values), np.zeros_like(values)
    for b in range(len(rewards)):
        places = [t for t in range(len(rewards[b])) if mask[b][t]]
        runs, previous = [], None
        for t in places:
            if not runs or (turns is not None and turns[b][t] != previous):
                runs.append([])
            runs[-1].append(t)
            previous = None if turns is None else turns[b][t]
        for run in runs:
            deltas = [
                rewards[b][t] + (gamma * values[b][run[i + 1]] if i + 1 < len(run) else 0.0) - values[b][t]
                for i, t in enumerate(run)
            ]
            for i, t in enumerate(run):
                advantages[b][t] = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[i:]))
                returns[b][t] = advantages[b][t] + values[b][t]
    return advantages, returns


@st.composite
def token_batches(draw):
    shape = (draw(st.integers(1, 3)), draw(st.integers(0, 7)))
    mask = draw(arrays.arrays(bool, shape))
    rewards = draw(arrays.arrays(float, shape, elements=finite)) * mask
    values = draw(arrays.arrays(float, shape, elements=finite))
    turns = np.cumsum(draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 1))), axis=1)
    return rewards, values, mask, turns


unit = st.floats(0, 1)


@given(token_batches(), unit, unit, st.booleans())
def test_gae_is_its_definition(batch: tuple, gamma: float, lam: float, by_turn: bool) -> None:
    rewards, values, mask, turns = batch
    turns = turns if by_turn else None
    for got, expected in zip(
        gae(rewards, values, mask, gamma=gamma, lam=lam, turns=turns),
        slow_gae(rewards, values, mask, turns, gamma=gamma, lam=lam),
        strict=True,
    ):
        assert got == pytest.approx(expected, abs=1e-6)


@given(token_batches())
def test_undiscounted_advantages_are_what_is_still_to_come_minus_the_value(batch: tuple) -> None:
    rewards, values, mask, _ = batch
    advantages, returns = gae(rewards, values, mask)
    to_come = np.flip(np.cumsum(np.flip(rewards, axis=1), axis=1), axis=1) * mask
    assert returns == pytest.approx(to_come, abs=1e-6)
    assert advantages == pytest.approx((to_come - values) * mask, abs=1e-6)


@given(token_batches(), unit)
def test_without_lambda_the_advantage_is_the_surprise_of_one_step(batch: tuple, gamma: float) -> None:
    rewards, values, mask, _ = batch
    every = np.ones_like(mask)
    rest = np.concatenate([values[:, 1:], np.zeros((len(values), 1))], axis=1)[:, : values.shape[1]]
    advantages, _ = gae(rewards, values, every, gamma=gamma, lam=0)
    assert advantages == pytest.approx(rewards + gamma * rest - values, abs=1e-6)


def test_gae_worked_out_by_hand() -> None:
    advantages, returns = gae([[0, 0, 1]], [[0.5, 0.6, 0.8]], [[1, 1, 1]], gamma=0.9, lam=0.5)
    # δ = 0.04, 0.12, 0.2; each advantage adds 0.45 of the next
    assert advantages == pytest.approx(np.array([[0.1345, 0.21, 0.2]]))
    assert returns == pytest.approx(np.array([[0.6345, 0.81, 1.0]]))


def test_positions_that_do_not_count_are_passed_over() -> None:
    # an observation in the middle: the recursion goes from the last token before it to the first after it
    middle = gae([[0, 0, 1]], [[0.5, 9.0, 0.8]], [[1, 0, 1]], gamma=0.9, lam=0.5)
    joined = gae([[0, 1]], [[0.5, 0.8]], [[1, 1]], gamma=0.9, lam=0.5)
    for got, expected in zip(middle, joined, strict=True):
        assert got[:, [0, 2]] == pytest.approx(expected)
        assert got[0, 1] == 0
    padded = gae([[1, 0]], [[0.5, math.nan]], [[1, 0]])  # what stands at padding is never read
    assert padded[0].tolist() == [[0.5, 0]]
    assert padded[1].tolist() == [[1, 0]]


def test_with_turns_every_turn_is_a_sample_of_its_own() -> None:
    rewards, values = [[0, 1.6, 0, 2.0]], [[0.1, 0.2, 0.3, 0.4]]
    advantages, _ = gae(rewards, values, [[1, 1, 1, 1]], turns=[[0, 0, 1, 1]])
    assert advantages == pytest.approx(np.array([[1.5, 1.4, 1.7, 1.6]]))  # 2.0 does not reach the first turn
    apart = [gae([r], [v], [[1, 1]])[0] for r, v in (([0, 1.6], [0.1, 0.2]), ([0, 2.0], [0.3, 0.4]))]
    assert advantages == pytest.approx(np.concatenate(apart, axis=1))


@pytest.mark.parametrize(
    ("arguments", "options", "problem"),
    [
        (([[1, 0]], [[0, 0]], [[1]]), {}, "must have one shape"),
        (([1, 0], [0, 0], [1, 1]), {}, "must have one shape"),
        (([[1]], [[0]], [[1]]), {"turns": [[0, 0]]}, "must have one shape"),
        (([[1]], [[0]], [[1]]), {"gamma": 1.1}, r"lie in \[0, 1\]"),
        (([[1]], [[0]], [[1]]), {"lam": -0.1}, r"lie in \[0, 1\]"),
        (([[math.nan]], [[0]], [[1]]), {}, "not finite"),
        (([[1]], [[math.inf]], [[1]]), {}, "not finite"),
        (([[0, 1]], [[0, 0]], [[1, 0]]), {}, "a position that the mask leaves out"),
    ],
)
def test_gae_refuses_what_it_would_get_wrong(arguments: tuple, options: dict, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        gae(*arguments, **options)


@given(token_batches())
def test_masked_whitening_has_mean_zero_and_variance_one_where_it_counts(batch: tuple) -> None:
    advantages, _, mask, _ = batch
    white = whiten_masked(advantages, mask)
    chosen = [float(a) for row, m in zip(advantages, mask, strict=True) for a, c in zip(row, m, strict=True) if c]
    assert (white[~mask] == 0).all()
    if len(chosen) < 2:
        assert (white == 0).all()
        return
    expected = [(a - statistics.fmean(chosen)) / math.sqrt(statistics.variance(chosen) + 1e-8) for a in chosen]
    assert white[mask] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_masked_whitening_refuses_what_it_cannot_scale() -> None:
    assert whiten_masked([[1.0, math.nan, 3.0]], [[1, 0, 1]]) == pytest.approx(
        np.array([[-math.sqrt(0.5), 0, math.sqrt(0.5)]])
    )
    with pytest.raises(BadInput, match="must have one shape"):
        whiten_masked([[1.0]], [[1, 0]])
    with pytest.raises(BadInput, match="not finite"):
        whiten_masked([[1.0, math.nan]], [[1, 1]])
