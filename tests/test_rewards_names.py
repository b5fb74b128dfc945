"""Rewards by name: what the command line offers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rewarded import HIT, RIGHT, SEARCH, WRONG, YES, closed_book, deciding, group, question, searching

from ken.core import BadInput
from ken.training.rewards import REWARDS, named


def test_a_named_reward_scores_groups_of_rollouts() -> None:
    groups = [group(searching(RIGHT), searching(SEARCH, RIGHT)), group(searching(WRONG))]
    assert named("exact")(groups) == [[1, 1], [0]]
    assert named("ikea")(groups) == [[1.6, pytest.approx(1.4)], [0]]
    assert named("ikea", plus=0.3)(groups) == [[1.3, pytest.approx(1.2)], [0]]
    assert named("search-penalty", cost=0.5)(groups) == [[1, 0.5], [0]]
    assert named("otc-grpo")(groups)[0][0] == 1


def test_every_name_works_on_a_question_that_has_all_it_needs() -> None:
    asked = question(knows=True, feasible=True, supporting_ids=["p1"])
    attempts = [closed_book(RIGHT, asked=asked), searching(SEARCH, RIGHT, asked=asked, results=[HIT])]
    groups = [
        group(*attempts, kind="inside"),
        group(*[deciding(YES, asked=asked)] * 2, kind="decide"),
    ]
    for name in REWARDS:
        scores = named(name)(groups)
        assert [len(row) for row in scores] == [2, 2], name
    assert named("own-solve-rate", threshold=1.0)(groups)[1] == [1, 1]
    assert named("majority")(groups)[1] == named("verdict")(groups)[1] == [1, 1]
    assert named("stepwise", variant="outcome")(groups)[0] == [[2], [2, 2]]
    assert named("recall", k=5, penalty=0.25)(groups)[0] == [0.25, 0.25]  # these are no rewrites


def test_unknown_names_and_options_are_refused_with_what_there_is() -> None:
    with pytest.raises(BadInput, match=r"no reward 'bleu'; choose from exact, substring, f1, structured, .*tool-use"):
        named("bleu")
    with pytest.raises(BadInput, match="'ikea' has no option 'lambda'; it has plus, minus, most"):
        named("ikea", **{"lambda": 1})
    with pytest.raises(BadInput, match="'exact' has no option 'trajectory'; it has none"):
        named("exact", trajectory=1)
    with pytest.raises(
        BadInput, match="'own-solve-rate' has no option 'tau'; it has threshold, inside, decide, answer"
    ):
        named("own-solve-rate", tau=1)
    with pytest.raises(BadInput, match="must lie in"):
        named("own-solve-rate", threshold=2)


def test_rewards_and_advantages_need_no_torch() -> None:
    code = "import sys, ken.training.rewards, ken.training.advantages; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
