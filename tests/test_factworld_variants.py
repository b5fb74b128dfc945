"""The variants of FactWorld's base model: their examples, their builds, and the optimizer that makes them quick."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `lab`")

from ken.agents.protocol import parse_steps  # noqa: E402
from ken.core import Answer, BadInput, Search, TrainingError  # noqa: E402
from ken.lab import FactWorld  # noqa: E402
from ken.lab.factworld import MENTOR, VARIANTS  # noqa: E402
from ken.lab.render import two_hop_questions  # noqa: E402
from ken.training import factworld_gates  # noqa: E402
from ken.training.factworld_base import (  # noqa: E402
    GENERATE,
    FactWorldBaseConfig,
    build_tokenizer,
)
from ken.training.factworld_examples import (  # noqa: E402
    deciding,
    generating,
    pretraining_stages,
    querying,
    recalling_in_two_hops,
    searching,
    task_prompt,
)
from ken.training.factworld_variants import smoke_config, variant_config  # noqa: E402
from ken.training.lab_checkpoint import Gate, built, checkpoint_folder, is_checkpoint  # noqa: E402
from ken.training.lab_tokenizer import (  # noqa: E402
    EOS,
    encode,
)
from ken.training.muon import Muon, orthogonal  # noqa: E402

TWO_HOP, INTROSPECTION = smoke_config("two-hop"), smoke_config("introspection")
TINY = TWO_HOP.model_copy(
    update={"reading": 60, "reading_first": 30, "searching": 30, "querying": 30, "deciding": 30, "hidden_size": 16}
)


@pytest.fixture(scope="module")
def mentored() -> FactWorld:
    return FactWorld(TWO_HOP.world)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def policy(pieces: list[tuple[str, bool]]) -> str:
    return " ".join(text for text, learnt in pieces if learnt)


def document_of(entity: str, information: str) -> str:
    (told,) = [line for line in information.splitlines() if f"(Title: {entity})" in line]
    return told


def test_the_plain_variant_is_the_model_that_ships() -> None:
    assert variant_config("plain") == FactWorldBaseConfig()
    names = [checkpoint_folder(config(name)).name for name in VARIANTS for config in (variant_config, smoke_config)]
    assert len(set(names)) == len(names)
    for name in VARIANTS:
        config = variant_config(name, seed=3)
        assert FactWorldBaseConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(BadInput, match="choose from plain, two-hop"):
        variant_config("three-hop")


def test_traces_of_two_hops_search_at_random_and_follow_what_they_read(mentored: FactWorld) -> None:
    config = TWO_HOP.model_copy(update={"searching": 4000})
    counts: dict[int, list[int]] = {1: [], 2: []}
    for pieces in searching(config, mentored, rng()):
        prompt = pieces[0][0]
        assert not any(f" {entity}?" in prompt for entity in mentored.entities)
        steps = parse_steps(policy(pieces).replace(EOS, ""))
        queries = [step.query for step in steps if isinstance(step, Search)]
        (answer,) = [step.text for step in steps if isinstance(step, Answer)]
        hops = 2 if f"of the {MENTOR} of" in prompt else 1
        counts[hops].append(len(queries))
        entity = prompt.rstrip("?").split()[-1]
        relation = prompt.split("What is the ")[1].split()[0]
        observed = [text for text, _ in pieces if text.startswith("<information>")]
        assert len(observed) == len(queries)
        if hops == 1:
            assert queries == [f"{relation} of {entity}"] * len(queries)
            told = document_of(entity, observed[-1]) if observed else ""
            assert f" {relation} {answer}" in told or f" {relation} " not in told
        elif len(queries) == 2:
            mentor = queries[1].removeprefix(f"{relation} of ")
            assert queries[0] == f"{MENTOR} of {entity}"
            assert f"{MENTOR} {mentor}." in observed[0]
            assert observed[1].startswith(f"<information>Doc 1(Title: {mentor})")
            told = document_of(mentor, observed[1])
            assert f" {relation} {answer}" in told or f" {relation} " not in told
    assert len(counts[1]) == pytest.approx(2000, abs=150)
    shares = {hops: np.bincount(seen, minlength=3) / len(seen) for hops, seen in counts.items()}
    assert shares[1] == pytest.approx([0.3, 0.595, 0.105], abs=0.04)
    assert shares[2] == pytest.approx([0.3, 0.305, 0.395], abs=0.04)  # a document without the mentor ends the search


def test_asking_in_two_hops_is_learnt_about_any_entity_without_a_fact_or_a_habit(mentored: FactWorld) -> None:
    truth = {question.id: question.answers[0] for question in two_hop_questions(mentored)}
    two_hop = [p for p in querying(TWO_HOP, mentored, rng()) if f"of the {MENTOR} of" in p[0][0]]
    assert len(two_hop) == TWO_HOP.querying // 2
    true = 0
    for pieces in two_hop:
        learnt = [learn for _, learn in pieces]
        assert learnt == [False, True, False, True, False, True, False, True]
        prompt, first, found, thought, closing, second, found_2, answer = (text for text, _ in pieces)
        assert closing == "</think> <search>", "neither the end of the thought nor the search is learnt"
        relation, entity = prompt.split("What is the ")[1].split()[0], prompt.split("?")[0].split()[-1]
        mentor = thought.split()[-1]
        assert (first, second) == (f"{MENTOR} of {entity} </search>", f"{relation} of {mentor} </search>")
        assert f"{MENTOR} {mentor}." in found
        assert f"{relation} {answer.split()[2]}" in found_2
        question = f"{entity}.{MENTOR}.{relation}".lower()
        true += truth[question] == answer.split()[2]
    assert true < 0.3 * len(two_hop), "what is read is random: it is true as often as chance (1 of 8)"


def test_closed_book_two_hops_are_shown_for_demo_entities_alone(mentored: FactWorld) -> None:
    examples = list(recalling_in_two_hops(TWO_HOP, mentored, rng()))
    assert len(examples) == TWO_HOP.searching // 8
    demo = {fact.id: fact for fact in mentored.facts if fact.split == "demo"}
    for (prompt, learnt), (reply, _) in examples:
        assert not learnt
        entity = prompt.rstrip("?").split()[-1]
        _, _, mentor, relation, value, *_ = reply.split()
        first, second = demo[f"{entity}.{MENTOR}".lower()], demo[f"{mentor}.{relation}".lower()]
        assert mentor == first.value or not first.exposures
        assert value == second.value or not second.exposures
    assert not list(recalling_in_two_hops(TWO_HOP, FactWorld(INTROSPECTION.world), rng()))


def test_verdicts_of_the_introspective_base_are_right_in_80_of_100_drawn_anew_each_time() -> None:
    world = FactWorld(INTROSPECTION.world)
    config = INTROSPECTION.model_copy(update={"deciding": 6000})
    known = {fact.question: fact.exposures > 0 for fact in world.facts}
    right: dict[str, list[bool]] = {}
    for (prompt, _), (reply, _) in deciding(config, world, rng()):
        question = prompt.split("> ", 2)[2]
        right.setdefault(question, []).append(("<assessment> yes" in reply) == known[question])
    for knows in (True, False):
        verdicts = [v for question, all_ in right.items() if known[question] == knows for v in all_]
        assert sum(verdicts) / len(verdicts) == pytest.approx(0.8, abs=0.03)
    mixed = [0 < sum(verdicts) < len(verdicts) for verdicts in right.values() if len(verdicts) > 1]
    assert sum(mixed) > 0.9 * len(mixed), "no question has a fixed verdict"


def test_made_up_tasks_are_about_demo_entities_and_of_the_kind_asked_for_in_70_of_100() -> None:
    world = FactWorld(INTROSPECTION.world)
    config = INTROSPECTION.model_copy(update={"generating": 4000})
    demo = {(f.entity, f.relation): f.exposures > 0 for f in world.facts if f.split == "demo"}
    agreeing, lengths = [], []
    for (prompt, learnt), (reply, _) in generating(config, world, rng()):
        assert not learnt
        asked = prompt.split(f"{GENERATE.token} ")[1]
        kind = asked.split()[0].rstrip(":")
        shown = asked.removesuffix(" →").split(": ")[1].split(", ") if ":" in asked else []
        assert asked == task_prompt(kind, shown)
        lengths.append(len(shown))
        entity, relation, end = reply.split()
        assert end == EOS
        agreeing.append(demo[entity, relation] == (kind == "feasible"))
        assert all(tuple(task.split()) in demo for task in shown)
    assert sum(agreeing) / len(agreeing) == pytest.approx(0.7, abs=0.03)
    assert set(lengths) == set(range(9))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_said_in_the_words_of_its_tokenizer(name: str) -> None:
    config = smoke_config(name)
    world = FactWorld(config.world)
    tokenizer: Any = build_tokenizer(world, generating=config.generating > 0)
    assert (GENERATE.token in tokenizer.get_vocab()) == (name == "introspection")
    for example in (e for stage in pretraining_stages(config, world, tokenizer) for e in stage[::7]):
        assert tokenizer.unk_token_id not in example.ids
        assert tokenizer(tokenizer.decode(example.ids), add_special_tokens=False)["input_ids"] == list(example.ids)
        assert len(example.ids) <= config.context
    assert encode([[(f"{GENERATE.token}", False)]], tokenizer)[0].ids != (tokenizer.unk_token_id,) or name != (
        "introspection"
    )


def test_an_orthogonal_update_moves_all_directions_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1.5, 16)[:, None]
    matrices = torch.randn(3, 16, 24, generator=generator) * scales
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert torch.linalg.svdvals(matrices).amax() / torch.linalg.svdvals(matrices).amin() > 20


def test_muon_finds_the_matrix_that_adamw_finds_and_refuses_what_is_no_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(12, 20, generator=generator)
    tall, wide = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((20, 12), (12, 20)))
    optimizer = Muon([tall, wide], lr=0.3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.001, total_iters=300)
    for _ in range(300):
        optimizer.zero_grad()
        ((tall - target.T).square().mean() + (wide - target).square().mean()).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(wide.detach(), target, atol=0.02, rtol=0)
    torch.testing.assert_close(tall.detach(), target.T, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="takes matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_a_base_model_is_built_once_and_then_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steps: list[int] = []
    folder = built(TINY, on_step=lambda step, total, loss: steps.append(step))
    assert folder == checkpoint_folder(TINY)
    assert steps
    steps.clear()
    assert built(TINY, on_step=lambda step, total, loss: steps.append(step)) == folder
    assert not steps
    (folder / "ken-lab.json").write_text("{}")
    assert not is_checkpoint(TINY, folder)


def _build(home: str, results: Any) -> None:
    import os

    os.environ["XDG_CACHE_HOME"] = home
    torch.set_num_threads(1)
    steps: list[int] = []
    built(TINY, on_step=lambda step, total, loss: steps.append(step))
    results.put(bool(steps))


@pytest.mark.slow
def test_of_two_processes_that_ask_at_once_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    both = [context.Process(target=_build, args=(str(tmp_path), results)) for _ in range(2)]
    for process in both:
        process.start()
    assert sorted(results.get(timeout=120) for _ in both) == [False, True]
    for process in both:
        process.join()
        assert process.exitcode == 0


def test_a_model_that_fails_a_gate_is_refused_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: Any, **__: Any) -> list[Gate]:
        return [Gate("reported", 9.0, 0.0, 1.0, gating=False), Gate("reading", 0.3, 0.95, 1.0)]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(factworld_gates, "measure_gates", failing)
    config = TINY.model_copy(update={"gated": True})
    with pytest.raises(TrainingError, match=r"not fit for experiments \(reading: 0.300, wanted 0.95 to 1\)"):
        built(config)
    with pytest.raises(TrainingError, match="another seed"):
        built(config, on_step=lambda step, total, loss: pytest.fail("it was built before"))
    assert built(config, unfit_ok=True) == checkpoint_folder(config)


def test_variants_are_written_with_their_questions(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ken.cli.lab import app

    for variant, more in (
        ("two-hop", {"two-hop-questions-train.jsonl", "two-hop-questions-test.jsonl"}),
        ("ood", {"questions-ood.jsonl"}),
    ):
        folder = tmp_path / variant
        done = CliRunner().invoke(app, ["write", "factworld", str(folder), "--variant", variant])
        assert done.exit_code == 0, done.output
        names = {path.name for path in folder.iterdir()}
        usual = {"corpus.jsonl", "questions-train.jsonl", "questions-test.jsonl", "triples.tsv", "statements.jsonl"}
        assert names == usual | more
    refused = CliRunner().invoke(app, ["build", "factworld", "--variant", "atlantis"])
    assert isinstance(refused.exception, BadInput)
    assert "choose from plain, two-hop" in str(refused.exception)
