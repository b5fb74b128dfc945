"""Every search is needed, wasted or harmful; every omission missed or saved; nothing falls between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.metrics import SearchUse, classify_search, count_search_use, decision_table

attempts = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("searched", "solvable", "correct", "use"),
    [
        (True, False, True, SearchUse.NEEDED),
        (True, False, False, SearchUse.NEEDED),
        (True, True, True, SearchUse.WASTED),
        (True, True, False, SearchUse.HARMFUL),
        (False, False, True, SearchUse.MISSED),
        (False, False, False, SearchUse.MISSED),
        (False, True, True, SearchUse.SAVED),
        (False, True, False, SearchUse.SAVED),
    ],
)
def test_each_combination_has_one_class(searched: bool, solvable: bool, correct: bool, use: SearchUse) -> None:
    assert classify_search(searched, solvable, correct) is use


def test_counts_of_a_hand_made_run() -> None:
    counts = count_search_use(
        searches=[1, 3, 2, 1, 0, 0, 0],
        solvable=[False, False, True, True, False, True, True],
        correct=[True, False, True, False, False, True, False],
    )
    assert (counts.needed, counts.wasted, counts.harmful, counts.missed, counts.saved) == (2, 1, 1, 1, 2)
    assert counts.needed_correct == 1
    assert counts.needed_success == 0.5
    assert (counts.needed_calls, counts.unneeded_calls) == (4, 3)
    assert counts.calls_per_question == 1.0
    assert counts.over_search_rate == 2 / 4
    assert counts.under_search_rate == 1 / 3
    assert counts.unneeded_call_rate == 3 / 7
    assert counts.rate(SearchUse.SAVED) == 2 / 7


@given(attempts)
def test_classes_partition_the_questions_and_agree_with_the_decision_table(rows: list[tuple[int, bool, bool]]) -> None:
    calls, solvable, correct = ([row[i] for row in rows] for i in range(3))
    counts = count_search_use(calls, solvable, correct)
    assert counts.n == len(rows)
    assert sum(counts.rate(use) for use in SearchUse) == pytest.approx(1.0)
    assert counts.needed_calls + counts.unneeded_calls == sum(calls)
    assert counts.needed_correct <= counts.needed
    table = decision_table([c == 0 for c in calls], solvable)
    assert counts.saved == table.answered_known
    assert counts.missed == table.answered_unknown
    assert counts.wasted + counts.harmful == table.searched_known
    assert counts.needed == table.searched_unknown
    assert counts.searched == sum(c > 0 for c in calls)


@given(attempts, st.randoms())
def test_counts_do_not_depend_on_the_order_of_questions(rows: list[tuple[int, bool, bool]], random) -> None:
    shuffled = random.sample(rows, len(rows))
    assert count_search_use(*zip(*rows, strict=True)) == count_search_use(*zip(*shuffled, strict=True))


def test_never_searching_wastes_nothing_and_misses_everything() -> None:
    counts = count_search_use([0, 0, 0], [False, False, True], [False, False, True])
    assert counts.under_search_rate == 1.0
    assert counts.over_search_rate == 0.0
    assert counts.unneeded_call_rate is None  # nothing was searched
    assert counts.needed_success is None


def test_a_rate_without_a_denominator_is_none() -> None:
    assert count_search_use([1], [False], [True]).over_search_rate is None
    assert count_search_use([1], [True], [True]).under_search_rate is None


def test_bad_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="no attempts"):
        count_search_use([], [], [])
    with pytest.raises(ValueError, match="one of each"):
        count_search_use([1], [True, False], [True])
    with pytest.raises(ValueError, match="negative"):
        count_search_use([-1], [True], [True])
