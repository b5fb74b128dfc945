"""Think-on-Graph's row: its arms and claims are the card's, and a smoke run of all of it measures what they ask for."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ken.core import Answer, Trajectory


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.44_think_on_graph")


def test_arms_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    names = {arm.name for arm in row.paper.arms if not arm.optional}
    assert names == {
        "io", "cot", "sc", "dump", "naive", "tog", "tog-r", "tog-bm25", "tog-embedding", "tog-depth-1", "tog-depth-2",
        "tog-corrected", "io-l", "cot-l", "tog-l",
    }  # fmt: skip
    full = row.paper.full
    assert (full.width, full.depth, full.samples, full.edits, full.counts) == (3, 3, 5, 50, (100, 150, 150))
    assert (full.small.known, full.large.known, full.asked) == (0.4, 0.7, "test")
    assert (full.small.layers, full.small.hidden_size, full.large.hidden_size) == (4, 128, 160)
    margins = [claim.margin for claim in row.paper.claims if claim.kind == "hard"]
    assert margins == [0.25, 1e-3, 0.05, 1e-3, 0.2, 0.0, 0.05, 1e-3, 1.0, 1.0, 0.8, 0.0, -0.1]


def test_claims_point_the_right_way(row: Any) -> None:
    def arm(em: float, **more: Any) -> dict[str, Any]:
        right = [1.0] * round(em * 100) + [0.0] * (100 - round(em * 100))
        return {"em": em, "em_23": em, "right": right, "within": 1.0, "true_triples": 1.0, "calls": 9.0, **more}

    arms = {
        "cot": arm(0.2), "cot-l": arm(0.4), "sc": arm(0.2), "dump": arm(0.3), "naive": arm(0.6), "tog": arm(0.8),
        "tog-r": arm(0.75, calls=5.0), "tog-bm25": arm(0.5), "tog-embedding": arm(0.5), "tog-depth-1": arm(0.3),
        "tog-l": arm(0.8), "tog-corrected": {"followed": 0.9},
    }  # fmt: skip
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert all(value >= claim.margin for value, claim in zip(values, row.paper.claims, strict=True))
    arms["tog"] = arm(0.2, within=0.9, true_triples=0.9, calls=4.0)
    arms["tog-corrected"] = {"followed": 0.1}
    hard = [claim for claim in row.paper.claims if claim.kind == "hard"]
    met = [claim.text for claim in hard if claim.measure(arms) >= claim.margin]
    assert met == ["EM: ToG-R within 0.10 of ToG"]


def test_a_fallback_never_counts_as_the_graphs(row: Any, bench: Any) -> None:
    asked = bench.asked[0]

    def made(**answer: Any) -> Trajectory:
        return Trajectory(question=asked, strategy="graph", steps=(Answer(text=asked.answers[0], **answer),))

    attempts = [made(source="graph"), made(source="graph", partial=True), made(source="inside"), made(source="inside")]
    row_ = bench.measure(attempts, bench.walker())
    assert (row_["graph"], row_["partial"], row_["inside"], row_["em"]) == (0.25, 0.25, 0.5, 1.0)


def test_an_edit_changes_what_is_right_on_the_way(row: Any, bench: Any) -> None:
    edits = []
    for asked in bench.asked:
        step = Answer(text=asked.answers[0], source="graph")
        edits.append(row._edit(bench, Trajectory(question=asked, strategy="graph", steps=(step,))))
        partial = step.model_copy(update={"partial": True})
        assert row._edit(bench, Trajectory(question=asked, strategy="graph", steps=(partial,))) is None
    found = [(asked, *edit) for asked, edit in zip(bench.asked, edits, strict=True) if edit is not None]
    assert found
    for asked, old, new, golds in found:
        assert (old.subject, old.relation) == (new.subject, new.relation)
        assert old.object != new.object
        assert old.object.label.split()[0] == new.object.label.split()[0]
        assert not set(golds) & set(asked.answers)
        path = asked.meta["evidence"]
        assert {"subject": old.subject.label, "relation": old.relation, "value": old.object.label} in path


@pytest.fixture(scope="module")
def bench(row: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield row.prepare(row.paper.smoke, 0)


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.paper import Paper
    from ken.papers.reproduce import reproduce

    fields = {name: getattr(row.paper, name) for name in Paper.__dataclass_fields__}
    made = reproduce(Paper(**{**fields, "prepare": lambda config, seed: bench}), seeds=1, smoke=True)
    assert {name: arm.errors for name, arm in made.arms.items() if arm.errors} == {}
    for name, arm in made.arms.items():
        metrics = arm.metrics[0]
        if name != "tog-corrected":
            assert 0 <= metrics["em"] <= metrics["lenient"] <= 1
            assert metrics["calls"] >= 1
        if name.startswith("tog") and "within" in metrics:
            assert metrics["within"] == 1.0
            assert math.isclose(metrics["graph"] + metrics["partial"] + metrics["inside"] + metrics["unfinished"], 1.0)
    assert made.arms["sc"].metrics[0]["calls"] == row.paper.smoke.samples
