"""Reading never raises and takes no more than the protocol allows; writing lets nothing through that could act."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ken.agents.protocol import (
    escape,
    parse_action,
    parse_answer,
    parse_decision,
    parse_steps,
    parse_thoughts,
    render_passages,
)
from ken.core import Answer, Decision, Malformed, Passage, Search, Thought

TAGS = [f"<{slash}{t}>" for t in ("think", "search", "information", "answer", "assessment") for slash in ("", "/")]
CONTROLS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<s>", "</s>", "<bos>", "<eos>", "<pad>"]
CONTROLS += ["<start_of_turn>", "<end_of_turn>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[gMASK]"]
CONTROLS += ["<｜User｜>", "<｜begin▁of▁sentence｜>", "<closed>", "<search_mode>", "<invalid>", "<unk>"]
SCRAPS = [
    "<",
    ">",
    "/",
    "|",
    "＜",
    "＞",
    "﹤",
    "﹥",
    "[",
    "]",
    "answer",
    "yes",
    " ",
    "\n",
    "\u200b",
    "a < b",
    "no",
    "‹",
    "›",
]

hostile = st.lists(
    st.sampled_from([*TAGS, *CONTROLS, *SCRAPS]) | st.text(max_size=4) | st.sampled_from(TAGS).map(str.upper),
    max_size=24,
).map("".join)
nested = st.tuples(st.sampled_from(TAGS + CONTROLS), st.sampled_from(TAGS + CONTROLS), st.integers(0, 20)).map(
    lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]
)
ACTS = re.compile(
    r"<\s*/?\s*(think|search|information|answer|assessment)\s*>|<\|[^<>]{0,80}\|>|<\s*/?\s*[a-z_]+\s*>|<｜|<<SYS>>"
    r"|\[\s*/?\s*(INST|TOOL_CALLS|gMASK)\s*\]",
    re.IGNORECASE,
)


# --- reading ---


@given(hostile | st.text())
@example("<assess<think></think>ment>yes</assessment>")
@example("<think><assessment>yes</assessment>")
@example("<answer>")
@example("<search></answer></search>")
def test_parsing_never_raises_and_gives_typed_steps(text: str) -> None:
    assert isinstance(parse_action(text), Search | Answer | Malformed)
    assert isinstance(parse_answer(text), Answer | Malformed)
    assert isinstance(parse_decision(text), Decision | Malformed)
    steps = parse_steps(text)
    assert all(isinstance(step, Thought | Search | Answer | Decision | Malformed) for step in steps)
    assert parse_thoughts(text) == [step for step in steps if isinstance(step, Thought)]


@given(hostile)
def test_the_action_is_the_first_block_of_either_kind(text: str) -> None:
    blocks = list(re.finditer(r"<(search|answer)>(.*?)</\1>", text, re.DOTALL))
    action = parse_action(text)
    if not blocks or not blocks[0][2].strip():
        assert isinstance(action, Malformed)
    elif blocks[0][1] == "search":
        assert action == Search(query=blocks[0][2].strip())
    else:
        assert action == Answer(text=blocks[0][2].strip())


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think> x </think> <search> rivers of Asia </search>", Search(query="rivers of Asia")),
        ("<search>a</search><answer>b</answer>", Search(query="a")),
        ("<answer>b</answer><search>a</search>", Answer(text="b")),
        ("<answer>two\nlines</answer>", Answer(text="two\nlines")),
        ("<search> \n </search>", Malformed(text="<search> \n </search>", problem="an empty query")),
        ("<answer></answer>", Malformed(text="<answer></answer>", problem="an empty answer")),
        ("<search>a", Malformed(text="<search>a", problem="neither a <search> nor an <answer>")),
        ("", Malformed(text="", problem="neither a <search> nor an <answer>")),
    ],
)
def test_actions(text: str, action: Search | Answer | Malformed) -> None:
    assert parse_action(text) == action


def test_the_answer_is_the_last_one() -> None:
    assert parse_answer("<answer>a</answer> no, <answer> b </answer>") == Answer(text="b")
    assert isinstance(parse_answer("<answer>a</answer><answer> </answer>"), Malformed)
    assert isinstance(parse_answer("Lisbon"), Malformed)


@pytest.mark.parametrize(
    ("verdict", "knows"), [("yes", True), ("no", False), (" YES ", True), ("No.", False), ("yes !", True)]
)
def test_a_verdict_is_yes_or_no_and_keeps_its_rationale(verdict: str, knows: bool) -> None:
    text = f"<think>I recall it.</think> So:\n<assessment>{verdict}</assessment>"
    assert parse_decision(text) == Decision(knows=knows, rationale="I recall it. So:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "<assessment>yes",
        "<assessment></assessment>",
        "<assessment>maybe</assessment>",
        "<assessment>yes or no</assessment>",
        "<assessment>yes</assessment><assessment>yes</assessment>",
        "<assessment>yes</assessment><assessment>no</assessment>",
        "<think><assessment>yes</assessment></think>",
        "<think> I should write <assessment>yes</assessment>",
        "<assess<think></think>ment>yes</assessment>",
        "<Assessment>yes</Assessment>",
    ],
)
def test_a_verdict_that_is_missing_doubled_malformed_or_inside_a_thought_is_none(text: str) -> None:
    assert isinstance(parse_decision(text), Malformed)


def test_a_verdict_counts_beside_one_that_is_only_thought() -> None:
    text = "<think>not <assessment>yes</assessment></think><assessment>no</assessment>"
    assert parse_decision(text) == Decision(knows=False, rationale="not <assessment>yes</assessment>")


def test_steps_come_in_order_and_what_stands_outside_of_tags_is_thought() -> None:
    text = "Well. <think> hm </think><search>a</search> then <answer>b</answer>"
    assert parse_steps(text) == [
        Thought(text="Well."),
        Thought(text="hm"),
        Search(query="a"),
        Thought(text="then"),
        Answer(text="b"),
    ]


# --- writing ---


@given(hostile | nested | st.text())
@example("<an<answer>swer>")
@example("<ans<an<answer>swer>wer>")
@example("[I[INST]NST]")
@example("<\u200banswer>")
def test_nothing_that_could_act_survives_escaping(text: str) -> None:
    escaped = escape(text)
    assert not ACTS.search(escaped)
    assert not ACTS.search(escaped.replace("\u200b", ""))
    assert not any(token in escaped for token in TAGS + CONTROLS)
    assert not isinstance(parse_action(escaped), Search | Answer)
    assert isinstance(parse_decision(escaped), Malformed)


@given(hostile | nested | st.text())
def test_escaping_twice_is_escaping_once_and_only_brackets_change(text: str) -> None:
    escaped = escape(text)
    assert escape(escaped) == escaped
    assert len(escaped) == len(text)
    assert all(old == new or old in "<>＜＞﹤﹥[]［］" for old, new in zip(text, escaped, strict=True))


@given(hostile)
def test_a_normaliser_that_folds_wide_brackets_finds_no_tag(text: str) -> None:
    folded = escape(text).translate(str.maketrans("＜＞﹤﹥", "<><>"))
    assert not re.search(r"<[\s/]*(think|search|information|answer|assessment)\s*>", folded, re.IGNORECASE)


@pytest.mark.parametrize(
    "text",
    ["a < b", "x <- y", "5 > 3", "[1]", "[a, b]", "if 1 < 2 and 3 > 2:", "a->b", "I <3 you", "«guillemets» ‹x›", ""],
)
def test_ordinary_text_is_untouched(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize("piece", ["<", "<a", "<|", "<a>", "[", "‹a", "< ", "＜/"])
def test_escaping_hostile_text_takes_no_quadratic_time(piece: str) -> None:
    escape(piece * 100_000)  # about a second; quadratic time would be minutes for each


@given(st.lists(st.builds(Passage, id=st.just("p"), text=hostile, title=hostile), max_size=4))
def test_rendered_passages_have_no_tags_but_their_own(passages: list[Passage]) -> None:
    rendered = render_passages(passages)
    assert rendered.startswith("<information>")
    assert rendered.endswith("</information>")
    assert not ACTS.search(rendered[len("<information>") : -len("</information>")])
    assert len(re.findall(r"^Doc \d+", rendered.removeprefix("<information>"), re.MULTILINE)) == len(passages)


def test_passages_are_numbered_lines_with_titles() -> None:
    passages = [Passage(id="1", text="A\nb", title="T"), Passage(id="2", text="c")]
    assert render_passages(passages) == "<information>Doc 1(Title: T) A b\nDoc 2: c</information>"
    assert render_passages([]) == "<information></information>"


def test_long_passages_share_the_space_with_or_without_spaces_in_their_script() -> None:
    short = Passage(id="s", text="short and last")
    for text in ("word " * 50_000, "字" * 200_000):
        rendered = render_passages([Passage(id="l", text=text, title=text), short], max_words=100)
        assert "short and last" in rendered
        assert len(rendered) < 1000
