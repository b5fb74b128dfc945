"""Rewards of the gold passage's rank, by the numbers of ConvSearch-R1 (card 17)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import failed, question

from ken.core import BadInput, Observation, Passage, Search, Segment, Trajectory
from ken.training.rewards.ranking import (
    composed,
    curriculum,
    gold_rank,
    mrr,
    ndcg,
    rank_incentive,
    recall,
    rewriting,
    well_formed,
)


@pytest.mark.parametrize(
    ("rank", "incentive", "ndcg10", "mrr10", "recall10"),
    [
        (1, 2, 1, 1, 1),
        (2, 2 - 1 / 9, 0.63093, 1 / 2, 1),
        (3, 2 - 2 / 9, 0.5, 1 / 3, 1),
        (10, 1, 0.28906, 1 / 10, 1),
        (11, 89 / 90, 0, 0, 0),
        (55, 0.5, 0, 0, 0),
        (100, 0, 0, 0, 0),
        (101, 0, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (-1, 0, 0, 0, 0),  # what the rank service says for "not found"
        (None, 0, 0, 0, 0),
    ],
)
def test_the_rewards_of_a_rank(
    rank: int | None, incentive: float, ndcg10: float, mrr10: float, recall10: float
) -> None:
    assert rank_incentive(rank) == pytest.approx(incentive)
    assert ndcg(rank) == pytest.approx(ndcg10, abs=1e-5)
    assert mrr(rank) == pytest.approx(mrr10)
    assert recall(rank) == recall10
    assert (recall(rank, 100), recall(rank, 1)) == (float(rank in range(1, 101)), float(rank == 1))


@given(st.integers(1, 99))
def test_only_the_rank_incentive_rewards_every_gain_within_the_hundred(rank: int) -> None:
    assert rank_incentive(rank) > rank_incentive(rank + 1)
    for measure in (ndcg, mrr, recall):
        assert measure(rank) >= measure(rank + 1)
    assert rank_incentive(rank) == pytest.approx(19 / 9 - rank / 9 if rank <= 10 else 10 / 9 - rank / 90)  # the code's


@pytest.mark.parametrize(
    ("rank", "early", "late"),
    [(1, 1, 1), (10, 1 - 9 / 99, 1 - 9 / 99), (11, 1 - 10 / 99, 0), (100, 0, 0), (101, -0.2, -0.2), (None, -0.2, -0.2)],
)
def test_the_curriculum_narrows_after_a_quarter_of_the_training(rank: int | None, early: float, late: float) -> None:
    for step, reward in [(0, early), (25, early), (26, late), (100, late)]:
        assert curriculum(rank, step, 100) == pytest.approx(reward)


def test_cut_offs_and_steps_that_are_none_are_refused() -> None:
    for measure in (ndcg, mrr, recall):
        for rank in (1, None):
            with pytest.raises(BadInput, match="at least 1"):
                measure(rank, 0)
    for step, steps in [(-1, 10), (0, 0)]:
        with pytest.raises(BadInput, match="no place in a training"):
            curriculum(1, step, steps)


GOOD = "<think>who is she</think>\n<rewrite>where was Ada born</rewrite>"


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        (GOOD, True),
        ("<think>\na\nb\n</think>\n<rewrite>\nc\n</rewrite>", True),
        ("<think></think>\n<rewrite></rewrite>", True),
        (GOOD + "\n", False),  # even white space after the last tag costs
        (GOOD + " ", False),
        (" " + GOOD, False),
        (GOOD + "\nAda", False),
        (GOOD.replace("\n", ""), False),
        (GOOD.replace("\n", "\n\n"), False),
        (GOOD.replace("\n", " "), False),
        (GOOD[: -len("</rewrite>")], False),
        (GOOD.partition("\n")[2], False),
        (GOOD + GOOD, False),
        ("<think>a</think>b</think>\n<rewrite>c</rewrite>", False),
        ("<think>a</think>\n<rewrite>b</rewrite>c</rewrite>", False),
        ("", False),
    ],
)
def test_a_format_failure_replaces_the_reward_of_the_rank(text: str, fine: bool) -> None:
    assert well_formed(text) is fine
    assert composed(text, 2.0) == (2.0 if fine else -0.1)
    assert composed(text, 0.0, penalty=-1) == (0.0 if fine else -1)


def rewrite(text: str, *results: list[str], gold: tuple[str, ...] = ("g",)) -> Trajectory:
    steps = [
        s for ids in results for s in (Search(query="q"), Observation(passages=[Passage(id=i, text=i) for i in ids]))
    ]
    segments = (Segment(role="prompt", text="?"), Segment(role="policy", text=text))
    asked = question(golds=[], supporting_ids=list(gold))
    return Trajectory(question=asked, strategy="rewrite", steps=tuple(steps), segments=segments)


@pytest.mark.parametrize(
    ("results", "gold", "rank"),
    [
        ([["g", "a"]], ("g",), 1),
        ([["a", "b", "g"]], ("g",), 3),
        ([["a", "a", "g"]], ("g",), 2),  # documents count once
        ([["a", "h", "g"]], ("g", "h"), 2),  # the best gold passage
        ([["a", "b"]], ("g",), None),
        ([[]], ("g",), None),
        ([], ("g",), None),
        ([["g"], ["a", "g"]], ("g",), 2),  # the last search
    ],
)
def test_the_rank_is_that_of_the_best_gold_document(results: list, gold: tuple[str, ...], rank: int | None) -> None:
    trajectory = rewrite(GOOD, *results, gold=gold)
    assert gold_rank(trajectory) == rank
    assert rewriting(trajectory) == pytest.approx(rank_incentive(rank))
    assert rewriting(trajectory, measure=mrr) == pytest.approx(mrr(rank))
    assert rewriting(trajectory, rank=lambda t: 10) == 1
    assert rewriting(rewrite(GOOD + "\n", *results, gold=gold)) == -0.1
    assert rewriting(failed(trajectory)) == rewriting(failed(rewrite("", *results))) == 0


def test_a_question_must_name_its_gold_passages() -> None:
    with pytest.raises(BadInput, match="does not name its gold passages"):
        rewriting(rewrite(GOOD, ["a"], gold=()))
