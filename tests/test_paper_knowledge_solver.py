"""The row of Knowledge Solver: its world, what its model learns from, and a run of it in seconds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from ken.agents.solver import Solver
from ken.agents.solver_prompts import RelationNames
from ken.core import BadInput, Unsupported
from ken.core.choices import choices_of
from ken.lab.concepts import RELATIONS, ConceptsConfig, ConceptWorld, drawn, questions, triples
from ken.models.local import LocalModel
from ken.papers.catalogue import load_paper
from ken.papers.reproduce import reproduce
from ken.sources.graph.store import TripleStore
from ken.sources.graph.subgraph import SubgraphExtractor
from ken.training.concepts_base import ConceptsBaseConfig, build_tokenizer
from ken.training.lab_checkpoint import untrained_llama
from ken.training.lora import LoraConfig
from ken.training.path_dialogues import build_path_dialogues
from ken.training.pretraining import Example
from ken.training.sft import SFTConfig, conversation_example, sft

WORLD = ConceptWorld(ConceptsConfig(concepts=240))


def test_the_domains_share_neither_concepts_nor_relations() -> None:
    first, second = set(WORLD.domain(0)), set(WORLD.domain(1))
    assert not first & second
    for edge in WORLD.edges:
        domain = 0 if edge.subject in first else 1
        assert edge.object in (first, second)[domain]
        assert edge.relation in {word for word, _ in RELATIONS[domain]}


def test_the_card_s_numbers() -> None:
    world = ConceptWorld()
    assert (len(world.domain(0)), len(world.domain(1))) == (600, 300)
    assert 5 < len(world.edges) / 900 < 7
    assert sum(len(pairs) for pairs in RELATIONS) == 17
    assert 0.35 < np.mean([e.known for e in world.edges]) < 0.45
    degrees = sorted(sum(map(len, by.values())) for by in world.around.values())
    assert degrees[-1] > 2 * degrees[len(degrees) // 2]  # hubs


@pytest.mark.parametrize("domain", [0, 1])
def test_every_question_is_about_one_way_and_offers_others_as_long(domain: int) -> None:
    source = drawn(WORLD, domain, np.random.default_rng(0))
    for _ in range(60):
        hops, chain, options, other = next(source)
        at = chain.concepts[0]
        for word, to in zip(chain.words, chain.concepts[1:], strict=True):
            assert WORLD.around[at][word] == (to,)
            at = to
        assert len(chain.words) == hops
        assert len(set(options)) == 5
        assert chain.gold in options
        assert not set(options) & {*chain.concepts[:-1], other}


def test_test_questions_are_never_learnt() -> None:
    test = questions(WORLD, 1, 30, split="test")
    learnt = questions(WORLD, 1, 30, split="train", avoid=test)
    assert [q.meta["hops"] for q in test[:6]] == [1, 2, 3, 1, 2, 3]
    about = {(q.meta["anchor"], *q.meta["words"]) for q in test}
    assert not about & {(q.meta["anchor"], *q.meta["words"]) for q in learnt}
    assert all(q.answers[0] in choices_of(q) for q in test)
    with pytest.raises(BadInput, match="ask for"):
        questions(ConceptWorld(ConceptsConfig(concepts=24, clusters=(3, 1))), 1, 500, split="test")


def test_only_the_models_turns_are_learnt_each_with_its_end(tmp_path: Path) -> None:
    config = ConceptsBaseConfig(world=ConceptsConfig(concepts=120), hidden_size=16, intermediate_size=32, layers=1)
    world = ConceptWorld(config.world)
    tokenizer = build_tokenizer(world)
    graph = TripleStore.of(triples(world))
    names = RelationNames(inverse=world.inverse)
    solver = Solver(names=names, extractor=SubgraphExtractor(hops=3, max_words=1))
    made = asyncio.run(build_path_dialogues(questions(world, 1, 3, split="train"), graph, solver, ties="question"))
    untrained_llama(config, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pupil = LocalModel(tmp_path, control_tokens=True)
    for dialogue in made.dialogues:
        example = conversation_example(pupil, dialogue)
        learnt = [i for i, on in zip(example.ids, example.learn, strict=True) if on]
        words = " ".join(f"{m.content} <eos>" for m in dialogue if m.role == "policy")
        assert tokenizer.decode(learnt).replace("ANSWER:", "ANSWER") == words.replace(":", "")
        assert tokenizer.unk_token_id not in example.ids
    with pytest.raises(BadInput, match="policy"):
        conversation_example(pupil, made.dialogues[0][:2])


def test_lora_says_what_it_needs_or_trains_adapters_and_leaves_a_whole_model(tmp_path: Path) -> None:
    config = ConceptsBaseConfig(world=ConceptsConfig(concepts=120), hidden_size=16, intermediate_size=32, layers=1)
    tokenizer = build_tokenizer(ConceptWorld(config.world))
    untrained_llama(config, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pupil = LocalModel(tmp_path, control_tokens=True)
    before = {name: p.detach().clone() for name, p in pupil.model.named_parameters()}
    rows = [Example((1, 5, 6, 7), (False, True, True, True))] * 4
    settings = SFTConfig(epochs=2, batch=2, lr=1e-2, lora=LoraConfig())
    try:
        import peft  # noqa: F401
    except ImportError:
        with pytest.raises(Unsupported, match="pip install"):
            sft(pupil, rows, settings)
        return
    sft(pupil, rows, settings)
    after = dict(pupil.model.named_parameters())
    assert after.keys() == before.keys()
    changed = {name for name in before if not (after[name] == before[name]).all()}
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paper = load_paper("knowledge-solver")
    results = reproduce(paper, seeds=1, smoke=True)
    assert not any(arm.errors for arm in results.arms.values())
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    for claim in paper.claims:
        assert isinstance(claim.measure(measured), float)
    assert measured["oracle-walker"]["acc"] == 1.0
    assert measured["oracle-walker"]["valid"] == 1.0
    assert measured["ksl-ft"]["conversations"] > 6  # walks, and where to begin
