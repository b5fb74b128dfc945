"""The split world: what is known where, what questions need, and that training prompts keep off held-out entities."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents import Ircot, SelfAsk, Tree
from ken.agents.query_tree import QueryTree, read_tree
from ken.agents.self_ask import INTERMEDIATE
from ken.core import BadInput, Passage, Question, Sampling
from ken.lab.splitworld import KINDS, SplitWorld, SplitWorldConfig, ask, documents, questions
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.training import tree_base
from ken.training.lab_bases import lab_base
from ken.training.lab_tokenizer import encode
from ken.training.tree_base import below_passages

SMALL = tree_base.smoke_config().world


@pytest.fixture(scope="module")
def world() -> SplitWorld:
    return SplitWorld()


def test_facts_are_known_where_the_card_says(world):
    facts = world.facts.values()
    assert len(facts) == 600 * 16
    shares = Counter(fact.home for fact in facts)
    for home, share in {"inside": 0.35, "outside": 0.35, "both": 0.2, "neither": 0.1}.items():
        assert shares[home] / len(facts) == pytest.approx(share, abs=0.02)
    near = [fact for fact in facts if fact.near is not None]
    assert {fact.home for fact in near} == {"inside"}
    assert len(near) / shares["inside"] == pytest.approx(0.5, abs=0.03)
    for fact in near:
        name, value = fact.near
        assert name.split()[0] == fact.subject.split()[0]
        assert name not in world.entities
        assert value != fact.value


def test_the_corpus_tells_what_is_known_outside_and_the_namesakes(world):
    told = {page.text for page in documents(world)}
    assert len({page.id for page in documents(world)}) == len(documents(world)) == len(told)
    for fact in world.facts.values():
        assert (f"{fact.sentence}." in told) == fact.outside
        if fact.near is not None:
            assert f"the {fact.relation} of {fact.near[0]} is {fact.near[1]}." in told


def test_a_namesake_comes_first_where_there_is_one(world, tmp_path):
    from ken.sources.search.index import Index

    index = Index.build(documents(world), tmp_path / "index", tokenizer="simple")
    near = [fact for fact in world.facts.values() if fact.near is not None][:100]
    told = [fact for fact in world.facts.values() if fact.outside][:100]
    first = [index.search(ask([f.relation], f.subject), 1)[0].text for f in near]
    assert sum(f.near[0] in text for f, text in zip(near, first, strict=True)) >= 90
    first = [index.search(ask([f.relation], f.subject), 1)[0].text for f in told]
    assert sum(f"{f.sentence}." == text for f, text in zip(told, first, strict=True)) >= 90


def test_chains_stay_among_the_entities_of_their_split(world):
    for split in ("train", "dev", "test"):
        entities = set(world.splits[split])
        for one in world.asked(split, 100):
            assert {fact.subject for fact in one.facts} <= entities
            if one.kind != "comparison":
                assert all(a.value == b.subject for a, b in pairwise(one.facts))
                assert len(one.facts) == int(one.kind[0])
    assert sum(map(len, world.splits.values())) == len(set().union(*world.splits.values())) == 600


def test_questions_are_answered_by_the_world_in_any_spelling(world):
    asked = questions(world, "test", 400)
    assert len({q.text for q in asked}) == 400
    assert Counter(q.meta["kind"] for q in asked) == dict.fromkeys(KINDS, 100)
    assert all(world.truth(q.text) == q.answers[0] for q in asked)
    assert all(world.truth(q.text.replace("?", " ?").replace(",", " ,")) == q.answers[0] for q in asked)
    assert questions(world, "test", 20) == asked[:20]
    assert {q.text for q in questions(world, "test", 400, seed=1)} != {q.text for q in asked}


@pytest.mark.parametrize(
    "text", ["", "What is love?", "What is the mentor of Nobody Else?", "Which came first, x or y?"]
)
def test_what_the_world_cannot_read_has_no_truth(world, text):
    assert world.truth(text) is None
    assert world.fact(text) is None


@cache
def small() -> SplitWorld:
    return SplitWorld(SMALL)


@given(st.integers(0, 99))
def test_parts_make_a_tree_whose_answers_lead_to_the_answer(seed):
    world = small()
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        asked = world.some_question(kind, "test", rng)
        read = read_tree(json.dumps(asked.parts), asked.text)
        assert read.problems == ()
        answers: dict[int, str] = {}
        for node in read.tree.nodes:
            question, missing = read.tree.filled(node.index, answers)
            assert not missing
            answers[node.index] = world.truth(question)
        assert answers[read.tree.root.index] == asked.answer


@pytest.mark.parametrize(
    "how",
    [{"homes": (0.5, 0.5, 0.5, -0.5)}, {"homes": (0.1, 0.1, 0.1, 0.1)}, {"entities": 20}, {"moments": 5}, {"test": 2}],
)
def test_what_cannot_be(how):
    with pytest.raises(BadInput):
        SplitWorldConfig(**how)


def test_too_many_questions_are_refused():
    with pytest.raises(BadInput, match="ask for fewer"):
        small().asked("dev", 5000)


# --- the base model's texts


MAKERS = (
    tree_base.quoting,
    tree_base.splitting,
    tree_base.chain,
    tree_base.reading,
    tree_base.matching,
    tree_base.ordering,
    tree_base.reading_all,
    tree_base.joining,
    tree_base.self_asking,
    tree_base.interleaving,
)


def test_training_prompts_keep_off_held_out_entities_and_every_word_is_known(world):
    rng = np.random.default_rng(0)
    held_out = {name for split in ("dev", "test") for name in world.splits[split]}
    tokenizer = tree_base.build_tokenizer(world)
    for make in MAKERS:
        texts = [make(world, rng) for _ in range(100)]
        words = [re.sub(r"[^\w]+", " ", " ".join(piece for piece, _ in text)).split() for text in texts]
        named = [{f"{a} {b}" for a, b in pairwise(text)} & held_out for text in words]
        if make not in {tree_base.chain, tree_base.joining}:
            assert not any(named)
        # A chain that was never told may end in anybody; nothing is asked of them, and nothing said about them.
        about = {f"{b} {c}" for text in words for a, b, c in zip(text, text[1:], text[2:], strict=False) if a == "of"}
        assert not held_out & about
        assert all(len(names) <= 1 for names in named)
        for example in encode(texts, tokenizer):
            assert tokenizer.unk_token_id not in example.ids
            assert any(example.learn)
            assert len(example.ids) < 256


def test_what_is_told_is_all_that_is_inside_and_nothing_else(world):
    told = Counter(
        f"{first} {value}"
        for text in tree_base.telling(world, 2, np.random.default_rng(0))
        for (first, _), (value, learnt) in pairwise(text)
        if learnt
    )
    assert told == {fact.sentence: 2 for fact in world.facts.values() if fact.inside}


def test_memory_is_taught_what_was_told_and_otherwise_a_guess(world):
    rng = np.random.default_rng(0)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(400):
        for fact in tree_base._remembered(world, rng).facts:
            true = world.facts[fact.subject, fact.relation]
            right[true.inside].append(fact.value == true.value)
    assert all(right[True])
    assert sum(right[False]) / len(right[False]) < 0.15


def prompts_of(strategy, question: Question, replies: list[str], passages: dict[str, str]) -> list[str]:
    """What a strategy shows a lab model that says these things, with the passage that each query finds."""

    class Library:
        name = "library"

        async def search(self, query: str, k: int) -> list[Passage]:
            found = next((text for words, text in passages.items() if words in query), None)
            return [] if found is None else [Passage(id=found, text=found)]

        async def close(self) -> None:
            pass

    left = iter(replies)
    model = ScriptedModel(lambda prompt: next(left), control_tokens=True, logprob=lambda token: -0.1)
    asyncio.run(strategy.run(question, model, Sources(search=Library(), top_k=1), sampling=Sampling(max_tokens=99)))
    return [" ".join(call.prompt.split()) for call in model.calls]


def squeeze(text: str) -> str:
    return "".join(text.split())


def test_the_prompts_that_are_learnt_are_those_that_strategies_make(world):
    """One question of two facts, told by the teacher and walked by the strategies: the same texts."""
    asked = world.some_question("2-hop", "train", np.random.default_rng(1))
    one, two = asked.facts
    question = Question(id="q", text=asked.text, answers=(asked.answer,))
    passages = {one.subject: f"{one.sentence}.", two.subject: f"{two.sentence}."}
    told = [tree_base.explained(tree_base._just(one)), tree_base.explained(tree_base._just(one))]
    told += [tree_base.explained(tree_base._just(two))] * 2 + [tree_base.explained(asked)] * 3
    shown = prompts_of(Tree(), question, [json.dumps(asked.parts), *told], passages)
    expected = [
        tree_base._taught(tree_base.SPLIT, asked.text, ""),
        tree_base._taught(tree_base.CHAIN, ask([one.relation], one.subject), ""),
        tree_base._taught(
            tree_base.FROM_PASSAGES,
            below_passages([f"{one.sentence}."], ask([one.relation], one.subject)),
            "",
        ),
        tree_base._taught(tree_base.CHAIN, ask([two.relation], two.subject), ""),
        tree_base._taught(
            tree_base.FROM_PASSAGES,
            below_passages([f"{two.sentence}."], ask([two.relation], two.subject)),
            "",
        ),
        tree_base._taught(tree_base.CHAIN, asked.text, ""),
        tree_base._taught(
            tree_base.FROM_PASSAGES, below_passages([f"{one.sentence}.", f"{two.sentence}."], asked.text), ""
        ),
        tree_base._taught(tree_base.FROM_PARTS, tree_base.from_parts(tree_base.part_lines(asked), asked.text), ""),
    ]
    assert [squeeze(p) for p in shown] == [squeeze(pieces[0][0].removeprefix("<bos>")) for pieces in expected]

    asks = [f"Follow up: {ask([f.relation], f.subject)} {INTERMEDIATE}" for f in (one, two)]
    replies = [asks[0], f"{one.value} . {asks[1]}", f"{two.value} . So the final answer is: {two.value}"]
    last = prompts_of(SelfAsk(), question, replies, passages)[-1]
    rng = np.random.default_rng(0)
    while True:  # a dialogue that was learnt, about a question that is asked the same way and is answered
        pieces = tree_base.self_asking(world, rng)
        if len(pieces) == 6 and "Which" not in pieces[0][0] and "Unknown" not in pieces[-1][0]:
            break
    assert [tag for tag in last.split() if tag in ("<self_ask>", "Question:")] == ["<self_ask>", "Question:"]
    shape = "".join(text for text, _ in pieces[:-1])
    for marker in ("Follow up:", INTERMEDIATE, "<information>Doc 1:", "</information>"):
        assert last.count(marker) == shape.count(marker) == 2

    thoughts = [f"<think> {one.sentence} , the {two.relation} of {two.subject} </think> <answer> Unknown </answer>"] * 2
    thoughts += [f"<think> {one.sentence} , {two.sentence} </think> <answer> {two.value} </answer>"]
    last = prompts_of(Ircot(), question, thoughts, passages)[-1]
    read = tree_base._taught(tree_base.READ, below_passages([f"{one.sentence}.", f"{two.sentence}."], asked.text), "")
    assert squeeze(last) == squeeze(read[0][0].removeprefix("<bos>"))


def test_the_base_model_has_a_name():
    assert lab_base("splitworld", seed=3).world == SplitWorldConfig(seed=3)
    assert QueryTree.single("x").depth == 0
