"""The calculation world and its base model: what is true in it, what pretraining shows, what a build leaves."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ken.agents.tools import exhausted, response, tool_instruction
from ken.core import BadInput, TrainingError
from ken.lab.calculation import (
    KINDS,
    NUMBERS,
    RELATIONS,
    CalculationWorld,
    CalculationWorldConfig,
    calculate,
)
from ken.sources.tools.arithmetic import evaluate

CONFIG = CalculationWorldConfig(entities=40, demo_entities=20, values=10, questions=80)


@pytest.fixture(scope="module")
def world() -> CalculationWorld:
    return CalculationWorld(CONFIG)


def test_a_world_is_fixed_by_its_config_and_differs_with_the_seed(world: CalculationWorld) -> None:
    again, other = CalculationWorld(CONFIG), CalculationWorld(CONFIG.model_copy(update={"seed": 1}))
    assert (again.questions, again.documents) == (world.questions, world.documents)
    assert other.documents != world.documents


def test_half_of_the_entities_are_exposed_and_all_numbers_in_range(world: CalculationWorld) -> None:
    assert sum(entity.exposed for entity in world.entities) == 20
    assert not any(entity.exposed for entity in world.demo_entities)
    for entity in world.entities:
        assert all(low <= entity.number(relation) <= high for relation, (low, high) in NUMBERS.items())
    names = [entity.name for entity in (*world.entities, *world.demo_entities)]
    assert len(set(names)) == len(names)


def test_every_question_says_which_tools_it_needs(world: CalculationWorld) -> None:
    count = Counter((str(q.meta["kind"]), str(q.meta["split"])) for q in world.questions)
    assert all(count[kind, "train"] == 60 and count[kind, "test"] == 20 for kind in KINDS)
    assert len({q.id for q in world.questions}) == len(world.questions)
    exposed = {entity.name.lower(): entity.exposed for entity in world.entities}
    for question in world.questions:
        kind = str(question.meta["kind"])
        assert question.meta["tools"] == list(KINDS[kind])  # type: ignore[index]
        assert question.meta["source"] == {"K": "nq", "S": "nq", "H": "complex"}.get(kind, "calculator")
        assert all(exposed[told.split(".")[0]] == (kind == "K") for told in question.supporting_ids)
        assert len(question.supporting_ids) == question.meta["calls"] - (kind in "CH") or kind == "K"
        assert question.meta["calls"] in {"K": {0}, "S": {1}, "C": {1}, "D": {0}, "H": {2, 3}}[kind]


def test_answers_are_true(world: CalculationWorld) -> None:
    """Recomputed from the documents and by the calculator, in another way than the world does."""
    told: dict[str, str] = {}
    for passage in world.documents:
        name, facts = passage.text.removesuffix(".").split(": ")
        told |= {f"{relation} of {name}": value for relation, value in (fact.split() for fact in facts.split(", "))}
    for question in world.questions:
        (answer,) = question.answers
        asked = question.text.removeprefix("What is ").removesuffix("?")
        asked = re.sub(r"the density of (\w+)", r"the population of \1 // the area of \1", asked).replace("minus", "-")
        expression = re.sub(r"the (\w+ of \w+)", lambda match: told[match[1]], asked)
        assert answer == (str(evaluate(expression)) if question.meta["kind"] in "CHD" else expression)
        assert not answer.startswith("-")


def test_sums_run_out_quietly() -> None:
    many = CalculationWorld(CONFIG.model_copy(update={"questions": 2000})).questions
    assert 150 <= sum(q.meta["kind"] == "D" for q in many) <= 165, "55 pairs of digits, three signs"
    assert len({q.id for q in many}) == len(many)


def test_a_world_without_exposed_entities_asks_for_none() -> None:
    kinds = {q.meta["kind"] for q in CalculationWorld(CONFIG.model_copy(update={"exposed": 0.0})).questions}
    assert kinds == {"S", "C", "H", "D"}


@pytest.mark.parametrize("wrong", [{"entities": 1}, {"exposed": 1.5}, {"values": 1}, {"questions": 0}])
def test_a_config_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"cannot have {next(iter(wrong))}"):
        CalculationWorldConfig(**wrong)


def test_search_finds_the_sentence_that_answers(world: CalculationWorld, tmp_path: Path) -> None:
    from ken.sources.search.index import Index

    index = Index.build(world.documents, tmp_path / "index", tokenizer="simple")
    for entity in world.entities:
        for relation in RELATIONS:
            (found,) = index.search(f"{relation} of {entity.name}", k=1)
            assert f"{relation} {entity.values[relation]}" in found.text
            assert found.text.startswith(entity.name)
    for question in world.questions:
        if question.meta["kind"] in "KS":
            (found,) = index.search(question.text.removeprefix("What is the ").removesuffix("?"), k=1)
            assert (found.id,) == question.supporting_ids


# --- the base model ---


@pytest.fixture(scope="module")
def small() -> Any:
    from ken.training.calculation_base import smoke_config

    return smoke_config().model_copy(update={"world": CONFIG})


@pytest.fixture(scope="module")
def tokenizer(world: CalculationWorld) -> Any:
    from ken.training.calculation_base import build_tokenizer

    return build_tokenizer(world)


@pytest.mark.parametrize(
    "text",
    [
        "What is 482 * 317 ?",
        "<code> 3421 // 120 </code>",
        "<think> population 3421 area 120 </think>",
        "<answer> 152794 </answer>",
        "<response> 7 </response>",
    ],
)
def test_numbers_are_spelt_digit_by_digit_and_read_back(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids
    digits = sum(character.isdigit() for character in text)
    assert sum(token.removeprefix("##").isdigit() for token in tokenizer.convert_ids_to_tokens(ids)) == digits


def test_the_model_can_read_all_that_the_loop_tells_it(world: CalculationWorld, tokenizer: Any) -> None:
    said = [passage.text for passage in world.documents] + [q.text for q in world.questions]
    said += [exhausted("search"), exhausted("code"), "Cannot find any result.", "[ERROR] division by zero"]
    for text in said:
        assert tokenizer.unk_token_id not in tokenizer(response(text))["input_ids"], text
    longest = max(len(tokenizer(response(passage.text))["input_ids"]) for passage in world.documents)
    assert longest <= 17


def test_decisions_in_the_traces_say_nothing_about_need(world: CalculationWorld, small: Any) -> None:
    from ken.training.calculation_base import VARIANTS, traces

    config = small.model_copy(update={"traces": 6000, "enabled": (0, 0, 0, 1)})
    first: dict[str, Counter[str]] = {"fact": Counter(), "sum": Counter(), "hybrid": Counter()}
    for (prompt, _), (opening, learnt), *_ in traces(config, world, np.random.default_rng(0)):
        kind = "sum" if re.search(r"\d", prompt) else "hybrid" if re.search("density|minus", prompt) else "fact"
        assert learnt
        first[kind][opening.replace("think", "answer")] += 1
    assert VARIANTS["search", "code"] == "<tools_search_code>"
    helped = config.helped
    for kind, count in first.items():
        shares = [count[f"<{tag}>"] / count.total() for tag in ("search", "code", "answer")]
        expected = [helped + (1 - helped) / 3, *[(1 - helped) / 3] * 2] if kind == "hybrid" else [1 / 3] * 3
        assert shares == pytest.approx(expected, abs=0.05), kind


def test_hybrids_are_solved_in_the_traces_as_often_as_they_are_helped(world: CalculationWorld, small: Any) -> None:
    from ken.training.calculation_base import traces

    def solved(helped: float) -> float:
        config = small.model_copy(update={"traces": 3000, "enabled": (0, 0, 0, 1), "helped": helped})
        texts = [" ".join(t for t, _ in pieces) for pieces in traces(config, world, np.random.default_rng(0))]
        hybrids = [text for text in texts if re.search("density|minus", text)]
        computed = [re.findall(r"<response>(\d+)</response>", text) for text in hybrids]
        answers = [re.findall(r"<answer> (\S+)", text) for text in hybrids]
        return sum(c[-1:] == a for c, a in zip(computed, answers, strict=True)) / len(hybrids)

    assert 0.01 < solved(0.0) < 0.1
    assert solved(1.0) == 1.0


def test_no_trace_tells_a_fact_or_a_decision_about_the_worlds_own_entities(world: CalculationWorld, small: Any) -> None:
    from ken.training.calculation_base import chains

    decisions = {"<search>", "<code>", "<answer>"}
    agree = values = 0
    own = {entity.name: entity for entity in world.entities}
    for pieces in islice(chains(small, world, np.random.default_rng(0)), 200):
        assert not any(learnt for text, learnt in pieces if text in decisions)
        for name, facts in re.findall(r"<response>(\w+): (.*?)\.</response>", " ".join(text for text, _ in pieces)):
            for relation, value in (fact.split() for fact in facts.split(", ")):
                values += 1
                agree += own[name].values[relation] == value
    assert values > 200
    assert agree / values < 0.15, "names agree one time in ten by chance, numbers hardly ever"


def test_traces_are_what_the_loop_would_have_seen(world: CalculationWorld, small: Any, tokenizer: Any) -> None:
    """The same tokens, and a transcript that the reward's format accepts."""
    from ken.training.calculation_base import encode, traces
    from ken.training.rewards.tools import format_problem

    made = list(islice(traces(small, world, np.random.default_rng(1)), 300))
    for pieces in made:
        text = " ".join(text for text, _ in pieces[1:])
        enabled = [tag for tag in ("search", "code") if tag in pieces[0][0].split(">")[1]]
        assert format_problem(text.replace("<eos>", ""), enabled) is None, text
    for example, pieces in zip(encode(made, tokenizer), made, strict=True):
        whole = tokenizer(" ".join(text for text, _ in pieces), add_special_tokens=False)["input_ids"]
        assert list(example.ids) == whole
        assert example.ids[-1] == tokenizer.eos_token_id
        assert example.learn[-1]


def test_what_is_computed_in_traces_is_right(world: CalculationWorld, small: Any) -> None:
    from ken.training.calculation_base import traces

    found = 0
    for pieces in islice(traces(small, world, np.random.default_rng(2)), 300):
        text = " ".join(text for text, _ in pieces)
        for code, result in re.findall(r"<code> (.*?) </code> \s*<response>(.*?)</response>", text):
            assert str(evaluate(code)) == result
            found += 1
    assert found > 50
    assert calculate(7, "//", 0) == 0


def test_numbers_to_copy_are_as_long_as_results_get_and_are_copied_right(small: Any) -> None:
    from ken.training.calculation_base import numbers

    lengths: Counter[int] = Counter()
    for pieces in numbers(small, np.random.default_rng(3)):
        for (shown, seen), (said, learnt) in zip(pieces[1::2], pieces[2::2], strict=True):
            assert (seen, learnt) == (False, True)
            (result,) = re.findall(r"\d+", shown)
            assert said.startswith(f"<answer> {result} </answer>")
            lengths[len(result)] += 1
    assert set(lengths) == {2, 3, 4, 5, 6} == {*range(2, len(str(999 * 999)) + 1)}


def test_a_smoke_build_takes_seconds_is_cached_and_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ken.models.conversation import Message
    from ken.models.local import LocalModel
    from ken.training.calculation_base import CONTROLS, encode, smoke_config, traces
    from ken.training.lab_checkpoint import built, read_checkpoint

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = smoke_config()
    folder = built(config)
    manifest = read_checkpoint(folder)
    assert manifest.world == "calculation"
    assert not manifest.gates, "nobody asked"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert built(config) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(TrainingError, match="not fit for experiments"):
        built(config.model_copy(update={"gated": True, "traces": 64, "chains": 16}))

    model = LocalModel(folder, control_tokens=True)
    world = CalculationWorld(config.world)
    question = world.questions[0].text
    _, prompt = model.render([Message("system", tool_instruction(search=True, code=True)), Message("user", question)])
    (pieces,) = islice(traces(config.model_copy(update={"enabled": (0, 0, 0, 1)}), world, np.random.default_rng(0)), 1)
    example = encode([[(f"<bos> <tools_search_code> {question}", False)], pieces], model.tokenizer)[0]
    assert list(example.ids) == prompt
    assert set(CONTROLS) <= {token.content for token in model.tokenizer.added_tokens_decoder.values() if token.special}


def test_a_build_tells_a_log_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from ken.cli.lab import app
    from ken.training.calculation_base import smoke_config

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ken.training.lab_bases.lab_base", lambda world, **options: smoke_config())
    done = CliRunner().invoke(app, ["build", "calculation", "--threads", "1"])
    assert done.exit_code == 0, done.output
    told = re.findall(r"^step (\d+) of (\d+), loss \d+\.\d{3}$", done.stderr, re.MULTILINE)
    assert len(told) == 10
    assert told[-1][0] == told[-1][1]
    assert "parameters" in done.stdout


def test_a_build_touches_no_folder_that_holds_something_else(tmp_path: Path) -> None:
    from ken.training.calculation_base import smoke_config
    from ken.training.lab_checkpoint import build_checkpoint

    (tmp_path / "letters.txt").write_text("mine")
    config = smoke_config()
    with pytest.raises(BadInput, match="choose another"):
        build_checkpoint(config, tmp_path)


# --- the gates ---


class Oracle:
    """Writes what a perfect base model would, given the tag it is to go on from; knows the exposed facts."""

    def __init__(self, world: CalculationWorld) -> None:
        self.known = {
            f"What is the {relation} of {entity.name}?": (relation, entity.values[relation])
            for entity in world.entities
            if entity.exposed
            for relation in RELATIONS
        }

    def __call__(self, prompt: str) -> str:
        _, question, *rest = prompt.split("\n\n")
        seen = " ".join(rest)
        facts = dict(re.findall(r"(\w+ of \w+)=(\w+)", self._facts(seen)))
        results = re.findall(r"<response>(\d+)</response>", seen)
        asked = re.sub(r"the density of (\w+)", r"population of \1 // area of \1", question).replace("minus", "-")
        asked = asked.removeprefix("What is ").removesuffix("?").replace("the ", "")
        unread = [fact for fact in re.findall(r"\w+ of \w+", asked) if fact not in facts]
        value = re.sub(r"\w+ of \w+", lambda match: facts.get(match[0], "1"), asked)
        match prompt.rsplit("<", 1)[1]:
            case "search>":
                return f"{unread[0]} </search>"
            case "code>":
                return f"{value} </code>"
            case "think>" if question in self.known and not facts:
                relation, known = self.known[question]
                return f"{relation} {known} </think> <answer> {known} </answer>"
            case "think>":
                return "noted </think> <answer> no idea </answer>"
        if results:
            return f"{results[-1]} </answer>"
        return f"{evaluate(value) if re.search(r'[-+*/]', value) else value} </answer>"

    @staticmethod
    def _facts(seen: str) -> str:
        told = re.findall(r"<response>(\w+): (.*?)\.</response>", seen)
        return " ".join(f"{r} of {name}={v}" for name, facts in told for r, v in re.findall(r"(\w+) (\w+)", facts))


def test_a_perfect_model_passes_the_gates_of_what_it_can_do(world: CalculationWorld) -> None:
    import asyncio

    from ken.models.scripted import ScriptedModel
    from ken.training.calculation_gates import measure_gates

    gates = asyncio.run(measure_gates(ScriptedModel(Oracle(world), control_tokens=True), world, most=20))
    values = {gate.name: gate.value for gate in gates}
    for name in (
        "known facts, from memory",
        "arithmetic on single digits, by heart",
        "facts it was told to look up",
        "arithmetic it was told to compute",
        "hybrids, told when to look up and when to compute",
    ):
        assert values[name] == 1.0, name
    assert values["unexposed facts, from memory"] == 0.0
