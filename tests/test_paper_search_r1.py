"""Search-R1's row: its arms and claims are the card's, and a smoke run of all of it measures what they ask for."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest

from ken.core import Passage, Question
from ken.papers.reproduce import reproduce


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.00_search_r1")


@pytest.fixture(scope="module")
def bench(row: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return row.prepare(row.paper.smoke, 0)


def test_arms_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    names = {arm.name for arm in row.paper.arms}
    assert names >= {"direct", "rag", "ircot", "r1", "rejection", "search-r1", "search-r1-ppo", "no-mask"}
    full = row.paper.full
    assert (full.questions * full.group_size, full.group_size, full.max_turns, full.kl) == (128, 8, 3, 1e-3)
    assert full.top_k in {1, 2}
    assert full.base.world.mentor
    margins = [(claim.kind, claim.margin) for claim in row.paper.claims]
    assert [m for kind, m in margins if kind == "hard"] == [0.15, 0.3, 0.2, 1.5, 0.4, 0.8]
    assert [m for kind, m in margins if kind == "soft"] == [0.02, 0.0, -0.05]


def test_claims_point_the_right_way(row: Any) -> None:
    arms = {
        "search-r1": {"em": 0.9, "em_1": 0.95, "em_2": 0.85, "searches_1": 1.1, "searches_2": 1.9, "reading": 0.97}
        | {"searched_known": 0.99},
        "rag": {"em_2": 0.4},
        "r1": {"em_1": 0.5, "em_2": 0.2},
        "no-mask": {"em": 0.8, "reading": 0.9},
        "search-r1-ppo": {"em": 0.92},
    }
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert values == pytest.approx([0.45, 0.65, 0.45, 1.9, 0.8, 0.99, 0.1, 0.07, -0.02])
    assert all(value >= claim.margin for value, claim in zip(values, row.paper.claims, strict=True))


def test_half_of_the_questions_have_two_hops_and_none_asked_was_trained_on(bench: Any, row: Any) -> None:
    for questions in (bench.trained, bench.world.asked):
        assert [row.hops(q) for q in questions] == [1] * (len(questions) // 2) + [2] * (len(questions) // 2)
    assert len(bench.world.asked) == 24
    assert {q.meta["split"] for q in bench.trained} == {"train"}
    assert {q.meta["split"] for q in bench.world.asked} == {"test"}
    again = row.drawn(bench.trained, 5, "x")
    assert again == row.drawn(bench.trained, 5, "x") != row.drawn(bench.trained, 5, "y")


def test_questions_for_settings_are_taken_from_those_trained_on(row: Any, bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ken.papers.factworld_bench.built", lambda config: bench.world.folder)
    dev = row.prepare(row.paper.smoke.model_copy(update={"asked": "dev"}), 0)
    assert {q.meta["split"] for q in dev.world.asked} == {"train"}
    assert not {q.id for q in dev.world.asked} & {q.id for q in dev.trained}


def test_a_reader_is_taught_the_answer_and_to_think_of_the_mentor_first(row: Any, bench: Any) -> None:
    model = bench.world.policy()
    one = next(q for q in bench.trained if row.hops(q) == 1)
    two = next(q for q in bench.trained if row.hops(q) == 2)
    for question in (one, two):
        example = row.read_example(model, question, [Passage(id="p", title="P", text="P: nothing is recorded.")])
        learnt = [i for i, learn in zip(example.ids, example.learn, strict=True) if learn]
        text = model.tokenizer.decode(learnt)
        relation, value = question.id.split(".")[-1], question.answers[0]
        thought = f"mentor {question.meta['bridge']} {relation} {value}" if question is two else f"{relation} {value}"
        assert text == f"<think> {thought} </think> <answer> {value} </answer> <eos>"
        assert "nothing is recorded" in model.tokenizer.decode(list(example.ids[: -len(learnt)]))


def test_rejection_sampling_attempts_every_question_anew(bench: Any, row: Any) -> None:
    how = row.SearchLoop(3)
    first, second = (
        bench.world.attempts(bench.world.policy(), how, bench.trained, temperature=1.0, sample=sample)
        for sample in (0, 1)
    )
    texts = [["".join(s.text for s in t.segments) for t in made] for made in (first, second)]
    assert texts[0] != texts[1]


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, bench: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    results = reproduce(row.paper, seeds=1, smoke=True, arms=["all"])
    assert not {name: arm.errors for name, arm in results.arms.items() if arm.errors}
    measured: dict[str, dict[str, Any]] = {name: dict(arm.metrics[0]) for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        assert claim.text.startswith("Search-R1 searches on") or math.isfinite(claim.measure(measured))
    for name, metrics in measured.items():
        assert metrics["em"] == pytest.approx((metrics["em_1"] + metrics["em_2"]) / 2), name
    assert measured["direct"]["searches"] == measured["r1"]["searches"] == 0
    assert measured["rag"]["searches"] == 1
    assert 1 <= measured["ircot"]["searches"] <= 3
    assert measured["rejection"]["kept"] >= 1
    assert len(measured["search-r1"]["searches/2-hop_curve"]) == 2


def test_supporting_pages_of_two_hops_are_there(bench: Any) -> None:
    question: Question = next(q for q in bench.trained if len(q.supporting_ids) == 2)
    first, second = (bench.pages[name] for name in question.supporting_ids)
    assert question.meta["bridge"] in first.text
    assert question.answers[0] in second.text
