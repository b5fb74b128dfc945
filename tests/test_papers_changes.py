"""Settings within settings are changed by their names, and what is wrong is said in one sentence."""

from __future__ import annotations

import pytest
from pydantic import Field

from ken.core import BadInput
from ken.core.frozen import Frozen
from ken.papers.changes import changed, mark, parse_changes


class World(Frozen):
    seed: int = 0


class Base(Frozen):
    world: World = World()
    weights: tuple[float, ...] = (0.5, 0.5)


class Settings(Frozen):
    base: Base = Base()
    lr: float = Field(default=1e-3, gt=0)
    asked: str = "test"


def test_a_dot_leads_inwards_and_the_rest_stays():
    typed = ["lr=1e-4", "asked=dev", "base.world.seed=3", "base.weights=[0.2, 0.8]"]
    found = changed(Settings(), parse_changes(typed))
    assert found == Settings(lr=1e-4, asked="dev", base=Base(world=World(seed=3), weights=(0.2, 0.8)))
    assert changed(Settings(lr=0.1), {}) == Settings(lr=0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nope": 1}, "there is no setting 'nope'; the settings are base, lr, asked"),
        ({"nope.deep": 1}, "there is no setting 'nope.deep'; the settings are base, lr, asked"),
        ({"base.world.sed": 1}, "there is no setting 'base.world.sed'; the settings are seed"),
        ({"lr.much": 1}, "there is no setting 'lr.much'"),
        ({"lr": 0}, "lr cannot be 0: input should be greater than 0"),
        ({"base.world.seed": "one"}, "base.world.seed cannot be 'one'"),
        ({"base": 3}, "base cannot be 3"),
    ],
)
def test_what_cannot_be_set_is_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        changed(Settings(), changes)


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(BadInput, match="is not KEY=VALUE"):
        parse_changes([text])


def test_files_are_named_alike_whatever_the_order():
    assert mark({"a": 1, "b": 2}) == mark({"b": 2, "a": 1}) != mark({"a": 2, "b": 1})
