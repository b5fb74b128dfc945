"""The verification world: labels hold by the tools' own word, items are hard to guess, and what is trained on is what a
verifier will see."""

from __future__ import annotations

import asyncio
from collections import Counter
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest

from ken.agents.equivalence import Equivalence
from ken.agents.verifiers import RuleVerifier
from ken.agents.verify_loop import VerifyLoop, verify_instruction
from ken.core import BadInput, Observation
from ken.lab.verification import (
    KINDS,
    TAIL,
    UNITS,
    Item,
    VerificationWorld,
    VerificationWorldConfig,
    decimal,
    difficult,
    draw,
    polynomial,
)
from ken.metrics.final_answer import final_answer
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.sources.tools.exact import ExactAlgebra
from ken.sources.tools.units import UnitTool

SIZES = VerificationWorldConfig(train=1200, dev=60, test=120, tail=40)


@cache
def world() -> VerificationWorld:
    return VerificationWorld(SIZES)


def judged_by_script(item: Item) -> tuple[str | None, list[str]]:
    """What the loop makes of the calls that an item names, with real tools, and what these said."""
    turns = [f"<{tool}>{content}</{tool}>" for tool, content in item.calls]

    def reply(prompt: str) -> str:
        done = prompt.count("\n\n<response>")
        if done < len(turns):
            return turns[done]
        said = prompt.rpartition("<response>")[2].partition("</response>")[0]
        right = said in {"0", "True"} if turns else item.right
        return "[Correct]" if right else "[Incorrect]"

    async def work() -> tuple[str | None, list[str]]:
        loop = VerifyLoop((UnitTool(), ExactAlgebra()), max_turns=3)
        made = await loop.run(item.as_question("i"), ScriptedModel(reply), Sources())
        return made.answer, [step.note for step in made.steps if isinstance(step, Observation)]

    return asyncio.run(work())


@pytest.mark.parametrize("kind", [*KINDS, *TAIL])
def test_labels_hold_by_the_word_of_the_tools(kind: str) -> None:
    rng = np.random.default_rng(7)
    for number in range(20):
        item = draw(kind, number % 2 == 0, SIZES, rng)
        label, said = judged_by_script(item)
        assert label == item.label, (item, said)
        if item.converted:
            assert said[0].split()[0] == item.converted
        assert final_answer(item.response) == item.answer
        assert len(set(item.worked)) == (1 if item.right else 2)


def test_rules_with_units_and_constants_agree_with_every_label_that_is_computed() -> None:
    """Two readings that know nothing of each other: how an item was made, and what its text says."""

    async def wrong(verifier: RuleVerifier) -> Counter[str]:
        said = [await verifier.verify(i.question, i.reference, i.response) for i in (*world().test, *world().tail)]
        items = (*world().test, *world().tail)
        return Counter(i.kind for i, one in zip(items, said, strict=True) if one.label != i.label)

    assert set(asyncio.run(wrong(RuleVerifier(Equivalence(algebra=False))))) <= {"text"}
    less = asyncio.run(wrong(RuleVerifier(Equivalence(units=False, algebra=False), constants=False)))
    assert (less["unit"], less["constant"], less["temperature"]) == (10, 10, 10)
    assert set(less) <= {"unit", "constant", "temperature", "text"}


def test_every_pair_of_units_is_what_pint_says() -> None:
    tool = UnitTool()
    assert len(UNITS) == 20
    for unit, to, factor in UNITS:
        assert tool.converted(1.0, unit, to) == pytest.approx(float(factor))


def test_wrong_numbers_are_near_but_beyond_every_tolerance() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        item = draw("number", False, SIZES, rng)
        gold, said = (Fraction(value) for value in item.worked)
        assert abs(said - gold) >= Fraction(3, 100) * gold


def test_splits_do_not_overlap_and_rare_kinds_are_rare() -> None:
    held = {(i.question, i.reference, i.response) for i in (*world().test, *world().tail, *world().dev)}
    trained = world().training(augmented=False)
    more = world().of_kind("text", 300)
    assert {item.kind for item in more} == {"text"}
    assert not held & {(i.question, i.reference, i.response) for i in (*trained, *more)}
    counts = Counter(item.kind for item in trained)
    assert all(0.005 < counts[kind] / len(trained) < 0.05 for kind in TAIL)
    augmented = Counter(item.kind for item in world().training())
    assert all(augmented[kind] > 3 * counts[kind] for kind in TAIL)
    assert Counter(item.kind for item in world().test) == dict.fromkeys(KINDS, 20)
    assert {item.kind for item in world().tail} == set(TAIL)


def test_half_of_each_kind_is_right_and_a_label_cannot_be_read_off_a_distractor() -> None:
    by_kind = {kind: [item.right for item in world().test if item.kind == kind] for kind in KINDS}
    assert all(sum(right) == 10 for right in by_kind.values())
    tempted = [item for item in world().training() if "I first tried" in item.response]
    assert {item.right for item in tempted} == {True, False}
    assert any(f"tried {item.reference}." in item.response for item in tempted if not item.right)


def test_items_that_a_verifier_is_not_sure_of_are_difficult() -> None:
    items = world().test[:3]
    labels = [[items[0].label] * 4, [items[1].label, "", "Correct", "Incorrect"], [""] * 4]
    assert difficult(items, labels) == [items[1]]


def test_numbers_are_written_as_people_do() -> None:
    assert [polynomial(c) for c in ([1, -2, 6], [0, -1, 0], [0, 0, 0])] == ["x^2-2x+6", "-x", "0"]
    assert [decimal(Fraction(v)) for v in ("0.375", "-12", "100")] == ["0.375", "-12", "100"]
    with pytest.raises(ValueError, match="no short decimal"):
        decimal(Fraction(1, 3))
    with pytest.raises(BadInput, match="cannot have train"):
        VerificationWorldConfig(train=0)


# --- the base model --------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from ken.training.verification_base import build_tokenizer

    return build_tokenizer()


@pytest.mark.parametrize("manner", ["tools", "thoughts", "label"])
def test_traces_are_spelt_out_without_loss_and_only_the_verifiers_part_is_learnt(tokenizer: Any, manner: Any) -> None:
    from ken.training.lab_tokenizer import encode
    from ken.training.verification_base import trace

    items = world().training()[:300]
    for item, example in zip(items, encode([trace(item, manner) for item in items], tokenizer), strict=True):
        assert tokenizer.unk_token_id not in example.ids, item
        assert len(example.ids) <= 256
        text = tokenizer.decode(list(example.ids))
        learnt = tokenizer.decode([i for i, learn in zip(example.ids, example.learn, strict=True) if learn])
        assert item.response in text
        assert item.response not in learnt
        assert "<response>" not in learnt
        assert learnt.endswith(f"[{item.label}]<eos>")
        assert learnt.count("<code>") == (sum(tool == "code" for tool, _ in item.calls) if manner == "tools" else 0)


def test_what_is_trained_on_is_what_the_loop_shows(tokenizer: Any) -> None:
    """The prompt of a trace is, token by token, what the chat template makes of an attempt's messages."""
    from ken.agents.verify_loop import shown
    from ken.training.lab_tokenizer import encode
    from ken.training.verification_base import trace

    item = next(item for item in world().test if item.kind == "unit")
    (example,) = encode([trace(item, "tools")], tokenizer)
    instruction = verify_instruction("tools").token
    messages = [
        {"role": "system", "content": instruction},
        {"role": "user", "content": shown(item.question, item.reference, item.response)},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    prompt = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert list(example.ids[: len(prompt)]) == prompt
    assert example.learn[len(prompt)]
