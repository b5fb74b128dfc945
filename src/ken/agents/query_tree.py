"""A question and its parts as a tree, read from a model's JSON (ProbTree, arXiv 2311.13982, section 3.1; card 59).

The model writes one object whose keys are questions and whose values are lists of simpler ones,

    {"Q": ["q1", "q2 with #1"], "q1": ["q11", "q12 with #1"]}

where `#i` or `<i>` stands for the answer of the i-th child of the same parent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import model_validator

from ken.core import SubQuestion, Trajectory
from ken.core.frozen import Frozen

MOST_NODES = 64
"""A tree may not have more: what a model writes decides how often it is asked."""

_REFERENCE = re.compile(r"#\s?(\d{1,3})(?!\d)|<\s?(\d{1,3})\s?>")
_SPACE = re.compile(r"\s*")


class QueryTree(Frozen):
    """The parts of a question in the order in which they can be answered: children before their parents, the question
    itself last.

    Raises `ValueError` for nodes that are no such tree: a child that does not come before its parent (so that there is
    no cycle), a node without a parent that is not the last, or one with two.
    """

    nodes: tuple[SubQuestion, ...]

    @model_validator(mode="after")
    def _a_tree(self) -> QueryTree:
        if not self.nodes:
            raise ValueError("a tree has at least its root")
        if [node.index for node in self.nodes] != list(range(len(self.nodes))):
            raise ValueError("the nodes of a tree are numbered 0, 1, … in their order")
        children = [child for node in self.nodes for child in node.children]
        if any(not 0 <= child < node.index for node in self.nodes for child in node.children):
            raise ValueError("a child comes before its parent")
        if sorted(children) != list(range(len(self.nodes) - 1)):
            raise ValueError("every node but the last has one parent")
        return self

    @classmethod
    def single(cls, question: str) -> QueryTree:
        """A question that has no parts."""
        return cls(nodes=(SubQuestion(index=0, text=question),))

    @classmethod
    def of(cls, trajectory: Trajectory) -> QueryTree | None:
        """The tree of an attempt, with its answers; None for one that has none, or was cut off."""
        parts = sorted((s for s in trajectory.steps if isinstance(s, SubQuestion)), key=lambda part: part.index)
        try:
            return cls(nodes=tuple(parts))
        except ValueError:
            return None

    @property
    def root(self) -> SubQuestion:
        return self.nodes[-1]

    @property
    def depth(self) -> int:
        """0 for a single node."""
        below: dict[int, int] = {}
        for node in self.nodes:
            below[node.index] = 1 + max((below[child] for child in node.children), default=-1)
        return below[self.root.index]

    def parent(self, index: int) -> SubQuestion | None:
        """The node of which this one is a child; None for the root."""
        return next((node for node in self.nodes if index in node.children), None)

    def descendants(self, index: int) -> tuple[int, ...]:
        """All nodes below one, in their order."""
        children = self.nodes[index].children
        return tuple(sorted({*children, *(d for child in children for d in self.descendants(child))}))

    def references(self, index: int) -> dict[str, int | None]:
        """What the text of a node refers to: the reference as it stands there, to the node whose answer it means. None
        for one that means no earlier sibling."""
        parent = self.parent(index)
        siblings = parent.children if parent is not None else ()
        found: dict[str, int | None] = {}
        for match in _REFERENCE.finditer(self.nodes[index].text):
            place = int(match[1] or match[2]) - 1
            meant = siblings[place] if 0 <= place < len(siblings) else None
            found[match[0]] = meant if meant is not None and meant < index else None
        return found if parent is not None else {}  # of a question that somebody asks, "#1" is a part like any other

    def filled(self, index: int, answers: Mapping[int, str]) -> tuple[str, int]:
        """The text of a node with the answers that it refers to, and how many references had none and were left."""
        meant = self.references(index)
        missing = sum(node is None or not answers.get(node) for node in meant.values())

        def answer(match: re.Match[str]) -> str:
            node = meant.get(match[0])
            return match[0] if node is None else answers.get(node) or match[0]

        return _REFERENCE.sub(answer, self.nodes[index].text), missing

    def levels(self) -> Iterator[tuple[int, ...]]:
        """The nodes in groups, of which each needs only answers of the groups before it."""
        level: dict[int, int] = {}
        for node in self.nodes:
            needed = [*node.children, *(n for n in self.references(node.index).values() if n is not None)]
            level[node.index] = 1 + max((level[n] for n in needed), default=-1)
        for number in range(max(level.values()) + 1):
            yield tuple(index for index, of in level.items() if of == number)


@dataclass(frozen=True, slots=True)
class ReadTree:
    """A tree as a model wrote it. problems: what was wrong with it, in a few words each; empty where nothing was."""

    tree: QueryTree
    problems: tuple[str, ...] = ()


def read_tree(
    text: str,
    question: str,
    *,
    max_depth: int = 4,
    sure: Callable[[int, int], float | None] = lambda start, end: None,
) -> ReadTree:
    """The tree in a model's output; never raises. sure: how sure the model was of characters [start, end) of the text,
    for the list of every question that has parts (from its `[` to its `]`).

    The root asks `question`, whatever the model called it. What cannot be used is left out and told: without a JSON
    object the question has no parts; a question that is its own part (ProbTree's sign of a leaf), has itself further
    down, or lies at max_depth is not split.
    """
    read, whole = _read_object(text)
    problems = [] if whole else ["no whole JSON object"]
    lists = {_key(asked): (parts, span) for asked, parts, span in reversed(read)}
    top = _key(question)
    if read and top not in lists:
        top = _key(read[0][0])
        problems.append("the first question is not the one that was asked")
    nodes: list[SubQuestion] = []
    left = MOST_NODES - 1

    def add(asked: str, key: str, above: tuple[str, ...]) -> int:
        nonlocal left
        parts, span = lists.get(key, ((), (0, 0)))
        trouble = ""
        if not all(map(_key, parts)):
            trouble = "an empty question"
        elif parts and len(above) >= max_depth:
            trouble = f"deeper than {max_depth}"
        elif any(_key(part) in above for part in parts):
            trouble = "a question that is a part of itself"
        elif len(parts) > left:
            trouble = f"more than {MOST_NODES} questions"
        if key in map(_key, parts) or trouble:
            parts = ()
        problems.extend(filter(None, [trouble]))
        left -= len(parts)
        children = tuple(add(part, _key(part), (*above, key)) for part in parts)
        certain = sure(*span) if children else None
        nodes.append(SubQuestion(index=len(nodes), text=asked, children=children, decomposition=certain))
        return nodes[-1].index

    add(question, top, ())
    return ReadTree(QueryTree(nodes=tuple(nodes)), tuple(dict.fromkeys(problems)))


Read = tuple[str, tuple[str, ...], tuple[int, int]]  # a question, its parts, and where their list stands


def _read_object(text: str) -> tuple[list[Read], bool]:
    """The pairs of the first JSON object that has lists of strings, as far as it can be read, and whether it ended as
    it should. Keys may come twice; what stands around the object (a fence, a full stop) does not matter."""
    decoder = json.JSONDecoder()
    read: list[Read] = []
    place = text.find("{") + 1
    if not place:
        return [], False
    try:
        while True:
            asked, place = decoder.raw_decode(text, _skip(text, place))
            place = _skip(text, place)
            if text[place : place + 1] != ":" or not isinstance(asked, str):
                return read, False
            start = _skip(text, place + 1)
            parts, place = decoder.raw_decode(text, start)
            if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
                return read, False
            read.append((_trim(asked), tuple(map(_trim, parts)), (start, place)))
            place = _skip(text, place)
            if text[place : place + 1] != ",":
                return read, text[place : place + 1] == "}"
            place += 1
    except (ValueError, RecursionError):
        return read, False


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _trim(text: str) -> str:
    return " ".join(text.encode(errors="replace").decode().split())


def _key(text: str) -> str:
    """Questions are the same whatever their spaces and capitals, and with or without a question mark."""
    return "".join(text.lower().split()).rstrip("?.")


def write_tree(tree: QueryTree) -> str:
    """The tree as a model is to write it: one line of JSON, parents before children.

    >>> a, b = SubQuestion(index=0, text="Who wrote it?"), SubQuestion(index=1, text="When was #1 born?")
    >>> write_tree(QueryTree(nodes=(a, b, SubQuestion(index=2, text="When was its author born?", children=(0, 1)))))
    '{"When was its author born?": ["Who wrote it?", "When was #1 born?"]}'
    """
    lists: dict[str, Sequence[str]] = {}

    def add(node: SubQuestion) -> None:
        if node.children or node is tree.root:
            lists[node.text] = [tree.nodes[child].text for child in node.children] or [node.text]
        for child in node.children:
            add(tree.nodes[child])

    add(tree.root)
    return json.dumps(lists, ensure_ascii=False)


def mean_logprob(logprobs: Sequence[float] | None) -> float | None:
    """The mean of log-probabilities; None without any."""
    return math.fsum(logprobs) / len(logprobs) if logprobs else None
