"""CRAG's row: its arms and claims are the card's, and a smoke run of all of it measures what they ask for."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.38_crag_clustered")


def test_arms_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    assert [arm.name for arm in row.paper.arms] == [
        "rag-all",
        "rag-top-m",
        "crag-4",
        "crag-6",
        "crag-silhouette",
        "one-shot",
        "random",
        "extractive",
    ]
    full = row.paper.full
    assert (full.counts, full.products, full.asked, full.encoder) == ((4, 10, 25, 50, 75), 30, "test", "minilm")
    assert (full.base.world.products, full.base.world.reviews, full.base.context) == (60, 75, 2048)
    assert [c.margin for c in row.paper.claims] == [0.46, 0.85, 6.0, -2.5, -0.05, -0.05, 0.7, 0.1, 0.0]
    assert row.paper.slug == "crag-clustered"
    assert row.paper.entry.number == 38


def test_claims_point_the_right_way(row: Any) -> None:
    def arm(acc: float, growth: float, reduction: float) -> dict[str, float]:
        at = {f"{name}_{n}": v for n in (4, 10, 25, 50, 75) for name, v in (("acc", acc), ("prompt", 1.0))}
        return {
            **at,
            **{f"reduction_{n}": reduction for n in (10, 25, 50)},
            "reduction_4": -0.5,
            "reduction_75": 0.9,
            "growth": growth,
            "cosine": 0.8,
        }

    arms = {
        "rag-all": arm(0.9, 9.0, 0.0),
        "crag-4": arm(0.88, 2.0, 0.5),
        "rag-top-m": arm(0.7, 1.0, 0.5),
        "random": arm(0.8, 2.0, 0.5),
    }
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert values == pytest.approx([0.5, 0.9, 9.0, -2.0, -0.02, -0.02, 0.8, 0.18, 0.08])
    assert all(value >= claim.margin for value, claim in zip(values, row.paper.claims, strict=True))


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = reproduce(row.paper, seeds=1, smoke=True, arms=["all"])
    assert {name: arm.errors for name, arm in results.arms.items() if arm.errors} == {}
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        assert math.isfinite(claim.measure(measured))
    rag, crag, best, one = (measured[name] for name in ("rag-all", "crag-4", "rag-top-m", "one-shot"))
    assert rag["once_12"] == measured["extractive"]["once_12"] == 0 < crag["once_12"]
    assert rag["context_12"] > rag["context_8"] > rag["context_4"]
    assert best["context_12"] <= crag["context_12"]
    assert one["context_12"] < crag["context_12"]
    assert rag["cosine"] == pytest.approx(1.0)
    assert not (tmp_path / "ken" / "summaries").exists()  # a row leaves nothing behind
