"""ProbTree's row: its arms and claims are the card's, what it says about nodes is true of them, and a smoke run of all
of it measures what the claims ask for."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ken.core import Answer, Candidate, Question, SubQuestion, Trajectory
from ken.core.steps import NO_SCORE
from ken.lab.splitworld import SplitWorld, ask
from ken.training.tree_base import smoke_config


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.59_probtree")


def test_arms_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    names = [arm.name for arm in row.paper.arms if not arm.optional]
    assert names == [
        *("cot", "one-r", "self-ask", "ircot", "tree-open", "open-leaves", "closed-leaves", "tree-random"),
        *("probtree", "no-ca", "no-cb", "no-ob", "no-qd", "oracle"),
    ]
    world = row.paper.full.base.world
    assert (world.entities, world.entity_relations + world.time_relations) == (600, 16)
    assert (world.homes, world.near) == ((0.35, 0.35, 0.2, 0.1), 0.5)
    assert row.paper.full.questions == 400
    assert row.paper.full.base.told >= 10
    assert [claim.margin for claim in row.paper.claims] == [0.05, 0.08, 0.0, 0.05, 0.2, 0.1, 0.0]


def test_claims_point_the_right_way(row: Any) -> None:
    arms = {name: {"f1": 0.3} for name in row.BASELINES} | {
        "tree-random": {"f1": 0.4},
        "oracle": {"f1": 0.8},
        "probtree": {
            "f1": 0.7,
            "leaf": 0.85,
            "leaf_closed": 0.6,
            "leaf_open": 0.7,
            "near": 0.9,
            "near_open": 0.1,
            "repair_rate": 0.2,
            "repaired": 0.1,
            "lost": 0.02,
        },
    }
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert values == pytest.approx([0.3, 0.3, 0.1, 0.15, 0.8, 0.2, 0.08])


def test_what_is_said_about_nodes(row: Any) -> None:
    """Two leaves, one of them with a namesake outside; the parts give a wrong answer, which memory repairs."""
    world = SplitWorld(smoke_config().world)
    near = next(fact for fact in world.facts.values() if fact.near is not None)
    plain = next(fact for fact in world.facts.values() if fact.near is None and fact.subject != near.subject)
    bench = row.Bench(row.paper.smoke, 0, world, None, None, (), None)

    def candidates(*answers: tuple[str, str, float]) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(method=m, text=t, score=s, problem="Unknown" if s == NO_SCORE else "") for m, t, s in answers
        )

    def leaf(index: int, fact: Any, chosen: str, *answers: tuple[str, str, float]) -> SubQuestion:
        question = ask([fact.relation], fact.subject)
        return SubQuestion(
            index=index, text=question, question=question, candidates=candidates(*answers), chosen=chosen
        )

    nodes = [
        leaf(0, near, "closed", ("closed", near.value, -0.1), ("open", near.near[1], -0.2)),
        leaf(1, plain, "open", ("closed", "Nobody Else", -0.3), ("open", plain.value, -0.2)),
    ]
    root = leaf(
        2, plain, "closed", ("closed", plain.value, -0.1), ("open", "", NO_SCORE), ("child", "Nobody Else", -0.4)
    )
    question = Question(id="q", text=root.question, answers=(plain.value,), meta={"kind": "2-hop"})
    steps = (*nodes, root.model_copy(update={"children": (0, 1)}), Answer(text=plain.value))
    found = row._trees(bench, [Trajectory(question=question, strategy="tree", steps=steps)])
    assert (found["leaf"], found["leaf_closed"], found["leaf_open"]) == (1.0, 0.5, 0.5)
    assert (found["near"], found["near_closed"], found["near_open"]) == (1.0, 1.0, 0.0)
    assert (found["repaired"], found["lost"], found["repair_rate"]) == (1.0, 0.0, 1.0)
    assert (found["won_closed"], found["won_open"], found["won_child"]) == (1.0, 0.0, 0.0)
    assert found["auroc"] == pytest.approx(0.875)  # −0.1, −0.2 are right; −0.2, −0.3 wrong
    assert found["calibration_f1"] == [1.0]
    assert found["calibration_confidence"] == [pytest.approx(math.exp(-0.1))]


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = reproduce(row.paper, seeds=1, smoke=True)
    assert not results.failed
    assert {"f1", "em", "calls", "searches", "malformed"} <= results.arms["ircot"].mean.keys()
    assert {"leaf", "leaf_closed", "leaf_open", "split", "nodes"} <= results.arms["probtree"].mean.keys()
    assert all(claim.verdict is None for claim in results.claims)
    again = SimpleNamespace(**{n: a.mean["f1"] for n, a in results.arms.items() if n.isidentifier()})
    assert again.oracle >= again.probtree
