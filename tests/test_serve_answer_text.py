"""What is streamed of an answer is the answer, wherever the text is cut into pieces."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents import Direct, SearchLoop
from ken.agents.protocol import parse_answer
from ken.agents.watch import Watch
from ken.core import Answer, Passage, Question
from ken.models.scripted import ScriptedModel
from ken.serving.answer_text import AnswerText, cut
from ken.sources import Sources

WELL_FORMED = [
    "<think> maps </think><answer> Nairobi </answer>",
    "<answer>Nairobi</answer>",
    "so <answer>\n a < b, <b>bold</b> and </ans and 2 <<answ 3 \n</answer>",
    "<think>x</think> <answer> see <search>q and </think> too </answer>",
    "<think>the <b> of <thin </think>\n\n<answer>Ω𝄞 é</answer>",
]


def told(text: str, cuts: list[int], *, answers_from: int | None = 1, stops: tuple[str, ...] = ()) -> tuple[str, str]:
    """What is shown and what is thought when `text` comes in pieces cut at `cuts`."""
    reader = AnswerText(answers_from, stops)
    reader.turn()
    places = sorted({min(place, len(text)) for place in cuts} | {0, len(text)})
    shown = thought = ""
    for start, end in pairwise(places):
        shown += reader.wrote(text[start:end])
        thought += reader.thought()
        assert shown == reader.shown
    return shown, thought


@pytest.mark.parametrize("text", WELL_FORMED)
def test_every_cut_of_a_turn_shows_its_answer_and_its_thought(text: str) -> None:
    answer = parse_answer(text)
    assert isinstance(answer, Answer)
    _, thought = told(text, [])
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1, 7):
            assert told(text, [first, second]) == (answer.text, thought)
    assert told(text, list(range(len(text)))) == (answer.text, thought)


@given(
    text=st.lists(
        st.sampled_from(
            [
                "<answer>",
                "</answer>",
                "<think>",
                "</think>",
                "<search>",
                "</search>",
                "<",
                ">",
                "</",
                " ",
                "\n",
                "a",
                "bc",
            ]
        ),
        max_size=14,
    ).map("".join),
    cuts=st.lists(st.integers(0, 80), max_size=12),
    cut_off=st.booleans(),
)
@pytest.mark.parametrize("strategy", [Direct(), SearchLoop(max_turns=1)])
def test_nothing_is_shown_that_is_not_the_answer_or_it_is_known(
    strategy: Direct | SearchLoop, text: str, cuts: list[int], cut_off: bool
) -> None:
    """Whatever a model writes: at the end, what was shown is the answer, or `end` says that it is not."""

    class Nowhere:
        name = "nowhere"

        async def search(self, query: str, k: int) -> list[Passage]:
            return []

        async def close(self) -> None: ...

    reader = AnswerText(strategy.answers_from)
    shown = []

    class Pieces(Watch):
        def turn(self) -> None:
            reader.turn()

        def wrote(self, piece: str) -> None:
            places = sorted({min(place, len(piece)) for place in cuts} | {0, len(piece)})
            shown.extend(reader.wrote(piece[a:b]) for a, b in pairwise(places))

    replies = iter([text if cut_off else f"{text}</answer>", "<answer>last</answer>"])
    model = ScriptedModel(lambda _: next(replies, "<answer>last</answer>"))
    trajectory = asyncio.run(strategy.run(Question(id="q", text="?"), model, Sources(search=Nowhere()), watch=Pieces()))
    assert "".join(shown) == reader.shown
    if trajectory.answer is not None:
        before = reader.shown
        rest = reader.end(trajectory.answer)
        if rest is None:
            assert not trajectory.answer.startswith(before)
            assert trajectory.malformed, "only where a turn broke the protocol"
        else:
            assert before + rest == trajectory.answer


@given(text=st.text(alphabet="ab. ", max_size=20), stop=st.sampled_from(["b.", ". ", "ab", "."]))
def test_stop_strings_end_what_is_shown_however_it_is_cut(text: str, stop: str) -> None:
    reader = AnswerText(1, (stop,))
    reader.turn()
    shown = "".join(reader.wrote(piece) for piece in ["<answer>", *text, "</answer>"])
    answer = parse_answer(f"<answer>{text}</answer>")
    if isinstance(answer, Answer):
        rest = reader.end(answer.text)
        assert rest is not None
        assert shown + rest == cut(answer.text, (stop,))


def test_a_verdict_shows_nothing_even_if_it_holds_an_answer() -> None:
    reader = AnswerText(2)
    reader.turn()
    assert reader.wrote("<answer>Lyon</answer><assessment>yes</assessment>") == ""
    reader.turn()
    assert reader.wrote("<answer>Paris</answer>") == "Paris"
    assert reader.end("Paris") == ""


def test_thoughts_of_later_turns_begin_on_a_new_line() -> None:
    reader = AnswerText(2)
    told = ""
    for turn in (["<think>I kn", "ow", "</think><assessment>"], ["no thought"], ["<think>", "it", " is</think>"]):
        reader.turn()
        for piece in turn:
            reader.wrote(piece)
            told += reader.thought()
    assert told == "I know\nit is"


def test_a_strategy_that_may_drop_an_answer_shows_it_at_the_end_alone() -> None:
    assert told("<answer>Lyon</answer>", [], answers_from=None)[0] == ""
    assert AnswerText(None).end("Paris") == "Paris"


def test_an_answer_that_was_cut_off_and_given_again_otherwise_is_noticed() -> None:
    reader = AnswerText(1)
    reader.turn()
    assert reader.wrote("<answer>Lyon is") == "Lyon is"
    reader.turn()
    assert reader.wrote("<answer>Paris</answer>") == ""
    assert reader.end("Paris") is None


def test_an_answer_that_was_cut_off_and_completed_goes_on_where_it_stood() -> None:
    reader = AnswerText(1)
    reader.turn()
    assert reader.wrote("<answer>Par") == "Par"
    reader.turn()
    assert reader.wrote("<answer>Paris</answer>") == "is"
