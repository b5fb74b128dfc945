"""The world of conversations is the one of card 17."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from ken.core import BadInput
from ken.lab.conversations import (
    MATCHED,
    MISMATCHED,
    NOISE,
    PRONOUNS,
    RELATIONS,
    VOCABULARY,
    ConversationWorld,
    ConversationWorldConfig,
)
from ken.sources.search.index import Index
from ken.sources.search.ranks import RankService, admit


@pytest.fixture(scope="module")
def world() -> ConversationWorld:
    return ConversationWorld()


@pytest.fixture(scope="module")
def index(world: ConversationWorld, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(world.passages, tmp_path_factory.mktemp("conversations") / "index", tokenizer="simple")


def test_sizes_are_those_of_the_card(world: ConversationWorld) -> None:
    assert len(world.entities) == len({entity.name for entity in world.entities}) == 400
    assert {len(entity.name.split()) for entity in world.entities} == {1, 2}
    assert len(RELATIONS) == 8
    assert len(world.passages) == 400 * 8 + 12_000
    assert len({passage.id for passage in world.passages}) == len(world.passages)
    assert len(world.turns("train")) == 2000
    assert len(world.turns("test")) == 500
    lengths = {len(f"{passage.title} {passage.text}".split()) for passage in world.passages}
    assert lengths == set(range(18, 26))


def test_of_five_relations_the_passages_share_no_word_with_the_questions(world: ConversationWorld) -> None:
    asked = {word for split in ("train", "test") for turn in world.turns(split) for word in turn.query.split()}
    names = {word for entity in world.entities for word in entity.name.split()}
    told = {word for relation in MISMATCHED for word in VOCABULARY[relation]} | set(NOISE)
    assert len(MISMATCHED) == 5
    assert not told & (asked - names)
    assert all(relation in words and relation in asked for relation, words in VOCABULARY.items() if relation in MATCHED)
    everything = [word for words in VOCABULARY.values() for word in words]
    assert len(everything) == len(set(everything)), "no word belongs to two relations"
    assert not set(everything) & set(NOISE)


def test_a_passage_tells_three_to_five_words_of_its_relation(world: ConversationWorld) -> None:
    for passage in world.passages[:3200]:
        relation = passage.id.rpartition(".")[2]
        words = [word for word in passage.text.split() if word in VOCABULARY[relation]]
        assert 3 <= len(words) <= 5
        assert (relation in words) == (relation in MATCHED)


def test_distractors_share_an_entity_or_a_relation_and_answer_nothing(world: ConversationWorld) -> None:
    names = {entity.name for entity in world.entities}
    about = [passage for passage in world.passages[3200:] if passage.title in names]
    others = [passage for passage in world.passages[3200:] if passage.title not in names]
    assert 0.85 < len(about) / 12_000 < 0.95
    relation = {word: name for name, words in VOCABULARY.items() for word in words}
    told = [Counter(relation[w] for w in p.text.split() if w in relation) for p in (*about, *others)]
    assert all(counts.total() <= 2 for counts in told[: len(about)])
    assert all(len(counts) == 1 and counts.total() >= 3 for counts in told[len(about) :])


def test_conversations_lean_on_what_was_said(world: ConversationWorld) -> None:
    spoken = [*world.spoken("train"), *world.spoken("test")]
    depths = Counter(s.turn.depth for s in spoken)
    assert set(depths) == set(range(1, 7))
    assert min(depths[i] for i in (1, 2, 3)) > depths[6]
    kinds = Counter(s.turn.meta["ellipsis"] for s in spoken)
    assert set(kinds) == {"full", "pronoun", "omission", "switch", "new topic"}
    for s in spoken:
        named = s.entity in s.turn.query
        assert named == (s.turn.meta["ellipsis"] in {"full", "switch", "new topic"})
        assert (s.relation in s.turn.query.split()) == (s.turn.meta["ellipsis"] != "switch")
        said = [word for exchange in s.turn.history for word in (exchange.query, exchange.answer)]
        assert named or any(s.entity in text for text in said), "who is meant can be found in the history"
        assert s.turn.meta["ellipsis"] != "switch" or s.relation in s.turn.history[-1].query or s.turn.depth > 2
        assert set(s.entities) >= {s.entity}
        assert s.turn.rewrite == f"who {s.relation} {s.entity}"
        assert s.turn.meta["ellipsis"] != "pronoun" or set(s.turn.query.split()) & set(PRONOUNS)


def test_no_training_conversation_mentions_an_unseen_entity(world: ConversationWorld) -> None:
    unseen = {entity.name for entity in world.entities if entity.unseen}
    assert len(unseen) == 80
    assert not any(unseen & set(s.entities) for s in world.spoken("train"))
    share = np.mean([bool(turn.meta["unseen"]) for turn in world.turns("test")])
    assert 0.1 < share < 0.3
    assert {turn.gold for turn in world.turns("test")} - {turn.gold for turn in world.turns("train")}


def test_gold_passages_are_in_the_collection(world: ConversationWorld, index: Index) -> None:
    turns = [*world.turns("train"), *world.turns("test")]
    assert list(admit(turns, index)) == turns


def test_the_same_config_gives_the_same_world_and_another_seed_another(world: ConversationWorld) -> None:
    again = ConversationWorld(ConversationWorldConfig())
    assert again.passages == world.passages
    assert again.spoken("test") == world.spoken("test")
    assert list(islice(again.rehearsals(3), 50)) == list(islice(world.rehearsals(3), 50))
    assert ConversationWorld(ConversationWorldConfig(seed=1)).entities != world.entities


def test_rehearsals_say_every_name_word_and_tell_of_nobody(world: ConversationWorld) -> None:
    spoken = list(islice(world.rehearsals(), 6000))
    said = {word for s in spoken for name in s.entities for word in name.split()}
    assert said == {*world.singles, *world.firsts, *world.families}
    vocabulary = set(world.words)
    for s in spoken[:500]:
        assert set(s.turn.query.split()) | {w for e in s.turn.history for w in e.answer.split()} <= vocabulary


def test_expansions_pay_where_the_vocabularies_differ(world: ConversationWorld, index: Index) -> None:
    """The premise of the card: a literal rewrite is far from optimal, one with the passages' own words comes near."""
    spoken, rng = world.spoken("test"), np.random.default_rng(0)
    service = RankService(index)
    golds = [s.turn.gold for s in spoken]

    def mrr(queries: list[str]) -> float:
        return float(np.mean([1 / rank if rank else 0.0 for rank in service.best_ranks(queries, golds)]))

    literal = mrr([s.turn.rewrite for s in spoken])
    expanded = [f"{s.turn.rewrite} {' '.join(rng.choice(VOCABULARY[s.relation], 4, replace=False))}" for s in spoken]
    raw, best = mrr([s.turn.query for s in spoken]), mrr(expanded)
    assert raw < 0.2
    assert 0.4 < literal < 0.6
    assert best > 0.8


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"entities": 3}, "entities = 3"), ({"unseen": 1.0}, "unseen"), ({"min_turns": 5, "max_turns": 4}, "raise it")],
)
def test_bad_input(settings: dict[str, float], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        ConversationWorldConfig(**settings)  # type: ignore[arg-type]


def test_real_files_take_the_place_of_the_world(tmp_path: Path) -> None:
    """TopiOCQA's own shape against an index of the passages that the user supplies."""
    import json

    from ken.core.conversation import read_turns

    passages = [{"id": "1", "contents": '"Emma"\nEmma is a novel by Jane Austen.'}, {"id": "2", "contents": "Kent."}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, passages)), encoding="utf-8")
    record = {"qid": "t_1_1", "question": "who wrote Emma", "context": [], "positive_ctxs": [{"passage_id": "1"}]}
    (tmp_path / "train.json").write_text(json.dumps([record]), encoding="utf-8")
    index = Index.build(tmp_path / "corpus.jsonl", tmp_path / "index")
    (turn,) = admit(read_turns(tmp_path / "train.json"), index)
    assert RankService(index).best_ranks([turn.query], [turn.gold]) == [1]
