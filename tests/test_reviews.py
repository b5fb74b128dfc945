"""The reviews world: what most customers think is counted, not drawn; and its base model is shown nothing but words it
knows and answers that are right."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents.instructions import READ
from ken.agents.summarising import READ_SUMMARIES, SUMMARISE
from ken.core import BadInput
from ken.lab.reviews import (
    ASPECTS,
    SMALL_TALK,
    VERDICTS,
    WORDINGS,
    ReviewsConfig,
    ReviewsWorld,
    counts,
    documents,
    finding,
    gold_summary,
    questions,
    verdict,
)
from ken.models.scripted import ScriptedModel
from ken.training.lab_bases import lab_base
from ken.training.reviews_base import (
    ReviewsBaseConfig,
    Stage,
    build_tokenizer,
    condensed,
    measure_gates,
    noisy_summary,
    pretraining_stages,
    raw,
    smoke_config,
    summary_accuracy,
)

SMALL = ReviewsBaseConfig(
    stages=(
        Stage(raw=40, most=2),
        Stage(raw=30, least=3, most=10, condensed=20, clusters=4),
        Stage(raw=6, least=70, most=75, condensed=20, clusters=8),
    )
)
SAYS = {
    text: (aspect, good)
    for aspect, both in WORDINGS.items()
    for good, those in zip((True, False), both, strict=True)
    for text in those
}


@pytest.fixture(scope="module")
def world() -> ReviewsWorld:
    return ReviewsWorld()


def test_the_world_is_as_large_and_as_varied_as_the_card_says(world: ReviewsWorld) -> None:
    assert (len(world.products), len(world.split("test")), len(ASPECTS)) == (60, 30, 6)
    assert not {p.name for p in world.split("test")} & {p.name for p in world.split("dev")}
    assert all(len(those) == 8 for both in WORDINGS.values() for those in both)
    assert len(SAYS) == 96
    for product in world.products:
        assert len(product.reviews) == 75
        assert len({review.text for review in product.reviews}) == 75
        assert {len(review.mentions) for review in product.reviews} == {1, 2}
        assert sum(of == 0 for _, of in counts(product.reviews).values()) in (1, 2)


def test_what_a_review_says_stands_in_it(world: ReviewsWorld) -> None:
    for review in world.products[0].reviews:
        sentences = re.findall(r"[^.]+\.", review.text)
        assert tuple(SAYS[s.strip()] for s in sentences if s.strip() in SAYS) == review.mentions
        assert all(s.strip() in SAYS or s.strip() in SMALL_TALK for s in sentences)


def test_the_truth_is_counted_over_the_reviews_in_the_store(world: ReviewsWorld) -> None:
    product = world.products[0]
    for n in (4, 25, 75):
        said = [
            SAYS[s.strip()] for r in product.reviews[:n] for s in re.findall(r"[^.]+\.", r.text) if s.strip() in SAYS
        ]
        for question in questions([product], reviews=n):
            of = [good for aspect, good in said if aspect == question.meta["aspect"]]
            assert question.answers == (verdict(sum(of), len(of)),)
            assert question.meta["group"] == product.group
            assert product.name in question.text
    assert Counter(q.answers[0] for q in questions(world.products)).keys() == set(VERDICTS)
    assert [d.id for d in documents([product], reviews=2)] == [f"{product.group}/0", f"{product.group}/1"]


@pytest.mark.parametrize(
    ("praised", "mentioned", "says"),
    [
        (0, 0, "not mentioned"),
        (2, 3, "mostly positive"),
        (1, 3, "mostly negative"),
        (1, 2, "mixed"),
        (13, 20, "mixed"),
        (14, 20, "mostly positive"),
    ],
)
def test_two_thirds_decide(praised: int, mentioned: int, says: str) -> None:
    assert verdict(praised, mentioned) == says


def test_a_finding_counts_those_who_decide_it() -> None:
    assert finding("battery", 2, 11) == "battery negative 9 of 11"
    assert finding("price", 9, 11) == "price positive 9 of 11"
    assert finding("screen", 3, 6) == "screen mixed 3 of 6"
    assert finding("camera", 0, 0) == "camera not mentioned"


@given(st.integers(0, 3))
def test_a_seed_is_a_world(seed: int) -> None:
    config = ReviewsConfig(products=2, reviews=3, seed=seed)
    assert ReviewsWorld(config).products == ReviewsWorld(config).products
    assert ReviewsWorld(config).products != ReviewsWorld(config.model_copy(update={"seed": seed + 9})).products


def test_a_world_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="a ReviewsWorld cannot have products"):
        ReviewsConfig(products=1)


def test_every_word_is_in_the_vocabulary_and_every_example_in_the_context() -> None:
    tokenizer = build_tokenizer(SMALL.world)
    stages = pretraining_stages(SMALL, tokenizer)
    assert [len(stage) for stage in stages] == [40, 50, 26]
    for example in (example for stage in stages for example in stage):
        assert tokenizer.unk_token_id not in example.ids
        assert len(example.ids) <= SMALL.context
        assert any(example.learn)
    assert max(len(e.ids) for e in stages[2]) > 1200
    assert len(tokenizer) < 1000


def shown_lines(text: str) -> list[str]:
    return re.findall(r"^(?:.*<information>)?- (.*?)(?:</information>)?$", text, re.M)


def test_what_is_learnt_of_raw_reviews_is_what_they_say() -> None:
    kinds = Counter()
    for pieces in raw(SMALL, 60, 1, 9, np.random.default_rng(0)):
        shown = pieces[0][0]
        said = [SAYS[s.strip()] for s in re.findall(r"[^.]+\.", " ".join(shown_lines(shown))) if s.strip() in SAYS]
        of = {a: (sum(g for b, g in said if b == a), sum(b == a for b, _ in said)) for a in ASPECTS}
        if SUMMARISE.token in shown:
            kinds["summary"] += 1
            gold = " ; ".join(finding(a, *c) for a, c in of.items() if c[1])
            assert pieces[1:] == [(f"{gold} <eos>", True)]
            continue
        assert READ.token in shown
        kinds["answers"] += 1
        for (question, asked), (answer, learnt) in zip(pieces[1::2], pieces[2::2], strict=True):
            (aspect,) = (a for a in ASPECTS if a in question)
            assert (asked, learnt) == (False, True)
            assert (
                answer
                == f"<think> {finding(aspect, *of[aspect])} </think> <answer> {verdict(*of[aspect])} </answer> <eos>"
            )
    assert kinds == {"summary": 30, "answers": 30}


def test_contexts_of_summaries_are_as_the_strategy_shows_them() -> None:
    extracted = 0
    for pieces in condensed(SMALL, 60, 8, np.random.default_rng(0)):
        lines = shown_lines(pieces[0][0])
        assert READ_SUMMARIES.token in pieces[0][0]
        sizes = [re.match(r"(\d+) of (\d+) documents: (.+)", line) for line in lines]
        assert all(sizes)
        parts = [int(m[1]) for m in sizes if m]
        assert parts == sorted(parts, reverse=True)
        assert {int(m[2]) for m in sizes if m} == {sum(parts)}
        extracted += " mostly " not in pieces[0][0] and " mixed " not in pieces[0][0]
    assert 3 <= extracted <= 25


def test_noise_moves_counts_and_never_makes_a_mention_vanish(world: ReviewsWorld) -> None:
    reviews = world.products[0].reviews
    assert noisy_summary(reviews, 0.0, np.random.default_rng(0)) == gold_summary(reviews)
    noisy = noisy_summary(reviews, 0.3, np.random.default_rng(0))
    assert noisy != gold_summary(reviews)
    assert [part.split()[0] for part in noisy.split(" ; ")] == [
        part.split()[0] for part in gold_summary(reviews).split(" ; ")
    ]


def test_the_accuracy_of_a_summary_counts_what_is_missing_wrong_or_made_up(world: ReviewsWorld) -> None:
    reviews = world.products[0].reviews
    assert summary_accuracy(gold_summary(reviews), reviews) == 1.0
    mentioned = sum(of > 0 for _, of in counts(reviews).values())
    first = gold_summary(reviews).split(" ; ")[0]
    assert summary_accuracy(first, reviews) == pytest.approx(1 / mentioned)
    silent = next(a for a, (_, of) in counts(reviews).items() if not of)
    assert summary_accuracy(f"{gold_summary(reviews)} ; {silent} mixed 1 of 2", reviews) == pytest.approx(
        mentioned / (mentioned + 1)
    )
    assert summary_accuracy("; ;", reviews) == 0.0


def test_one_who_counts_passes_the_gates_and_a_guesser_does_not() -> None:
    def reader(prompt: str) -> str:
        found = dict.fromkeys(ASPECTS, (0, 0))
        for line in shown_lines(prompt.partition("\n\n")[2]):
            for part in re.findall(rf"({'|'.join(ASPECTS)}) (positive|mixed|negative) (\d+) of (\d+)", line):
                good = int(part[3]) - int(part[2]) if part[1] == "negative" else int(part[2])
                found[part[0]] = (found[part[0]][0] + good, found[part[0]][1] + int(part[3]))
            for sentence in re.findall(r"[^.]+\.", line):
                if sentence.strip() in SAYS:
                    aspect, praise = SAYS[sentence.strip()]
                    found[aspect] = (found[aspect][0] + praise, found[aspect][1] + 1)
        if prompt.startswith(SUMMARISE.text):
            return " ; ".join(finding(a, *of) for a, of in found.items() if of[1])
        (aspect,) = (a for a in ASPECTS if a in prompt.rpartition("\n\n")[2])
        return f"<answer> {verdict(*found[aspect])} </answer>"

    perfect = asyncio.run(measure_gates(ScriptedModel(reader), SMALL, products=3))
    assert {gate.name: gate.value for gate in perfect} == {
        "answers from 25 reviews": 1.0,
        "answers from 4 reviews": 1.0,
        "answers from 75 reviews": 1.0,
        "answers from summaries": 1.0,
        "verdicts in summaries": 1.0,
    }
    guesser = ScriptedModel(lambda prompt: "<answer> mostly positive </answer>")
    assert not any(g.passed for g in asyncio.run(measure_gates(guesser, SMALL, products=3)) if g.gating)


def test_ken_lab_builds_it_by_name() -> None:
    assert lab_base("reviews", seed=3) == ReviewsBaseConfig(world=ReviewsConfig(seed=3), seed=3)
    assert not smoke_config().gated
