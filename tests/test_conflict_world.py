"""The world of conflicts: every case knows what is inside, what outside, and what is right (card 57)."""

import pytest

from ken.core import BadInput
from ken.lab.conflict import KINDS, ConflictConfig, ConflictWorld, shares

WORLD = ConflictWorld(ConflictConfig(known=40, new=20, values=8))


def test_the_default_world_has_the_cards_size():
    world = ConflictWorld()
    assert (len(world.known), len(world.attributes), len(world.facts)) == (500, 6, 3000)
    assert all(len(values) >= 40 for values in world.values.values())
    names = [*world.entities, *world.attributes, *(v for values in world.values.values() for v in values)]
    assert len(set(names)) == len(names)
    assert not any(" " in name for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_inside_and_outside_is_what_the_kind_says(kind):
    for case in WORLD.cases(kind, 50, "test"):
        known = case.entity in WORLD.known
        assert case.memory == (WORLD.facts[case.entity, case.attribute] if known else None)
        assert known == (kind != "new-entity")
        assert (case.context is None) == (kind == "no-evidence")
        if kind in ("conflict", "agree"):
            assert (case.context == case.memory) == (kind == "agree")
        assert case.answer == (case.context or case.memory)
        assert case.question.answers == (case.answer,)
        assert case.answer in WORLD.values[case.attribute]


@pytest.mark.parametrize("noise", [0, 2, 4])
def test_the_gold_document_stands_among_noise_about_other_things(noise):
    places = set()
    for case in WORLD.cases("conflict", 60, "test"):
        texts = [document.text for document in case.documents(noise)]
        gold = f"{case.attribute} of {case.entity} {case.context} ."
        assert len(texts) == noise + 1
        assert texts.count(gold) == 1
        places.add(texts.index(gold))
        said = [text.split() for text in texts]
        assert len({words[0] for words in said}) == len({words[2] for words in said}) == noise + 1
        assert all(WORLD.facts[words[2], words[0]] == words[3] for words in said if words[2] != case.entity)
    assert places == set(range(noise + 1))


def test_without_evidence_there_is_still_a_document():
    for case in WORLD.cases("no-evidence", 20, "dev"):
        (document,) = case.documents()
        assert case.entity not in document.text
        assert case.attribute not in document.text.split()


def test_splits_share_no_question_and_draws_differ():
    def asked(split, draw=0):
        return {(c.entity, c.attribute) for c in WORLD.cases("conflict", 100, split, draw=draw)}

    assert not asked("dev") & asked("test")
    assert not asked("dev", 1) & asked("test", 2)
    assert asked("test") != asked("test", 1)
    assert WORLD.cases("conflict", 9, "test") == ConflictWorld(WORLD.config).cases("conflict", 9, "test")


def test_answers_are_counted_by_where_they_come_from():
    cases = WORLD.cases("conflict", 4, "test")
    assert shares(cases, [cases[0].context, cases[1].memory, "nothing", None]) == {
        "acc": 0.25,
        "context_rate": 0.25,
        "memory_rate": 0.25,
        "other_rate": 0.5,
    }
    (agreed,) = WORLD.cases("agree", 1, "test")
    assert shares([agreed], [agreed.answer]) == {"acc": 1, "context_rate": 1, "memory_rate": 1, "other_rate": 0}
    with pytest.raises(ValueError, match="2 answers"):
        shares(cases, ["a", "b"])


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInput, match="ask for fewer"):
        WORLD.cases("conflict", 1000, "test")
    with pytest.raises(BadInput, match="noise documents"):
        WORLD.cases("conflict", 1, "test")[0].documents(9)
    with pytest.raises(BadInput, match="attributes"):
        ConflictConfig(attributes=99)
