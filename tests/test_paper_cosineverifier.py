"""CoSineVerifier's row: its arms, its claims, and a smoke run of all of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.28_cosineverifier")


def test_the_arms_and_numbers_are_those_of_the_card(row: Any) -> None:
    names = {arm.name for arm in row.paper.arms}
    assert names == {"exact", "rule", "label", "cot", "sft", "sft-rare", "rl", "rl-no-bonus"}
    full = row.paper.full
    assert (full.steps, full.units, full.group_size) == (40, 48, 4)
    assert (full.base.world.train, full.base.world.test, full.base.world.rare) == (12_000, 600, 0.02)
    margins = [claim.margin for claim in row.paper.claims if claim.kind == "hard"]
    assert margins == [0.15, 0.0, 0.08, 0.0, 0.02, -0.03, 0.9, -0.3, -60.0, 0.03]


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = reproduce(row.paper, seeds=1, smoke=True, arms=["all"])
    assert not any(arm.errors for arm in results.arms.values()), results.arms
    measured: dict[str, Any] = {name: arm.metrics[0] for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        assert isinstance(claim.measure(measured), float)
    for name in ("label", "cot"):
        assert measured[name]["called_computed"] == 0
    # Rules need no training, so that what they can do shows even here.
    assert measured["rule"]["acc_algebra"] == measured["rule"]["acc_number"] == measured["rule"]["acc_set"] == 1
    assert measured["rule"]["acc_unit"] < 1
    assert measured["exact"]["acc"] < measured["rule"]["acc"]
