"""A model that keeps its greedy replies: asked once, whoever asks, and never wrong about what was asked."""

from __future__ import annotations

import asyncio

import pytest

from ken.core import ModelError, Sampling
from ken.models import Message, Model
from ken.models.kept_replies import KeptReplies
from ken.models.scripted import ScriptedModel


def asked(text: str) -> list[Message]:
    return [Message("user", text)]


def test_the_same_greedy_question_is_asked_once_also_at_the_same_time():
    inner = ScriptedModel(lambda prompt: f"reply to {prompt}")
    model = KeptReplies(inner)
    assert isinstance(model, Model)

    async def many() -> list[str]:
        first = await asyncio.gather(*(model.generate(asked("a")) for _ in range(5)), model.generate(asked("b")))
        return [one.text for (one,) in [*first, await model.generate(asked("a"), sampling=Sampling(seed=7))]]

    assert asyncio.run(many()) == ["reply to a"] * 5 + ["reply to b", "reply to a"]
    assert [call.prompt for call in inner.calls] == ["a", "b"]
    assert asyncio.run(model.generate(asked("b")))[0].text == "reply to b"  # on another loop
    assert len(inner.calls) == 2


def test_what_is_sampled_or_differs_in_anything_but_the_seed_is_asked_again():
    inner = ScriptedModel(lambda prompt: "x")
    model = KeptReplies(inner)

    async def many() -> None:
        for sampling in (Sampling(), Sampling(max_tokens=3), Sampling(stop=(".",)), *[Sampling(temperature=1.0)] * 2):
            await model.generate(asked("a"), sampling=sampling)
        await model.generate(asked("a"), n=2)
        await model.generate(asked("a"), on_text=lambda piece: None)

    asyncio.run(many())
    assert len(inner.calls) == 7


def test_a_failure_is_not_kept_and_those_who_waited_hear_of_it():
    left = [ModelError("down"), "up"]

    def reply(prompt: str) -> str:
        said = left.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    model = KeptReplies(ScriptedModel(reply))

    async def many() -> None:
        both = await asyncio.gather(*(model.generate(asked("a")) for _ in range(2)), return_exceptions=True)
        assert [type(one) for one in both] == [ModelError, ModelError]
        assert (await model.generate(asked("a")))[0].text == "up"

    asyncio.run(many())


def test_one_who_waits_and_is_cancelled_cancels_nobody_else():
    async def many() -> None:
        model = KeptReplies(ScriptedModel(lambda prompt: "x"))
        first, second = (asyncio.ensure_future(model.generate(asked("a"))) for _ in range(2))
        await asyncio.sleep(0)
        second.cancel()
        assert (await first)[0].text == "x"
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(many())


def test_other_attributes_are_those_of_the_model():
    inner = ScriptedModel(lambda prompt: "x", spec="some")
    assert KeptReplies(inner).calls is inner.calls
    assert KeptReplies(inner).spec == "some"
