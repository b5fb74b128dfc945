"""A question tree: what models write is read or told, never trusted; what is a tree is one in any file."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ken.agents.query_tree import MOST_NODES, QueryTree, read_tree, write_tree
from ken.core import Question, SubQuestion, Trajectory

FIGURE = """
{"When did the religious order that founded Harvard College arrive in the region served by the Rainbow Times?":
 ["Which religious order founded Harvard College?", "Which region is served by the Rainbow Times?",
  "When did #1 arrive in #2?"],
 "Which religious order founded Harvard College?": ["Who founded Harvard College?", "Which religious order is #1?"]}.
"""  # the tree of the paper's figure, with its full stop
ROOT = "When did the religious order that founded Harvard College arrive in the region served by the Rainbow Times?"


def test_the_tree_of_the_paper():
    read = read_tree(FIGURE, ROOT)
    assert read.problems == ()
    tree = read.tree
    assert [node.text for node in tree.nodes][-1] == ROOT
    assert [node.children for node in tree.nodes] == [(), (), (0, 1), (), (), (2, 3, 4)]
    assert tree.depth == 2
    assert tree.references(1) == {"#1": 0}  # of its own siblings
    assert tree.references(4) == {"#1": 2, "#2": 3}
    assert tree.descendants(5) == (0, 1, 2, 3, 4)
    assert tree.filled(4, {2: "Puritan", 3: "New England"}) == ("When did Puritan arrive in New England?", 0)
    assert list(tree.levels()) == [(0, 3), (1,), (2,), (4,), (5,)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no whole JSON object"),
        ("I cannot.", "no whole JSON object"),
        ("[1, 2]", "no whole JSON object"),
        ('{"Q": "a"}', "no whole JSON object"),
        ('{"Q": ["a", 1]}', "no whole JSON object"),
        ('{"Q": ["a", "b"', "no whole JSON object"),
        ("{" * 5000, "no whole JSON object"),
        ('{"Q": ' + "[" * 100_000, "no whole JSON object"),
        ('{"Q": ["a", ""]}', "an empty question"),
        ('{"Q": ["a"], "a": ["b"], "b": ["a"]}', "a question that is a part of itself"),
        ('{"Q": ["a"], "a": ["Q"]}', "a question that is a part of itself"),
        ('{"X": ["a", "b"]}', "the first question is not the one that was asked"),
        (json.dumps({"Q": [f"q{i}" for i in range(99)]}), f"more than {MOST_NODES} questions"),
        (json.dumps({f"q{i}" if i else "Q": [f"q{i + 1}", "x"] for i in range(9)}), "deeper than 4"),
    ],
)
def test_what_is_no_tree_is_told_and_the_question_still_stands(text, problem):
    read = read_tree(text, "Q")
    assert problem in read.problems
    assert read.tree.root.text == "Q"
    assert len(read.tree.nodes) <= MOST_NODES
    assert read.tree.depth <= 4


def test_a_question_that_is_its_own_part_is_a_leaf():
    assert read_tree('{"Q?": ["q "]}', "Q?").tree == QueryTree.single("Q?")
    assert read_tree('{"Q?": ["q "]}', "Q?").problems == ()


def test_a_half_written_tree_keeps_what_is_whole():
    read = read_tree('Sure:\n```json\n{"Q": ["a", "b of <1>"], "a": ["c", ', "Q")
    assert read.problems == ("no whole JSON object",)
    assert [node.text for node in read.tree.nodes] == ["a", "b of <1>", "Q"]


def test_the_same_part_twice_keeps_the_numbers_of_the_others():
    tree = read_tree('{"Q": ["a", "a", "b of #2"]}', "Q").tree
    assert tree.references(2) == {"#2": 1}


@given(st.text() | st.text(alphabet='{}[]",:#<>1 aQ\\\n', max_size=80))
@example('{"\\ud800": ["\\udfff"]}')
def test_reading_never_raises_and_always_gives_a_tree_that_survives_json(text):
    tree = read_tree(text, "Q").tree
    assert tree.root.text == "Q"
    assert QueryTree.model_validate_json(tree.model_dump_json()) == tree


@st.composite
def trees(draw: st.DrawFn) -> QueryTree:
    """Any tree of different questions."""
    nodes: list[SubQuestion] = []

    def grow(depth: int) -> int:
        children = tuple(grow(depth - 1) for _ in range(draw(st.integers(0, 3)) if depth else 0))
        nodes.append(SubQuestion(index=len(nodes), text=f"question {len(nodes)}", children=children))
        return nodes[-1].index

    grow(draw(st.integers(0, 3)))
    return QueryTree(nodes=tuple(nodes))


@given(trees())
def test_what_is_written_is_read_again(tree):
    read = read_tree(write_tree(tree), tree.root.text)
    assert read.problems == ()
    assert read.tree == tree


@given(trees())
def test_levels_hold_every_node_once_after_what_it_needs(tree):
    seen: set[int] = set()
    for level in tree.levels():
        assert all(set(tree.nodes[index].children) <= seen for index in level)
        seen |= set(level)
    assert seen == {node.index for node in tree.nodes}


@pytest.mark.parametrize(
    "nodes",
    [
        (),
        (SubQuestion(index=1, text="a"),),
        (SubQuestion(index=0, text="a", children=(0,)),),
        (SubQuestion(index=0, text="a", children=(1,)), SubQuestion(index=1, text="b", children=(0,))),
        (SubQuestion(index=0, text="a"), SubQuestion(index=1, text="b")),
        (
            SubQuestion(index=0, text="a"),
            SubQuestion(index=1, text="b", children=(0,)),
            SubQuestion(index=2, text="c", children=(0, 1)),
        ),
    ],
)
def test_nodes_that_are_no_tree_are_refused(nodes):
    with pytest.raises(ValueError, match=r"tree|number|child|parent"):
        QueryTree(nodes=nodes)


def test_references_mean_earlier_siblings_only_and_others_stay():
    tree = read_tree('{"Q": ["a of #2", "b of #1, #3 and #12", "c of <2>"]}', "Q").tree
    assert tree.references(0) == {"#2": None}
    assert tree.references(1) == {"#1": 0, "#3": None, "#12": None}
    assert tree.filled(1, {0: "X", 2: "Z"}) == ("b of X, #3 and #12", 2)
    assert tree.filled(2, {1: "#1"}) == ("c of #1", 0)  # an answer is data, and is not filled in again
    assert tree.filled(2, {1: ""}) == ("c of <2>", 1)
    assert QueryTree.single("What is #1?").filled(0, {}) == ("What is #1?", 0)


def test_the_tree_of_an_attempt():
    question = Question(id="q", text="Q")
    parts = (SubQuestion(index=0, text="a"), SubQuestion(index=1, text="Q", children=(0,)))
    assert QueryTree.of(Trajectory(question=question, strategy="tree", steps=parts)) == QueryTree(nodes=parts)
    assert QueryTree.of(Trajectory(question=question, strategy="tree", steps=parts[:0])) is None
    assert QueryTree.of(Trajectory(question=question, strategy="tree", steps=parts[1:])) is None
