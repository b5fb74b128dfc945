"""AdaSearch's row: arms, sizes and claims are the card's; a smoke run of all of it measures what they ask for."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ken.papers.reproduce import reproduce


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.01_adasearch")


def test_arms_sizes_and_margins_are_those_of_the_card(row: Any) -> None:
    names = [arm.name for arm in row.paper.arms if not arm.optional]
    assert names == ["base", "r1", "search-r1", "naive", "aware", "ikea", "otc", "adasearch", "adasearch-e2e"]
    assert {arm.name for arm in row.paper.arms if arm.optional} == {
        "naive-0.05", "naive-0.5", "adasearch-0.3", "adasearch-0.7",
    }  # fmt: skip
    full = row.paper.full
    assert (full.steps, full.solve_steps, full.decide_steps) == (180, 80, 160)
    assert (full.questions, full.group_size, full.decide_questions, full.verdicts) == (16, 8, 64, 4)
    assert (full.samples, full.threshold, full.asked) == (8, 0.5, "test")
    assert [c.margin for c in row.paper.claims if c.kind == "hard"] == [0.35, 0.9, -0.05, 0.2, 0.0, 0.15, 0.75]


def test_claims_point_the_right_way(row: Any) -> None:
    arms = {
        "base": {"f1_aware": 0.47, "always_yes": 0.62},
        "r1": {"em": 0.48},
        "search-r1": {"em": 0.93, "f1_aware": 0.0, "searched": 1.0, "unneeded": 0.44},
        "adasearch": {"em": 0.9, "f1_aware": 0.7, "unneeded": 0.1, "auc": 0.8},
        "adasearch-e2e": {"f1_aware": 0.68},
        "adasearch-0.3": {"f1_aware": 0.69},
        "adasearch-0.7": {"f1_aware": 0.68},
        **{name: {"f1_aware": 0.5} for name in ("ikea", "aware", "naive")},
        "naive-0.05": {"f1_aware": 0.1},
        "naive-0.5": {"f1_aware": 0.6},
    }
    values = [claim.measure(arms) for claim in row.paper.claims]
    wanted = [0.7, 1.0, -0.03, 0.42, 0.12, 0.23, 0.8, 0.2, 0.2, 0.2, 0.3, 0.48, -0.02, 0.08]
    assert values == pytest.approx(wanted)
    assert all(value >= claim.margin for value, claim in zip(values, row.paper.claims, strict=True))


def test_every_arm_runs(row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = reproduce(row.paper, seeds=1, smoke=True, out=tmp_path / "out")
    assert {name: arm.errors for name, arm in results.arms.items() if arm.errors} == {}
    for name, arm in results.arms.items():
        assert {"em", "f1_aware", "searches", "unneeded", "known", "inside_em"} <= set(arm.mean), name
        assert 0 <= arm.mean["f1_aware"] <= 1
        assert arm.mean["needed"] + arm.mean["unneeded"] == pytest.approx(arm.mean["searches"])
    assert results.arms["r1"].mean["searches"] == 0
    adasearch = results.arms["adasearch"].metrics[0]
    assert not math.isnan(adasearch["label_flips"])
    assert len(adasearch["decide_curve"]) == row.paper.smoke.decide_steps
