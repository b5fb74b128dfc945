"""A multi-hop world is what its config says: answers follow from the documents, one after the other, and the test's
links are never seen in training."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, Question
from ken.lab.multihop import (
    KINDS,
    MultiHopConfig,
    MultiHopWorld,
    Split,
    document,
    documents,
    questions,
    random_pages,
    triples,
)
from ken.sources.search.ngrams import NgramRetriever

configs = st.builds(
    MultiHopConfig,
    entities=st.integers(30, 60),
    entity_relations=st.integers(4, 8),
    literal_relations=st.integers(2, 4),
    numbers=st.integers(24, 40),
    min_stated=st.integers(4, 5),
    max_stated=st.integers(5, 6),
    train=st.integers(0, 15),
    test=st.integers(0, 6),
    held_out=st.sampled_from([0.3, 0.5]),
    seed=st.integers(0, 2**40),
)


@pytest.fixture(scope="module")
def world() -> MultiHopWorld:
    return MultiHopWorld()


def evidence(question: Question) -> list[dict[str, str]]:
    return question.meta["evidence"]  # type: ignore[return-value]


def test_the_world_of_the_card(world: MultiHopWorld) -> None:
    assert len(world.entities) == len(documents(world)) == 800
    assert [sum(r.literal == literal for r in world.relations) for literal in (False, True)] == [8, 4]
    assert all(len(set(r.wordings)) == 3 for r in world.relations)
    assert {len(links) for links in world.stated.values()} == {5, 6, 7}
    assert (len(questions(world, "train")), len(questions(world, "test"))) == (4000, 600)
    assert max(len(d.text.split()) for d in documents(world)) < 40
    used = {link.wording for links in world.stated.values() for link in links}
    assert used == {wording for r in world.relations for wording in r.wordings}


def test_no_two_relations_share_a_value(world: MultiHopWorld) -> None:
    values = [value for relation in world.relations for value in world.values[relation.name]]
    assert len(values) == len(set(values))
    assert {*values} - {*world.numbers} == {*world.entities}
    for links in world.stated.values():
        assert all(link.value in world.values[link.relation.name] for link in links)
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = random_pages(world, rng, 2, chained=True)
        assert second[0].subject in {link.value for link in first}
        assert len({link.relation for link in first}) == len(first)


def test_no_link_of_a_test_question_is_in_a_training_question(world: MultiHopWorld) -> None:
    def used(split: Split, ordered: bool) -> set[tuple[str, ...]]:
        asked = [evidence(q) for q in questions(world, split) if q.meta["ordered"] == ordered]
        pairs = [(a["subject"], b["subject"]) for told in asked for a, b in pairwise(told)]
        return set(pairs if ordered else [tuple(sorted(pair)) for pair in pairs])

    for ordered in (True, False):
        assert used("test", ordered)
        assert used("train", ordered).isdisjoint(used("test", ordered))


@settings(max_examples=40, deadline=None)
@given(configs)
def test_every_question_is_answered_by_its_documents(config: MultiHopConfig) -> None:
    world = MultiHopWorld(config)
    texts = {d.id: d for d in documents(world)}
    facts = {(s, r): v for s, r, v in triples(world)}
    wordings = {wording: r.name for r in world.relations for wording in r.wordings}
    seen: set[str] = set()
    for split in ("train", "test"):
        asked = questions(world, split)  # type: ignore[arg-type]
        assert len(asked) == getattr(config, split)
        for number, question in enumerate(asked):
            told = evidence(question)
            assert question.meta["kind"] == KINDS[number % 3]
            assert list(question.supporting_ids) == [e["document"] for e in told]
            for fact in told:
                page = texts[fact["document"]]
                assert page.title == fact["subject"]
                assert fact["text"] in page.text
                assert facts[fact["subject"], fact["relation"]] == fact["value"]
                subject, wording, value = fact["text"].split()
                assert (subject, wordings[wording], value) == (fact["subject"], fact["relation"], fact["value"])
            key = str(sorted((e["subject"], e["relation"]) for e in told))
            assert key not in seen
            seen.add(key)
            if question.meta["ordered"]:
                assert all(b["subject"] == a["value"] for a, b in pairwise(told))
                assert question.answers == (told[-1]["value"],)
                said = [wordings[w] for w in question.text.rstrip("?").split() if w in wordings]
                assert said == [e["relation"] for e in reversed(told)]
                assert sum(e["subject"] in question.text.rstrip("?").split() for e in told) == 1
            else:
                numbers = {e["subject"]: int(e["value"]) for e in told}
                pick = max if " greater " in question.text else min
                assert question.answers == (pick(numbers, key=lambda s: numbers[s]),)


def test_one_seed_one_world() -> None:
    config = MultiHopConfig(entities=60, train=9, test=3, held_out=0.5)
    assert questions(MultiHopWorld(config), "train") == questions(MultiHopWorld(config), "train")
    assert documents(MultiHopWorld(config)) != documents(MultiHopWorld(config.model_copy(update={"seed": 1})))


def test_random_pages_are_different_documents_that_lead_on(world: MultiHopWorld) -> None:
    rng = np.random.default_rng(0)
    true = set(triples(world))
    coincidences = total = 0
    for _ in range(50):
        pages = random_pages(world, rng, 3, chained=True)
        assert len({page[0].subject for page in pages}) == 3
        for page, after in pairwise(pages):
            assert not any(not link.relation.literal for link in page) or after[0].subject in {k.value for k in page}
        for page in pages:
            assert document(page).title == page[0].subject
            total += len(page)
            coincidences += sum((k.subject, k.relation.name, k.value) in true for k in page)
    assert coincidences < 0.02 * total


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"entities": 1}, "entities = 1"),
        ({"min_stated": 8, "max_stated": 7}, "cannot state 8 to 7"),
        ({"max_stated": 13}, "cannot state 5 to 13 facts of 12"),
        ({"held_out": 2}, "held_out = 2"),
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        MultiHopConfig(**wrong)


def test_a_world_too_small_for_its_questions_says_so() -> None:
    with pytest.raises(BadInput, match="no 1200 distinct train questions"):
        questions(MultiHopWorld(MultiHopConfig(entities=16, min_stated=5, max_stated=5, train=1200)), "train")


# --- search by n-grams over its documents
# ---------------------------------------------------------------------------------------------------------------------


def test_decomposition_is_needed_and_suffices(world: MultiHopWorld) -> None:
    retriever = NgramRetriever(documents(world))
    chains = [q for q in questions(world, "test") if q.meta["ordered"]][:100]

    async def found(query: str) -> set[str]:
        return {p.document_id for p in await retriever.search(query, 2)}

    async def shares() -> tuple[list[float], list[float]]:
        whole = [await found(q.text) for q in chains]
        first = [q.supporting_ids[0] in ids for q, ids in zip(chains, whole, strict=True)]
        later = [d in ids for q, ids in zip(chains, whole, strict=True) for d in q.supporting_ids[1:]]
        asked = [
            e["document"] in await found(f"{e['relation']} of {e['subject']}") for q in chains for e in evidence(q)
        ]
        return [sum(first) / len(first), sum(later) / len(later)], [sum(asked) / len(asked)]

    (first, later), (decomposed,) = asyncio.run(shares())
    assert first > 0.9
    assert later < 0.05
    assert decomposed > 0.98


def test_n_grams_forgive_spelling_and_find_nothing_in_nonsense(world: MultiHopWorld) -> None:
    retriever = NgramRetriever(documents(world))
    name = max(world.entities, key=len)
    misspelt = name[:-1]

    async def best(query: str) -> list[str]:
        return [p.title for p in await retriever.search(query, 3)]

    assert asyncio.run(best(misspelt))[0] == name
    assert asyncio.run(best("§§ %% qqq")) == []
    scores = [p.score for p in asyncio.run(retriever.search(name, 5))]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(BadInput):
        NgramRetriever([])


def test_n_gram_scores_are_those_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = Random(0)
    world = MultiHopWorld(MultiHopConfig(entities=40, train=0, test=0))
    pages = [d.model_copy(update={"title": ""}) for d in documents(world)]
    queries = [" ".join(rng.sample(page.text.replace(",", "").replace(".", "").split(), 3)) for page in pages[:10]]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True)
    matrix = vectors.fit_transform(page.text.replace(",", " ").replace(".", " ") for page in pages)
    expected = (vectors.transform(queries) @ matrix.T).toarray()
    retriever = NgramRetriever(pages)

    async def all_scores(query: str) -> dict[str, float]:
        return {p.id: p.score or 0.0 for p in await retriever.search(query, len(pages))}

    for row, query in zip(expected, queries, strict=True):
        found = asyncio.run(all_scores(query))
        np.testing.assert_allclose([found.get(page.id, 0.0) for page in pages], row, atol=1e-9)
