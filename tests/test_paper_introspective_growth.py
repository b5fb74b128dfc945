"""Introspective Growth's row and its base model: the card's numbers, examples that leak nothing, gates that tell, and a
smoke run that measures what the claims ask for."""

from __future__ import annotations

import asyncio
import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ken.lab.patents import PatentConfig, PatentWorld
from ken.models.scripted import ScriptedModel
from ken.training.patents_base import PatentsBaseConfig, build_tokenizer, examples, measure_gates, smoke_config


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.54_introspective_growth")


def test_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    full = row.paper.full
    assert (full.limit, full.votes, full.temperature, full.top_k) == (400, 3, 0.7, 3)
    assert {arm.name for arm in row.paper.arms} == {"raw", "questions", "cot", "placebo", "self", "search"}
    margins = [claim.margin for claim in row.paper.claims if claim.kind == "hard"]
    assert margins == [0.1, 0.03, 0.05, -0.03, 0.6, 0.5, 0.05, 0.05, -0.03, 0.0]


def test_claims_point_the_right_way(row: Any) -> None:
    arms = {
        "raw": {"accuracy": 0.55, "error_head": 0.45, "error_tail": 0.5, "misjudge": 0.4},
        "questions": {"accuracy": 0.55},
        "cot": {"accuracy": 0.6},
        "placebo": {"accuracy": 0.55, "accuracy_m1": 0.54},
        "self": {"accuracy": 0.8, "accuracy_m1": 0.6, "error_head": 0.05, "error_tail": 0.45, "misjudge": 0.1},
        "search": {"accuracy": 0.95, "accuracy_m1": 0.65, "error_head": 0.05, "error_tail": 0.05},
    }
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert values == pytest.approx([0.25, 0.15, 0.25, 0.0, 1.0, 0.4 / 0.45, 0.2, 0.3, -0.01, 0.3, 0.2])
    assert all(value >= claim.margin for value, claim in zip(values, row.paper.claims, strict=True))


def test_examples_are_in_words_it_has_and_judge_no_term_of_the_test() -> None:
    config = smoke_config()
    world = PatentWorld(config.world)
    tokenizer = build_tokenizer(world)
    texts = ["".join(text for text, _ in pieces) for stage in examples(config, world) for pieces in stage]
    assert not any(tokenizer.unk_token_id in tokenizer.encode(text, add_special_tokens=False) for text in texts)
    longest = max(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    assert longest < PatentsBaseConfig().context
    held_out = {term.word for term in world.of("test")}
    unexplained = {term.word for term in world.terms if not term.head}
    for text in texts:
        if "<judge" in text:
            assert not held_out & set(text.split())
        if "<self_answer>" in text:
            assert not unexplained & set(text.split())


@pytest.mark.parametrize("knowing", [True, False])
def test_the_gates_tell_a_model_that_can_from_one_that_cannot(knowing: bool) -> None:
    world = PatentWorld(PatentConfig(concepts=12, train=4, test=40))
    meanings = {term.word: term.meaning for term in world.terms}

    def reply(prompt: str) -> str:
        last = prompt.rsplit("\n\n", maxsplit=1)[-1]
        named = [word for word in last.split() if word in meanings]
        if "basic questions" in prompt:
            return json.dumps({str(i): f"what is {word} ?" for i, word in enumerate(named, start=1)})
        if prompt.startswith("Answer the user's question briefly"):
            return json.dumps({"answer": meanings[named[-1]] if knowing else "no information"})
        halves = [
            [line for line in half.splitlines() if line.startswith("A :")]
            for half in last.split("Notes on text 2 :", 1)
        ]
        same = halves[0] == halves[1] if knowing and halves[0] else len(last) % 2
        return json.dumps({"label": int(same), "confidence": 5})

    gates = {g.name: g for g in asyncio.run(measure_gates(ScriptedModel(reply), world))}
    passed = {name for name, gate in gates.items() if gate.passed} - {"judges with nothing"}
    able = {"closed book, head terms", "from passages", "judges with true notes"}
    assert passed == {"names the terms"} | (able if knowing else set())


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = reproduce(row.paper, seeds=1, smoke=True)
    assert all(not arm.errors for arm in results.arms.values())
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    assert all(isinstance(claim.measure(measured), float) for claim in row.paper.claims)
    assert all(math.isfinite(arm["accuracy"]) for arm in measured.values())
