"""Servers strip stop strings or keep them, name them or not, and give tokens that say more or less than the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.core import ModelError
from ken.models.chat_completions import BrokenReply, Choice, Reply, complete, excerpt, read_reply
from ken.models.failures import rejected_parameters

STOPS = ("</search>", "</answer>")


def reply(**choice: Any) -> Reply:
    return read_reply(json.dumps({"choices": [choice]}).encode())


def tokens(*pieces: str) -> dict[str, Any]:
    return {"content": [{"token": piece, "logprob": -0.5} for piece in pieces]}


@pytest.mark.parametrize(
    ("choice", "text", "ended"),
    [
        (Choice("<answer> Paris </answer>", "stop"), "<answer> Paris </answer>", "stop"),  # Transformers keeps it
        (Choice("<answer> Paris ", "stop"), "<answer> Paris </answer>", "stop"),  # OpenAI strips it
        (
            Choice("<search> a </search> <answer> b", "stop"),
            "<search> a </search>",
            "stop",
        ),  # a server that does not stop
        (Choice("<think> t </think> <search> q", "stop"), "<think> t </think> <search> q</search>", "stop"),
        (Choice("<search> <answer> b", "stop"), "<search> <answer> b</answer>", "stop"),  # the tag opened last
        (Choice("I do not know.", "stop"), "I do not know.", "end"),  # the model's own end
        (Choice("<think> open", "stop"), "<think> open", "end"),  # not one of the stop strings
        (Choice("<answer> Par", "length"), "<answer> Par", "length"),
        (Choice("<answer> x </answer> y", "length"), "<answer> x </answer>", "stop"),
        (Choice("plain", "stop", stop_reason="</answer>"), "plain</answer>", "stop"),  # vLLM names it
        (Choice("<answer> x", "content_filter"), "<answer> x", "end"),
        (Choice("<answer> x", ""), "<answer> x", "end"),
        (Choice("", "stop"), "", "end"),
    ],
)
def test_a_text_ends_with_the_stop_string_that_ended_it(choice, text, ended):
    completion = complete(choice, STOPS)
    assert (completion.text, completion.ended) == (text, ended)


def test_a_stop_string_that_is_no_tag_is_put_back_only_when_the_server_names_it():
    assert complete(Choice("A: x", "stop"), ("\nQ:",)).ended == "end"
    assert complete(Choice("A: x", "stop", stop_reason="\nQ:"), ("\nQ:",)).text == "A: x\nQ:"


@pytest.mark.parametrize(
    ("text", "pieces", "expected"),
    [
        ("<answer> x </answer>", ["<answer>", " x ", "</answer>"], ["<answer>", " x ", "</answer>"]),
        ("<answer> x </answer>", ["<answer>", " x ", "</answer>", "<eos>"], ["<answer>", " x ", "</answer>"]),
        ("<answer> x ", ["<answer>", " x ", "</answer>"], ["<answer>", " x ", "</answer>"]),  # vLLM
        ("<answer> x ", ["<answer>", " x "], ["<answer>", " x ", "</answer>"]),  # OpenAI; the last with 0
        ("<answer> x ", ["<answer>", " x ", "</ans"], ["<answer>", " x ", "</ans", "wer>"]),
        ("<answer> x </answer> y", ["<answer>", " x </answer> y"], ["<answer>", " x </answer>"]),
        ("a b", [" a", " b"], ["a", " b"]),  # white space stripped by the server
        ("a b", ["<think>", " a", "</think>", "a", " b"], ["a", " b"]),  # thoughts given apart
        ("a b", ["a", " c"], None),
        ("a b", ["a"], None),
    ],
)
def test_tokens_are_cut_and_completed_so_that_they_spell_the_text(text, pieces, expected):
    [choice] = reply(message={"content": text}, finish_reason="stop", logprobs=tokens(*pieces)).choices
    completion = complete(choice, STOPS)
    if expected is None:
        assert completion.tokens is completion.logprobs is None
        return
    assert list(completion.tokens or ()) == expected
    assert "".join(completion.tokens or ()) == completion.text
    given_tokens = len(expected) - (expected[-1] not in pieces and expected[-1] in ("</answer>", "wer>"))
    assert completion.logprobs == (-0.5,) * given_tokens + (0.0,) * (len(expected) - given_tokens)


def test_a_character_that_is_split_over_tokens_belongs_to_the_token_that_completes_it():
    content = [
        {"token": "\\xe2\\x82", "bytes": [0xE2, 0x82], "logprob": -1.0},
        {"token": "\\xac", "bytes": [0xAC], "logprob": -2.0},
        {"token": " 5", "bytes": [0x20, 0x35], "logprob": -3.0},
    ]
    [choice] = reply(message={"content": "€ 5"}, finish_reason="stop", logprobs={"content": content}).choices
    completion = complete(choice, ())
    assert completion.tokens == ("", "€", " 5")
    assert completion.logprobs == (-1.0, -2.0, -3.0)


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        {"content": None},
        {"content": []},
        {"content": ["x"]},
        {"content": [{"token": "x"}]},
        {"content": [{"token": "x", "logprob": float("nan")}]},
        {"content": [{"token": None, "logprob": -1}]},
        {"content": [{"token": "x", "logprob": -1, "bytes": [999]}]},
        {"content": [{"token": "x", "logprob": -1, "bytes": "x"}]},
    ],
)
def test_log_probabilities_that_cannot_be_used_are_none_and_the_text_stands(logprobs):
    [choice] = reply(message={"content": "x"}, finish_reason="stop", logprobs=logprobs).choices
    completion = complete(choice, ())
    assert (completion.text, completion.tokens, completion.logprobs) == ("x", None, None)


def test_log_probabilities_stay_finite():
    """JSON has no minus infinity, and a trajectory is JSON."""
    body = (
        b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"token": "x", "logprob": -Infinity}]}}]}'
    )
    assert read_reply(body).choices[0].logprobs == (-9999.0,)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_what_a_model_only_thought_is_not_what_it_said(key):
    message = {key: "shall I <search> x </search>?", "content": "<answer> y </answer>"}
    [choice] = reply(message=message, finish_reason="stop").choices
    assert complete(choice, STOPS).text == "<answer> y </answer>"
    [silent] = reply(message={key: "so many thoughts", "content": None}, finish_reason="length").choices
    assert complete(silent, STOPS).text == ""
    assert complete(silent, STOPS).ended == "length"


def test_content_in_parts_and_refusals_are_read():
    assert (
        reply(message={"content": [{"type": "text", "text": "a"}, {"type": "x"}, {"text": "b"}]}).choices[0].text
        == "ab"
    )
    assert reply(message={"content": None, "refusal": "I cannot."}).choices[0].text == "I cannot."


def test_lone_surrogates_do_not_reach_the_log():
    [choice] = read_reply(b'{"choices": [{"message": {"content": "a\\ud800b"}}]}').choices
    assert choice.text.encode("utf-8").decode("utf-8") == choice.text
    assert choice.text[0] + choice.text[-1] == "ab"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"<!DOCTYPE html>\n<html><title> Bad Gateway </title></html>", "an HTML page (Bad Gateway)"),
        (b"<HTML>", "an HTML page"),
        (b"", "an empty body"),
        (b"two\nlines", "'two lines'"),
    ],
)
def test_a_body_is_shown_on_one_line(body, shown):
    assert excerpt(body) == shown


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
messages = st.dictionaries(st.sampled_from(["content", "role", "refusal", "reasoning"]), json_values)
entries = st.dictionaries(st.sampled_from(["token", "logprob", "bytes"]), json_values)
choices = st.dictionaries(
    st.sampled_from(["message", "finish_reason", "logprobs", "stop_reason"]),
    messages | json_values | st.fixed_dictionaries({"content": st.lists(entries)}),
)
replies = st.fixed_dictionaries({"choices": st.lists(choices | json_values), "usage": json_values})


@given(st.binary() | (json_values | replies).map(lambda value: json.dumps(value).encode()))
def test_no_body_whatever_breaks_the_reading(body):
    try:
        parsed = read_reply(body)
    except (BrokenReply, ModelError):
        return
    for choice in parsed.choices:
        completion = complete(choice, STOPS)
        completion.text.encode("utf-8")
        if completion.tokens is not None:
            assert "".join(completion.tokens) == completion.text
            assert len(completion.tokens) == len(completion.logprobs or ())


pieces = st.lists(
    st.sampled_from(["<answer>", "</answer>", "<search>", "</search>", " ", "a", "</", "ans", "wer>", "é"])
)


@given(pieces, st.sampled_from(["stop", "length"]), st.integers(0, 3))
def test_a_completion_ends_at_its_first_stop_string_and_its_tokens_spell_it(given_pieces, finish_reason, stripped):
    text = "".join(given_pieces[: len(given_pieces) - stripped])
    values = tuple(-float(i) for i in range(len(given_pieces)))
    completion = complete(Choice(text, finish_reason, tokens=tuple(given_pieces), logprobs=values), STOPS)
    for stop in STOPS:
        assert stop not in completion.text[:-1]
    assert (completion.ended == "stop") == completion.text.endswith(STOPS)
    assert completion.text.startswith(text) or text.startswith(completion.text)
    if completion.tokens is not None:
        assert "".join(completion.tokens) == completion.text


@given(st.binary() | json_values.map(lambda value: json.dumps({"error": value}).encode()))
def test_no_refusal_whatever_breaks_the_reading(body):
    sent = {"temperature", "seed", "stop"}
    assert rejected_parameters(body, sent) <= sent


@pytest.mark.parametrize(
    ("message", "rejected"),
    [
        ("n > 1 is not supported", {"n"}),
        ("Only n=1 is allowed", {"n"}),
        ("`stop` is not supported", {"stop"}),
        ("stop sequences must be fewer than 4", {"stop"}),
        ("Invalid 'stop': array too long.", {"stop"}),
        ("max_tokens is not supported; use max_completion_tokens", {"max_tokens"}),
        ("please stop; the seed of the problem is n", set()),
        ("the messages are too long, with max_tokens they exceed the context length", set()),
        ("unknown model", set()),
    ],
)
def test_a_parameter_is_told_from_a_plain_word(message, rejected):
    body = json.dumps({"error": {"message": message}}).encode()
    assert rejected_parameters(body, {"n", "stop", "seed", "max_tokens", "temperature"}) == rejected
