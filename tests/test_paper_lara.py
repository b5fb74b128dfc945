"""The LaRA row: what its models learn from, what its arms are shown, and what its claims compare."""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ken.agents.long_context import WHOLE
from ken.core import Passage
from ken.lab.reports import NOT_STATED, ReportsWorld
from ken.papers.reproduce import reproduce
from ken.training.lab_bases import lab_base
from ken.training.reports_base import (
    build_tokenizer,
    pretraining_stages,
    quoting,
    smoke_config,
    strong_config,
    weak_config,
)

row = importlib.import_module("ken.papers.51_lara")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The smoke model is built once for all tests, and not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_examples_hold_no_word_that_the_model_lacks_and_only_answers_are_learnt() -> None:
    config = smoke_config()
    world = ReportsWorld(config.world)
    tokenizer = build_tokenizer(world)
    stages = pretraining_stages(config, world, tokenizer)
    assert [len(stage) for stage in stages] == [272, 16, 8]
    for example in (e for stage in stages for e in stage):
        assert tokenizer.unk_token_id not in example.ids
        assert len(example.ids) <= config.context
        assert not example.learn[0]
    learnt = [tokenizer.decode([i for i, learn in zip(e.ids, e.learn, strict=True) if learn]) for e in stages[1]]
    assert all(text.startswith("<think>") and text.endswith("</answer> <eos>") for text in learnt)
    assert any(NOT_STATED in text for text in learnt)
    assert any(f"{WHOLE.token} <information>" in tokenizer.decode(e.ids) for e in stages[1])


def test_a_full_models_longest_example_fits_its_context() -> None:
    config = strong_config(quotes=0, facts=0, chunks=0, short=0, long=5)
    world = ReportsWorld(config.world)
    (longs,) = pretraining_stages(config, world, build_tokenizer(world))
    assert 900 < max(len(e.ids) for e in longs) <= config.context


def test_quotes_teach_to_find_and_to_say_that_nothing_is_there() -> None:
    world = ReportsWorld(smoke_config().world)
    for pieces in quoting(world, 20, np.random.default_rng(0)):
        shown, *quotes = pieces
        for (key, learn), (value, learnt) in zip(quotes[::2], quotes[1::2], strict=True):
            assert (learn, learnt) == (False, True)
            said = f"{key.removeprefix(', ')} {value}"
            assert (value == "nothing") != (said in shown[0])


def test_the_weak_model_differs_in_size_alone_and_both_can_be_built_by_name() -> None:
    strong, weak = lab_base("reports"), lab_base("reports-weak")
    assert (strong, weak) == (strong_config(), weak_config())
    sizes = {"hidden_size", "intermediate_size", "layers"}
    assert {k for k, v in strong.model_dump().items() if v != weak.model_dump()[k]} == sizes


def test_smoke_measures_every_arm() -> None:
    results = reproduce(row.paper, seeds=1, smoke=True)
    assert set(results.arms) == {arm.name for arm in row.ARMS}
    for name, arm in results.arms.items():
        assert arm.mean["tokens_short"] < arm.mean["tokens_long"] or "rag" in name or "gold" in name
        assert 0 <= arm.mean["all_short"] <= 1
    assert results.arms["strong-gold"].mean["found_long"] == 1.0
    assert results.arms["strong-lc"].mean["found_long"] == 1.0


def test_gold_shows_only_chunks_that_hold_what_is_needed(tmp_path: Path) -> None:
    smoke = row.paper.smoke
    made = row._ask(ReportsWorld(smoke.strong.world), smoke, tmp_path, "test", 0)
    asked = next(one for one in made if one.question.meta["level"] == "comparison")
    found = asyncio.run(row._Gold(asked).search("", 5))
    assert 1 <= len(found) <= 2
    for key in asked.question.meta["keys"]:
        assert any(f"{key} {asked.report.values[key]}" in passage.text for passage in found)
    assert all(isinstance(passage, Passage) for passage in found)


def test_the_seed_draws_the_reports(tmp_path: Path) -> None:
    world = ReportsWorld(row.paper.smoke.strong.world)
    one, other = (row._ask(world, row.paper.smoke, tmp_path / str(seed), "test", seed) for seed in (0, 1))
    assert {a.report for a in one}.isdisjoint({a.report for a in other})


def arms(**changed: float) -> dict[str, dict[str, float]]:
    """What arms measure when whole and chunks are alike, with some of it changed: `weak_rag_all_long=…`."""
    names = [f"{m}_{length}" for m in ("all", "loc", "reas", "comp", "hallu") for length in ("short", "long")]
    found = {arm.name: dict.fromkeys(names, 0.5) for arm in row.ARMS}
    for name, value in changed.items():
        size, mode, metric = name.split("_", 2)
        found[f"{size}-{mode}"][metric] = value
    return found


@pytest.mark.parametrize(
    ("claim", "changed", "value"),
    [
        (0, {"strong_lc_all_short": 0.8, "strong_lc_all_long": 0.6}, 0.2),
        (1, {"weak_rag_all_long": 0.7}, 0.2),
        (1, {"weak_lc_all_long": 0.7}, -0.2),
        (2, {"strong_lc_comp_short": 0.7, "strong_rag_hallu_long": 0.9}, 0.3),
        (3, {"weak_rag_comp_long": 0.7}, -0.1),
        (4, {"strong_router_all_long": 0.7}, 0.1),
        (5, {"weak_lc_all_short": 0.7, "weak_rag_all_long": 0.9}, -0.2),
    ],
)
def test_claims_measure_what_they_say(claim: int, changed: dict[str, float], value: float) -> None:
    assert math.isclose(row.CLAIMS[claim].measure(arms(**changed)), value, abs_tol=1e-9)
