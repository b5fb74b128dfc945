"""The base model of the conversations' world and its warm-up: a weak rewriter that learns from its own good queries."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.agents.rewrite import REWRITE, Rewrite, parse_rewrite, render_history
from ken.core import Answer, BadInput, Sampling
from ken.core.conversation import ConversationTurn
from ken.lab.conversations import VOCABULARY, ConversationWorld
from ken.models import Message
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.sources.search.ranks import RankService
from ken.training.conversations_base import (
    MAX_TOKENS,
    build_tokenizer,
    habit,
    pretraining_stages,
    smoke_config,
    weak_rewrite,
    world_index,
)
from ken.training.lab_checkpoint import built, read_checkpoint
from ken.training.sft import SFTConfig, sft
from ken.training.warm_up import WarmUp, self_driven_warm_up

SMALL = smoke_config().model_copy(update={"gated": True})  # measured, and not fit
SAMPLING = Sampling(temperature=1.0, max_tokens=MAX_TOKENS)


@pytest.fixture(scope="module")
def world() -> ConversationWorld:
    return ConversationWorld(SMALL.world)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = built(SMALL, unfit_ok=True)
        assert built(SMALL, unfit_ok=True) == folder, "the second time it comes from the cache"
    return folder


@pytest.fixture
def policy(base: Path) -> LocalModel:
    return LocalModel(base, device="cpu", batch_size=256)


@pytest.fixture(scope="module")
def ranks(world: ConversationWorld, tmp_path_factory: pytest.TempPathFactory) -> RankService:
    return RankService(world_index(world, tmp_path_factory.mktemp("ranks") / "index"))


# --- what it is taught


def test_the_tokenizer_keeps_line_breaks_and_tags_so_that_the_strict_rule_reads_to_the_letter(
    world: ConversationWorld,
) -> None:
    backend = build_tokenizer(world).backend_tokenizer
    for text in ("<think> Kemi</think>\n<rewrite> Kemi who</rewrite>", "<think></think>\n\n<rewrite></rewrite>"):
        tokens = backend.encode(text.replace("Kemi", world.singles[0]), add_special_tokens=False).ids
        again = backend.decode(tokens, skip_special_tokens=False)
        assert again == text.replace("Kemi", world.singles[0])
        assert isinstance(parse_rewrite(again), Answer) == ("who" in text)
    broken = backend.encode("<think> a</think> <rewrite> b</rewrite>", add_special_tokens=False).ids
    assert "\n" not in backend.decode(broken, skip_special_tokens=False)


def test_everything_the_world_says_is_known_and_prompts_are_those_of_the_strategy(policy: LocalModel) -> None:
    world = ConversationWorld(SMALL.world)
    unknown = policy.tokenizer.unk_token_id
    for stage in pretraining_stages(SMALL, world, policy.tokenizer):
        assert not any(unknown in example.ids for example in stage)
    backend = policy.tokenizer.backend_tokenizer
    pieces = next(habit(SMALL, world, np.random.default_rng(0)))
    spoken = next(world.rehearsals(SMALL.seed))
    conversation = [
        Message("system", REWRITE),
        Message("user", render_history(spoken.turn.history, spoken.turn.query)),
    ]
    assert policy.render(conversation)[1] == backend.encode(pieces[0][0], add_special_tokens=False).ids


def test_the_habit_is_weak_and_in_form(world: ConversationWorld) -> None:
    rng = np.random.default_rng(0)
    names: Counter[bool] = Counter()
    fits: Counter[bool] = Counter()
    relation = {word: name for name, words in VOCABULARY.items() for word in words}
    lengths = set()
    for spoken in islice(world.rehearsals(), 3000):
        response = weak_rewrite(SMALL, spoken, rng).removesuffix(" <eos>")
        answer = parse_rewrite(response)
        assert isinstance(answer, Answer)
        name = next(n for n in sorted(spoken.entities, key=len, reverse=True) if answer.text.startswith(n))
        words = answer.text.removeprefix(name).split()
        assert tuple(words[: len(spoken.words)]) == spoken.words
        added = words[len(spoken.words) :]
        lengths.add(len(added))
        if len(spoken.entities) > 1:
            names[name == spoken.entity] += 1
        fits.update(relation[word] == spoken.relation for word in added)
        assert response.count(name) == 2, "it thinks of whom it names"
    assert lengths == {0, 1, 2, 3}
    assert 0.2 < names[True] / names.total() < 0.6
    assert fits[True] / fits.total() == pytest.approx(SMALL.fits + (1 - SMALL.fits) / 8, abs=0.04)


def test_no_passage_is_told_in_conversations_and_every_passage_is_read(world: ConversationWorld) -> None:
    tokenizer = build_tokenizer(world)
    (stage,) = pretraining_stages(SMALL, world, tokenizer)
    assert len(stage) == len(world.passages) + SMALL.habits


def test_the_checkpoint_says_what_was_measured(base: Path) -> None:
    checkpoint = read_checkpoint(base)
    assert checkpoint.world == "conversations"
    gates = {gate.name: gate.value for gate in checkpoint.gates}
    assert gates["responses in the exact form"] > 0.8
    assert set(gates) > {"gold passage first", "median rank of the gold passage"}


def test_the_base_model_rewrites_with_a_control_token_for_an_instruction(policy: LocalModel) -> None:
    assert policy.control_tokens
    turn = ConversationWorld(SMALL.world).turns("train")[1]
    trajectory = asyncio.run(Rewrite().run(turn.question(), policy, Sources(), sampling=SAMPLING))
    prompt, written = trajectory.segments
    assert prompt.text.startswith(f"<bos> {REWRITE.token} <context>\nQ1: ")
    assert prompt.text.endswith(f"Query: {turn.query}\n")
    assert len(written.token_ids or ()) <= MAX_TOKENS


# --- warm-up


def warm_up(policy: LocalModel, ranks: RankService, turns: list[ConversationTurn], **options: object) -> WarmUp:
    return asyncio.run(
        self_driven_warm_up(policy, turns, ranks, sampling=SAMPLING, **options)  # type: ignore[arg-type]
    )


def test_only_rewrites_in_form_that_rank_first_are_kept_and_learnt_as_sampled(
    policy: LocalModel, world: ConversationWorld, ranks: RankService
) -> None:
    turns = world.turns("train")
    found = warm_up(policy, ranks, turns, samples=3)
    assert 0 < len(found.kept) == len(found.rows) < 3 * len(turns)
    golds = [t.question.supporting_ids for t in found.kept]
    assert set(ranks.best_ranks([t.answer or "" for t in found.kept], golds)) == {1}
    for trajectory, row in zip(found.kept, found.rows, strict=True):
        prompt, written = trajectory.segments
        assert row.ids == (*(prompt.token_ids or ()), *(written.token_ids or ()))
        assert sum(row.learn) == len(written.token_ids or ())
        assert isinstance(parse_rewrite(written.text), Answer)


def test_the_yield_is_told_by_depth(policy: LocalModel, world: ConversationWorld, ranks: RankService) -> None:
    turns = world.turns("train")
    found = warm_up(policy, ranks, turns, samples=2)
    depths = Counter(turn.depth for turn in turns)
    assert {depth: (y.turns, y.samples) for depth, y in found.yields.items()} == {
        depth: (count, 2 * count) for depth, count in depths.items()
    }
    assert found.total.kept == len(found.kept)
    assert found.total.samples == 2 * len(turns)
    for one in found.yields.values():
        assert one.turns_kept <= one.kept <= one.parsed <= one.samples
    assert found.yields[1].rate == found.yields[1].kept / found.yields[1].samples


def test_a_laxer_filter_keeps_more_and_a_limit_per_turn_less(
    policy: LocalModel, world: ConversationWorld, ranks: RankService
) -> None:
    turns = world.turns("train")
    strict, lax = (warm_up(policy, ranks, turns, samples=3, keep_rank=rank) for rank in (1, 10))
    once = warm_up(policy, ranks, turns, samples=3, keep_rank=10, per_turn=1)
    assert len(strict.kept) < len(lax.kept)
    assert len(once.kept) == len({t.question.id for t in lax.kept}) < len(lax.kept)


def test_demonstrations_help_to_sample_but_are_not_learnt(
    policy: LocalModel, world: ConversationWorld, ranks: RankService
) -> None:
    turns = world.turns("train")[:30]
    shots = [(turns[0], f"<think> {turns[0].rewrite}</think>\n<rewrite> {turns[0].rewrite}</rewrite>")]
    found = warm_up(policy, ranks, turns, samples=4, keep_rank=100, shots=shots)
    plain = {t.question.id: t for t in warm_up(policy, ranks, turns, samples=4, keep_rank=100).kept}
    assert found.rows
    for trajectory, row in zip(found.kept, found.rows, strict=True):
        shown, written = trajectory.segments
        assert shown.text.count("Query:") == 2
        start = row.learn.index(True)
        assert row.ids[start:] == written.token_ids
        if (same := plain.get(trajectory.question.id)) is not None:
            assert row.ids[:start] == same.segments[0].token_ids


def test_warming_up_makes_better_queries(policy: LocalModel, world: ConversationWorld, ranks: RankService) -> None:
    turns = world.turns("train")
    first = warm_up(policy, ranks, turns, samples=8, keep_rank=5)
    sft(policy, first.rows, SFTConfig(epochs=4, batch=32, lr=3e-3))
    assert warm_up(policy, ranks, turns, samples=4, keep_rank=5).total.rate > 1.3 * first.total.rate


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(-2, 2), keep=st.integers(-2, 200))
def test_bad_input(samples: int, keep: int) -> None:
    ranks = object.__new__(RankService)
    ranks.top_k = 100
    if samples < 1 or keep < 1 or keep > 100:
        with pytest.raises(BadInput):
            asyncio.run(self_driven_warm_up(None, [], ranks, samples=samples, keep_rank=keep))  # type: ignore[arg-type]
    else:
        with pytest.raises(BadInput, match="no turns"):
            asyncio.run(self_driven_warm_up(None, [], ranks, samples=samples, keep_rank=keep))  # type: ignore[arg-type]
