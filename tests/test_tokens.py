"""Tokens are counted by the model's own tokenizer where it has one, and estimated, openly, where it has none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.models import load_model
from ken.models.scripted import ScriptedModel
from ken.models.tokens import TokenCounter

WORDS = TokenCounter(ScriptedModel(str))


def test_a_local_model_counts_by_its_tokenizer() -> None:
    model = load_model("lab/factworld")
    counter = TokenCounter(model)
    assert counter.exact
    text = "What is the sponsor of"
    assert counter(text) == len(model.tokenizer.encode(text, add_special_tokens=False)) == 5  # type: ignore[attr-defined]
    assert counter("<closed>") > 1  # in a text it is no control token


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("one", 2), ("Ten words, make it: so.", 7), ("a b c d e f g h i j", 13)]
)
def test_an_endpoint_is_estimated_and_says_so(text: str, tokens: int) -> None:
    counter = TokenCounter(load_model("openai/some-model", base_url="http://localhost:1/v1"))
    assert not counter.exact
    assert counter(text) == tokens


@given(st.text(alphabet="ab \n", max_size=40), st.integers(0, 12))
def test_a_cut_is_the_longest_opening_that_fits(text: str, most: int) -> None:
    short = WORDS.cut(text, most)
    assert text.startswith(short)
    assert WORDS(short) == min(most, WORDS(text))
    assert short == text or not short or not short[-1].isspace()
