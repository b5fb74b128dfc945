"""TAPO's row: its reward and its control, its arms, and a smoke run of all of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ken.core import Observation, Question, Search, Step, ToolCall, Trajectory
from ken.lab.calculation import CalculationWorld, CalculationWorldConfig
from ken.training.rewards.tool_bonus import tool_bonus, valid_calls

CALL = ToolCall(name="code", arguments={"code": "1"})
FINE, WRONG = Observation(note="1"), Observation(note="[ERROR] division by zero")


@pytest.mark.parametrize(
    ("steps", "calls", "bonus"),
    [
        ((), 0, 0.0),
        ((CALL, FINE), 1, 0.2),
        ((CALL, WRONG), 0, 0.0),
        ((CALL, Observation(note="so far\n[ERROR] ZeroDivisionError")), 0, 0.0),
        ((Search(query="x"), Observation()), 1, 0.2),
        ((Search(query="x"), Observation(note="away", error=True)), 0, 0.0),
        ((Search(query="x"),), 0, 0.0),
        ((CALL, FINE) * 3, 3, 0.6),
        ((CALL, FINE) * 5, 5, 0.6),
    ],
)
def test_a_bonus_is_paid_for_calls_that_work_and_for_three_at_most(
    steps: tuple[Step, ...], calls: int, bonus: float
) -> None:
    trajectory = Trajectory(question=Question(id="q", text="?"), strategy="tools", steps=steps)
    assert valid_calls(trajectory) == calls
    assert tool_bonus(trajectory) == pytest.approx(bonus)


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.22_tapo")


def test_kinds_of_questions_are_drawn_equally_often(row: Any) -> None:
    world = CalculationWorld(CalculationWorldConfig(entities=20, questions=300))
    drawn = row.in_equal_shares(world.split("train"))
    counts = {kind: sum(q.meta["kind"] == kind for q in drawn) for kind in "KSCHD"}
    assert len(set(counts.values())) == 1
    assert {q.id for q in drawn} == {q.id for q in world.split("train")}


def test_the_arms_are_those_of_the_card_and_every_claim_can_be_judged(row: Any) -> None:
    names = {arm.name for arm in row.paper.arms}
    assert names == {"base", "tapo", "search-only", "code-only", "no-tools", "grpo", "tool-bonus"}
    full = row.paper.full
    assert (full.steps, full.questions, full.group_size) == (120, 16, 8)
    assert (row.DAPO["clip_low"], row.DAPO["clip_high"], row.DAPO["dual_clip"], row.DAPO["kl"]) == (0.2, 0.28, 10, 0)
    assert row.GRPO["kl"] == 1e-3
    assert sum(claim.kind == "hard" for claim in row.paper.claims) == 10


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
        assert isinstance(claim.measure(measured), float)
    for name in ("search-only", "no-tools"):
        assert measured[name]["codes"] == 0
    for name in ("code-only", "no-tools"):
        assert measured[name]["searches"] == 0
