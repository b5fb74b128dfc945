"""What answers cost: the paper's numbers, and when work done once pays back."""

from __future__ import annotations

import math

import pytest

from ken.metrics.token_cost import Prices, TokenAccount, break_even, cost_table, growth, reduction

CRAG = TokenAccount(
    prompt=468, context=400, question=20, answer=30, documents=5097, once_prompt=5600, once_completion=400
)


def test_the_papers_75_reviews() -> None:
    assert CRAG.whole == 5165
    assert round(CRAG.reduction, 3) == 0.909
    assert CRAG.break_even == pytest.approx(6000 / (5165 - 468))


@pytest.mark.parametrize(
    ("once", "long", "short", "after"), [(0, 5, 9, 0.0), (10, 6, 4, 5.0), (10, 4, 4, math.inf), (10, 3, 4, math.inf)]
)
def test_break_even(once: int, long: int, short: int, after: float) -> None:
    assert break_even(once, long, short) == after


def test_growth_and_reduction_of_nothing_are_undefined() -> None:
    assert growth(50, 450) == 9
    assert math.isnan(growth(0, 3))
    assert math.isnan(reduction(3, 0))


def test_prices() -> None:
    prices = Prices(prompt=30, completion=60)
    assert CRAG.cost(prices) == pytest.approx((30 * 468 + 60 * 30) / 1e6)
    assert CRAG.cost_once(prices) == pytest.approx((30 * 5600 + 60 * 400) / 1e6)
    rag = TokenAccount(prompt=5165, context=5097, question=20, answer=30, documents=5097)
    table = cost_table({"rag": [rag], "crag": [CRAG, CRAG]}, prices)
    assert [line.name for line in table] == ["rag", "crag"]
    assert table[0].first == table[0].next == pytest.approx(rag.cost(prices))
    assert table[1].first - table[1].next == pytest.approx(CRAG.cost_once(prices))
    with pytest.raises(ValueError, match="no account of x"):
        cost_table({"x": []}, prices)


def test_an_account_reads_as_a_sentence() -> None:
    said = str(CRAG)
    assert said.startswith(
        "468 tokens in the prompt (400 of context, 20 of the question, 48 of instructions), 30 written"
    )
    assert "with all documents it would be 5,165" in said
    assert "summaries took 6,000 before, paid back after 2 questions" in said
    assert str(CRAG.model_copy(update={"exact": False})).startswith("about ")
    assert "never pays back" in str(CRAG.model_copy(update={"documents": 300}))
