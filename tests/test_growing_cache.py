"""A cache that grows in place holds what transformers' own does, whatever happens to its rows and columns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra `lab`")

from transformers import AutoConfig, DynamicCache  # noqa: E402
from transformers.cache_utils import DynamicSlidingWindowLayer  # noqa: E402

from ken.models.growing_cache import ROOM, GrowingLayer, growing_cache  # noqa: E402


class Model:
    def __init__(self, **settings: Any) -> None:
        self.config = AutoConfig.for_model("mistral", num_hidden_layers=2, **{"sliding_window": None, **settings})


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 2 * ROOM)),
        st.tuples(st.just("keep"), st.lists(st.integers(0, 5), min_size=1, max_size=6)),
        st.tuples(st.just("cut"), st.integers(1, 4)),
    ),
    max_size=8,
)


@given(rows=st.integers(1, 4), steps=STEPS)
def test_it_holds_what_a_cache_that_is_copied_at_every_step_holds(rows: int, steps: list[tuple[str, Any]]) -> None:
    model = Model()
    ours, theirs = growing_cache(model), DynamicCache(config=model.config)
    number = 0
    for what, value in [("grow", 3), *steps, ("grow", 1), ("grow", 1)]:
        if what == "grow":
            for layer in range(2):
                new = torch.arange(number, number + rows * 2 * value * 4.0).view(rows, 2, value, 4)
                number += new.numel()
                got, wanted = (cache.update(new, -new, layer) for cache in (ours, theirs))
                assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
        elif what == "keep":
            places = torch.tensor([place % rows for place in value])
            rows = len(value)
            ours.reorder_cache(places)
            theirs.reorder_cache(places)
        elif ours.get_seq_length() > value:
            for cache in (ours, theirs):
                cache.crop(-value)
        for one, other in zip(ours.layers, theirs.layers, strict=True):
            assert torch.equal(one.keys, other.keys)
            assert torch.equal(one.values, other.values)


def test_a_step_writes_where_there_is_room_and_copies_nothing() -> None:
    cache = growing_cache(Model())
    first, _ = cache.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    for _ in range(ROOM):
        keys, _ = cache.update(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), 0)
        assert keys.data_ptr() == first.data_ptr()
    assert keys.shape == (1, 2, 3 + ROOM, 4)


def test_layers_that_forget_are_left_as_transformers_makes_them() -> None:
    assert {type(layer) for layer in growing_cache(Model()).layers} == {GrowingLayer}
    assert {type(layer) for layer in growing_cache(Model(sliding_window=4)).layers} == {DynamicSlidingWindowLayer}
