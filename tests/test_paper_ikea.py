"""IKEA's row: its arms and claims are the card's, and a smoke run of all of it measures what they ask for."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ken.agents.instructions import SEARCH, SEARCH_SPARINGLY
from ken.core import BadInput, Question, Search, Trajectory
from ken.core.steps import Answer


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.42_ikea")


def test_arms_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    names = {arm.name for arm in row.paper.arms}
    assert names >= {"search-r1", "ikea", "no-plus", "no-minus", "easy-only", "hard-only", "r1", "gate"}
    full = row.paper.full
    assert (full.probe, full.train_each, full.test_each, full.plus, full.minus) == (16, 600, 250, 0.6, 0.05)
    assert full.questions * full.group_size == 16 * 8, "as many rollouts a step, of more questions"
    assert full.max_turns == 3
    assert full.base.world.ood_relations == 1
    margins = [claim.margin for claim in row.paper.claims if claim.kind == "hard"]
    assert margins == [0.0, -0.03, 0.25, -0.1, 0.15, 0.25]


def test_claims_point_the_right_way(row: Any) -> None:
    columns = ("em", "em_hard", "em_ood", "searches", "searches_easy", "searches_hard", "f1_aware")
    rows = {
        "search-r1": (0.9, 0.9, 0.85, 1.0, 0.97, 1.0, 0.0),
        "ikea": (0.9, 0.85, 0.83, 0.6, 0.3, 0.9, 0.6),
        "no-minus": (0.9, 0.8, 0.8, 0.5, 0.2, 0.8, 0.6),
        "easy-only": (0.6, 0.3, 0.6, 0.1, 0.1, 0.1, 0.7),
        "hard-only": (0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 0.0),
        "gate": (0.9, 0.8, 0.8, 0.6, 0.5, 0.7, 0.5),
    }
    arms = {name: dict(zip(columns, numbers, strict=True)) for name, numbers in rows.items()}
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert values == pytest.approx([0.05, 0.0, 0.6, -0.03, 0.55, 0.7, 0.1, 0.6, -0.02, 0.1])
    assert all(value >= claim.margin for value, claim in zip(values, row.paper.claims, strict=True))


def test_the_paper_s_prompt_prefers_knowledge_and_costs_lab_models_no_new_token() -> None:
    assert SEARCH_SPARINGLY.token == SEARCH.token
    assert "encouraged and preferable" in SEARCH_SPARINGLY.text
    assert SEARCH_SPARINGLY.text.count("<search>") == 4  # once to explain, and in the examples: two, one, none


def test_easy_is_four_of_sixteen_and_both_sides_are_drawn_alike(row: Any) -> None:
    asked = [Question(id=str(i), text="?", answers=("a",)) for i in range(20)]
    rates = {q.id: (0.25 if i < 8 else 3 / 16) for i, q in enumerate(asked)}

    class World:
        seed = 0

    drawn = row.draw(row.Settings(test_each=5), World(), asked, rates)
    assert {q.id for q in drawn.easy} <= {str(i) for i in range(8)}
    assert (len(drawn.easy), len(drawn.hard)) == (5, 5)
    assert len(row.draw(row.Settings(test_each=100), World(), asked, rates).easy) == 8  # as many as there are
    assert not row.draw(row.Settings(), World(), asked, rates, train=True, ratio=1.0).hard
    with pytest.raises(BadInput, match="the probe found 20 easy and 0 hard"):
        row.draw(row.Settings(), World(), asked, dict.fromkeys(rates, 1.0))


def test_measures_are_told_by_side(row: Any) -> None:
    asked = [Question(id=name, text="?", answers=("a",)) for name in "eh"]

    def attempt(question: Question, searches: int, answer: str) -> Trajectory:
        steps = (*[Search(query="q")] * searches, Answer(text=answer))
        return Trajectory(question=question, strategy="search", steps=steps)

    sides = row.BoundaryQuestions(easy=(asked[0],), hard=(asked[1],), questions=tuple(asked))
    told = row.by_side([attempt(asked[0], 0, "a"), attempt(asked[1], 2, "b")], sides, "_ood")
    assert told == {"em_ood_easy": 1, "searches_ood_easy": 0, "em_ood_hard": 0, "searches_ood_hard": 2}


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = reproduce(row.paper, seeds=1, smoke=True, arms=["all"])
    assert not {name: arm.errors for name, arm in results.arms.items() if arm.errors}
    measured: dict[str, dict[str, Any]] = {name: dict(arm.metrics[0]) for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        assert math.isfinite(claim.measure(measured))
    for name, metrics in measured.items():
        sides = sorted((metrics["em_easy"], metrics["em_hard"]))
        assert sides[0] <= metrics["em"] <= sides[1], name
    assert measured["r1"]["searches"] == 0
    assert 0 < measured["gate"]["labelled_easy"] < 1
    assert math.isfinite(measured["gate"]["auc"])
