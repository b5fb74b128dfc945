"""R3-RAG's row: its arms and claims are the card's, and a smoke run of all of it measures what they ask for."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ken.core import Observation, Passage, Question, Trajectory


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.40_r3_rag")


def test_arms_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    names = {arm.name for arm in row.paper.arms if not arm.optional}
    assert names == {"cot", "rag", "ircot", "cold-start", "ppo-outcome", "ppo-process", "r3-rag"}
    full = row.paper.full
    assert (full.steps, full.questions, len(full.temperatures), full.max_steps) == (60, 32, 4, 5)
    assert full.temperatures == (0.1, 0.4, 0.7, 1.0)
    assert (full.kl, full.cold_epochs, full.limit, full.top_k) == (0.01, 2.0, 600, 2)
    teacher = full.teacher
    assert (teacher.broad, teacher.wording, teacher.redundant, teacher.premature) == (0.25, 0.15, 0.10, 0.10)
    world = full.base.world
    assert (world.entities, world.entity_relations, world.literal_relations) == (800, 8, 4)
    assert (world.train, world.test) == (4000, 600)
    margins = [claim.margin for claim in row.paper.claims if claim.kind == "hard"]
    assert margins == [0.06, 0.2, 0.03, -0.07, 0.05]


def test_claims_point_the_right_way(row: Any) -> None:
    arms = {
        "rag": {"acc": 0.3, "answerable": 0.4},
        "cold-start": {"acc": 0.6, "recall": 0.7, "steps": 4.0},
        "ppo-process": {"acc": 0.5},
        "ppo-outcome": {"acc": 0.8, "recall": 0.8},
        "r3-rag": {"acc": 0.8, "acc_b": 0.75, "recall": 0.9, "steps": 3.5},
    }
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert values == pytest.approx([0.2, 0.5, 0.4, 0.3, -0.05, 0.2, 0.0, 0.1, 0.5])
    assert all(value >= claim.margin for value, claim in zip(values, row.paper.claims, strict=True))


def test_recall_is_the_share_of_gold_documents_that_were_shown(row: Any) -> None:
    question = Question(id="q", text="?", meta={"supporting_ids": ["a", "b"]})
    shown = Observation(passages=(Passage(id="a", text=""), Passage(id="x", text="")))
    assert row.recall(Trajectory(question=question, strategy="s", steps=(shown, shown))) == 0.5
    assert row.recall(Trajectory(question=question, strategy="s")) == 0.0


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = reproduce(row.paper, seeds=1, smoke=True, arms=["all"])
    assert set(results.arms) == {arm.name for arm in row.paper.arms}
    assert not any(arm.errors for arm in results.arms.values())
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        assert math.isfinite(claim.measure(measured))
    assert measured["cot"]["searches"] == 0
    assert measured["rag"]["searches"] == 1
    assert 0 < measured["rag"]["recall"] < 1
    assert measured["cold-start"]["taught"] >= 20
    assert measured["cold-start"]["searches"] > 0  # it has picked up the first step at least
