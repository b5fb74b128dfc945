"""Tool use: a strict transcript, a scorer per source, and a penalty on the model's own length (TAPO, card 22)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import GOLD, failed, question

from ken.core import BadInput, Segment, Trajectory, Usage
from ken.training.rewards.tools import (
    SCORERS,
    _levenshtein,
    accuracy,
    answer_score,
    format_problem,
    normalize,
    overlong,
    scorer_of,
    tool_use,
)

T, S, K, R, A = (f"<{tag}>x</{tag}>" for tag in ("think", "search", "code", "response", "answer"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (A, None),
        (T + A, None),
        (f"\n{T}\n{S}\n\n{R}\n\n{T}{K}\n\n{R}\n{T}\n{A}\n", None),
        (T + S + "<information>x</information>" + A, None),
        (T, "no <answer> at the end"),
        (A + T, "no <answer> at the end"),
        ("", "no <answer> at the end"),
        (T + "so" + A, "text outside of tags"),
        (A + ".", "text outside of tags"),
        ("hm", "text outside of tags"),
        (T + "<browse>x</browse>" + A, "an unknown tag <browse>"),
        (T + "<think>x" + A, "<think> is not closed"),
        (T + "<answer>x", "<answer> is not closed"),
        (T + "</search>" + A, "text outside of tags"),
    ],
)
def test_a_transcript_is_blocks_of_known_tags_that_end_with_an_answer(text: str, problem: str | None) -> None:
    assert format_problem(text) == problem


def test_only_enabled_tools_are_known() -> None:
    assert format_problem(S + R + A, ["search"]) is None
    assert format_problem(K + R + A, ["search"]) == "an unknown tag <code>"
    assert format_problem(S + A, []) == "an unknown tag <search>"
    assert format_problem("<sql>x</sql>" + A, ["sql"]) is None


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" Paris ", "paris"),
        ("Twelve", "12"),
        ("one", "1"),
        ("one two", "one two"),
        ("1,234", "1234"),
        ("1,234,567.5 km", "1234567.5 km"),
        ("1,2,3", "1,2,3"),  # a list, not thousands
        ("12,34", "12,34"),
        ("1234,567", "1234,567"),
        ("−5", "-5"),
    ],
)
def test_answers_are_normalised(text: str, normal: str) -> None:
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("source", "answer", "gold", "score"),
    [
        ("gsm8k", "1,234", "1234", 1),
        ("dapo_math", "1234.0", "1234", 0),  # exact strings
        ("deep_math", "x", "X", 1),
        ("aime2024", "seven", "7", 1),
        ("default", "", "", 0),
        ("nq", "the city of Paris", "Paris", 1),
        ("nq", "Pariz", "Paris", 0.8),
        ("nq", "Berlin", "Paris", 0),
        ("nq", "ab", "ax", 0),  # half of it is wrong: not below 0.5
        ("nq", "kitten", "sitting", 1 - 3 / 7),
        ("nq", "", "Paris", 0),
        ("calculator", "3.1415", "3.1416", 1),
        ("calculator", "3.14", "3.1416", 0),
        ("calculator", "1,000", "1000", 1),
        ("calculator", "1+2j", "1+2j", 1),
        ("calculator", "1 + 2i", "1+2j", 1),
        ("calculator", "1+2j", "1", 0),
        ("calculator", "about 5", "5", 0),
        ("calculator", "nan", "5", 0),
        ("calculator", "1e999", "5", 0),
        ("calculator", "1.7e308+1.7e308j", "-1.7e308", 0),
        ("complex", "104", "100", 1),
        ("complex", "105", "100", 0),  # 5% is not below 5%
        ("complex", "96", "100", 1),
        ("complex", "about 5.1 people per km2", "5", 1),
        ("complex", "1,010 inhabitants", "1000", 1),
        ("complex", "-98", "-100", 1),
        ("complex", "98", "-100", 0),
        ("complex", "0.0005", "0", 1),
        ("complex", "0.1", "0", 0),
        ("complex", "none", "5", 0),
        ("complex", "1e999", "5", 0),
    ],
)
def test_every_source_has_its_scorer(source: str, answer: str, gold: str, score: float) -> None:
    assert scorer_of(source)(normalize(answer), normalize(gold)) == pytest.approx(score)


def test_unknown_sources_and_golds_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match=r"'trivia'; there are default, gsm8k, .*complex and aime…"):
        scorer_of("trivia")
    for source in ("calculator", "complex"):
        with pytest.raises(BadInput, match="'five of them' is not a number"):
            scorer_of(source)("5", "five of them")
    assert scorer_of("trivia", {**SCORERS, "trivia": lambda a, g: 0.5})("a", "g") == 0.5


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_levenshtein_is_the_recursive_definition(a: str, b: str) -> None:
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return slow(a[1:], b[1:])
        return 1 + min(slow(a[1:], b), slow(a, b[1:]), slow(a[1:], b[1:]))

    assert _levenshtein(a[:5], b[:5]) == slow(a[:5], b[:5])
    assert abs(len(a) - len(b)) <= _levenshtein(a, b) == _levenshtein(b, a) <= max(len(a), len(b))


@pytest.mark.parametrize(("tokens", "penalty"), [(0, 0), (1000, 0), (1024, 0), (1536, -0.5), (2048, -1), (2560, -1.5)])
def test_only_the_last_stretch_of_the_length_costs(tokens: int, penalty: float) -> None:
    assert overlong(tokens, length=2048) == pytest.approx(penalty)
    assert overlong(tokens, length=2048, weight=2) == pytest.approx(2 * penalty)


@pytest.mark.parametrize(("length", "buffer"), [(100, 1024), (100, 0)])
def test_a_buffer_that_does_not_fit_is_refused(length: int, buffer: int) -> None:
    with pytest.raises(BadInput, match="buffer of the length penalty"):
        overlong(1, length=length, buffer=buffer)


@pytest.mark.parametrize(("score", "right"), [(1, True), (0.91, True), (0.9, False), (0.5, False), (-1, False)])
def test_partial_credit_is_not_accuracy(score: float, right: bool) -> None:
    assert accuracy(score) is right


def transcript(*parts: str, golds: tuple[str, ...] = (GOLD,), ids: int | None = 10, **meta: object) -> Trajectory:
    """Parts by turns of the policy and the environment."""
    segments = [Segment(role="prompt", text="<answer> example </answer>", token_ids=(0,) * 50)]
    for place, text in enumerate(parts):
        role = "observation" if place % 2 else "policy"
        segments.append(Segment(role=role, text=text, token_ids=None if ids is None else (1,) * ids))
    return Trajectory(
        question=question(golds=golds, **meta),
        strategy="tools",
        segments=tuple(segments),
        usage=Usage(completion_tokens=7),
    )


def said(answer: str) -> str:
    return f"{T}<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("trajectory", "score"),
    [
        (transcript(said("Lisbon")), 1),
        (transcript(said("Porto")), 0),
        (transcript(T + S, R, said("Lisbon")), 1),
        (transcript(T + K, "\n\n" + R, said("Porto")), 0),
        (transcript("hm"), -1),
        (transcript("hm " + said("Lisbon")), -1),
        (transcript(T + S + R + said("Lisbon")), -1),  # the policy wrote the tool's response itself
        (transcript(T + S, " That was not a valid action. ", said("Lisbon")), -1),
        (transcript(), -1),
        (transcript(said("x" * 100 + "Lisbon"), source="nq"), 1),
        (transcript(said("Lisbon" + "x" * 95), source="nq"), 0),  # pushed out of the last 100 characters
        (transcript(said("Lisboa"), source="nq"), 1 - 1 / 6),
        (transcript(said("12"), source="complex", golds=("3", "12.2")), 1),  # the best gold
        (failed(transcript("hm")), 0),
    ],
)
def test_a_broken_format_costs_one_and_otherwise_the_answer_counts(trajectory: Trajectory, score: float) -> None:
    assert answer_score(trajectory) == pytest.approx(score)
    assert tool_use(trajectory) == pytest.approx(score)


def test_tools_that_are_not_enabled_break_the_format() -> None:
    assert answer_score(transcript(T + S, R, said("Lisbon")), tools=["code"]) == -1


def test_the_length_penalty_counts_what_the_model_wrote_and_not_what_tools_returned() -> None:
    long = transcript(T + S, R * 50, said("Lisbon"), ids=60)  # 2 × 60 tokens written, 60 observed, 50 of prompt
    assert tool_use(long, length=120, buffer=40) == pytest.approx(0)
    assert tool_use(long, length=140, buffer=40) == pytest.approx(0.5)
    assert tool_use(long, length=160, buffer=40) == pytest.approx(1)
    assert tool_use(transcript("hm", ids=120), length=120, buffer=40) == pytest.approx(-2)
    assert tool_use(failed(long), length=120, buffer=40) == 0
    assert tool_use(transcript(said("Lisbon"), ids=None), length=10, buffer=4) == pytest.approx(0.75)  # by the usage


@given(st.text(max_size=40), st.sampled_from(sorted(SCORERS)))
def test_nothing_that_is_written_makes_it_raise(text: str, source: str) -> None:
    for output in (text, said(text), T + text):
        assert -1 <= answer_score(transcript(output, golds=("12",), source=source)) <= 1


@given(
    st.lists(st.sampled_from([T, S, K, R, A, "<think>", "</answer>", " ", "x", "<b>x</b>"]), max_size=8).map("".join)
)
def test_a_transcript_is_fine_iff_it_can_be_taken_apart(text: str) -> None:
    rest = text.strip()
    blocks = []
    while block := next((b for b in (T, S, K, R, A) if rest.startswith(b)), None):
        blocks.append(block)
        rest = rest[len(block) :].lstrip()
    if not rest:
        assert (format_problem(text) is None) is (bool(blocks) and blocks[-1] == A)
