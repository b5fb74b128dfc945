"""A scripted model behaves like a model: it stops, it is cut, it counts, it can fail."""

from __future__ import annotations

import asyncio

import pytest

from ken.core import ModelError, Sampling, Unsupported
from ken.models import Instruction, Message, Model
from ken.models.scripted import ScriptedModel

CONVERSATION = [Message("system", Instruction(text="Be brief.", token="<brief>")), Message("user", "Who wrote Emma?")]


def generate(model: ScriptedModel, n: int = 1, **sampling):
    return asyncio.run(model.generate(CONVERSATION, n=n, sampling=Sampling(**sampling)))


def test_it_is_a_model_and_replies_to_the_rendered_prompt():
    model = ScriptedModel(lambda prompt: f"[{prompt}]")
    assert isinstance(model, Model)
    assert generate(model)[0].text == "[Be brief.\n\nWho wrote Emma?]"
    assert generate(ScriptedModel(lambda prompt: prompt, control_tokens=True))[0].text == "<brief>\n\nWho wrote Emma?"


def test_it_stops_after_the_first_stop_string():
    model = ScriptedModel(lambda prompt: "<a> x </a> <b> y </b>")
    [generation] = generate(model, stop=("</b>", "</a>"))
    assert (generation.text, generation.ended) == ("<a> x </a>", "stop")


def test_it_is_cut_after_max_tokens_words():
    [generation] = generate(ScriptedModel(lambda prompt: "one two  three four"), max_tokens=3)
    assert (generation.text, generation.ended) == ("one two  three", "length")
    assert generation.usage.completion_tokens == 3
    assert generation.usage.prompt_tokens == 5


def test_samples_are_separate_replies_and_a_sequence_holds_one_for_each():
    counter = iter("abc")
    assert [g.text for g in generate(ScriptedModel(lambda prompt: next(counter)), n=3)] == ["a", "b", "c"]
    assert [g.text for g in generate(ScriptedModel(lambda prompt: ["x", "y"]), n=3)] == ["x", "y", "x"]


def test_calls_are_recorded():
    model = ScriptedModel(lambda prompt: "ok")
    generate(model, n=2, temperature=0.5)
    [call] = model.calls
    assert (call.n, call.sampling.temperature, list(call.conversation)) == (2, 0.5, CONVERSATION)


def test_what_the_script_raises_reaches_the_caller():
    def fail(prompt: str) -> str:
        raise ModelError("the server is gone")

    with pytest.raises(ModelError, match="gone"):
        generate(ScriptedModel(fail))


def test_log_probabilities_are_scripted_too_and_tokens_spell_the_text():
    [generation] = generate(ScriptedModel(lambda prompt: "a  bb\n", logprob=lambda token: -float(len(token))))
    assert "".join(generation.tokens or ()) == generation.text == "a  bb\n"
    assert generation.logprobs == (-1.0, -4.0, -1.0)
    assert generate(ScriptedModel(lambda prompt: "a"))[0].tokens is None


def test_it_cannot_score():
    with pytest.raises(Unsupported, match="local model"):
        asyncio.run(ScriptedModel(lambda prompt: "").score(CONVERSATION, "x"))
